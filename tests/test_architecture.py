"""Imports point down, importing does nothing, the map of files is true, and every text of the page exists once."""

import ast
import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer.options import ConvertOptions
from infer.song.options import CoverOptions
from infer.speech.options import SpeechOptions
from train.options import RunOptions

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "lib": {"lib"},
    "infer": {"infer", "lib"},
    "train": {"train", "lib"},
    "web": {"web", "infer", "train", "lib"},
    "recipes": {"recipes", "infer", "train", "lib"},
    "benchmarks": {"benchmarks", "infer", "train", "lib"},
    "infer-web.py": {"web", "lib"},
}
ONLY_IN = {"gradio": {"web"}, "gradio_client": set[str](), "accelerate": {"train"}, "tensorboard": {"train"}}
ENTRY_ONLY = {"argparse", "tyro"}  # command lines are read in entry points only
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
COMMAND_LINES = {ROOT / name for name in ("infer/cli.py", "lib/option_help.py", "train/ckpt/cli.py")}  # of entry points
SOURCES = sorted(path for name in MAY_IMPORT for path in [ROOT / name, *(ROOT / name).rglob("*.py")] if path.is_file())
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if path.relative_to(ROOT).parts[0] in {"lib", "infer", "train", "recipes", "web"}
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_entry(path: Path) -> bool:
    """Whether a file is where a program starts: it may print and read the command line and the environment."""
    return path.name in {"__main__.py", "infer-web.py"} or path.parent == ROOT / "benchmarks" or path in COMMAND_LINES


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import statement, at the top of a file or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    for name in imported_names(tree_of(path)):
        package = name.split(".")[0]
        assert package not in MAY_IMPORT or package in MAY_IMPORT[here], f"{here} must not import {name}"
        assert here in ONLY_IN.get(package, {here}), f"only {ONLY_IN[package]} may import {package}"
        assert package != "tests", "tests are not part of the program"
        assert package not in ENTRY_ONLY or is_entry(path), f"{name} belongs in an entry point"
        if "lib/models/" in name_of(path) and package == "lib":
            assert name == "lib.config" or name.startswith("lib.models"), f"networks must not import {name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if not is_entry(path)], ids=name_of)
def test_only_entry_points_print_and_read_the_environment(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: libraries log, entry points print"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            what = f"{node.value.id}.{node.attr}"
            assert what not in {"os.environ", "os.getenv", "os.getcwd", "Path.cwd", "sys.argv"}, (
                f"{node.lineno}: {what}"
            )


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").glob("*.py"))], ids=name_of)
def test_files_and_functions_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = tree_of(path)
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree), "the first line of a module pattern its one job"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


IMPORT_ALL = """
import importlib, json, logging, os, random, sys, threading
import numpy, torch
sys.argv = ["program", "--no-such-option"]
def state():
    return {
        "argv": sys.argv[:], "path": sys.path[:], "cwd": os.getcwd(), "cuda": torch.cuda.is_initialized(),
        "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled(), "dtype": str(torch.get_default_dtype()),
        "torch": torch.random.get_rng_state().tolist()[:16], "numpy": str(numpy.random.get_state()[1][:8]),
        "random": hash(random.getstate()), "handlers": len(logging.getLogger().handlers),
        "running": threading.active_count(),
    }
before = state()
groups = {}
for name in json.loads(os.environ["MODULES"]):
    groups.setdefault(name.split(".")[0], []).append(name)
for name in groups["lib"] + groups["infer"]:
    importlib.import_module(name)
heavy = {"gradio", "accelerate", "transformers", "torchcrepe", "torchfcpe", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
for name in groups["train"] + groups["recipes"]:
    importlib.import_module(name)
after = state()
changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
assert not changed, changed
for name in groups["web"]:  # Gradio itself starts things, so only what matters most is looked at
    importlib.import_module(name)
assert not torch.cuda.is_initialized() and sys.argv == before["argv"] and os.getcwd() == before["cwd"]
"""


def files_of_the_project() -> set[str]:
    """Every file that is not a tool's cache."""
    hidden = {
        "TEMP",
        "out",
        ".git",
        ".venv",
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        "logs",
    }
    found = set[str]()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in hidden]
        found.update(f"{folder}/{name}" for name in files)
    return found


