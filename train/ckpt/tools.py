"""Tools for model files: describe, extract a voice from a training checkpoint, merge two voices, edit, convert.

Unlike in RVC, a model's properties are inferred from its tensors rather than entered by the user, incompatible voices
cannot be merged, and existing files are replaced only with `overwrite`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.errors import CheckpointError, ConfigError, RevoiceError
from lib.messages import Message
from lib.paths import PRETRAINED, SAFETENSORS, VOICE_SUFFIXES, WEIGHTS, check_name, inside
from lib.voice.facts import MAX_FACT
from lib.voice.infer_config import POSTERIOR_PREFIX, check_network, derive_config, derive_family
from lib.voice.library import find_voice
from lib.voice.model_file import (
    MAX_SPEAKER_NAME,
    SPEAKER_NAMES,
    VoiceModel,
    checked_text,
    read_voice_model,
    speaker_names,
    voice_weights,
    write_voice_model,
)
from lib.voice.safe_load import checked_state_dict, safe_load
from lib.voice.training_state import TrainingState, read_training_state
from lib.voice.weights import Weights, with_rvc_keys
from train.experiment import Experiment

EXTRACTED = "Extracted model."
SPEAKERS = "emb_g.weight"
OWN_METADATA = (
    "display_name",
    "epoch",
    "step",
    "training_f0",
    "creation_date",
    "model_hash",
    "dataset_length",
    "model_name",
)


def new_voice(name: str, *, overwrite: bool = False, suffix: str = ".pth", weights: Path = WEIGHTS) -> Path:
    """Return the path of a new voice. Raises ConfigError if the name is not allowed or the voice exists."""
    path = inside(weights, check_name(name, "voice", is_argument=True) + suffix, "voice")
    taken = [found for other in VOICE_SUFFIXES if (found := path.with_name(name + other)).exists()]
    if taken and not overwrite:
        raise _exists(taken[0])
    return path


def _exists(path: Path) -> ConfigError:
    return ConfigError("{path} exists. Choose another name, or allow replacing it (--overwrite).", path=path)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError if a file exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise _exists(path)


def voice_path(name: str) -> Path:
    """Return the path of a voice given by name or path."""
    return find_voice(name).path


# --- describe ---------------------------------------------------------------------------------------------------------


def describe(path: Path) -> dict[str, Any]:
    """Return the properties of a voice model or training checkpoint, keyed by label.

    Raises RevoiceError if the file is neither.
    """
    if path.suffix.lower() != SAFETENSORS and not _is_voice(safe_load(path, lazily=True)):
        return _describe_state(path, read_training_state(path))
    return _describe_voice(path, read_voice_model(path))


def _is_voice(content: Any) -> bool:
    return isinstance(content, dict) and "model" not in content


def _describe_voice(path: Path, voice: VoiceModel) -> dict[str, Any]:
    """RVC's four properties first (info, sample rate, pitch, version), then the others."""
    facts: dict[str, Any] = {
        "info": voice.info or None,
        "sample rate": f"{voice.config.sample_rate} Hz",
        "pitch": "yes" if voice.config.has_f0 else "no",
        "version": voice.family,
        "kind": "voice model",
        "speakers": voice.config.n_speakers,
        "parameters": sum(tensor.numel() for tensor in voice.weights.values()),
        "bytes": path.stat().st_size,
    }
    if voice.content_encoder is not None:
        facts["content encoder"] = f"{voice.content_encoder.name} {voice.content_encoder.sha256[:12]}".strip()
    return facts | {key.replace("_", " "): _rounded(value) for key, value in voice.extra.items()}


