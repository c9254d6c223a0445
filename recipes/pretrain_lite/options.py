"""Options of the commands of this recipe; imports no torch, so that --help is fast."""

from pathlib import Path

from pydantic import BaseModel, Field

from lib.paths import LOGS, ROOT


class CorpusOptions(BaseModel, frozen=True):
    """Synthesize the speech corpus of the encoder."""

    hours: float = Field(17.0, gt=0, le=100, description="total hours of speech, divided between speakers by voices.py")
    processes: int = Field(2, ge=1, le=64, description="synthesizers to run in parallel")
    seed: int = Field(1, ge=0, description="random seed for sentences, speaking styles and espeak variants")


class EncoderOptions(BaseModel, frozen=True):
    """Train the encoder."""

    steps: int = Field(4600, ge=1, description="optimizer steps")
    batch_size: int = Field(12, ge=2, description="crops per step, each used in two voices")
    crop_seconds: float = Field(3.0, ge=0.5, le=20, description="crop length in seconds")
    channels: int = Field(320, ge=8, le=1024, description="channels of the network")
    blocks: int = Field(8, ge=1, le=32, description="convolution blocks")
    kernel_size: int = Field(7, ge=3, le=31, description="kernel size of a block in frames; odd")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    contrast: float = Field(0.5, ge=0, description="weight of the contrastive loss between phones")
    contrast_frames: int = Field(1536, ge=2, description="frames per step in the contrastive loss")
    consistency: float = Field(1.5, ge=0, description="weight of the consistency loss between two views of a frame")
    average: float = Field(0.998, gt=0, lt=1, description="decay of the averaged weights, per step")
    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    seed: int = Field(1, ge=0, description="random seed")
    threads: int = Field(1, ge=1, le=64, description="torch threads; 1 is fastest if the machine is busy")
    bfloat16: bool = Field(True, description="use bfloat16 matrix multiplication")


class EvaluateOptions(BaseModel, frozen=True):
    """Evaluate the encoder on recordings of two readers with a reference alignment."""

    alignment: Path = Field(description="JSON file with a forced alignment, see recipes/pretrain_lite/evaluate.py")
    first: Path = Field(ROOT.parent / "shared/data/voices/ljspeech", description="folder of the first reader's clips")
    second: Path = Field(ROOT.parent / "shared/data/sources", description="folder of the second reader's clips")
    second_pattern: str = Field("librivox_*.flac", description="file name pattern in that folder")
    state: Path = Field(
        LOGS / "pretrain_lite" / "encoder_state.pt", description="encoder checkpoint, for the phone error rate"
    )


class BaseCorpusOptions(BaseModel, frozen=True):
    """Synthesize the corpus of the base models."""

    minutes: float = Field(64.0, gt=0, le=600, description="total minutes of speech")
    speakers: int = Field(36, ge=2, le=64, description="number of speakers: natural voices first, then espeak variants")
    seed: int = Field(2, ge=0, description="random seed for sentences and speaking styles")


class BaseOptions(BaseModel, frozen=True, extra="forbid"):
    """Train the base models of the lite family."""

    max_minutes: float | None = Field(None, gt=0, description="save a checkpoint and stop after this many minutes")
    epochs: int = Field(1000, ge=1, description="total number of epochs, including earlier runs")
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate of both optimizers; None: the family's default"
    )
    batch_size: int | None = Field(None, ge=1, description="clips per step; None: the family's default")
    from_shipped: bool = Field(False, description="start from the shipped base models instead of from scratch")
    seed: int = Field(1234, ge=0, description="random seed")
    device: str = Field("auto", description="device to train on")


class TurnOptions(BaseModel, frozen=True):
    """Adapt the base generator to a new encoder."""

    old_encoder: Path = Field(description="safetensors file of the previous encoder")
