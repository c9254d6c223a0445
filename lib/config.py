"""The configuration of a model family: sample rate, network sizes, training defaults; read from and written as JSON.

The files under `configs/` and an experiment's `config.json` have RVC's three objects `train`, `data` and `model`
(spec: file-formats, "config.json of an experiment"). A fourth, `revoice`, holds the settings of this project; other
programs ignore it.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import ConfigError, MissingFileError
from lib.paths import CONFIGS

Family = Literal["v1", "v2", "lite"]
FAMILIES: dict[Family, tuple[str, ...]] = {"v1": ("40k", "32k", "48k"), "v2": ("40k", "32k", "48k"), "lite": ("24k",)}
CONTENT_WIDTHS: dict[Family, int] = {"v1": 256, "v2": 768, "lite": 256}  # features per content frame


Size = Annotated[int, Field(ge=1, le=65_536)]  # networks are built from untrusted files


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class AudioConfig(_Strict):
    """Sample rate and spectrogram of a voice. A hop is 10 ms in every known family."""

    sample_rate: int = Field(alias="sampling_rate", ge=8000, le=192_000)
    n_fft: int = Field(alias="filter_length", ge=16, le=65_536)  # also the window length
    hop_length: int = Field(ge=1)
    n_mels: int = Field(alias="n_mel_channels", ge=1)
    fmin: float = Field(0.0, alias="mel_fmin")
    fmax: float | None = Field(None, alias="mel_fmax")  # Hz; None = half the sample rate


class SynthesizerConfig(_Strict):
    """The sizes of a Synthesizer (spec: synthesizer, "Configurations")."""

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
    content_width: Size  # 256 (v1, lite) or 768 (v2)
    has_f0: bool = True

    @property
    def hop_length(self) -> int:
        """Output samples per 10 ms frame."""
        return math.prod(self.upsample_rates)


class DiscriminatorConfig(_Strict):
    """Periods and widths of the multi-period discriminator; the defaults are RVC's."""

    periods: tuple[int, ...]
    scale_channels: tuple[int, ...] = (16, 64, 256, 1024, 1024, 1024)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)


class TrainConfig(_Strict):
    """Training defaults of a family (spec: training, "Training step")."""

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


class SourceConfig(_Strict):
    """Training of the sine source; the defaults are RVC's.

    In a small network, training drives the source's one-weight linear layer to zero within minutes, and F0 is lost. A
    fixed weight and a loss on the low harmonics prevent it.
    """

    weight: float | None = None  # fixed weight of the source's linear layer; None = trained as any other
    c_harmonic: float = 0.0  # weight of an L1 loss on the linear spectrum below harmonic_max
    harmonic_max: float = 3100.0  # Hz


class PriorConfig(_Strict):
    """Training of the prior; the defaults are RVC's.

    With few parameters and little time the posterior's latent stays mostly noise, because information in it costs KL
    that the prior cannot yet predict. Without a posterior, the prior gets its gradient from the audio losses.
    """

    only: bool = False  # train without posterior and KL loss (Polyak et al. 2021)
    log_scale: float | None = None  # initial log-scale of the prior in a training from scratch; None = near 0


