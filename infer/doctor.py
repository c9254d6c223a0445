"""Checks the installation: versions, a computation on each device, driver, memory, disk, weights and a conversion.

Each check returns findings. An error in a check also becomes a finding, so that the other checks still run.
"""

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from lib.bug_report import describe_program, write_bundle
from lib.errors import RevoiceError
from lib.messages import Message
from lib.paths import LOGS, PRETRAINED, ROOT, WEIGHTS
from lib.progress import Progress, no_progress

State = Literal["ok", "note", "problem"]
PACKAGES = ("torch", "torchaudio", "numpy", "faiss-cpu", "gradio")
PYTHONS = ((3, 10), (3, 13))  # oldest and newest
MIN_MEMORY, MIN_DISK = 2e9, 2e9  # bytes
TEST_SECONDS = 3
TOLERANCE = 0.02  # of the largest value, for a GPU that computes in TF32
MIN_PEAK = 0.01  # of the converted recording
VOICE = PRETRAINED / "lite" / "voices" / "ljspeech.pth"
RECORDING = PRETRAINED / "lite" / "demo" / "source.flac"


@dataclass(frozen=True)
class Finding:
    """The result of one check. "note" means that something optional is missing."""

    what: Message
    state: State
    found: str
    remedy: Message | None = None


def check_installation(progress: Progress = no_progress) -> list[Finding]:
    """Run all checks, which takes about ten seconds."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions, _devices, _driver, _memory, _disk, _write_access, _weights, _conversion,
    )  # fmt: skip
    findings: list[Finding] = []
    for number, check in enumerate(checks):
        progress(number, len(checks), Message("checking the installation"))
        try:
            findings += check()
        except Exception as error:  # noqa: BLE001 - an unexpected failure of a check is a finding, too
            reason = str(error) or type(error).__name__
            findings.append(Finding(Message("check"), "problem", reason, Message("Report this with the bug report.")))
    progress(len(checks), len(checks), Message("checking the installation"))
    return findings


def _versions() -> Iterator[Finding]:
    version = sys.version_info[:2]
    right = PYTHONS[0] <= version <= PYTHONS[1]
    remedy = None if right else Message("Install Python 3.10 to 3.13, delete .venv, then run go-web again.")
    yield Finding(Message("Python"), "ok" if right else "problem", sys.version.split()[0], remedy)
    for package in PACKAGES:
        try:
            yield Finding(Message("package {name}", name=package), "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(
                Message("package {name}", name=package), "problem", Message("not installed"),
                Message("Delete .venv, then run go-web again."),
            )  # fmt: skip


def _devices() -> Iterator[Finding]:
    from lib.devices import list_devices

    for name, reason in list_devices():
        if name == "auto":
            continue
        problem = compute_on(name)
        found = Message("{device}: test computation passed", device=reason)
        if problem is None:
            yield Finding(Message("device {name}", name=name), "ok", found)
        else:
            remedy = Message("Update the driver, or use another device (--device cpu).")
            yield Finding(Message("device {name}", name=name), "problem", problem, remedy)


def compute_on(device: str) -> Message | None:
    """Run a small computation on a device; return None if the result is correct, otherwise the problem.

    It runs in a child process, because a faulty driver may crash it.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            error = pool.submit(_largest_error, device).result()
    except BrokenProcessPool:
        return Message("the process crashed during the computation")
    except (RuntimeError, AssertionError) as failure:
        return Message("the computation failed: {reason}", reason=str(failure).splitlines()[0])
    if error <= TOLERANCE:
        return None
    return Message("the result is wrong (relative error {error:.3g})", error=error)


def _largest_error(device: str) -> float:
    """The largest error of a product and a convolution on a device, relative to their largest value in float64."""
    import torch

    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 64, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    kernel = torch.randn(8, 64, 3, generator=generator, dtype=torch.float64)
    errors = []
    for compute in (lambda a, b, k: a @ b.mT, lambda a, b, k: torch.nn.functional.conv1d(a, k)):
        exact = compute(first, second, kernel)
        moved = (tensor.float().to(device) for tensor in (first, second, kernel))
        error = (compute(*moved).double().cpu() - exact).abs().max() / exact.abs().max()
        errors.append(float(error))
    return math.inf if any(math.isnan(error) for error in errors) else max(errors)


