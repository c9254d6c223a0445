"""Reading tables of tensors from files without executing anything in them.

What every file format of networks stands on. Spec: file-formats, "Checkpoint and data file formats".
"""

import mmap
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
from lib.paths import SAFETENSORS
from lib.voice.weights import Weights

MAX_BYTES = 4 << 30  # no voice or training state of any known program comes near
MAX_GROWTH = 4  # an archive may unpack to this many times its size (torch does not compress at all) ...
SPARE_BYTES = 1 << 20  # ... and this much more
MAX_PARTS = 20_000  # of a torch file: one per tensor; a checkpoint with its optimiser has some 2,000
ZIP_END = b"PK\x05\x06"  # begins the last record of a zip archive ...
ZIP_TAIL_BYTES = 22 + 65_535  # ... which is 22 bytes long, with a comment of at most 16 bits of length
ZIP_ENTRY_BYTES = 400  # of a table of contents, at most, on average
MAX_VALUES = 500_000  # of everything but tensors, counted as often as it is referred to; a checkpoint has some 10,000
MAX_DEPTH = 100  # of nested lists and tables
TEXT_LENGTH = 64  # characters that count as one value
RESERVES_MEMORY = b"\nbytearray\n"  # the one name torch's safe reader knows that makes gigabytes out of a number
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# What torch's reader, which checks little, meets in damaged files.
_DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, AssertionError,
    ArithmeticError, ImportError, struct.error, zlib.error,
)  # fmt: skip


def safe_load(path: Path, *, lazily: bool = False) -> Any:
    """Read a torch file without executing anything in it. MissingFileError or CheckpointError.

    `lazily` maps the tensors instead of reading them, where the file's format allows.
    """
    _check_size(path)
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_growth(path)
        _check_names(path, is_archive)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and is_archive)
        check_values(content, path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not opened: it contains more than tensors and plain values, so it could run code on your "
            "computer, or it is damaged. Get the voice from a source you trust."
        ) from error
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path} is damaged or not a model file. Get it again.") from error
    return content


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(path, "Check the name and the folder.")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes: not a model file. Get it again.")


def check_directory(path: Path, most: int) -> None:
    """Refuse a zip archive whose table of contents is too long for `most` parts, before it is read.

    Reading a table of a million entries takes seconds and a gigabyte. CheckpointError.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_TAIL_BYTES))
        tail = file.read()
    at = tail.rfind(ZIP_END)
    if at < 0 or len(tail) < at + 16:
        return  # not an archive; whoever reads it says so
    table_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
    if table_bytes > most * ZIP_ENTRY_BYTES:
        raise CheckpointError(
            f"{path} was not opened: it has more parts than any model file or voice archive ({most})."
        )


def _check_growth(path: Path) -> None:
    """Refuse an archive whose parts unpack to far more than they take on disk."""
    check_directory(path, MAX_PARTS)
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > MAX_GROWTH * path.stat().st_size + SPARE_BYTES:
        raise CheckpointError(
            f"{path} was not opened: its {path.stat().st_size} bytes would unpack to {unpacked}, as in a file made to "
            "exhaust memory. Get the voice from a source you trust."
        )


def _check_names(path: Path, is_archive: bool) -> None:
    """Refuse a pickle that names what could fill the memory before its result can be looked at."""
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(part) for part in archive.infolist() if part.filename.lower().endswith("data.pkl")]
        found = any(RESERVES_MEMORY in data for data in pickles)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = data.find(RESERVES_MEMORY) >= 0
    if found:
        raise CheckpointError(
            f"{path} was not opened: it asks for memory like a file made to exhaust it. Get the voice from a source "
            "you trust."
        )


def check_values(content: Any, path: Path) -> None:
    """Refuse plain values that a small file unfolds to far more: lists that hold one another many times."""
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
                f"{path} was not opened: its values are nested or repeated as in a file made to exhaust memory. Get "
                "the voice from a source you trust."
            )
        waiting.extend((item, depth + 1) for item in inner)


def read_safetensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """Read a .safetensors file: its tensors and its metadata. MissingFileError or CheckpointError."""
    _check_size(path)
    try:
        with safe_open(path, "pt", device="cpu") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or not a .safetensors file ({error}). Get it again.") from error
    return tensor_table(weights, path), metadata


def read_weights(path: Path) -> Weights:
    """The tensors of a base model: the entry `model` of a torch file, or a whole .safetensors file."""
    if path.suffix.lower() == SAFETENSORS:
        return read_safetensors(path)[0]
    content = safe_load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks the entry 'model'.")
    return tensor_table(content["model"], path)


def tensor_table(value: Any, path: Path) -> Weights:
    """Check that what a file holds is a table of plain real tensors no larger than the file makes plausible."""
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{path} holds no table of tensors where a model has one. It is not a voice model.")
    total = 0
    for key, tensor in value.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            raise CheckpointError(f"{path} is not a voice model: its entry {key!r} is not a table of real numbers.")
        size = tensor.numel() * tensor.element_size()
        total += size
        # A small storage can pose as a huge tensor (stride 0), which would fill the memory when it is first used.
        if tensor.device.type != "cpu" or tensor.untyped_storage().nbytes() < size:
            raise CheckpointError(f"{path} was not opened: {key!r} claims to be larger than what is stored of it.")
    if total > MAX_GROWTH * path.stat().st_size + SPARE_BYTES:
        raise CheckpointError(f"{path} was not opened: its tensors claim to be larger than the file. Get it again.")
    return dict(value)
