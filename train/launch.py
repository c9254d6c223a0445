"""Several processes of one command: how they are started on a CPU, and how Ctrl-C ends them in order.

`accelerate launch --cpu --num_processes 2` starts one process (1.15), which starts the two. On GPUs Accelerate starts
all of them itself.
"""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

import psutil

from lib.errors import ConfigError, ProcessLostError
from lib.progress import Cancelled, Progress
from lib.terminal import FAILED, INTERRUPTED

GRACE_SECONDS = 20.0  # for the others to say what happened and to end, after one has ended
POLL_SECONDS = 0.1
ALTERNATIVE = "Use: python -m torch.distributed.run --nproc_per_node N -m train …"


def wanted_processes(environment: Mapping[str, str]) -> int:
    """How many processes this one has to start because Accelerate did not; 1 if none.

    Accelerate then names a meeting point, but no number of this process. The number itself is only in its command
    line. ConfigError if it is not there.
    """
    if environment.get("ACCELERATE_USE_CPU") != "True" or "MASTER_ADDR" not in environment or "RANK" in environment:
        return 1
    told: dict[str, str] = {}
    parent = psutil.Process().parent()
    words = [] if parent is None else parent.cmdline()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        told.setdefault(name.lstrip("-").replace("-", "_"), value or following)
    count, machines = told.get("num_processes", ""), told.get("num_machines", "1")
    if not count.isdecimal() or machines != "1":
        raise ConfigError(f"On a CPU Accelerate starts one process only, whatever number was asked for. {ALTERNATIVE}")
    return int(count)


@contextlib.contextmanager
def stopping_together(shown: Progress) -> Iterator[Progress]:
    """A Progress for one of several processes: after a signal to end it raises Cancelled, however often one comes.

    Ctrl-C reaches a process from the terminal and once more from its launcher, and a process that raised at once would
    leave the others waiting for it.
    """
    pressed: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: pressed.append(number)) for number in wanted}

    def progress(done: int, total: int, what: str) -> None:
        shown(done, total, what)
        if pressed:
            raise Cancelled

    try:
        yield progress
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_processes(command: Sequence[str], count: int, environment: Mapping[str, str]) -> int:
    """Run the command in `count` processes that find each other, and return the exit status of the run.

    If one ends badly, the others are given GRACE_SECONDS. Signals go to all of them, and they end in order.
    """
    meeting = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip
    running = []
    for index in range(count):
        own = {**environment, **meeting, "RANK": str(index), "LOCAL_RANK": str(index)}
        running.append(subprocess.Popen(list(command), env=own))

    def pass_on(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the processes twice, which does no harm
        signal.signal(number, pass_on)
    return _watch(running)


def _watch(running: Sequence["subprocess.Popen[bytes]"]) -> int:
    """Wait until all have ended; the status is the first bad one. ProcessLostError if a signal ended that process."""
    first_bad: tuple[int, int] | None = None  # which process, with which status
    deadline = float("inf")
    while None in [process.poll() for process in running]:
        for index, process in enumerate(running):
            if process.returncode and first_bad is None:
                first_bad = (index, process.returncode)
                deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(POLL_SECONDS)
    statuses = [process.returncode for process in running]
    if first_bad is None:
        first_bad = next(((index, status) for index, status in enumerate(statuses) if status), None)
    if first_bad is None:
        return 0
    index, status = first_bad
    if status < 0:
        raise ProcessLostError(
            f"Process {index + 1} of {len(running)} was ended by signal {-status}. The same command continues from the "
            "last checkpoint."
        )
    return INTERRUPTED if status == INTERRUPTED else FAILED


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
