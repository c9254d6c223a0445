"""The configuration of a model family: sample rate, network sizes, training defaults; read from and written as JSON.

The files under `configs/` and an experiment's `config.json` have RVC's three objects `train`, `data` and `model`. A
fourth object, `revoice`, contains the settings of this project; other programs ignore it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import ConfigError, MissingFileError
from lib.json_reader import read_json
from lib.paths import CONFIGS

Family = Literal["v1", "v2", "lite"]
FAMILIES: dict[Family, tuple[str, ...]] = {"v1": ("40k", "32k", "48k"), "v2": ("40k", "32k", "48k"), "lite": ("24k",)}
MAX_PROBLEMS = 5  # that a message lists
USUAL_INDEX_RATE = 0.75  # of v1 and v2
LITE_INDEX_RATE = 0.0  # the code contains little of the speaker, and retrieval costs some words


Size = Annotated[int, Field(ge=1, le=65_536)]  # networks are built from untrusted files


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class AudioConfig(_Strict):
    """Sample rate and spectrogram settings of a voice. A hop is 10 ms in every known family."""

    sample_rate: int = Field(alias="sampling_rate", ge=8000, le=192_000)
    n_fft: int = Field(alias="filter_length", ge=16, le=65_536)  # also the window length
    hop_length: int = Field(ge=1)
    n_mels: int = Field(alias="n_mel_channels", ge=1)
    fmin: float = Field(0.0, alias="mel_fmin")
    fmax: float | None = Field(None, alias="mel_fmax")  # Hz; None = half the sample rate


class SynthesizerConfig(_Strict):
    """The sizes of a Synthesizer; the names are those of VITS and HiFi-GAN."""

    sample_rate: int = Field(ge=8000, le=192_000)  # Hz
    spec_channels: Size  # n_fft // 2 + 1
    segment_frames: Size  # frames of a training segment; 32 in every published voice model
    inter_channels: Size = 192
    hidden_channels: Size = 192
    filter_channels: Size = 768
    n_heads: Size = 2
    n_layers: int = Field(6, ge=0, le=64)  # 0: a frame's prior depends on that frame only
    n_flows: int = Field(4, ge=0, le=64)  # couplings; 0: the generator gets the prior itself
    kernel_size: Size = 3
    p_dropout: float = Field(0.0, ge=0, lt=1)
    resblock: Literal["1", "2"] = "1"
    resblock_kernel_sizes: tuple[Size, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[Size, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    upsample_rates: tuple[Size, ...]
    upsample_initial_channel: Size = 512
    upsample_kernel_sizes: tuple[Size, ...]
    n_speakers: Size = 109
    gin_channels: Size = 256
    content_width: Size  # 256 (v1) or 768 (v2)
    has_f0: bool = True

    @property
    def hop_length(self) -> int:
        """Output samples per 10 ms frame."""
        return math.prod(self.upsample_rates)


class LiteConfig(_Strict):
    """The sizes of a LiteSynthesizer."""

    sample_rate: int = Field(ge=8000, le=192_000)  # Hz
    n_fft: int = Field(ge=16, le=65_536)
    hop_length: int = Field(ge=1, le=65_536)  # samples, 10 ms
    segment_frames: Size  # frames of a training segment
    n_mels: Size = 100
    prior_channels: Size = 256
    prior_blocks: int = Field(8, ge=1, le=64)
    vocoder_channels: Size = 256
    vocoder_blocks: int = Field(6, ge=1, le=64)
    n_speakers: Size = 64
    gin_channels: Size = 64
    content_width: Size = 129
    has_f0: Literal[True] = True

    @property
    def spec_channels(self) -> int:
        """Number of bins of the linear spectrogram."""
        return self.n_fft // 2 + 1


NetworkConfig = SynthesizerConfig | LiteConfig


class DiscriminatorConfig(_Strict):
    """Periods and channel counts of the multi-period discriminator; the defaults are RVC's."""

    periods: tuple[int, ...]
    scale_channels: tuple[int, ...] = (16, 64, 256, 1024, 1024, 1024)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)

    @property
    def count(self) -> int:
        """Number of sub-discriminators: one scale discriminator, and one for each period."""
        return 1 + len(self.periods)