def _rounded(value: Any) -> Any:
    """Format values for display: numbers with one decimal, lists and dicts as strings."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_rounded(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_rounded(item)) for item in value)
    return round(value, 1) if isinstance(value, float) else value


def _describe_state(path: Path, state: TrainingState) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "training checkpoint of a discriminator",
        "finished epochs": state.epoch,
        "optimiser state": "yes" if state.optimizer.get("state") else "no",
        "parameters": sum(tensor.numel() for tensor in state.weights.values()),
        "bytes": path.stat().st_size,
    }
    if not any(key.startswith("discriminators.") for key in state.weights):
        config = derive_config(state.weights, {}, str(path))
        facts |= {
            "kind": "training checkpoint of a generator",
            "sample rate": f"{config.sample_rate} Hz",
            "pitch": "yes" if config.has_f0 else "no",
            "version": derive_family(config, None, str(path)),
            "speakers": config.n_speakers,
        }
    if step := (state.extra.get("revoice") or {}).get("step"):
        facts["step"] = step
    return facts


# --- extract ----------------------------------------------------------------------------------------------------------


def newest_generator(folder: Path) -> Path:
    """Return the generator checkpoint with the most steps in an experiment's folder.

    Raises ConfigError if there is none.
    """
    pairs = Experiment(folder.name, folder.parent).checkpoint_pairs()
    if not pairs:
        raise ConfigError(
            "{folder} contains no pair of checkpoints G_….pth and D_….pth. Specify the path of a G_….pth.",
            folder=folder,
        )
    return pairs[0][0]


def extract(checkpoint: Path, info: str | None = None, sample_rate: int | None = None) -> VoiceModel:
    """Extract the voice model from a generator's training checkpoint (or a bare state dict), in fp16.

    Everything is inferred from the tensors. `sample_rate` in Hz is only needed for networks without F0 and without
    posterior, whose tensors do not show it. Raises CheckpointError if the file contains no generator, or one with
    another sample rate.
    """
    weights, epoch = _generator(checkpoint)
    where = str(checkpoint)
    config = derive_config(weights, {} if sample_rate is None else {"sample_rate": sample_rate}, where)
    if sample_rate not in (None, config.sample_rate):
        raise CheckpointError(
            "{path} belongs to a {rate} Hz voice, not a {given} Hz one. Omit the sample rate.",
            path=where,
            rate=config.sample_rate,
            given=sample_rate,
        )
    has_posterior = any(key.startswith(POSTERIOR_PREFIX) for key in weights)
    check_network(weights, config, where, posterior=has_posterior)
    extra = {} if epoch is None else {"epoch": epoch}
    family = derive_family(config, None, where)
    return VoiceModel(family, config, voice_weights(weights), EXTRACTED if info is None else info, extra=extra)


def _generator(path: Path) -> tuple[Weights, int | None]:
    """Return the tensors of a generator (the EMA weights, if any) and its finished epochs, if stored."""
    content = safe_load(path)
    if isinstance(content, dict) and "weight" in content and "config" in content:
        raise CheckpointError("{path} is a finished voice already; there is nothing to extract.", path=path)
    is_state = isinstance(content, dict) and "model" in content
    weights = with_rvc_keys(checked_state_dict(content.get("average", content["model"]) if is_state else content, path))
    if any(key.startswith("discriminators.") for key in weights):
        raise CheckpointError("{path} is a discriminator; the voice is in the G_….pth beside it.", path=path)
    epoch = content.get("iteration") if is_state else None
    return weights, epoch if isinstance(epoch, int) and epoch else None


# --- merge ------------------------------------------------------------------------------------------------------------


def merge(first: VoiceModel, second: VoiceModel, alpha: float = 0.5, info: str | None = None) -> VoiceModel:
    """Blend two voices tensor by tensor: alpha of the first, 1 - alpha of the second, in float32, stored in fp16.

    The speaker embeddings are trimmed to the smaller table. Weight-norm pairs are blended separately, as in RVC. Raises
    ConfigError if alpha is not between 0 and 1, and CheckpointError if the voices are of different kinds.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError("The weight of the first voice cannot be {alpha}; it must be from 0 to 1.", alpha=alpha)
    _check_mergeable(first, second)
    rows = min(first.config.n_speakers, second.config.n_speakers)
    merged = {}
    for key, one in first.weights.items():
        other = second.weights[key]
        if key == SPEAKERS:
            one, other = one[:rows], other[:rows]
        merged[key] = (alpha * one.float() + (1 - alpha) * other.float()).half()
    extra = {
        key: value
        for key, value in first.extra.items()
        if key not in OWN_METADATA and second.extra.get(key) == value
    }  # fmt: skip
    names = [speaker_names(voice) for voice in (first, second)]
    if both := {str(number): _blended(names[0][number], names[1][number]) for number in names[0].keys() & names[1]}:
        extra[SPEAKER_NAMES] = both
    return VoiceModel(
        first.family,
        first.config.model_copy(update={"n_speakers": rows}),
        merged,
        f"Merged: {alpha:g} of the first voice, {1 - alpha:g} of the second." if info is None else info,
        first.content_encoder or second.content_encoder,
        extra,
    )


def _blended(first: str, second: str) -> str:
    return first if first == second else f"{first} + {second}"