def _driver() -> Iterator[Finding]:
    import torch

    from lib.nvidia import CPU, advise, find_cards

    cards = find_cards()
    build = f"cu{torch.version.cuda.replace('.', '')}" if torch.version.cuda else CPU
    advice = advise(cards, build)
    for text in advice:
        yield Finding(Message("graphics driver"), "problem", text)
    if cards and not advice:
        yield Finding(Message("graphics driver"), "ok", f"{cards[0].driver}, {build}")


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    enough = free >= MIN_MEMORY
    remedy = None if enough else Message("Close other programs, or use shorter recordings.")
    found = Message("{free:.1f} GB free", free=free / 1e9)
    yield Finding(Message("memory"), "ok" if enough else "problem", found, remedy)


def _disk() -> Iterator[Finding]:
    for folder in dict.fromkeys(path.resolve() for path in (ROOT, WEIGHTS, LOGS)):
        free = shutil.disk_usage(folder).free
        enough = free >= MIN_DISK
        remedy = None if enough else Message("Free some space: training needs a few gigabytes.")
        found = Message("{free:.1f} GB free", free=free / 1e9)
        yield Finding(Message("disk of {folder}", folder=folder.name), "ok" if enough else "problem", found, remedy)


def _write_access() -> Iterator[Finding]:
    for folder in (WEIGHTS, LOGS, PRETRAINED):
        what = Message("write access to {folder}", folder=folder.name)
        try:
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                yield Finding(what, "ok", Message("yes"))
        except OSError as error:
            remedy = Message("Make the folder writable, or move the program to a folder of your own.")
            yield Finding(what, "problem", error.strerror or str(error), remedy)


def _weights() -> Iterator[Finding]:
    from lib.assets import how_to_get
    from lib.content import CONTENTVEC, hubert
    from lib.errors import MissingFileError
    from lib.pitch import rmvpe

    shipped = [path for path in (VOICE, RECORDING, PRETRAINED / "lite" / "encoder.safetensors") if not path.is_file()]
    for path in shipped:
        remedy = Message("Download the program again: it is incomplete.")
        yield Finding(Message("included models"), "problem", path.name, remedy)
    if not shipped:
        yield Finding(Message("included models"), "ok", Message("complete"))
    if rmvpe.is_installed():
        yield Finding(Message("pitch method rmvpe"), "ok", rmvpe.find_weights().name)
    else:
        yield Finding(Message("pitch method rmvpe"), "note", Message("not installed"), how_to_get("rmvpe"))
    what = Message("content encoder of v1 and v2 voices")
    try:
        yield Finding(what, "ok", hubert.find(CONTENTVEC).name)
    except MissingFileError:
        yield Finding(what, "note", Message("not installed"), how_to_get("hubert_base"))


def _conversion() -> Iterator[Finding]:
    import numpy as np

    from infer.load import load_converter
    from infer.options import ConvertOptions
    from lib.audio import ANALYSIS_RATE
    from lib.audio.decode import load_audio
    from lib.devices import choose_device

    what = Message("conversion of {seconds} seconds", seconds=TEST_SECONDS)
    remedy = Message("Report this with the bug report.")
    begin = time.perf_counter()
    try:
        audio = load_audio(RECORDING, ANALYSIS_RATE)[: TEST_SECONDS * ANALYSIS_RATE]
        converter = load_converter(VOICE, None, choose_device())
        result = converter.convert(audio, ConvertOptions(pitch_method="swift"))
    except RevoiceError as error:
        yield Finding(what, "problem", error.message, remedy)
        return
    seconds = time.perf_counter() - begin
    if len(result) == 0 or float(np.abs(result).max()) < MIN_PEAK:
        yield Finding(what, "problem", Message("the result is silent"), remedy)
        return
    found = Message("{seconds:.1f} s on {device}", seconds=seconds, device=str(converter.device.device))
    yield Finding(what, "ok", found)


def write_report(findings: Sequence[Finding], folder: Path) -> Path:
    """Write a bug report with these findings into `folder` and return its path."""
    lines = [f"{finding.state}: {finding.what}: {finding.found} {finding.remedy or ''}".strip() for finding in findings]
    return write_bundle({"program.txt": describe_program(), "checks.txt": lines}, folder)