class LiteDiscriminatorConfig(_Strict):
    """The sizes of the discriminators of the lite family."""

    resolutions: tuple[Size, ...] = (512, 1024, 2048)  # samples of an STFT
    channels: Size = 192

    @property
    def count(self) -> int:
        """Number of sub-discriminators: one for each resolution."""
        return len(self.resolutions)


class LiteTrainConfig(_Strict):
    """Settings for training a lite voice: first the prior alone, by regression, then the vocoder."""

    prior_steps: int = Field(400, ge=0)  # steps of the prior alone
    c_spectral: float = 3.0
    c_adversarial: float = 0.3
    c_matching: float = 1.0
    content_noise: float = Field(0.3, ge=0)  # standard deviation of the noise added to the content code


class TrainConfig(_Strict):
    """Training defaults of a family: AdamW, learning rate schedule, loss weights (VITS, HiFi-GAN)."""

    seed: int = 1234
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-9
    lr_decay: float = 0.999875  # factor per epoch
    batch_size: int = 4
    segment_size: int  # samples of a training segment
    c_mel: float = 45.0
    c_kl: float = 1.0
    log_interval: int = 200  # steps


class FamilyConfig(_Strict):
    """One file of `configs/`: a model family at one sample rate."""

    family: Family
    audio: AudioConfig
    synthesizer: NetworkConfig
    discriminator: DiscriminatorConfig | LiteDiscriminatorConfig
    train: TrainConfig
    lite: LiteTrainConfig | None = None  # of the lite family only
    max_frames: int = 900  # training clips are cropped to this many 10 ms frames
    augmentations: int = Field(0, ge=0, le=64)  # augmented versions of each clip's content features
    average: float = Field(0.0, ge=0, lt=1)  # maximum decay of the averaged weights; 0: voices have the last weights

    def to_json(self) -> dict[str, Any]:
        """Return the four objects of a `config.json`."""
        network, own = self.synthesizer, self.model_dump(mode="json", include=_OWN_KEYS, exclude_none=True)
        keys = _LITE_MODEL_KEYS if isinstance(network, LiteConfig) else _MODEL_KEYS
        model = network.model_dump(mode="json", include=keys) | {"spk_embed_dim": network.n_speakers}
        if isinstance(network, SynthesizerConfig):
            model["use_spectral_norm"] = False
            own["n_flows"] = network.n_flows
        data = self.audio.model_dump(mode="json", by_alias=True) | {
            "win_length": self.audio.n_fft,
            "max_wav_value": 32768.0,
        }
        train = self.train.model_dump(mode="json") | {"epochs": 20000, "init_lr_ratio": 1, "warmup_epochs": 0}
        own |= {"content_width": network.content_width, "has_f0": network.has_f0}
        return {"train": train, "data": data, "model": model, "revoice": own}


_MODEL_KEYS = {
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout",
    "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_initial_channel",
    "upsample_kernel_sizes", "gin_channels",
}  # fmt: skip
_LITE_MODEL_KEYS = {"prior_channels", "prior_blocks", "vocoder_channels", "vocoder_blocks", "gin_channels"}
_OWN_KEYS = {"family", "max_frames", "discriminator", "lite", "augmentations", "average"}
_UNUSED = {
    "train": {"epochs", "init_lr_ratio", "warmup_epochs", "fp16_run"},
    "data": {"win_length", "max_wav_value"},
    "model": {"use_spectral_norm"},
    "revoice": {"source", "prior", "views"},
}  # written by RVC, or by earlier versions; fixed or unused here


