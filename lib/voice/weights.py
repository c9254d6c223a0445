"""Tables of named tensors: named as in RVC's files, compared with a network and loaded strictly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lib.errors import CheckpointError

Weights = dict[str, Tensor]
Shapes = dict[str, torch.Size]


def rvc_state_dict(module: nn.Module) -> Weights:
    """The state dict with weight norm spelled `weight_g`/`weight_v`, in the order of `parameters()`."""
    return {rvc_key(key): value.detach() for key, value in module.state_dict().items()}


def rvc_key(key: str) -> str:
    """The name of a parameter as files of the ecosystem have it: weight norm is `weight_g`, `weight_v`."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def load_weights(module: nn.Module, weights: Weights, where: str) -> None:
    """Load ecosystem-named weights strictly into `module` (up-casting halves). CheckpointError names what differs.

    A module that was made `meta_device` takes the tensors themselves.
    """
    check_shapes(shapes_of(module), weights, where)
    wanted = module.state_dict()
    bare = any(value.is_meta for value in wanted.values())
    renamed = {key: weights[rvc_key(key)] for key in wanted}
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
def meta_device() -> Iterator[None]:
    """Networks made here have shapes only. Nothing is drawn for them either: torch would load its compiler for that."""
    with torch.device("meta"), _Untouched():
        yield


def shapes_of(module: nn.Module) -> Shapes:
    """The shapes of a module's tensors by their ecosystem names; the module may be on the device "meta"."""
    return {key: value.shape for key, value in rvc_state_dict(module).items()}


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
