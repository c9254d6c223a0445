"""The processes of one training or extraction: who is first, what all agree on, and what to say when one is lost.

`accelerate launch` starts the same command several times; Accelerate connects the processes. Everything that a process
decides by itself (Ctrl-C, the time, a file) goes through `Processes.any` before anybody acts on it, so that no process
waits for one that has left. Only the first process writes.
"""

import contextlib
import gc
import re
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from lib.errors import ConfigError, ProcessLostError

if TYPE_CHECKING:
    from accelerate.state import PartialState

Item = TypeVar("Item")

PATIENCE = timedelta(minutes=15)  # longest wait for another process, above the time that a checkpoint takes to write
# How gloo and NCCL say that another process is gone; both raise a plain RuntimeError.
_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore|socket|timed out|timeout", re.IGNORECASE
)


class Processes:
    """This process among those of the run; alone if it was not started by a launcher."""

    def __init__(self, state: "PartialState | None" = None) -> None:
        self.count: int = 1 if state is None else state.num_processes
        self.index: int = 0 if state is None else state.process_index
        self.device: torch.device | None = None if state is None else state.device
        self.first = self.index == 0

    def __str__(self) -> str:
        return f"process {self.index + 1} of {self.count}"

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """For each wish whether some process has it; the same answer in every process, and none goes on before."""
        if self.count == 1:
            return wishes
        told = torch.tensor([float(wish) for wish in wishes], device=self.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return tuple(value > 0 for value in told.tolist())

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.any(False)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of a tensor that has the same shape in each."""
        if self.count == 1:
            return values
        mean = values.detach().clone().to(self.device)
        torch.distributed.all_reduce(mean)
        return mean / self.count

    def least(self, number: int) -> int:
        """The least of the processes' numbers."""
        if self.count == 1:
            return number
        least = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(least)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every process's tensor (all of one shape), in their order, on the CPU."""
        if self.count == 1:
            return [values]
        own = values.to(self.device)
        found = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(found, own)
        return [tensor.cpu() for tensor in found]

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of what all have to do together; neighbours go to different processes."""
        return items[self.index :: self.count]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process do the body while the others wait before it: it may write, they find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


@contextlib.contextmanager
def lost_processes_told(what_now: str) -> Iterator[None]:
    """Tell in one sentence, ending with `what_now`, that another process was lost while the body ran."""
    try:
        yield
    except RuntimeError as error:
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not connected or isinstance(error, torch.OutOfMemoryError) or not _LOST.search(str(error)):
            raise
        count = torch.distributed.get_world_size()
        raise ProcessLostError(
            f"Another of the {count} processes has ended, so this one ends, too. {what_now}"
        ) from error


def join(*, cpu: bool) -> Processes:
    """Connect this process with those that a launcher started beside it. ConfigError if that fails."""
    from accelerate.state import PartialState

    # Of weight-normed convolutions with one input channel; a matter of speed at most, and told by every process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        return Processes(PartialState(cpu=cpu, timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The processes could not be connected ({str(error).splitlines()[0]}). Start all of them with one command, "
            "on a port that is free (accelerate launch --main_process_port)."
        ) from error


def leave() -> None:
    """Take leave of the other processes; nothing happens where there are none.

    Networks that are connected are collected first: they keep the threads of the connection alive, and such a thread
    aborts the process if it outlives the interpreter.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
