"""Tables of named tensors: read from files without executing anything, spelled as the ecosystem does, loaded strictly.

What every file format of networks stands on. Spec: file-formats, "Checkpoint and data file formats".
"""

import mmap
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lib.errors import CheckpointError, MissingFileError

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
SAFETENSORS = ".safetensors"
Weights = dict[str, Tensor]
Shapes = dict[str, torch.Size]


def ecosystem_weights(module: nn.Module) -> Weights:
    """The state dict with weight norm spelled `weight_g`/`weight_v`, in the order of `parameters()`."""
    return {ecosystem_name(key): value.detach() for key, value in module.state_dict().items()}


def ecosystem_name(key: str) -> str:
    """The name of a parameter as files of the ecosystem have it: weight norm is `weight_g`, `weight_v`."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def load_weights(module: nn.Module, weights: Weights, where: str) -> None:
    """Load ecosystem-named weights strictly into `module` (up-casting halves). CheckpointError names what differs.

    A module that was made `without_memory` takes the tensors themselves.
    """
    check_shapes(shapes_of(module), weights, where)
    wanted = module.state_dict()
    bare = any(value.is_meta for value in wanted.values())
    renamed = {key: weights[ecosystem_name(key)] for key in wanted}
    if bare:
        renamed = {key: value.to(wanted[key].dtype) for key, value in renamed.items()}
    module.load_state_dict(renamed, strict=True, assign=bare)


def unmap(network: nn.Module, narrowed: torch.dtype) -> None:
    """Copy what is not in the number type `narrowed`: a single tensor of a mapped file keeps all of it in memory."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype != narrowed:
            tensor.data = tensor.data.clone()


class _Untouched(TorchFunctionMode):
    """Draws and computes nothing for tensors without memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        draws = func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init"
        if draws and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        if func is torch.norm_except_dim and args[0].is_meta:  # of weight norm
            vector, _, dim = args
            return torch.empty([size if place == dim else 1 for place, size in enumerate(vector.shape)], device="meta")
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks made here have shapes only. Nothing is drawn for them either: torch would load its compiler for that."""
    with torch.device("meta"), _Untouched():
        yield


def shapes_of(module: nn.Module) -> Shapes:
    """The shapes of a module's tensors by their ecosystem names; the module may be on the device "meta"."""
    return {key: value.shape for key, value in ecosystem_weights(module).items()}


def check_shapes(want: Shapes, weights: Weights, where: str) -> None:
    """CheckpointError unless `weights` has exactly the wanted tensors."""
    missing = sorted(want.keys() - weights.keys())
    unknown = sorted(weights.keys() - want.keys())
    misshapen = sorted(k for k in want.keys() & weights.keys() if want[k] != weights[k].shape)
    if missing or unknown or misshapen:
        parts = (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        told = "; ".join(f"{len(keys)} {what} ({keys[0]}, …)" for what, keys in parts if keys)
        raise CheckpointError(f"{where} does not fit this network: tensors {told}. It belongs to another model.")


def check_finite(weights: Weights, where: str) -> None:
    """CheckpointError if a tensor holds NaN or infinity."""
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"{where} is damaged: {key} has numbers that are not finite, so it could only make noise. Get it "
                "again, or go back to an earlier checkpoint of that training."
            )


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