def _check_mergeable(first: VoiceModel, second: VoiceModel) -> None:
    """Raise ConfigError or CheckpointError, with the first difference, if the voices cannot be blended."""
    compared: list[tuple[str, Any, Any]] = [
        (Message("family"), first.family, second.family),
        (Message("sample rate"), first.config.sample_rate, second.config.sample_rate),
        (Message("use of F0"), first.config.has_f0, second.config.has_f0),
    ]
    if first.content_encoder is not None and second.content_encoder is not None:
        one, other = first.content_encoder, second.content_encoder
        compared.append((Message("content encoder"), one.name, other.name))
        if one.sha256 and other.sha256:
            compared.append((Message("version of the content encoder"), one.sha256[:12], other.sha256[:12]))
    embedders = (first.extra.get("embedder_model"), second.extra.get("embedder_model"))
    if None not in embedders:
        compared.append((Message("content encoder"), *embedders))
    shapes = [
        voice.config.model_dump(exclude={"n_speakers", "p_dropout", "segment_frames"}) for voice in (first, second)
    ]
    compared += [(name.replace("_", " "), value, shapes[1][name]) for name, value in shapes[0].items()]
    for what, a, b in compared:
        if a != b:
            raise CheckpointError(
                "These voices cannot be merged: their {what} differs ({one} and {other}). Merge voices of the same "
                "kind.",
                what=what,
                one=a,
                other=b,
            )


# --- edit, convert ----------------------------------------------------------------------------------------------------


def edit(
    voice: VoiceModel,
    info: str | None = None,
    author: str | None = None,
    licence: str | None = None,
    speakers: str | None = None,
) -> VoiceModel:
    """Return the voice with the given strings changed; None keeps an entry, an empty string removes it.

    `speakers` are names separated by commas, from speaker 0 on. Raises ConfigError if the voice has fewer speakers, or
    if a string exceeds its limit (MAX_TEXT, MAX_SPEAKER_NAME).
    """
    changes = edited_entries(voice, info, author, licence, speakers)
    info = changes.pop("info", voice.info)
    extra = voice.extra | changes
    return replace(voice, info=info, extra={key: value for key, value in extra.items() if value is not None})


def edited_entries(
    voice: VoiceModel,
    info: str | None = None,
    author: str | None = None,
    licence: str | None = None,
    speakers: str | None = None,
    facts: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return the entries of the voice's file that `edit` changes, with their new values; None removes an entry."""
    changes: dict[str, Any] = {} if info is None else {"info": checked_text("info", info)}
    if speakers is not None:
        names = [name.strip() for name in speakers.split(",")]
        if len(names) > voice.config.n_speakers:
            raise ConfigError(
                "The voice has {speakers} speakers, not {names}. Enter fewer names.",
                speakers=voice.config.n_speakers,
                names=len(names),
            )
        checked = [checked_text("speakers", name, MAX_SPEAKER_NAME) for name in names]
        changes[SPEAKER_NAMES] = {str(number): name for number, name in enumerate(checked) if name} or None
    for key, text in (("author", author), ("licence", licence)):
        if text is not None:
            changes[key] = checked_text(key, text) or None
    for key, text in (facts or {}).items():
        if text is not None:
            changes[key] = checked_text(key, " ".join(text.split()), MAX_FACT) or None
    return changes


def edit_target(path: Path, output: Path | None) -> Path:
    """Return the path to which an edited voice is written: `output`, otherwise the voice's own file.

    An edited copy of a bundled voice is written to weights/. Raises ConfigError if that copy or `output` exists.
    """
    if output is not None:
        if output.exists():
            raise ConfigError(
                "{path} exists. Choose another name; without --output the voice itself is changed.", path=output
            )
        return output
    is_shipped = path.resolve().is_relative_to(PRETRAINED.resolve())
    return new_voice(path.stem, suffix=path.suffix) if is_shipped else path


def convert(source: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a voice in the other file format (.pth, .safetensors), or to `output`, and return its path.

    The new file is read back and compared. Raises ConfigError if the output exists or has another suffix.
    """
    voice = read_voice_model(source)
    other = VOICE_SUFFIXES[source.suffix.lower() == VOICE_SUFFIXES[0]]
    output = output or source.with_suffix(other)
    if output.suffix.lower() not in VOICE_SUFFIXES:
        raise ConfigError("{path} has no suffix of a voice model; use .pth or .safetensors.", path=output)
    check_output(output, overwrite=overwrite)
    write_voice_model(output, voice)
    _compare(voice, read_voice_model(output), output)
    return output


def _compare(voice: VoiceModel, written: VoiceModel, path: Path) -> None:
    """Raise RevoiceError if a written voice differs from the original."""
    same_facts = replace(written, weights={}) == replace(
        voice, weights={}, config=voice.config.model_copy(update={"segment_frames": written.config.segment_frames})
    )
    same = all(tensor.half().equal(written.weights[key]) for key, tensor in voice.weights.items())
    if not (same_facts and same):
        raise RevoiceError(
            "{path} differs from the data written to it. Check the disk, and delete the file.", path=path
        )
