"""Fuzzes parsers: python -m tests.fuzz TARGET... [--runs N] [--minutes N] [--seed N]

With the package atheris (requirements-fuzz.txt) the inputs are guided by the coverage of the program's code; without it
they are random changes of the files in tests/fuzz/corpus/TARGET. What a target does not refuse with a typed error ends
the run: the input is written to crash-TARGET in the current folder. The line printed for each target states how many
inputs were read.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutations import mutated

MAX_BYTES = 4096  # of an input made by atheris, beyond the size of the corpus
EXECUTED = "stat::number_of_executed_units:"  # libFuzzer's last words, with the count
IN_MEMORY = Path("/dev/shm")  # where Linux has one: most of the time of a run would be spent on fsync


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers of files and texts.")
    parser.add_argument("targets", nargs="*", help="parsers to fuzz; default: all")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs per target")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end a target after this time")
    parser.add_argument("--seed", type=int, default=1, help="seed of the changes")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)  # in the process of one target
    return parser.parse_args()


def files_in() -> Path | None:
    """Return the folder for temporary files; None for the usual one."""
    return IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None


def fuzz_guided(name: str, runs: int, minutes: float, seed: int) -> None:
    """Fuzz with atheris, which ends this process."""
    import atheris

    with atheris.instrument_imports(include=["lib", "infer", "train", "web"]):
        from tests.fuzz.targets import CORPUS, TARGETS
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    corpus = shutil.copytree(CORPUS / name, folder / "corpus")
    (work := folder / "work").mkdir()
    size = MAX_BYTES + max(path.stat().st_size for path in corpus.iterdir())
    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={size}", "-rss_limit_mb=6000", "-print_final_stats=1"]
    if minutes != float("inf"):
        options.append(f"-max_total_time={max(1, int(60 * minutes))}")
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix=crash-{name}-", str(corpus)], lambda data: target(data, work)
    )
    atheris.Fuzz()


def run_guided(name: str, arguments: argparse.Namespace) -> int:
    """Fuzz with atheris in a process of its own; returns the number of inputs."""
    numbers = [f"--{key}={getattr(arguments, key)}" for key in ("runs", "minutes", "seed")]
    command = [sys.executable, "-m", "tests.fuzz", name, *numbers, "--guided"]
    executed = 0
    with (
        tempfile.TemporaryDirectory(prefix="revoice-fuzz-", dir=files_in()) as folder,
        subprocess.Popen(
            command, env=os.environ | {"TMPDIR": folder}, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if line.startswith(EXECUTED):
                executed = int(line.removeprefix(EXECUTED))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return executed


def fuzz_randomly(name: str, arguments: argparse.Namespace) -> int:
    """Fuzz with random changes of the corpus; returns the number of inputs."""
    from tests.fuzz.targets import CORPUS, TARGETS

    corpus = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="revoice-fuzz-", dir=files_in()) as folder:
        for number in range(arguments.runs):
            if time.monotonic() > end:
                return number
            data = mutated(corpus, arguments.seed * arguments.runs + number)
            try:
                TARGETS[name](data, Path(folder))
            except BaseException:  # also SystemExit and KeyboardInterrupt, which no parser may raise
                Path(f"crash-{name}").write_bytes(data)
                raise
    return int(arguments.runs)


def main() -> int:
    """Fuzz the targets one after the other; each has a process of its own where atheris is there."""
    arguments = parse_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable(logging.WARNING)  # of what is damaged
    if arguments.guided:
        fuzz_guided(arguments.targets[0], arguments.runs, arguments.minutes, arguments.seed)
        return 0
    from tests.fuzz.targets import TARGETS

    guided = importlib.util.find_spec("atheris") is not None
    how = "guided by coverage" if guided else "random changes of the corpus"
    for name in arguments.targets or TARGETS:
        runs = run_guided(name, arguments) if guided else fuzz_randomly(name, arguments)
        print(f"{name}: {runs} runs, {how}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
