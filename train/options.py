"""The options of the training stages: one immutable Pydantic model per stage.

Importing this module does not import torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from lib.paths import GivenPath
from lib.pitch import PITCH_METHODS, PitchMethod

MAX_SEED = 2**32 - 1  # NumPy's limit

# Options of several stages.
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="random seed; the same seed gives the same result")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Field(description="dtype of the networks; with fp16, HuBERT and RMVPE stay in float32"),
]
Device = Annotated[str, Field(description="device to run on: auto, cpu, cuda, cuda:1 …")]


class PrepareOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for cutting recordings into training clips."""

    channel: Literal["mix", "left", "right"] = Field(
        "mix", description="channel of stereo recordings to use: mix of all, left or right"
    )
    noise_reduction: float = Field(
        0.0, ge=0, le=1, description="strength of noise reduction on the recordings; 0 = off, 1 = as much as possible"
    )
    speakers: Literal["one", "folders"] = Field(
        "one", description="speakers of the recordings; one: all by one speaker; folders: one speaker per sub-folder"
    )
    slice_seconds: float = Field(3.7, ge=1.0, le=8.0, description="length of a training clip in seconds")


class ExtractOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for extracting F0 and content features from the clips."""

    pitch_method: PitchMethod = Field(
        "auto",
        description=f"pitch (F0) method: {', '.join(PITCH_METHODS)}, or the median of several, such as "
        "hybrid[pm+harvest]; auto = best one installed",
    )
    crepe_hop_length: int = Field(64, ge=1, le=512, description="hop length of mangio-crepe in samples at 16 kHz")
    interpolate_unvoiced: bool = Field(
        False,
        description="interpolate F0 across unvoiced gaps (as programs released in 2026 do) instead of storing zeros",
    )
    content_encoder: str | None = Field(
        None, description="v1 and v2: name of another HuBERT model in pretrained/; None: ContentVec"
    )
    precision: Precision = "auto"
    device: Device = "auto"


class IndexOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for building the retrieval index."""

    seed: Seed = 1234
    most_vectors: int | None = Field(
        None,
        ge=100,
        le=200_000,
        description="maximum number of index vectors; None: all, or 10 000 centroids if there are more than 200 000",
    )
    total_fea: bool = Field(
        False, description="also write total_fea.npy, the content features of all clips in one array, as RVC does"
    )


class FitOptions(BaseModel, frozen=True, extra="forbid"):
    """Options for training the voice."""

    epochs: int = Field(200, ge=1, le=100_000, description="total number of epochs, including earlier runs")
    max_minutes: float | None = Field(None, gt=0, description="save a checkpoint and stop after this many minutes")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="clips per step and device; None: chosen from GPU memory and amount of data; on a CPU, the "
        "family's default",
    )
    accumulation_steps: int = Field(
        1,
        ge=1,
        le=64,
        description="micro-batches of each batch, whose gradients are accumulated: less memory, same result",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations to save memory (about a third slower)"
    )
    learning_rate: float | None = Field(
        None, gt=0, le=0.1, description="learning rate of both optimisers; None: the family's default"
    )
    precision: Precision = "auto"
    base: bool = Field(True, description="start from the family's base models if they are installed")
    base_model: str | None = Field(
        None, description="name of base models to start from: a folder in pretrained/bases/ with a G and a D file"
    )
    base_generator: GivenPath | None = Field(
        None, description="file of a base generator (G) to start from, together with --base-discriminator"
    )
    base_discriminator: GivenPath | None = Field(
        None, description="file of the base discriminator (D) matching --base-generator"
    )
    speaker_id: int = Field(0, ge=0, le=108, description="row of the speaker embedding to train")
    held_out: Literal["auto", "on", "off"] = Field(
        "auto",
        description="hold out 5 % of the recordings (at least 20 s) from training and measure the voice on them at "
        "every save, to find the best epoch; auto: on with at least ten minutes of recordings",
    )
    stop_when_overtrained: bool = Field(
        False, description="stop when the held-out recordings have clearly become worse; the best epoch is saved anyway"
    )
    balance_speakers: bool = Field(True, description="with several speakers, oversample those with fewer recordings")
    seed: Seed = 1234
    save_every_minutes: float = Field(5.0, gt=0, description="save a checkpoint at least this often")
    save_every_epochs: int | None = Field(None, ge=1, description="also save a checkpoint every N epochs")
    save_every_voice: bool = Field(False, description="also save a voice model in weights/ with every checkpoint")
    keep_checkpoints: int = Field(2, ge=1, description="number of G/D checkpoint pairs to keep")
    workers: int | None = Field(None, ge=0, description="data loader processes; None: 0 on a CPU, 2 with a GPU")
    device: Device = "auto"


class RunOptions(PrepareOptions, ExtractOptions, IndexOptions, FitOptions, frozen=True):
    """Options of all four stages run in sequence."""
