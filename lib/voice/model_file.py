"""Voice models: `weights/*.pth` in RVC's format, and `.safetensors` with the same content.

A `.pth` voice is a dictionary of `weight` (fp16 tensors without the posterior encoder), `config` (a positional list of
sizes), `info`, `sr`, `f0` and `version`; other programs add entries, which are kept. The config of the network is
inferred from its tensors; a file's metadata is only compared with it. Reading a file executes no code from it.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib.config import LITE_INDEX_RATE, USUAL_INDEX_RATE, Family, NetworkConfig
from lib.errors import CheckpointError, ConfigError
from lib.files import replacing
from lib.json_reader import parse_json
from lib.messages import Message
from lib.paths import SAFETENSORS
from lib.voice.infer_config import (
    POSTERIOR_PREFIX,
    Network,
    architecture_of,
    build_network,
    check_network,
    config_list,
    derive_config,
    derive_family,
)
from lib.voice.safe_load import check_values, checked_state_dict, read_safetensors, safe_load
from lib.voice.weights import Weights, check_finite, load_weights, rvc_state_dict, with_rvc_keys

logger = logging.getLogger(__name__)

VOCODER = "HiFi-GAN"
METADATA = "revoice"  # the entry of a .safetensors file's metadata that contains everything but the tensors, as JSON
SPEAKER_NAMES = "speaker_names"  # an optional entry, {"0": "alice"}; other programs ignore it
INDEX_RATE = "index_rate"  # an optional entry: the recommended index rate of a conversion
MAX_DEPTH = 20  # of nested values
MAX_TEXT = 2000  # characters of a description, an author, a licence
MAX_SPEAKER_NAME = 100  # characters
MAX_DIGITS = 9  # of a speaker's number
_KNOWN = {"weight", "config", "info", "sr", "f0", "version", "content_encoder"}


class ContentEncoderId(NamedTuple):
    """Identifies the content encoder with which a voice was trained."""

    name: str
    sha256: str


@dataclass(frozen=True)
class VoiceModel:
    """A finished voice: config, weights (RVC's keys, without the posterior) and metadata."""

    family: Family
    config: NetworkConfig
    weights: Weights
    info: str = ""
    content_encoder: ContentEncoderId | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # optional entries of this and other programs, as read

    @property
    def rate_name(self) -> str:
        """The sample rate in RVC's notation: "40k"."""
        return f"{self.config.sample_rate // 1000}k"


def speaker_names(voice: VoiceModel) -> dict[int, str]:
    """Return the speaker names stored in a voice, keyed by speaker number."""
    stored = voice.extra.get(SPEAKER_NAMES)
    pairs = stored.items() if isinstance(stored, dict) else ()
    known = {
        int(number): name[:MAX_SPEAKER_NAME]
        for number, name in pairs
        if len(str(number)) < 6 and str(number).isdecimal() and isinstance(name, str) and name
    }
    return {number: known[number] for number in sorted(known) if number < voice.config.n_speakers}


def training_range(voice: VoiceModel) -> tuple[float, float, float] | None:
    """Return the 5th, 50th and 95th percentiles in Hz of the F0 that a voice was trained on; None if not recorded."""
    stored = voice.extra.get("training_f0")
    numbers = [value for value in stored if isinstance(value, int | float)] if isinstance(stored, list | tuple) else []
    if len(numbers) != 3:
        return None
    low, middle, high = (float(value) for value in numbers)
    return (low, middle, high) if middle > 0 else None


def find_speaker(voice: VoiceModel, speaker: str) -> int:
    """Return the number of a speaker given by name or number.

    Raises ConfigError, listing the available speakers, if `speaker` is neither a known name nor a number.
    Numbers are not checked.
    """
    names = speaker_names(voice)
    for number, name in names.items():
        if name == speaker:
            return number
    if speaker.isdecimal() and len(speaker) <= MAX_DIGITS:
        return int(speaker)
    listed = ", ".join(f"{name} ({number})" for number, name in names.items())
    raise ConfigError(
        "The voice has no speaker {speaker!r}. It has: {names}.",
        speaker=speaker,
        names=listed or f"0 … {voice.config.n_speakers - 1}",
    )


def recommended_index_rate(voice: VoiceModel) -> float:
    """Return the index rate of a conversion that does not specify one: the voice's entry `index_rate`, or the family's
    default."""
    stored = voice.extra.get(INDEX_RATE)
    if isinstance(stored, int | float) and not isinstance(stored, bool) and 0 <= stored <= 1:
        return float(stored)
    return LITE_INDEX_RATE if voice.family == "lite" else USUAL_INDEX_RATE


# --- reading ----------------------------------------------------------------------------------------------------------


def read_voice_model(path: Path) -> VoiceModel:
    """Read a voice model.

    Raises MissingFileError if the file does not exist, and CheckpointError if it is damaged, unsafe, or not a voice of
    a known kind.
    """
    content = _read_safetensors_voice(path) if path.suffix.lower() == SAFETENSORS else safe_load(path)
    _refuse_other_files(content, path)
    vocoder = content.get("vocoder") or VOCODER
    if vocoder != VOCODER:
        raise CheckpointError(
            "{path} was made for the vocoder {vocoder!r:.60}; only {supported} voices can be used.",
            path=path,
            vocoder=vocoder,
            supported=VOCODER,
        )
    if content.get("version") == "voras_beta":
        raise CheckpointError(
            "{path} is a VoRAS beta model, which has a different architecture and cannot be used here.", path=path
        )
    table = with_rvc_keys(checked_state_dict(content["weight"], path))
    weights = {key: value for key, value in table.items() if POSTERIOR_PREFIX not in key}
    where = str(path)
    declared = architecture_of(table).parse_list(content["config"], where)
    config = derive_config(table, declared, where)
    check_network(weights, config, where)
    _log_wrong_metadata(content, config, where)
    return VoiceModel(
        family=derive_family(config, content.get("version"), where),
        config=config,
        weights=weights,
        info=_bounded(str(content.get("info", "")), where),
        content_encoder=_encoder_id(content.get("content_encoder")),
        extra=plain_entries({key: value for key, value in content.items() if key not in _KNOWN}, where),
    )


def _read_safetensors_voice(path: Path) -> dict[str, Any]:
    """The content of a .safetensors voice, arranged as in a .pth voice, with the tensors in their original order."""
    weights, metadata = read_safetensors(path)
    try:
        content = parse_json(metadata[METADATA])
        order = content.pop("tensors")
        content["weight"] = {name: weights[name] for name in order} | weights
    except KeyError as error:
        raise CheckpointError(
            "{path} is not a voice model: its metadata lacks {entry}. Make it from the voice's .pth file: "
            "python -m train ckpt convert VOICE.pth",
            path=path,
            entry=str(error),
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError("{path} has damaged metadata. Get a new copy of the voice.", path=path) from error
    check_values(content, path)
    return content  # type: ignore[no-any-return]


def _refuse_other_files(content: Any, path: Path) -> None:
    """Raise CheckpointError if the entries of a voice model are missing; the message names the actual kind of file."""
    if isinstance(content, dict) and "weight" in content and "config" in content:
        return
    model = content.get("model", content) if isinstance(content, dict) else None
    names = [str(name) for name in model] if isinstance(model, dict) else []
    if any(name.startswith("discriminators.") for name in names):
        raise CheckpointError(
            "{path} is a training checkpoint of a discriminator, not a voice. The voice is in the G_… file beside it: "
            "python -m train ckpt extract G_….pth --name NAME",
            path=path,
        )
    if any(name.startswith("enc_p.") for name in names):
        raise CheckpointError(
            "{path} is a training checkpoint, not a voice. Extract a voice from it: python -m train ckpt extract "
            "{path} --name NAME",
            path=path,
        )
    raise CheckpointError("{path} is not a voice model: it lacks the entries 'weight' and 'config'.", path=path)


def _log_wrong_metadata(content: dict[str, Any], config: NetworkConfig, where: str) -> None:
    """Log incorrect entries `f0` and `sr`. RVC never reads `sr`, and programs write it in different ways."""
    if "f0" in content and bool(content["f0"]) != config.has_f0:
        logger.warning(
            "%s declares f0=%.60r, but its tensors are of a voice with f0=%d", where, content["f0"], config.has_f0
        )
    rate = str(content.get("sr", config.sample_rate)).lower()
    if rate not in (str(config.sample_rate), f"{config.sample_rate // 1000}k"):
        logger.warning("%s declares sr=%.60s, but its tensors are of a voice of %d Hz", where, rate, config.sample_rate)


def _bounded(text: str, where: str) -> str:
    """Cut off the description of a voice if it is too long, because it is shown and translated in many places."""
    if len(text) > MAX_TEXT:
        logger.warning("%s has a description of %d characters; the first %d are used", where, len(text), MAX_TEXT)
    return text[:MAX_TEXT]


def _encoder_id(value: Any) -> ContentEncoderId | None:
    if not isinstance(value, dict) or "name" not in value:
        return None
    return ContentEncoderId(str(value["name"]), str(value.get("sha256", "")))


def plain_entries(entries: dict[Any, Any], where: str) -> dict[str, Any]:
    """Return the optional entries with plain values, which both file formats can store; log the others."""
    kept = {}
    for key, value in entries.items():
        try:
            kept[str(key)] = _plain(value, MAX_DEPTH)
        except TypeError:
            logger.warning("%s: the entry %.60r is not a plain value and is skipped", where, key)
    return kept


def _plain(value: Any, depth: int) -> Any:
    """A copy of nested plain values, in the types of JSON. Raises TypeError for anything else."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth and isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if depth and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    raise TypeError


# --- writing ----------------------------------------------------------------------------------------------------------


def checked_text(entry: str, text: str, most: int = MAX_TEXT) -> str:
    """Return `text`, a string for an entry of a voice. Raises ConfigError if it has more than `most` characters."""
    if len(text) > most:
        raise ConfigError(
            "The text of {entry} is too long ({size} characters; {most} are allowed). Shorten it.",
            entry=entry, size=len(text), most=most,
        )  # fmt: skip
    return text


def write_voice_model(path: Path, voice: VoiceModel) -> None:
    """Write a voice atomically, as `.safetensors` if it has that suffix, otherwise in RVC's format.

    RVC's format has fp16 weights, the old weight-norm names, a list of 18 values, and `sr` as a string. Raises
    CheckpointError if a weight is not finite in fp16, ConfigError if `info` is too long, and WriteError if the file
    cannot be written.
    """
    weights = {key: value.half().contiguous() for key, value in voice.weights.items()}
    check_finite(weights, Message("The voice for {path}", path=path))
    content: dict[str, Any] = {
        "config": config_list(voice.config),
        "info": checked_text("info", voice.info),
        "sr": voice.rate_name,
        "f0": int(voice.config.has_f0),
        "version": voice.family,
    }
    if voice.content_encoder is not None:
        content["content_encoder"] = voice.content_encoder._asdict()
    content |= {key: value for key, value in voice.extra.items() if key not in _KNOWN}
    with replacing(path) as temporary:
        if path.suffix.lower() == SAFETENSORS:
            metadata = {METADATA: json.dumps(content | {"tensors": list(weights)}, ensure_ascii=False)}
            save_file(weights, temporary, metadata)
        else:
            with temporary.open("wb") as file:  # torch would store the temporary name in the archive
                torch.save({"weight": weights} | content, file)


def extract_voice_model(
    synthesizer: Network, family: Family, info: str, content_encoder: ContentEncoderId | None = None
) -> VoiceModel:
    """Return the voice model of a synthesizer: its weights without the posterior, copied to the CPU in fp16."""
    weights = voice_weights(rvc_state_dict(synthesizer))
    return VoiceModel(family, synthesizer.config, weights, info, content_encoder)


def voice_weights(weights: dict[str, Tensor]) -> Weights:
    """Return a generator's weights without the posterior, copied to the CPU in fp16."""
    return {
        key: value.to("cpu", torch.float16, copy=True)
        for key, value in weights.items()
        if POSTERIOR_PREFIX not in key
    }  # fmt: skip


def load_synthesizer(voice: VoiceModel, where: str = "The voice model") -> Network:
    """Build the network of a voice: float32, evaluation mode, on the CPU."""
    synthesizer = build_network(voice.config)
    load_weights(synthesizer, voice.weights, where)
    return synthesizer.eval()
