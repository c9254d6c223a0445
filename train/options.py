"""How each stage of training is done: one frozen options model per stage; importing this imports no torch."""

from typing import Literal

from pydantic import BaseModel, Field

from lib.pitch import PITCH_METHODS, PitchMethod

MAX_SEED = 2**32 - 1  # what NumPy takes


class PrepareOptions(BaseModel, frozen=True, extra="forbid"):
    """How recordings are cut into training clips."""

    slice_seconds: float = Field(3.7, ge=1.0, le=8.0, description="length of a training clip in seconds")


class ExtractOptions(BaseModel, frozen=True, extra="forbid"):
    """How F0 and content features are computed from the clips."""

    pitch_method: PitchMethod = Field(
        "auto",
        description=f"how F0 is estimated: {', '.join(PITCH_METHODS)}, or the median of several as hybrid[pm+harvest]",
    )
    crepe_hop_length: int = Field(64, ge=1, le=512, description="step of mangio-crepe in samples at 16 kHz")
    interpolate_unvoiced: bool = Field(
        False, description="fill unvoiced F0 by interpolation (the 2026 reference) instead of zeros (published voices)"
    )
    content_encoder: str | None = Field(
        None, description="v1 and v2: another HuBERT in pretrained/ by its name; None: contentvec, as published voices"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number type of HuBERT and RMVPE, float32 also with fp16"
    )
    device: str = Field("auto", description="where to compute: auto, cpu, cuda, cuda:1 …")


class IndexOptions(BaseModel, frozen=True, extra="forbid"):
    """How the retrieval index is built."""

    seed: int = Field(1234, ge=0, le=MAX_SEED, description="of the order of the vectors, and of k-means for large sets")
    most_vectors: int | None = Field(
        None, ge=100, le=200_000, description="reduce the index to so many vectors; None: up to 200 000 stay"
    )


class FitOptions(BaseModel, frozen=True, extra="forbid"):
    """How the voice is trained."""

    epochs: int = Field(200, ge=1, le=100_000, description="passes over all clips in all, earlier runs included")
    max_minutes: float | None = Field(None, gt=0, description="end this run after so many minutes, with a checkpoint")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="clips per step and device; None: GPU memory in GB / 2, or the family's",
    )
    learning_rate: float | None = Field(None, gt=0, le=0.1, description="of both optimisers; None: the family's")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="number type of the networks")
    base: bool = Field(True, description="start from the family's base models where they are present")
    speaker_id: int = Field(0, ge=0, le=108, description="row of the speaker embedding that is trained")
    seed: int = Field(1234, ge=0, le=MAX_SEED, description="of segments, crops, noise and order")
    save_every_minutes: float = Field(5.0, gt=0, description="a checkpoint at least this often")
    save_every_epochs: int | None = Field(None, ge=1, description="a checkpoint after each so many epochs, besides")
    save_every_voice: bool = Field(False, description="keep a voice model in weights/ for every checkpoint")
    keep_checkpoints: int = Field(2, ge=1, description="how many pairs of checkpoints to keep")
    workers: int | None = Field(None, ge=0, description="processes that load clips; None: 0 on a CPU, 2 with a GPU")
    device: str = Field("auto", description="where to train: auto, cpu, cuda, cuda:1 …")


class RunOptions(PrepareOptions, ExtractOptions, IndexOptions, FitOptions, frozen=True):
    """All four stages in a row; what is done and unchanged is skipped."""

    seed: int = Field(1234, ge=0, le=MAX_SEED, description="of everything that is drawn in training and index")
    device: str = Field("auto", description="where to compute: auto, cpu, cuda, cuda:1 …")
