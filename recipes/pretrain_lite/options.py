"""Options of the recipe's commands."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Path("../shared/data")
    """Folder with voices/ljspeech and speech/ (LibriSpeech dev-clean and train-clean-100 excerpts, EmoDB)."""

    seed: int = 0
    """Of every random choice."""

    threads: int = Field(1, ge=1)
    """Of torch."""


class FeatureOptions(_Options):
    """Options of `features`."""

    whisper: Path = Path("../shared/models/whisper-base-encoder/encoder_fp16.npz")
    """Encoder of Whisper base as plain arrays."""

    part: int = Field(0, ge=0)
    """Number of this process, from 0; several may share the clips."""

    parts: int = Field(1, ge=1)
    """Number of processes that share the clips."""


class AcousticOptions(_Options):
    """Options of `acoustic`."""

    steps: int = Field(2000, ge=1)
    """Steps of 12 crops of 2 s."""

    learning_rate: float = Field(2e-3, gt=0)
    """Highest rate of a one-cycle schedule."""

    invariance: float = Field(0.5, ge=0)
    """Weight of the distance between the codes of a clip and of its augmented version."""

    adversary: float = Field(0.1, ge=0)
    """Weight of the reversed gradient of a network that recognises the reader from the code."""

    noise: float = Field(0.3, ge=0)
    """Deviation of the noise added to the code in training."""


class VocoderOptions(_Options):
    """Options of `vocoder`."""

    max_minutes: float = Field(60, gt=0)
    """Length of this run; the same command continues from its last state."""

    learning_rate: float = Field(8e-4, gt=0)
    """Of the generator; it falls to a tenth in the course of the run."""

    predicted: float = Field(0.0, ge=0, le=1)
    """Share of the crops whose mel spectrogram is predicted by the prior instead of measured."""


class ExportOptions(_Options):
    """Options of `export`."""

    whisper: Path = Path("../shared/models/whisper-base-encoder/encoder_fp16.npz")
    """Encoder of Whisper base as plain arrays."""


class DemoOptions(_Options):
    """Options of `demo`."""
