"""Which device and precision to compute on, decided once and with the reason. torch is imported when it is needed."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """Where to compute, in which number type, and why."""

    device: "torch.device"
    dtype: "torch.dtype"
    reason: str


def choose_device(wanted: str = "auto") -> Device:
    """Choose where to compute: "auto", "cpu", "cuda", "cuda:1" or "mps". ConfigError if it is not there.

    Precision is float32 everywhere for now: it is what the golden data were made in.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return Device(torch.device("cuda"), torch.float32, f"CUDA device found: {torch.cuda.get_device_name()}")
        if torch.backends.mps.is_available():
            return Device(torch.device("mps"), torch.float32, "Apple GPU found")
        return Device(torch.device("cpu"), torch.float32, "no GPU found")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a device that this program computes on")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        others = ["mps"] if torch.backends.mps.is_available() else []
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *others])
        raise ConfigError(f"The device {wanted!r} cannot be used here; available: {found}.") from error
    return Device(device, torch.float32, "asked for")


def generator_dtype(wanted: str, device: "torch.device", *, bears_int8: bool) -> "torch.dtype":
    """The number type for a voice's generator: what is wanted, or for "auto" the fastest, int8 only if it bears that.

    It is told by what the processor says of itself, not by a clock, so that a machine always gives the same samples.
    ConfigError for a type that the device has no fast instructions for.
    """
    import torch

    _check_precision(wanted, device)
    if wanted != "auto":
        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
        return types[wanted]
    if bears_int8 and has_fast_int8(device):
        return torch.int8
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def analysis_dtype(wanted: str, device: "torch.device") -> "torch.dtype":
    """What HuBERT, RMVPE, prior and flow multiply in: bfloat16 if wanted or fast, else float32, also with "fp16"."""
    import torch

    _check_precision(wanted, device)
    if wanted == "bf16" or (wanted in ("auto", "int8") and has_fast_bfloat16(device)):
        return torch.bfloat16
    return torch.float32


def _check_precision(wanted: str, device: "torch.device") -> None:
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("A CPU does not compute in fp16. Choose the precision bf16, fp32 or auto.")
    if wanted == "int8" and not has_fast_int8(device):
        raise ConfigError(
            f"The device {device} has no fast instructions for int8 (VNNI). Choose the precision bf16, fp32 or auto."
        )


def has_fast_bfloat16(device: "torch.device") -> bool:
    """Whether the hardware says that it computes in bfloat16 itself."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def has_fast_int8(device: "torch.device") -> bool:
    """Whether the processor says that it sums products of eight bits itself (AVX-VNNI, AVX512-VNNI or AMX)."""
    import torch

    has_kernels = "onednn" in torch.backends.quantized.supported_engines
    able = torch.cpu.get_capabilities() if device.type == "cpu" and has_kernels else {}
    return any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def list_devices() -> list[tuple[str, str]]:
    """Every device that can be asked for, and what it is: ("cuda:0", "NVIDIA ..., 7.2 of 8.0 GB free")."""
    import torch

    found = [("auto", "the best there is")]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        found.append((f"cuda:{number}", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"))
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple GPU"))
    return [*found, ("cpu", f"{os.cpu_count()} cores")]
