"""Changes entries of a voice file. All other content is preserved: dtypes, posterior, entries from other programs."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib.errors import CheckpointError, WriteError
from lib.files import replacing
from lib.json_reader import parse_json
from lib.paths import SAFETENSORS
from lib.voice.model_file import METADATA, plain_entries, read_voice_model
from lib.voice.safe_load import read_safetensors, safe_load

logger = logging.getLogger(__name__)


def edit_voice_file(source: Path, output: Path, changes: Mapping[str, Any]) -> None:
    """Write the voice file `source` to `output` with some entries changed, or removed if their new value is None.

    `output` can be `source`, which is replaced after the new file has been written and read back. In the other file
    format, only entries with plain values are kept. Raises CheckpointError if `source` is not a voice, and WriteError
    if `output` cannot be written.
    """
    read_voice_model(source)  # only what can be used is edited
    metadata: dict[str, str] = {}
    if source.suffix.lower() == SAFETENSORS:
        weights, metadata = read_safetensors(source)
        content = parse_json(metadata[METADATA])
        in_order = {name: weights[name] for name in content.get("tensors", []) if name in weights}
        content["weight"] = in_order | weights
    else:
        content = dict(safe_load(source))
    removed = {key for key, value in changes.items() if value is None}
    content = {key: value for key, value in content.items() if key not in removed}
    content |= {key: value for key, value in changes.items() if key not in removed}
    with replacing(output) as temporary:
        if output.suffix.lower() == SAFETENSORS:
            if not metadata:  # from a .pth file, which can contain more kinds of values
                weights = content.pop("weight")
                content = {"weight": weights} | plain_entries(content, str(source))
            written = _write_safetensors(temporary, content, metadata)
        else:
            content.pop("tensors", None)  # the order of the tensors, which a .pth file has anyway
            written = content
            with temporary.open("wb") as file:  # torch would store the temporary name in the archive
                torch.save(content, file)
        if not _is_same(_read_back(temporary), written):
            raise WriteError(
                "Cannot write {path}: the written data reads back differently. Check the disk.", path=output
            )


def _write_safetensors(path: Path, content: dict[str, Any], metadata: dict[str, str]) -> dict[str, Any]:
    """Write a voice with its entries as metadata, added to `metadata`; return the written content."""
    weights = {name: tensor.contiguous() for name, tensor in content["weight"].items()}
    entries = {key: value for key, value in content.items() if key not in ("weight", "tensors")}
    entries["tensors"] = content.get("tensors", list(weights))
    save_file(weights, path, metadata | {METADATA: json.dumps(entries, ensure_ascii=False)})
    return {"weight": weights} | entries


def _read_back(path: Path) -> dict[str, Any] | None:
    try:
        if path.suffix.lower() == SAFETENSORS:
            weights, metadata = read_safetensors(path)
            entries: dict[str, Any] = parse_json(metadata[METADATA])
            return {"weight": weights} | entries
        return dict(safe_load(path))
    except CheckpointError:
        return None


def _is_same(one: Any, other: Any) -> bool:
    """Whether nested values and tensors are equal, dtypes included."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) or repr(one) == repr(other)  # NaN is not equal to itself
