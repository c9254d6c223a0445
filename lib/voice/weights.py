"""State dicts: RVC's key names, comparison with a network, and strict loading."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lib.errors import CheckpointError
from lib.messages import Message

Weights = dict[str, Tensor]
Shapes = dict[str, torch.Size]


def rvc_state_dict(module: nn.Module) -> Weights:
    """Return the state dict with weight norm named `weight_g`/`weight_v`, in the order of `parameters()`."""
    return {rvc_key(key): value.detach() for key, value in module.state_dict().items()}


def rvc_key(key: str) -> str:
    """Return the key of a parameter in RVC's files, where weight norm is named `weight_g`, `weight_v`."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def with_rvc_keys(weights: Weights) -> Weights:
    """Return the weights with RVC's keys, whichever names a file has for weight norm."""
    return {rvc_key(key): value for key, value in weights.items()}


def load_weights(module: nn.Module, weights: Weights, where: str) -> None:
    """Load weights with RVC's keys strictly into `module`, cast to its dtypes.

    A module on the meta device gets the tensors themselves, without a copy. Raises CheckpointError, listing the
    differences, if the weights do not match.
    """
    check_shapes(shapes_of(module), weights, where)
    own = module.state_dict()
    is_meta = any(value.is_meta for value in own.values())
    renamed = {key: weights[rvc_key(key)] for key in own}
    if is_meta:
        renamed = {key: value.to(own[key].dtype) for key, value in renamed.items()}
    module.load_state_dict(renamed, strict=True, assign=is_meta)


def unmap(network: nn.Module, cast_to: torch.dtype) -> None:
    """Copy the tensors that have a dtype other than `cast_to`, so that they no longer refer to a memory-mapped file.

    Casting has already copied the others; a single tensor that is still mapped keeps the whole file mapped.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype != cast_to:
            tensor.data = tensor.data.clone()


class _SkipInitialisation(TorchFunctionMode):
    """Skips random initialisation and weight norm's first computation on the meta device."""

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
    """Build modules on the meta device and skip their initialisation, which would import torch's compiler."""
    with torch.device("meta"), _SkipInitialisation():
        yield


def shapes_of(module: nn.Module) -> Shapes:
    """Return the shapes of a module's tensors, keyed by RVC's names; the module may be on the meta device."""
    return {key: value.shape for key, value in rvc_state_dict(module).items()}


def check_shapes(expected: Shapes, weights: Weights, where: str) -> None:
    """Raise CheckpointError unless `weights` has exactly the expected tensors."""
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    misshapen = sorted(k for k in expected.keys() & weights.keys() if expected[k] != weights[k].shape)
    parts = []
    if missing:
        parts.append(Message("missing tensors: {count}, such as {tensor}", count=len(missing), tensor=missing[0]))
    if unknown:
        parts.append(Message("unexpected tensors: {count}, such as {tensor}", count=len(unknown), tensor=unknown[0]))
    if misshapen:
        parts.append(
            Message(
                "tensors of a different shape: {count}, such as {tensor}", count=len(misshapen), tensor=misshapen[0]
            )
        )
    if parts:
        differences = functools.reduce(lambda one, other: Message("{one}; {other}", one=one, other=other), parts)
        raise CheckpointError(
            "{path} does not match this network ({differences}). It belongs to another model.",
            path=where,
            differences=differences,
        )


def check_finite(weights: Weights, where: str) -> None:
    """Raise CheckpointError if a tensor contains NaN or infinity."""
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(
                "{path} is damaged: {tensor} has numbers that are not finite, so it would only produce noise. Get a "
                "new copy, or go back to an earlier checkpoint.",
                path=where,
                tensor=key,
            )