class FamilyConfig(_Strict):
    """One file of `configs/`: a model family at one sample rate."""

    family: Family
    audio: AudioConfig
    synthesizer: SynthesizerConfig
    discriminator: DiscriminatorConfig
    train: TrainConfig
    source: SourceConfig = SourceConfig()
    prior: PriorConfig = PriorConfig()
    max_frames: int = 900  # training clips are cropped to this many 10 ms frames
    views: int = Field(0, ge=0, le=64)  # augmented versions of each clip's content features
    average: float = Field(0.0, ge=0, lt=1)  # maximum decay of the averaged weights; 0: voices have the last weights

    @property
    def has_posterior(self) -> bool:
        """Whether training needs a posterior encoder: only with a flow or a KL loss."""
        return not self.prior.only or self.synthesizer.n_flows > 0

    def to_json(self) -> dict[str, Any]:
        """Return the four objects of a `config.json`."""
        network = self.synthesizer
        model = network.model_dump(mode="json", include=_MODEL_KEYS) | {
            "spk_embed_dim": network.n_speakers,
            "use_spectral_norm": False,
        }
        data = self.audio.model_dump(mode="json", by_alias=True) | {
            "win_length": self.audio.n_fft,
            "max_wav_value": 32768.0,
        }
        train = self.train.model_dump(mode="json") | {"epochs": 20000, "init_lr_ratio": 1, "warmup_epochs": 0}
        revoice = {
            "family": self.family,
            "content_width": network.content_width,
            "has_f0": network.has_f0,
            "n_flows": network.n_flows,
            "max_frames": self.max_frames,
            "discriminator": self.discriminator.model_dump(mode="json"),
            "source": self.source.model_dump(mode="json"),
            "prior": self.prior.model_dump(mode="json"),
            "views": self.views,
            "average": self.average,
        }
        return {"train": train, "data": data, "model": model, "revoice": revoice}


_MODEL_KEYS = {
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout",
    "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_initial_channel",
    "upsample_kernel_sizes", "gin_channels",
}  # fmt: skip
_UNUSED = {
    "train": {"epochs", "init_lr_ratio", "warmup_epochs", "fp16_run"},
    "data": {"win_length", "max_wav_value"},
    "model": {"use_spectral_norm"},
}  # written by RVC; fixed or unused here


def parse_config(value: dict[str, Any], where: str) -> FamilyConfig:
    """Build a FamilyConfig from the four objects of a `config.json`; `where` names the file in messages.

    Raises ConfigError that lists every missing, unknown or wrong key at once.
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
    try:
        network = _network_fields(sections)
        config = FamilyConfig.model_validate(
            sections["revoice"] | {"audio": sections["data"], "synthesizer": network, "train": sections["train"]},
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
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


def _network_fields(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The fields of a SynthesizerConfig, which the four objects share. Takes them out of `model` and `revoice`."""
    data, model, own = sections["data"], sections["model"], sections["revoice"]
    derived = {
        "sample_rate": data.get("sampling_rate"),
        "spec_channels": int(data.get("filter_length", 0)) // 2 + 1,
        "segment_frames": int(sections["train"].get("segment_size", 0)) // int(data.get("hop_length", 1)),
        "n_speakers": model.pop("spk_embed_dim", 109),
        "content_width": own.pop("content_width", None),
        "has_f0": own.pop("has_f0", True),
        "n_flows": own.pop("n_flows", 4),
    }
    return model | derived


def read_config(path: Path, foreign: Callable[[], FamilyConfig] | None = None) -> FamilyConfig:
    """Read one configuration file. Raises MissingFileError or ConfigError.

    A file of another program has no object `revoice`; it is then taken from `foreign()`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(path, "It is part of the project; restore it from the repository.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "{path} is not a JSON file ({detail}). Delete or repair it.", path=path, detail=str(error)
        ) from error
    if foreign is not None and isinstance(value, dict) and "revoice" not in value:
        value["revoice"] = foreign().to_json()["revoice"]
    return parse_config(value, str(path))


def load_family(family: Family, sample_rate: str | None = None, *, has_f0: bool = True) -> FamilyConfig:
    """Return the shipped configuration of a family at a rate such as "40k"; None = the family's default rate."""
    rates = FAMILIES[family]
    rate = sample_rate or rates[0]
    if rate not in rates:
        raise ConfigError(
            "The family {family} has no sample rate {rate!r}; choose one of {rates}.",
            family=family,
            rate=rate,
            rates=", ".join(rates),
        )
    config = read_config(CONFIGS / family / f"{rate}.json")
    network = config.synthesizer.model_copy(update={"has_f0": has_f0})
    return config.model_copy(update={"synthesizer": network})
