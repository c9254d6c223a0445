"""Options of the recipe's commands."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lib.paths import PRETRAINED


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Random seed."""

    threads: int = Field(1, ge=1)
    """Threads of torch."""


class _WithData(_Options):
    data: Path
    """Folder with voices/ljspeech and speech/ (LibriSpeech dev-clean and train-clean-100 excerpts, EmoDB)."""


class SpeechOptions(_Options):
    """Options of the `speech` command."""


class FeatureOptions(_WithData):
    """Options of the `features` command."""

    whisper: Path
    """Encoder of Whisper base as an .npz of plain arrays with the names of CTranslate2."""

    part: int = Field(0, ge=0)
    """Number of this process, from 0; several may share the clips."""

    parts: int = Field(1, ge=1)
    """Number of processes that share the clips."""


class AcousticOptions(_Options):
    """Options of the `acoustic` command."""

    base: Path | None = None
    """Folder with encoder.safetensors and G.safetensors to start from; None: random initial weights."""

    steps: int = Field(4000, ge=1)
    """Training steps; a batch has 8 crops of 2 s."""

    learning_rate: float = Field(2e-3, gt=0)
    """Maximum learning rate of a one-cycle schedule."""

    invariance: float = Field(0.5, ge=0)
    """Weight of the distance between the codes of a clip and of its augmented version."""

    adversary: float = Field(0.15, ge=0)
    """Weight of the adversarial speaker classifier."""

    f0_adversary: float = Field(0.5, ge=0)
    """Weight of the reversed gradient of a network that predicts F0 from single frames of the code."""

    noise: float = Field(0.3, ge=0)
    """Standard deviation of the noise added to the code in training."""


class VocoderOptions(_WithData):
    """Options of the `vocoder` command."""

    max_minutes: float = Field(60, gt=0)
    """Length of this run; running the command again resumes."""

    learning_rate: float = Field(8e-4, gt=0)
    """Initial learning rate of the vocoder; it falls to a tenth during the run."""

    predicted: float = Field(0.0, ge=0, le=1)
    """Share of the crops whose mel spectrogram is predicted by the prior instead of measured."""


class ExportOptions(_Options):
    """Options of the `export` command."""

    whisper: Path
    """Encoder of Whisper base as an .npz of plain arrays with the names of CTranslate2."""


class NoiseOptions(_WithData):
    """Options of the `noise` command."""

    encoder: Path = PRETRAINED / "lite" / "encoder.safetensors"
    """The exported encoder; its bottleneck is replaced by one that removes noise."""

    steps: int = Field(1800, ge=1)
    """Training steps; a batch has 6 crops of 3 s, each clean, noisy and augmented."""

    learning_rate: float = Field(6e-4, gt=0)
    """Maximum learning rate of a one-cycle schedule."""