def _network_values(
    data: dict[str, Any], train: dict[str, Any], model: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Take the values of a NetworkConfig out of `model` and `own`.

    Raises TypeError, ValueError or ZeroDivisionError if they are invalid.
    """
    n_fft, hop_length = int(data.get("filter_length", 0)), int(data.get("hop_length", 1))
    network = {
        "sample_rate": data.get("sampling_rate"),
        "segment_frames": int(train.get("segment_size", 0)) // hop_length,
        "n_speakers": model.pop("spk_embed_dim", 109),
        "content_width": own.pop("content_width", None),
        "has_f0": own.pop("has_f0", True),
    }
    if own.get("family") == "lite":
        network |= {"n_fft": n_fft, "hop_length": hop_length, "n_mels": data.get("n_mel_channels")}
    else:
        network |= {"spec_channels": n_fft // 2 + 1, "n_flows": own.pop("n_flows", 4)}
    return model | network


def _read_sections(value: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return copies of the four objects of a `config.json`, without unused keys.

    Raises ConfigError if one of them is missing.
    """
    try:
        sections = {name: dict(value[name]) for name in ("train", "data", "model", "revoice")}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "{path} lacks one of the objects train, data, model, revoice ({detail}). Delete or repair it.",
            path=where,
            detail=str(error),
        ) from error
    for name, keys in _UNUSED.items():
        for key in keys:
            sections[name].pop(key, None)
    return sections


def parse_config(value: dict[str, Any], where: str) -> FamilyConfig:
    """Build a FamilyConfig from the four objects of a `config.json`; `where` names the file in messages.

    Raises ConfigError, listing the first missing, unknown and invalid keys, if there are any.
    """
    sections = _read_sections(value, where)
    data, model, own = sections["data"], sections["model"], sections["revoice"]
    if own.get("family") == "lite" and "upsample_rates" in model:
        raise ConfigError(
            "{path} is from an earlier version of the lite family, whose training cannot be resumed. Train under "
            "another name.",
            path=where,
        )
    try:
        network = _network_values(data, sections["train"], model, own)
        config = FamilyConfig.model_validate(
            own | {"audio": data, "synthesizer": network, "train": sections["train"]},
        )
    except ValidationError as error:
        first = error.errors()[:MAX_PROBLEMS]
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))[:100]}: {p['msg']}" for p in first)
        raise ConfigError("{path} is not valid: {problems}.", path=where, problems=problems) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            "{path} is not valid: a length or rate in it is not a positive number. Delete or repair it.", path=where
        ) from error
    if config.synthesizer.hop_length != config.audio.hop_length:
        raise ConfigError(
            "{path}: upsample_rates multiply to {product}, not to hop_length. Delete or repair it.",
            path=where,
            product=config.synthesizer.hop_length,
        )
    return config


def read_config(path: Path, foreign: Callable[[], FamilyConfig] | None = None) -> FamilyConfig:
    """Read a configuration file.

    If the file was written by another program and has no `revoice` object, that object comes from `foreign()`. Raises
    MissingFileError if the file does not exist, and ConfigError if it is invalid.
    """
    if not path.exists():
        raise MissingFileError(path, "It is part of the project; restore it from the repository.")
    value = read_json(path)
    if foreign is not None and isinstance(value, dict) and "revoice" not in value:
        value["revoice"] = foreign().to_json()["revoice"]
    return parse_config(value, str(path))


def load_family(family: Family, sample_rate: str | None = None, *, has_f0: bool = True) -> FamilyConfig:
    """Load the bundled configuration of a family at a rate such as "40k"; None selects the family's default rate."""
    rates = FAMILIES[family]
    rate = sample_rate or rates[0]
    if rate not in rates:
        raise ConfigError(
            "The {family} family has no sample rate {rate!r}; choose one of {rates}.",
            family=family,
            rate=rate,
            rates=", ".join(rates),
        )
    config = read_config(CONFIGS / family / f"{rate}.json")
    if family == "lite" and not has_f0:
        raise ConfigError("The lite family has no voices without F0. Train with F0, or choose v1 or v2.")
    network = config.synthesizer.model_copy(update={"has_f0": has_f0})
    return config.model_copy(update={"synthesizer": network})
