"""The options of the training stages: one immutable Pydantic model per stage.

Importing this module does not import torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from lib.paths import GivenPath
from lib.pitch import PITCH_METHODS, PitchMethod

MAX_SEED = 2**32 - 1  # NumPy's limit

# Options of several stages.
Seed = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_SEED,
        description="random seed; the same seed and settings give the same result on the same hardware, though "
        "training on a GPU can vary slightly",
    ),
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Annotated[str, Field(description="device to run on: auto, cpu, cuda, cuda:1, mps")]


class PrepareOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for cutting recordings into training clips."""

    channel: Literal["mix", "left", "right"] = Field(
        "mix", description="which channel of stereo recordings to use: mix (downmix to mono), left or right"
    )
    noise_reduction: float = Field(
        0.0, ge=0, le=1, description="strength of noise reduction on the recordings; 0 = off, 1 = maximum"
    )
    speakers: Literal["one", "folders"] = Field(
        "one",
        description="how recordings are assigned to speakers; one = a single speaker, folders = one speaker per "
        "sub-folder",
    )
    slice_seconds: float = Field(3.7, ge=1.0, le=8.0, description="length of a training clip in seconds")


class ExtractOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for extracting F0 and content features from the clips."""

    pitch_method: PitchMethod = Field(
        "auto",
        description=f"pitch (F0) extraction method: {', '.join(PITCH_METHODS)}, or the median of several, such as "
        "hybrid[pm+harvest]; auto = the best installed method",
    )
    crepe_hop_length: int = Field(
        64,
        ge=1,
        le=512,
        description="hop length of mangio-crepe in samples at 16 kHz; smaller values give finer time resolution but "
        "are slower",
    )
    interpolate_unvoiced: bool = Field(
        False,
        description="interpolate F0 across unvoiced gaps, as RVC has done since 2026, instead of storing zeros",
    )
    content_encoder: str | None = Field(
        None, description="v1 and v2: name of another HuBERT model in pretrained/ (default: ContentVec)"
    )
    precision: Precision = Field(
        "auto",
        description="numeric precision of HuBERT and RMVPE; fp16 has no effect here; auto = the same as in earlier "
        "runs, otherwise bf16 if the hardware accelerates it, else fp32",
    )
    device: Device = "auto"


class IndexOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for building the retrieval index."""

    seed: Seed = 1234
    most_vectors: int | None = Field(
        None,
        ge=100,
        le=200_000,
        description="maximum number of index vectors (default: all; above 200,000, reduced to 10,000 k-means "
        "centroids)",
    )
    total_fea: bool = Field(
        False, description="also write total_fea.npy, the content features of all clips in one array, as RVC does"
    )


class FitOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for training the voice."""

    epochs: int = Field(200, ge=1, le=100_000, description="total number of epochs, including earlier runs")
    max_minutes: float | None = Field(
        None, gt=0, description="save a checkpoint and stop after this many minutes (default: no limit)"
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="batch size per device, in clips (default: that of earlier runs; otherwise chosen based on the "
        "memory of a CUDA GPU and the amount of data, or, on other devices, the model family's)",
    )
    accumulation_steps: int = Field(
        1,
        ge=1,
        le=64,
        description="number of micro-batches per batch for gradient accumulation; reduces memory use, with an "
        "equivalent result",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations to save memory; about a third slower"
    )
    learning_rate: float | None = Field(
        None, gt=0, le=0.1, description="learning rate of both optimisers (default: the model family's)"
    )
    precision: Precision = Field(
        "auto",
        description="numeric precision of generator and discriminator; auto = the same as in earlier runs, otherwise "
        "bf16 if the hardware accelerates it, else fp32",
    )
    base: bool = Field(True, description="start from the model family's base models if they are installed")
    base_model: str | None = Field(
        None,
        description="name of a folder in pretrained/bases/ with the base models (a G and a D file) to start from "
        "(default: the family's own)",
    )
    base_generator: GivenPath | None = Field(
        None, description="base generator (G) checkpoint to start from; requires --base-discriminator"
    )
    base_discriminator: GivenPath | None = Field(
        None, description="matching base discriminator (D) checkpoint; requires --base-generator"
    )
    speaker_id: int = Field(0, ge=0, le=108, description="index of the speaker embedding to train")
    held_out: Literal["auto", "on", "off"] = Field(
        "auto",
        description="hold out 5% of the recordings (at least 20 s) from training and evaluate the model on them at "
        "every checkpoint, to select the best epoch; auto = on if there are at least ten minutes of recordings",
    )
    stop_when_overtrained: bool = Field(
        False,
        description="stop when the metrics on the held-out recordings have clearly degraded; the best epoch is saved "
        "in any case",
    )
    balance_speakers: bool = Field(True, description="with several speakers, oversample those with fewer recordings")
    seed: Seed = 1234
    save_every_minutes: float = Field(5.0, gt=0, description="save a checkpoint at least this often, in minutes")
    save_every_epochs: int | None = Field(
        None, ge=1, description="also save a checkpoint every N epochs (default: only by time)"
    )
    save_every_voice: bool = Field(False, description="also save a voice model in weights/ with every checkpoint")
    keep_checkpoints: int = Field(2, ge=1, description="number of G/D checkpoint pairs to keep")
    workers: int | None = Field(
        None, ge=0, description="number of data loader worker processes (default: 2 on a CUDA GPU, otherwise 0)"
    )
    device: Device = "auto"


class RunOptions(PrepareOptions, ExtractOptions, IndexOptions, FitOptions, frozen=True):
    """Options of all four stages run in sequence."""

    precision: Precision = Field(
        "auto",
        description="numeric precision of the networks; fp16 applies to generator and discriminator only, fp32 and "
        "bf16 also to HuBERT and RMVPE; auto = the same as in earlier runs, otherwise bf16 if the hardware "
        "accelerates it, else fp32",
    )
