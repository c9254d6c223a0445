"""Load a voice with its content encoder and index into a VoiceConverter."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from infer.convert import VoiceConverter, VoiceParts
from infer.model_cache import ModelCache, file_stamp
from lib.config import LiteConfig
from lib.content import ContentEncoder, canonical_name, casts_encoder
from lib.devices import Device, choose_device, choose_precision
from lib.errors import CheckpointError
from lib.models import VoiceSynthesizer
from lib.models.memory import trim_memory
from lib.voice.library import explain_no_index, find_index, speaker_indexes, unmatched_indexes
from lib.voice.model_file import (
    ContentEncoderId,
    VoiceModel,
    load_synthesizer,
    read_voice_model,
    recommended_index_rate,
    training_range,
)

logger = logging.getLogger(__name__)


def load_converter(
    path: Path,
    index: Path | Literal["auto"] | None = None,
    device: Device | None = None,
    *,
    cache: ModelCache | None = None,
    precision: str = "auto",
    label: str = "",
) -> VoiceConverter:
    """Load a voice model into a converter; if it is cached, the cached converter is returned.

    If `index` is "auto", the index that belongs to the voice is used; None turns retrieval off. The content encoder is
    loaded for `precision`; each conversion may use another. `label` names the voice in messages, in place of its path.
    Raises MissingFileError if a file does not exist, and CheckpointError if one is damaged or incompatible with the
    voice.
    """
    device, cache, label = device or choose_device(), cache or ModelCache(), label or str(path)
    nearby = find_index(path) if index == "auto" else index
    key = ("voice", file_stamp(path), nearby and file_stamp(nearby), index == "auto", str(device.device))

    def load() -> VoiceConverter:
        model = read_voice_model(path)
        chosen = find_index(path, model.family) if index == "auto" else index
        if chosen is None and index == "auto" and unmatched_indexes(path):
            logger.warning("%s: %s", label, explain_no_index(path))
        parts = _load_parts(model, path, chosen, device, cache, precision, label)
        if index == "auto" and (own := speaker_indexes(path)):
            parts = replace(parts, speaker_index=lambda speaker: cache.index(own[speaker]) if speaker in own else None)
        logger.info("%s: family %s, %s; device: %s (%s)", label, model.family, model.info, device.device, device.reason)
        del model
        trim_memory()
        return VoiceConverter(parts, device, cache)

    return cache.get(key, load, lambda converter: converter.n_bytes)


def _load_parts(
    model: VoiceModel, path: Path, index: Path | None, device: Device, cache: ModelCache, precision: str, label: str
) -> VoiceParts:
    check_version(model, label)
    synthesizer = load_synthesizer(model, label).fold_weight_norm()
    recorded, casts = recorded_encoder(model), casts_encoder(model.family)
    encoder_in = partial(cache.encoder, model.family, device.device, recorded.name if recorded else None)
    encoder = encoder_in(choose_precision(precision, device.device, casts_encoder=casts).encoder)
    check_encoder(model, encoder, label)
    return VoiceParts(
        synthesizer,
        encoder,
        cache.index(index) if index else None,
        interpolate_unvoiced=bool(model.extra.get("interpolate_unvoiced")),
        index_rate=recommended_index_rate(model),
        identity=str((file_stamp(path), index and file_stamp(index))),
        median_f0=(training_range(model) or (None, None))[1],
        encoder_in=encoder_in if casts else None,
        reload_synthesizer=partial(_reload_synthesizer, path),
    )


@torch.inference_mode(False)  # the folded weights must be parameters
def _reload_synthesizer(path: Path) -> VoiceSynthesizer:
    """The synthesizer of a voice model in float32."""
    return load_synthesizer(read_voice_model(path), str(path)).fold_weight_norm()


def recorded_encoder(voice: VoiceModel) -> ContentEncoderId | None:
    """Return the content encoder named in the voice file by this program or Applio; None if there is none."""
    if voice.content_encoder is not None:
        return voice.content_encoder._replace(name=canonical_name(voice.content_encoder.name))
    foreign = voice.extra.get("embedder_model")
    return ContentEncoderId(canonical_name(foreign), "") if isinstance(foreign, str) and foreign else None


def check_version(voice: VoiceModel, label: str) -> None:
    """Raise CheckpointError if the voice is a lite voice of an earlier architecture."""
    if voice.family == "lite" and not isinstance(voice.config, LiteConfig):
        raise CheckpointError(
            "{voice} was trained with an earlier version of the lite family, which is no longer supported. Train the "
            "voice again.",
            voice=label,
        )


def check_encoder(voice: VoiceModel, encoder: ContentEncoder, label: str) -> None:
    """Raise CheckpointError if the voice file names a content encoder other than this one."""
    wanted = recorded_encoder(voice)
    if wanted is None:
        return
    if wanted.name != encoder.name:
        raise CheckpointError(
            "{voice} was trained with the content encoder {wanted!r}, but the one installed for the {family} family is "
            "{installed!r}. Install {wanted!r}, or train the voice again.",
            voice=label,
            wanted=wanted.name,
            family=voice.family,
            installed=encoder.name,
        )
    if wanted.sha256 and wanted.sha256 != encoder.sha256:
        raise CheckpointError(
            "{voice} was trained with a different version of the content encoder {name!r} (SHA-256 {wanted}..., "
            "installed is {installed}...). Install that version, or train again.",
            voice=label,
            name=wanted.name,
            wanted=wanted.sha256[:12],
            installed=encoder.sha256[:12],
        )
