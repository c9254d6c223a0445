"""Selects the device and the dtypes for a computation, once per call. torch is imported when it is needed."""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.errors import ConfigError
from lib.messages import Message

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """The compute device, and the reason why it was chosen."""

    device: "torch.device"
    reason: str


@dataclass(frozen=True)
class Precision:
    """The dtypes of one conversion or extraction.

    generator   the synthesizer's generator; int8 quantises only its residual blocks
    analysis    the pitch network, and the synthesizer's prior and flow
    encoder     the content encoder
    """

    generator: "torch.dtype"
    analysis: "torch.dtype"
    encoder: "torch.dtype"


def choose_device(wanted: str = "auto") -> Device:
    """Choose the device: "auto", "cpu", "cuda", "cuda:1" or "mps"; "1" means "cuda:1", as in RVC's GPU numbers.

    Raises ConfigError if the device is not available, or if several GPUs are given ("0-1").
    """
    import torch

    if numbers := gpu_numbers(wanted):
        if len(numbers) > 1:
            raise ConfigError(
                "{name!r} specifies several GPUs, but only one can be used here. Specify one, such as cuda:{first}. "
                "Training in the web UI can use several.",
                name=wanted, first=numbers[0],
            )  # fmt: skip
        wanted = f"cuda:{numbers[0]}"
    if wanted == "auto":
        if torch.cuda.is_available():
            return Device(torch.device("cuda"), Message("CUDA device found: {name}", name=torch.cuda.get_device_name()))
        if torch.backends.mps.is_available():
            return Device(torch.device("mps"), Message("Apple GPU found"))
        return Device(torch.device("cpu"), Message("no GPU found"))
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a supported type of device")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        others = ["mps"] if torch.backends.mps.is_available() else []
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *others])
        raise ConfigError(
            "The device {name!r} cannot be used here; available: {found}.", name=wanted, found=found
        ) from error
    return Device(device, Message("requested"))


def gpu_numbers(text: str) -> list[int]:
    """Return the GPU numbers in RVC's notation, without duplicates: [0, 1] for "0-1" or "0,1".

    Any other string gives an empty list.
    """
    if not re.fullmatch(r"\d{1,3}([-,]\d{1,3})*", text):
        return []
    return list(dict.fromkeys(int(number) for number in re.split("[-,]", text)))


def choose_precision(
    wanted: str, device: "torch.device", *, supports_int8: bool = False, casts_encoder: bool = True
) -> Precision:
    """Turn the `precision` option (auto, fp32, bf16, fp16, int8) into dtypes.

    "auto" uses bfloat16 or int8 where the hardware has instructions for it, otherwise float32; never float16. The
    decision depends on the reported instruction sets and not on a measurement, so that results are reproducible on a
    given machine. `supports_int8` specifies whether "auto" may quantise the generator, `casts_encoder` whether the
    content encoder can compute in a dtype other than float32. Raises ConfigError for fp16 on a CPU, and for int8
    without fast int8 instructions.
    """
    import torch

    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 is not supported on a CPU. Choose bf16, fp32 or auto precision.")
    if wanted == "int8" and not has_fast_int8(device):
        raise ConfigError(
            "The device {device} has no fast int8 instructions (VNNI). Choose bf16, fp32 or auto precision.",
            device=str(device),
        )
    use_bfloat16 = wanted == "bf16" or (wanted in ("auto", "int8") and has_fast_bfloat16(device))
    analysis = torch.bfloat16 if use_bfloat16 else torch.float32
    generator = {"fp16": torch.float16, "int8": torch.int8}.get(wanted, analysis)
    if wanted == "auto" and supports_int8 and has_fast_int8(device):
        generator = torch.int8
    return Precision(generator, analysis, analysis if casts_encoder else torch.float32)


def has_fast_bfloat16(device: "torch.device") -> bool:
    """Whether the hardware reports instructions for bfloat16."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def has_fast_int8(device: "torch.device") -> bool:
    """Whether the CPU reports instructions for int8 dot products (AVX-VNNI, AVX512-VNNI or AMX)."""
    import torch

    has_kernels = "onednn" in torch.backends.quantized.supported_engines
    able = torch.cpu.get_capabilities() if device.type == "cpu" and has_kernels else {}
    return any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def list_devices() -> list[tuple[str, str]]:
    """List every device that can be chosen, with a description: ("cuda:0", "NVIDIA ..., 7.2 of 8.0 GB free")."""
    import torch

    found: list[tuple[str, str]] = [("auto", Message("best available"))]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        text = Message("{name}, {free:.1f} of {total:.1f} GB free", name=name, free=free / 1e9, total=total / 1e9)
        found.append((f"cuda:{number}", text))
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple GPU"))
    return [*found, ("cpu", Message("{count} cores", count=os.cpu_count()))]
