"""What can be chosen in the commands of this recipe; light, so that --help need not wait for torch."""

from pathlib import Path

from pydantic import BaseModel, Field

from lib.paths import LOGS, ROOT


class CorpusOptions(BaseModel, frozen=True):
    """How much is spoken."""

    hours: float = Field(17.0, gt=0, le=100, description="hours of speech in all, divided as voices.py says")
    processes: int = Field(2, ge=1, le=64, description="synthesisers running at a time")
    seed: int = Field(1, ge=0, description="chooses sentences, manners and espeak variants")


class EncoderOptions(BaseModel, frozen=True):
    """How the encoder is trained."""

    steps: int = Field(4600, ge=1, description="optimiser steps")
    batch_size: int = Field(12, ge=2, description="crops per step, each seen in two voices")
    crop_seconds: float = Field(3.0, ge=0.5, le=20, description="length of a crop")
    channels: int = Field(320, ge=8, le=1024, description="width of the network")
    blocks: int = Field(8, ge=1, le=32, description="convolution blocks")
    kernel_size: int = Field(7, ge=3, le=31, description="frames one block sees; odd")
    learning_rate: float = Field(2e-3, gt=0, description="highest learning rate")
    contrast: float = Field(0.5, ge=0, description="weight of telling frames of one phone from those of others")
    contrast_frames: int = Field(1536, ge=2, description="frames per step that are compared with each other")
    consistency: float = Field(1.5, ge=0, description="weight of the distance between two views of a frame")
    average: float = Field(0.998, gt=0, lt=1, description="decay of the averaged weights, per step")
    save_every: int = Field(200, ge=1, description="steps between saved states")
    seed: int = Field(1, ge=0, description="start of all randomness")
    threads: int = Field(1, ge=1, le=64, description="torch threads; one is fastest beside other work")
    bfloat16: bool = Field(True, description="multiply in bfloat16")


class EvaluateOptions(BaseModel, frozen=True):
    """Where the recordings of the two readers and the reference alignment are."""

    alignment: Path = Field(description="JSON file of a forced alignment, see recipes/pretrain_lite/evaluate.py")
    first: Path = Field(ROOT.parent / "shared/data/voices/ljspeech", description="folder of the first reader's clips")
    second: Path = Field(ROOT.parent / "shared/data/sources", description="folder of the second reader's clips")
    second_pattern: str = Field("librivox_*.flac", description="which files of that folder")
    state: Path = Field(
        LOGS / "pretrain_lite" / "encoder_state.pt", description="training state, for the phone error rate"
    )


class BaseCorpusOptions(BaseModel, frozen=True):
    """How many speakers the base models hear, and for how long."""

    minutes: float = Field(64.0, gt=0, le=600, description="minutes of speech in all")
    speakers: int = Field(36, ge=2, le=64, description="speakers: every natural voice first, then espeak variants")
    seed: int = Field(2, ge=0, description="chooses sentences and manners")


class BaseOptions(BaseModel, frozen=True, extra="forbid"):
    """Train the base models of the lite family."""

    max_minutes: float | None = Field(None, gt=0, description="end this run after so many minutes; the same goes on")
    epochs: int = Field(1000, ge=1, description="passes over all speakers, earlier runs included")
    learning_rate: float | None = Field(None, gt=0, description="of both optimisers; None: the family's")
    batch_size: int | None = Field(None, ge=1, description="clips per step; None: the family's")
    from_shipped: bool = Field(False, description="start from the base models that are there instead of nothing")
    seed: int = Field(1234, ge=0, description="of everything drawn")
    device: str = Field("auto", description="where to train")


class TurnOptions(BaseModel, frozen=True):
    """Which encoder the base generator was trained with, when there is a new one."""

    old_encoder: Path = Field(description="safetensors file of the encoder before")
