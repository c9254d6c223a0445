"""A command of `train` in a process of its own, with a fault at a chosen moment; imported by tests/test_faults.py.

The processes are forked from a server that has imported everything, so one costs milliseconds, and a kill is real.
"""

import contextlib
import encodings.utf_8_sig
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import matplotlib.backends.backend_agg
import matplotlib.figure
import PIL.Image
import rich.progress
import torch
import torch._dynamo
import torch.utils.tensorboard
import torchaudio

from tests.work import as_unprivileged, limit_file_size, limit_memory
from train import __main__ as cli
from train import extract, index, loop, preflight, preprocess
from train.experiment import Experiment

# What the processes that are forked from here would import.
PRELOADED = (
    encodings.utf_8_sig,
    matplotlib.backends.backend_agg,
    matplotlib.figure,
    rich.progress,
    torch._dynamo,
    torch.utils.tensorboard,
    torchaudio,
    extract,
    index,
    loop,
    preflight,
    preprocess,
)
PIL.Image.init()
cli._parse(["fit", "v"], cli.COMMANDS, cli.PROGRAM)  # tyro imports its parts when it is used
Kind = Literal["none", "kill", "kill at line", "full disk", "memory", "read-only", "SIGTERM", "vanish"]
# What changes files; each such call is a place at which the process can be killed.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITES = ("tempfile.mkstemp", "os.mkdir")
OWN = tuple(str(Path(cli.__file__).parents[1] / package) + os.sep for package in ("train", "lib"))


class Fault(NamedTuple):
    """What goes wrong, and when: at the n-th change, line or write, or with so much memory left (MB).

    "SIGTERM": at the n-th change or write.

    "vanish": `victim` is deleted just before it is opened for the n-th time, or else at the n-th write.
    """

    kind: Kind = "none"
    n: int = 0
    victim: Path | None = None


NOTHING = Fault()


class Ending(NamedTuple):
    """How a process ended: its exit status (-9 after a kill), what it printed, and how often the moment came."""

    status: int
    text: str
    moments: int


def run(folder: Path, words: Sequence[str], fault: Fault = NOTHING) -> Ending:
    """Run `python -m train WORDS` on logs and weights in `folder`."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, folder, list(words), fault))
    process.start()
    sender.close()
    text, count = "", 0
    with contextlib.suppress(EOFError):
        text, count = receiver.recv()
    process.join()
    status = process.exitcode
    assert status is not None
    return Ending(status, text, count)


def _child(results: Connection, folder: Path, words: list[str], fault: Fault) -> None:
    torch.set_num_threads(1)
    Experiment.__init__.__defaults__ = (folder / "logs", folder / "weights")
    moment = _Moment(fault)
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        moment.arm()
        try:
            status = cli.main(words)
        except BaseException as error:  # noqa: BLE001  (an error that is no sentence is what the tests look for)
            limit_memory(None)
            output.write(f"Traceback: {type(error).__name__}: {error}")
            status = 70
    limit_memory(None)
    limit_file_size(None)
    results.send((output.getvalue(), moment.count))
    results.close()
    os._exit(status)  # without what Python does at an end, such as waiting for threads


class _Moment:
    """Counts what happens in this process, and makes the fault happen at the chosen count."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.count = 0

    def arm(self) -> None:
        kind, n, victim = self.fault
        if kind in ("kill", "none"):
            sys.addaudithook(self._watch(CHANGES, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        elif kind == "full disk":
            sys.addaudithook(self._watch(WRITES, lambda: limit_file_size(0)))
        elif kind == "SIGTERM":
            sys.addaudithook(self._watch((*CHANGES, *WRITES), lambda: os.kill(os.getpid(), signal.SIGTERM)))
        elif kind == "vanish":
            assert victim is not None
            sys.addaudithook(self._watch(("tempfile.mkstemp",), lambda: victim.unlink(missing_ok=True), str(victim)))
        elif kind == "kill at line":
            sys.settrace(self._trace)
        elif kind == "memory":
            limit_memory(n << 20)
        elif kind == "read-only":
            as_unprivileged()

    def _watch(self, names: tuple[str, ...], act: Callable[[], object], opened: str = "") -> Callable[[str, Any], None]:
        def hook(event: str, arguments: Any) -> None:
            if event in names or (event == "open" and opened and str(arguments[0]) == opened):
                self.count += 1
                if self.count == self.fault.n:
                    act()

        return hook

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        self.count += event == "line"
        if self.count == self.fault.n:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._trace
