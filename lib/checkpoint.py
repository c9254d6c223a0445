"""Voice models (`weights/*.pth`) and training states (`logs/<name>/{G,D}_*.pth`): the only owner of their formats.

Spec: file-formats, "Small voice model", "The config list" and "Training checkpoints". Everything is read with
`torch.load(weights_only=True)`, which executes nothing, and loaded strictly. Everything about a network that its
tensors tell (family, F0, speakers) is derived from them; the file's own claims are a cross-check.
"""

import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lib.config import Family, SynthesizerConfig
from lib.errors import CheckpointError, MissingFileError
from lib.files import replacing
from lib.models.synthesizer import Synthesizer

MAX_BYTES = 4 << 30  # no voice or training state of any known program comes near
SEGMENT_FRAMES = 32  # always written as 32 in voice models, whatever training used
POSTERIOR_PREFIX = "enc_q."
Weights = dict[str, Tensor]


class ContentEncoderId(NamedTuple):
    """Which content encoder a voice was trained on."""

    name: str
    sha256: str


@dataclass(frozen=True)
class VoiceModel:
    """A finished voice: network shape, weights (ecosystem key names, no posterior), and what it says of itself."""

    family: Family
    config: SynthesizerConfig
    weights: Weights
    info: str = ""
    content_encoder: ContentEncoderId | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # optional entries of this and other programs, kept as read

    @property
    def rate_name(self) -> str:
        """The sample rate as the ecosystem spells it: "40k"."""
        return f"{self.config.sample_rate // 1000}k"


def ecosystem_weights(module: nn.Module) -> Weights:
    """The state dict with weight norm spelled `weight_g`/`weight_v`, in the order of `parameters()`."""
    return {_old_name(key): value.detach() for key, value in module.state_dict().items()}


