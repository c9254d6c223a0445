"""Reads tensors and plain values from model files without executing code from them.

All `.pth` and `.pt` files from users are read with it. A `.pth` file is a zip archive (or, before torch 1.6, a plain
stream) that contains a pickle; only tensors and plain values are read from it. `.safetensors` files contain nothing
else.
"""

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib.errors import CheckpointError, MissingFileError
from lib.machine import BLOCK_BYTES, machine_errors
from lib.paths import SAFETENSORS
from lib.voice.numpy_scalars import allow_numpy_scalars
from lib.voice.weights import Weights, with_rvc_keys

MAX_BYTES = 4 << 30  # far above the voices and training states of all known programs
MAX_GROWTH = 4  # an archive may unpack to this many times its size (torch does not compress at all) ...
SPARE_BYTES = 1 << 20  # ... and this much more
MAX_PARTS = 20_000  # of a torch file: one per tensor; a checkpoint with its optimiser has some 2,000
ZIP_END = b"PK\x05\x06"  # begins the last record of a zip archive ...
ZIP_TAIL_BYTES = 22 + 65_535  # ... which is 22 bytes long, with a comment of at most 16 bits of length
ZIP_ENTRY_BYTES = 400  # of a table of contents, at most, on average
MAX_VALUES = 500_000  # of everything but tensors, counted as often as it is referred to; a checkpoint has some 10,000
MAX_DEPTH = 100  # of nested lists and tables
TEXT_LENGTH = 64  # characters that count as one value
BYTEARRAY = b"\nbytearray\n"  # the only allowed global that allocates gigabytes from a small number
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# What torch's reader raises for damaged files.
_DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
    ImportError, struct.error, zlib.error,
)  # fmt: skip


def safe_load(path: Path, *, lazily: bool = False) -> Any:
    """Read a torch file without executing code from it.

    If `lazily` is set, the tensors are memory-mapped instead of read, if the file format allows it. Raises
    MissingFileError if the file does not exist, CheckpointError if it is damaged or unsafe, and MachineError if the
    disk cannot be read.
    """
    _check_size(path)
    allow_numpy_scalars()
    try:
        with machine_errors(reading=path), warnings.catch_warnings():
            is_archive = zipfile.is_zipfile(path)
            if is_archive:
                _check_growth(path)
            _check_globals(path, is_archive)
            warnings.simplefilter("ignore")  # torch warns about what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and is_archive)
        check_values(content, path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "{path} was not opened: it contains more than tensors and plain values, so it could run code on your "
            "computer, or it is damaged. Get the voice from a source you trust.",
            path=path,
        ) from error
    except (zipfile.BadZipFile, OSError, *_DAMAGED) as error:
        raise CheckpointError("{path} is damaged or not a model file. Get a new copy.", path=path) from error
    return content


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(path, "Check the name and the folder.")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise CheckpointError(
            "{path} has {size} bytes: not a model file. Get a new copy.", path=path, size=path.stat().st_size
        )


def check_directory(path: Path, max_parts: int) -> None:
    """Raise CheckpointError if the central directory of a zip archive is too long for `max_parts` entries.

    The check does not read the directory: reading a million entries takes seconds and a gigabyte of memory.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_TAIL_BYTES))
        tail = file.read()
    at = tail.rfind(ZIP_END)
    if at < 0 or len(tail) < at + 16:
        return  # not an archive; the reader reports it
    table_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
    if table_bytes > max_parts * ZIP_ENTRY_BYTES:
        raise CheckpointError(
            "{path} was not opened: it has more parts than any model file or voice archive ({max_parts}).",
            path=path,
            max_parts=max_parts,
        )


def _check_growth(path: Path) -> None:
    """Raise CheckpointError if the parts of an archive unpack to far more bytes than the file has."""
    check_directory(path, MAX_PARTS)
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > MAX_GROWTH * path.stat().st_size + SPARE_BYTES:
        raise CheckpointError(
            "{path} was not opened: its {size} bytes would unpack to {unpacked}; it may be a decompression bomb. Get "
            "the voice from a source you trust.",
            path=path,
            size=path.stat().st_size,
            unpacked=unpacked,
        )


def _contains(path: Path, wanted: bytes) -> bool:
    before = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            if wanted in before + block:
                return True
            before = block[1 - len(wanted) :]
    return False


def _check_globals(path: Path, is_archive: bool) -> None:
    """Raise CheckpointError if a pickle names a global that could exhaust memory while it is read."""
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(part) for part in archive.infolist() if part.filename.lower().endswith("data.pkl")]
        found = any(BYTEARRAY in data for data in pickles)
    else:
        found = _contains(path, BYTEARRAY)
    if found:
        raise CheckpointError(
            "{path} was not opened: it requests an excessive amount of memory, as a maliciously crafted file would. "
            "Get the voice from a source you trust.",
            path=path,
        )


def check_values(content: Any, path: Path) -> None:
    """Raise CheckpointError if plain values expand far beyond the file size (nested references)."""
    left = MAX_VALUES
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        inner: Sequence[Any] = ()
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            inner = list(value)
        elif isinstance(value, str | bytes):
            left -= len(value) // TEXT_LENGTH
        left -= len(inner)
        if left < 0 or (inner and depth >= MAX_DEPTH):
            raise CheckpointError(
                "{path} was not opened: its values are nested or repeated, as in a file crafted to exhaust memory. Get "
                "the voice from a source you trust.",
                path=path,
            )
        waiting.extend((item, depth + 1) for item in inner)


def read_safetensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """Read a .safetensors file: its tensors and its metadata. Raises the same errors as `safe_load`."""
    _check_size(path)
    try:
        with machine_errors(reading=path), safe_open(path, "pt", device="cpu") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            "{path} is damaged or not a .safetensors file ({detail}). Get a new copy.", path=path, detail=str(error)
        ) from error
    return checked_state_dict(weights, path), metadata


def read_weights(path: Path) -> Weights:
    """Read the tensors of a base model: the entry `model` of a torch file, or a whole .safetensors file."""
    if path.suffix.lower() == SAFETENSORS:
        return with_rvc_keys(read_safetensors(path)[0])
    content = safe_load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError("{path} is not a training checkpoint: it lacks the entry 'model'.", path=path)
    return with_rvc_keys(checked_state_dict(content["model"], path))


def checked_state_dict(value: Any, path: Path) -> Weights:
    """Return `value` if it is a state dict of dense real tensors no larger than its file.

    Raises CheckpointError if it is not.
    """
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise CheckpointError("{path} contains no state dict, so it is not a model file.", path=path)
    total = 0
    for key, tensor in value.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            raise CheckpointError(
                "{path} is not a model file: its entry {key!r} is not a real-valued tensor.", path=path, key=key
            )
        size = tensor.numel() * tensor.element_size()
        total += size
        # With stride 0 a small storage is a huge tensor, which would exhaust memory when it is first used.
        if tensor.device.type != "cpu" or tensor.untyped_storage().nbytes() < size:
            raise CheckpointError(
                "{path} was not opened: {key!r} declares a larger size than is stored. Get the voice from a source "
                "you trust.",
                path=path,
                key=key,
            )
    if total > MAX_GROWTH * path.stat().st_size + SPARE_BYTES:
        raise CheckpointError(
            "{path} was not opened: its tensors declare a larger size than the file has. Get a new copy.", path=path
        )
    return dict(value)
