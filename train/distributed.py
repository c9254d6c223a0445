"""Connects the processes of one training or extraction run, and reports a process that has died.

A launcher (`python -m torch.distributed.run`, `accelerate launch`) starts the same command several times; Accelerate
connects the processes. A decision made by one process (Ctrl-C, a time limit, a file) is shared with `any_process`
before it takes effect, so that no process waits for one that has exited. Every process writes
the features that it extracts; only the main process writes other files.
"""

import contextlib
import gc
import re
import signal
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from lib.errors import ConfigError, ProcessLostError
from lib.messages import Message
from lib.progress import Cancelled, Progress

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.state import PartialState

TIMEOUT = timedelta(minutes=15)  # longest wait for another process; writing a checkpoint takes less
# In the messages of gloo and NCCL about a lost process; both raise a plain RuntimeError.
_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore|socket|timed out|timeout", re.IGNORECASE
)


def connect(*, cpu: bool) -> "PartialState":
    """Connect this process to the others that the launcher started. Raises ConfigError if that fails."""
    from accelerate.state import PartialState

    # Concerns weight-normed convolutions with one input channel; at most a matter of speed, logged by every process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        return PartialState(cpu=cpu, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "The processes could not be connected ({detail}). Start all of them with one command, on a free port "
            "(accelerate launch --main_process_port).",
            detail=str(error).splitlines()[0],
        ) from error


def disconnect() -> None:
    """Disconnect from the other processes; does nothing if there are none.

    Networks wrapped for several processes are garbage-collected first: they hold threads of the connection, and such a
    thread aborts the process if it outlives the interpreter.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def check_launcher(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if `accelerate launch --cpu` was given several processes: it starts only one.

    It then sets the address of the main process, but no rank.
    """
    if environment.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in environment and "RANK" not in environment:
        raise ConfigError(
            "On a CPU, accelerate launch starts only one process. To start several, use: "
            "python -m torch.distributed.run --standalone --nproc_per_node N -m train …"
        )


def describe_process(state: "PartialState | Accelerator") -> Message:
    """Return the number of this process, as in "process 1 of 2"."""
    return Message("process {number} of {count}", number=state.process_index + 1, count=state.num_processes)


def any_process(*conditions: bool) -> tuple[bool, ...]:
    """Return, for each condition, whether it holds in any process.

    The result is the same in all processes. Blocks until every process has called it.
    """
    from accelerate.state import PartialState
    from accelerate.utils import reduce

    flags = torch.tensor([float(condition) for condition in conditions], device=PartialState().device)
    return tuple(value > 0 for value in reduce(flags, "max").tolist())


def minimum(number: int) -> int:
    """Return the smallest of all processes' numbers."""
    from accelerate.state import PartialState
    from accelerate.utils import reduce

    return -int(reduce(torch.tensor([-number], device=PartialState().device), "max"))


@contextlib.contextmanager
def explaining_lost_processes(remedy: Message) -> Iterator[None]:
    """Turn errors in the `with` block that are caused by a process that has died into a ProcessLostError.

    Its message ends with `remedy`.
    """
    try:
        yield
    except RuntimeError as error:
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not connected or isinstance(error, torch.OutOfMemoryError) or not _LOST.search(str(error)):
            raise
        raise ProcessLostError(
            "Another of the {count} processes has ended, so this one is exiting, too. {remedy}",
            count=torch.distributed.get_world_size(), remedy=remedy,
        ) from error  # fmt: skip


@contextlib.contextmanager
def deferring_signals(shown: Progress) -> Iterator[Progress]:
    """Yield a Progress for one of several processes; it raises Cancelled after SIGINT or SIGTERM, however many arrive.

    On Ctrl-C, the terminal and the launcher each send a signal; if one process stopped at once, the others would wait
    for it.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def progress(done: int, total: int, what: str) -> None:
        shown(done, total, what)
        if received:
            raise Cancelled

    try:
        yield progress
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
