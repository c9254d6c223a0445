"""Makes the lists of packages with the SHA-256 of their files again, from the versions in requirements.lock.

    python -m tests.lock

needs the program `uv`. There are three lists, so that a build of PyTorch from another index can take the place of the
one that is listed: `requirements-torch.lock` (PyTorch and the CUDA libraries), `requirements-run.lock` (what else the
program needs) and `requirements-dev.lock` (what the tests need besides).
"""

import re
import subprocess
from collections.abc import Iterable

from tests.helpers import ROOT

OF_TORCH = re.compile(r"(torch|torchaudio|triton|nvidia-.*|cuda-.*)==")
HEADER = (
    "# {what}: versions of requirements.lock, with the SHA-256 of each file.\n"
    "# Made by `python -m tests.lock`. Installed by: pip install --no-deps --require-hashes -r {name}\n"
)
LOCKS = {
    "requirements-torch.lock": "PyTorch and the CUDA libraries",
    "requirements-run.lock": "What the program needs besides PyTorch",
    "requirements-dev.lock": "What tests, checks and benchmarks need besides",
}
COMPILE = [
    "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10", "--fork-strategy", "fewest",
    "--no-header", "--no-annotate", "--constraint", "requirements.lock",
]  # fmt: skip


def compiled(source: str, *options: str) -> str:
    """A list of requirements with everything that they need, in the versions of requirements.lock."""
    command = [*COMPILE, *options, source]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, encoding="utf-8").stdout


def entries(lock: str) -> dict[str, str]:
    """The entries of a lock file by "name==version", each with its hashes."""
    found: dict[str, list[str]] = {}
    for line in lock.splitlines():
        if line.strip() and not line.startswith((" ", "#", "-")):
            found[line.split()[0]] = [line]
        elif line.startswith("    --hash"):
            found[list(found)[-1]].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def split(lock: str, run: Iterable[str]) -> dict[str, list[str]]:
    """The entries of each list; `run` are the names and versions of what the program needs."""
    needed = set(run)
    parts: dict[str, list[str]] = {name: [] for name in LOCKS}
    for name, text in entries(lock).items():
        kind = "requirements-run.lock" if name in needed else "requirements-dev.lock"
        parts["requirements-torch.lock" if OF_TORCH.match(name) else kind].append(text)
    return parts


def main() -> None:
    """Write the three lists."""
    lock = compiled("requirements.lock", "--generate-hashes", "--no-deps")
    for name, parts in split(lock, entries(compiled("requirements.txt"))).items():
        text = HEADER.format(what=LOCKS[name], name=name) + "\n".join(parts) + "\n"
        (ROOT / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(parts)} packages")


if __name__ == "__main__":
    main()
