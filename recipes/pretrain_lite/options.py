"""Options of the recipe's commands."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lib.paths import PRETRAINED


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Random seed."""

    threads: int = Field(1, ge=1)
    """Number of PyTorch threads."""


class _WithData(_Options):
    data: Path
    """Folder with voices/ljspeech and speech/ (LibriSpeech dev-clean and train-clean-100 excerpts, EmoDB)."""


class SpeechOptions(_Options):
    """Synthesise speech in ten languages with espeak-ng."""


class FeatureOptions(_WithData):
    """Extract the training features of all clips, one file per clip."""

    whisper: Path
    """Encoder of Whisper base as an .npz of plain arrays, with CTranslate2's parameter names."""

    part: int = Field(0, ge=0)
    """Index of this process, starting at 0; several processes can share the clips."""

    parts: int = Field(1, ge=1)
    """Number of processes that share the clips."""


class AcousticOptions(_Options):
    """Train the encoder's bottleneck and the prior."""

    base: Path | None = None
    """Folder with encoder.safetensors and G.safetensors to start from (default: random initial weights)."""

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
    """Train the vocoder."""

    max_minutes: float = Field(60, gt=0)
    """Duration of this run in minutes; running the command again resumes training."""

    learning_rate: float = Field(8e-4, gt=0)
    """Initial learning rate of the vocoder; it falls to a tenth during the run."""

    predicted: float = Field(0.0, ge=0, le=1)
    """Fraction of crops whose mel spectrogram is predicted by the prior instead of computed from the recording."""


class ExportOptions(_Options):
    """Write the trained networks as pretrained/lite/{encoder,G,D}.safetensors."""

    whisper: Path
    """Encoder of Whisper base as an .npz of plain arrays, with CTranslate2's parameter names."""


class NoiseOptions(_WithData):
    """Train the bottleneck of an exported encoder to remove noise."""

    encoder: Path = PRETRAINED / "lite" / "encoder.safetensors"
    """The exported encoder; its bottleneck is replaced by one that removes noise."""

    steps: int = Field(1800, ge=1)
    """Training steps; a batch has 6 crops of 3 s, each clean, noisy and augmented."""

    learning_rate: float = Field(6e-4, gt=0)
    """Maximum learning rate of a one-cycle schedule."""