@pytest.mark.slow
def test_importing_does_nothing(tmp_path: Path) -> None:
    before = files_of_the_project()
    environment = os.environ | {
        "MODULES": json.dumps(MODULES),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert not files_of_the_project() - before


@pytest.mark.slow
@pytest.mark.parametrize("package", ["infer", "train"])
def test_help_imports_no_torch(package: str) -> None:
    code = (
        "import contextlib, io, runpy, sys\n"
        f"sys.argv = [{package!r}, '--help']\n"
        "output = io.StringIO()\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(output):\n"
        f"    runpy.run_module({package!r}, run_name='__main__')\n"
        "assert 'usage' in output.getvalue().lower(), output.getvalue()\n"
        "heavy = {'torch', 'gradio', 'transformers', 'scipy', 'av', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def expand(pattern: str) -> Iterator[str]:
    """a/{b,c}.json -> a/b.json, a/c.json; <any> -> *."""
    if match := re.search(r"\{([^{}]*)\}", pattern):
        for choice in match[1].split(","):
            yield from expand(pattern[: match.start()] + choice.strip() + pattern[match.end() :])
    else:
        yield re.sub(r"<[^<>]*>", "*", pattern)


def leading_paths(line: str) -> Iterator[str]:
    """The names at the beginning of a line of the map, separated by commas."""
    for word in line.split():
        if not re.fullmatch(r"[\w./*<>{},-]*[./][\w./*<>{},-]*|Makefile,?|Dockerfile,?|LICENSE,?", word):
            return
        yield word.rstrip(",")
        if not word.endswith(","):
            return


def read_map(text: str) -> Iterator[str]:
    """The paths of the tree: the fenced block with infer-web.py; indented names lie in the folder above."""
    block = next((block for block in text.split("```")[1::2] if "infer-web.py" in block), None)
    assert block, "docs/architecture.md has no fenced block with the tree of files"
    folders: list[tuple[int, str]] = []  # indentation and path of the folders around the current line
    for line in block.splitlines()[1:]:
        plain = re.sub(r"[│├└─]", " ", line)
        indent = len(plain) - len(plain.lstrip())
        for name in leading_paths(plain):
            while folders and folders[-1][0] >= indent:
                folders.pop()
            parent = folders[-1][1] if folders else ""
            path = name if name.startswith(parent) else parent + name
            yield path
            if name.endswith("/"):
                folders.append((indent, path))


def test_the_map_of_files_is_true() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = [path for entry in read_map(text) for path in expand(entry)]
    listed = set[str]()
    for path in paths:
        found = [name_of(match) for match in ROOT.glob(path.rstrip("/"))]
        assert found, f"the map lists {path}, which does not exist"
        listed.update(found)
    missing = {name_of(path) for path in SOURCES if path.name != "__init__.py"} - listed
    assert not missing, f"the map does not list {sorted(missing)}"


def texts_used() -> Iterator[str]:
    """Regular expressions for the keys that the page looks up: the first argument of every call of t(...)."""
    for path in (ROOT / "web").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and name_called(node.func) in {"t", "_t", "say"}:
                yield from patterns(node.args[0])


def name_called(function: ast.expr) -> str:
    """t of t(...) and of self.t(...)."""
    return getattr(function, "id", getattr(function, "attr", ""))


def patterns(node: ast.expr) -> Iterator[str]:
    """What a key written in the code can be: a constant, one of two, or a constant with gaps."""
    if isinstance(node, ast.IfExp):
        yield from patterns(node.body)
        yield from patterns(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in node.values)
    else:
        assert isinstance(node, ast.Constant), f"line {node.lineno}: write the key of a text where it is looked up"
        yield re.escape(str(node.value))


def read_locale(path: Path) -> dict[str, str]:
    def no_duplicates(pairs: list[tuple[str, str]]) -> dict[str, str]:
        assert len(pairs) == len(dict(pairs)), f"{path.name} has a key twice"
        return dict(pairs)

    texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_duplicates)
    return texts


def test_texts_in_the_code_exist_and_none_is_unused() -> None:
    keys = set(read_locale(ROOT / "i18n" / "en_US.json"))
    used = {key for key in keys if key.startswith("gradio.")}  # all are used, by web/i18n/gradio_texts.py
    for pattern in texts_used():
        matches = {key for key in keys if re.fullmatch(pattern, key)}
        assert matches, f"the page uses the text {pattern}, which i18n/en_US.json lacks"
        used |= matches
    assert keys == used, f"unused: {sorted(keys - used)}"
    models = (ConvertOptions, CoverOptions, SpeechOptions, RunOptions)
    shown = {name for model in models for name in model.model_fields} - {"device"}
    wanted = {f"options.{name}.{part}" for name in shown for part in ("label", "info")}
    tabs = (("cover", CoverOptions.model_fields), ("train", RunOptions.model_fields))  # with texts of their own
    own = {f"{key}_{tab}" for tab, fields in tabs for key in wanted if key.split(".")[1] in fields}
    given = {key for key in keys if key.startswith("options.")}
    assert wanted <= given <= wanted | own
    assert all(re.fullmatch(r"[a-z]+(\.[a-z0-9_]+)+", key) for key in keys), "keys are ids, not sentences"


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("path", sorted((ROOT / "i18n").glob("*.json")), ids=name_of)
def test_every_language_has_the_texts_of_the_master(path: Path) -> None:
    master, texts = read_locale(ROOT / "i18n" / "en_US.json"), read_locale(path)
    assert set(texts) == set(master)
    assert list(texts) == sorted(texts)
    for key, text in texts.items():
        assert placeholders(text) == placeholders(master[key]), key
