"""Fuzzes parsers: python -m tests.fuzz TARGET... [--runs N] [--seed N]

With the package atheris (requirements-fuzz.txt) the inputs are guided by the coverage of the program's code; without it
they are random changes of the files in tests/fuzz/corpus/TARGET. What a target does not refuse with a typed error ends
the run: the input is written to crash-TARGET in the current folder.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutations import mutated

MAX_BYTES = 4096  # of an input made by atheris, beyond the size of the corpus


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers of files and texts.")
    parser.add_argument("targets", nargs="*", help="parsers to fuzz; default: all")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=1, help="seed of the changes")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)  # in the process of one target
    return parser.parse_args()


def fuzz_guided(name: str, runs: int, seed: int) -> None:
    """Fuzz with atheris, which ends this process."""
    import atheris

    with atheris.instrument_imports(include=["lib", "web"]):
        from tests.fuzz.targets import CORPUS, TARGETS
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="revoice-fuzz-"))
    corpus = shutil.copytree(CORPUS / name, folder / "corpus")
    size = MAX_BYTES + max(path.stat().st_size for path in corpus.iterdir())
    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={size}", "-rss_limit_mb=6000", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix=crash-{name}-", str(corpus)], lambda data: target(data, folder)
    )
    atheris.Fuzz()


def fuzz_randomly(name: str, runs: int, seed: int) -> None:
    """Fuzz with random changes of the corpus."""
    from tests.fuzz.targets import CORPUS, TARGETS

    corpus = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    with tempfile.TemporaryDirectory(prefix="revoice-fuzz-") as folder:
        for number in range(runs):
            data = mutated(corpus, seed * runs + number)
            try:
                TARGETS[name](data, Path(folder))
            except BaseException:  # also SystemExit and KeyboardInterrupt, which no parser may raise
                Path(f"crash-{name}").write_bytes(data)
                raise


def main() -> int:
    """Fuzz the targets one after the other; each has a process of its own where atheris is there."""
    arguments = parse_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable(logging.WARNING)  # of what is damaged
    if arguments.guided:
        fuzz_guided(arguments.targets[0], arguments.runs, arguments.seed)
        return 0
    from tests.fuzz.targets import TARGETS

    guided = importlib.util.find_spec("atheris") is not None
    for name in arguments.targets or TARGETS:
        if guided:
            numbers = ["--runs", str(arguments.runs), "--seed", str(arguments.seed), "--guided"]
            subprocess.run([sys.executable, "-m", "tests.fuzz", name, *numbers], check=True)
        else:
            fuzz_randomly(name, arguments.runs, arguments.seed)
        print(
            f"{name}: {arguments.runs} runs, {'guided by coverage' if guided else 'random changes of the corpus'}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