def _old_name(key: str) -> str:
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def load_weights(module: nn.Module, weights: Weights, where: str) -> None:
    """Load ecosystem-named weights strictly into `module` (up-casting halves). CheckpointError names what differs."""
    want = ecosystem_weights(module)
    missing = sorted(want.keys() - weights.keys())
    unknown = sorted(weights.keys() - want.keys())
    misshapen = sorted(k for k in want.keys() & weights.keys() if want[k].shape != weights[k].shape)
    if missing or unknown or misshapen:
        parts = (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        told = "; ".join(f"{len(keys)} {what} ({keys[0]}, …)" for what, keys in parts if keys)
        raise CheckpointError(f"{where} does not fit this network: tensors {told}. It belongs to another model.")
    renamed = {key: weights[_old_name(key)] for key in module.state_dict()}
    module.load_state_dict(renamed, strict=True)


def safe_load(path: Path, *, lazily: bool = False) -> Any:
    """Read a torch file without executing anything in it. MissingFileError or CheckpointError.

    `lazily` maps the tensors instead of reading them, where the file's format allows.
    """
    if not path.is_file():
        raise MissingFileError(path, "Check the name and the folder.")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes: not a model file. Get it again.")
    try:
        mapped = lazily and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not opened: it contains more than tensors and plain values, so it could run code on your "
            "computer, or it is damaged. Get the voice from a source you trust."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged or not a model file. Get it again.") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error


def _tensors(value: Any, path: Path) -> Weights:
    if not isinstance(value, dict) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise CheckpointError(f"{path} holds no table of tensors where a model has one. It is not a voice model.")
    return dict(value)


def _config_from(raw: Any, weights: Weights, path: Path) -> SynthesizerConfig:
    """Turn the positional list into a config; what the tensors tell wins over what the list says."""
    if not isinstance(raw, list | tuple) or len(raw) != 18:
        raise CheckpointError(f"{path}: the entry 'config' is not the usual list of 18 values.")
    try:
        return SynthesizerConfig(
            spec_channels=raw[0],
            segment_frames=raw[1],
            inter_channels=raw[2],
            hidden_channels=raw[3],
            filter_channels=raw[4],
            n_heads=raw[5],
            n_layers=raw[6],
            kernel_size=raw[7],
            p_dropout=raw[8],
            resblock=str(raw[9]),
            resblock_kernel_sizes=raw[10],
            resblock_dilation_sizes=raw[11],
            upsample_rates=raw[12],
            upsample_initial_channel=raw[13],
            upsample_kernel_sizes=raw[14],
            n_speakers=weights["emb_g.weight"].shape[0],
            gin_channels=raw[16],
            sample_rate=raw[17],
            content_width=weights["enc_p.emb_phone.weight"].shape[1],
            has_f0="enc_p.emb_pitch.weight" in weights,
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path} lacks the tensor {error} that every voice model has.") from error
    except ValidationError as error:
        raise CheckpointError(f"{path}: the entry 'config' has values that make no network ({error}).") from error


def _config_list(config: SynthesizerConfig) -> list[Any]:
    return [
        config.spec_channels,
        SEGMENT_FRAMES,
        config.inter_channels,
        config.hidden_channels,
        config.filter_channels,
        config.n_heads,
        config.n_layers,
        config.kernel_size,
        0 if config.p_dropout == 0 else config.p_dropout,
        config.resblock,
        list(config.resblock_kernel_sizes),
        [list(dilations) for dilations in config.resblock_dilation_sizes],
        list(config.upsample_rates),
        config.upsample_initial_channel,
        list(config.upsample_kernel_sizes),
        config.n_speakers,
        config.gin_channels,
        config.sample_rate,
    ]


_KNOWN = {"weight", "config", "info", "sr", "f0", "version", "content_encoder"}


def read_voice_model(path: Path) -> VoiceModel:
    """Read a voice model. Raises MissingFileError or CheckpointError (damaged, unsafe, or no voice model)."""
    content = safe_load(path)
    if isinstance(content, dict) and "model" in content and "weight" not in content:
        raise CheckpointError(f"{path} is a training checkpoint, not a voice. Take the voice from weights/ instead.")
    if not isinstance(content, dict) or "weight" not in content or "config" not in content:
        raise CheckpointError(f"{path} is not a voice model: it lacks the entries 'weight' and 'config'.")
    vocoder = content.get("vocoder", "HiFi-GAN")
    if vocoder != "HiFi-GAN":
        raise CheckpointError(f"{path} was made for the vocoder {vocoder!r}; only HiFi-GAN voices can be used.")
    weights = _tensors(content["weight"], path)
    weights = {key: value for key, value in weights.items() if not key.startswith(POSTERIOR_PREFIX)}
    config = _config_from(content["config"], weights, path)
    return VoiceModel(
        family=_family(content.get("version", "v1"), config, path),
        config=config,
        weights=weights,
        info=str(content.get("info", "")),
        content_encoder=_encoder_id(content.get("content_encoder")),
        extra={key: value for key, value in content.items() if key not in _KNOWN},
    )


def _family(version: Any, config: SynthesizerConfig, path: Path) -> Family:
    if version == "lite":
        return "lite"
    family: Family | None = {256: "v1", 768: "v2"}.get(config.content_width)  # type: ignore[assignment]
    if family is None or version not in ("v1", "v2"):
        raise CheckpointError(
            f"{path} is of the kind {version!r} with {config.content_width} content features; known are v1 (256), "
            "v2 (768) and lite."
        )
    return family


def _encoder_id(value: Any) -> ContentEncoderId | None:
    if not isinstance(value, dict) or "name" not in value:
        return None
    return ContentEncoderId(str(value["name"]), str(value.get("sha256", "")))


def write_voice_model(path: Path, voice: VoiceModel) -> None:
    """Write a voice in the ecosystem's form: halves, old weight-norm names, the 18-value list, `sr` as text."""
    content: dict[str, Any] = {
        "weight": {key: value.half().contiguous() for key, value in voice.weights.items()},
        "config": _config_list(voice.config),
        "info": voice.info,
        "sr": voice.rate_name,
        "f0": int(voice.config.has_f0),
        "version": voice.family,
    }
    if voice.content_encoder is not None:
        content["content_encoder"] = voice.content_encoder._asdict()
    with replacing(path) as temporary:
        torch.save(content | voice.extra, temporary)


def extract_voice_model(
    synthesizer: Synthesizer, family: Family, info: str, content_encoder: ContentEncoderId | None = None
) -> VoiceModel:
    """The voice inside a synthesizer: its weights without the posterior, copied to the CPU as halves."""
    weights = {
        key: value.to("cpu", torch.float16, copy=True)
        for key, value in ecosystem_weights(synthesizer).items()
        if not key.startswith(POSTERIOR_PREFIX)
    }
    return VoiceModel(family, synthesizer.config, weights, info, content_encoder)


def load_synthesizer(voice: VoiceModel, where: str = "The voice model") -> Synthesizer:
    """Build the network of a voice, float32, in evaluation mode, on the CPU."""
    synthesizer = Synthesizer(voice.config)
    load_weights(synthesizer, voice.weights, where)
    return synthesizer.eval()


@dataclass
class TrainingState:
    """One network of a run as stored in a `G_*.pth` or `D_*.pth`."""

    weights: Weights
    epoch: int  # the last finished epoch; the key `iteration` in the file
    optimizer: dict[str, Any]  # AdamW state dict; indices count the keys of `weights`
    learning_rate: float
    extra: dict[str, Any] = field(default_factory=dict)  # ours: step within the run, position in the epoch, …


def read_training_state(path: Path) -> TrainingState:
    """Read a training checkpoint (or a base model, which has only weights). MissingFileError or CheckpointError."""
    content = safe_load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks the entry 'model'.")
    known = {"model", "iteration", "optimizer", "learning_rate"}
    return TrainingState(
        weights=_tensors(content["model"], path),
        epoch=int(content.get("iteration", 0)),
        optimizer=content.get("optimizer") or {},
        learning_rate=float(content.get("learning_rate", 0.0)),
        extra={key: value for key, value in content.items() if key not in known},
    )


def peek_progress(path: Path) -> tuple[int, int]:
    """How far a training checkpoint is: (finished epochs, steps), without reading its tensors."""
    content = safe_load(path, lazily=True)
    if not isinstance(content, dict) or "iteration" not in content:
        raise CheckpointError(f"{path} is not a training checkpoint. Move it out of the folder.")
    return int(content["iteration"]), int(content.get("revoice", {}).get("step", 0))


def write_training_state(path: Path, state: TrainingState) -> None:
    """Write a training checkpoint in the ecosystem's form, atomically."""
    content = {
        "model": state.weights,
        "iteration": state.epoch,
        "optimizer": state.optimizer,
        "learning_rate": state.learning_rate,
    }
    with replacing(path) as temporary:
        torch.save(content | state.extra, temporary)


def optimizer_for(module: nn.Module, state: TrainingState, where: str) -> dict[str, Any]:
    """Re-index an optimiser state by parameter name, so that files of every program fit.

    In a file, index i means the i-th key of its `model` (spec: file-formats, "Optimiser index order").
    """
    stored = state.optimizer.get("state", {})
    groups = state.optimizer.get("param_groups", [])
    if len(groups) != 1:
        raise CheckpointError(f"{where}: the optimiser state has {len(groups)} parameter groups instead of one.")
    file_names = list(state.weights)
    if stored and max(stored) >= len(file_names):
        raise CheckpointError(f"{where}: the optimiser state does not belong to the stored model.")
    by_name = {file_names[index]: value for index, value in stored.items()}
    own_names = [_old_name(name) for name, _ in module.named_parameters()]
    group = {key: value for key, value in groups[0].items() if key != "param_names"}
    return {
        "state": {index: by_name[name] for index, name in enumerate(own_names) if name in by_name},
        "param_groups": [group | {"params": list(range(len(own_names)))}],
    }
