"""The documents: links resolve, commands parse, named tests and files exist, and the address is in one place."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from infer.__main__ import DOCTOR, Diagnosis, parse
from infer.cli import parse_as
from lib.option_help import REGISTRY
from tests.helpers import ROOT
from train.__main__ import COMMANDS
from train.ckpt.cli import TOOLS

README = ROOT / "README.md"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(path for name in ("docs", ".github", "pretrained/lite") for path in sorted((ROOT / name).rglob("*.md"))),
]
NAMED_FILE = re.compile(r"`((?:lib|infer|train|web|recipes|benchmarks|tests|docs|configs|i18n)/[\w/.-]+\.\w+)`")
MAX_README_LINES, MAX_IMAGE_BYTES = 100, 300_000


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that a document names itself, and those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return set(re.findall(r'<a id="([\w-]+)">', text)) | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


def links(path: Path) -> Iterator[str]:
    text = without_code(text_of(path))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in links(path):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT) and target.exists(), f"{name_of(path)} links to {link}"
        assert not anchor or anchor in anchors(text_of(target)), f"{name_of(path)} links to {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(path: Path) -> None:
    for name in NAMED_FILE.findall(text_of(path)):
        assert "NAME" in name or "LOCALE" in name or (ROOT / name).exists(), f"{name_of(path)} names {name}"


def test_the_readme_is_short_and_shows_the_page() -> None:
    text = text_of(README)
    assert len(text.splitlines()) <= MAX_README_LINES
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/[^)]+)\)", text)
    assert (ROOT / picture).stat().st_size <= MAX_IMAGE_BYTES
    assert "Retrieval-based Voice Conversion" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_document_needs_files_beside_the_checkout(path: Path) -> None:
    assert "../shared" not in text_of(path)


def commands_in(text: str) -> list[str]:
    """The lines of the shell blocks of a document."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()


def commands() -> Iterator[str]:
    """Every command of go-web.sh in the README and in the guide, from shell blocks and from code in the text."""
    for path in (README, ROOT / "docs" / "guide.md", ROOT / "docs" / "scaling.md", ROOT / "CONTRIBUTING.md"):
        text = text_of(path)
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for line in [*commands_in(text), *re.findall(r"`(\./go-web\.sh [^`\n]+)`", prose)]:
            if line.startswith("./go-web.sh ") and "[" not in line:
                yield line


def ckpt_tool(words: list[str]) -> object:
    """The parsed command of `train ckpt`."""
    return tyro.extras.subcommand_cli_from_dict(TOOLS, prog="ckpt", args=words, registry=REGISTRY)


@pytest.mark.parametrize("command", re.findall(r"`train ckpt ([^`…]+)`", text_of(ROOT / "docs" / "guide.md")))
def test_checkpoint_tools_of_the_guide_take_these_arguments(command: str) -> None:
    assert ckpt_tool(shlex.split(command))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_of_the_documents_are_understood(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    if words[:2] == ["convert", DOCTOR]:
        assert parse_as(Diagnosis, words[2:], "doctor")
    elif words[0] == "convert":
        assert parse(words[1:]).inputs
    elif words[:2] == ["train", "ckpt"]:
        assert ckpt_tool(words[2:])
    elif words[0] == "train":
        assert tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="train", args=words[1:])
    else:
        assert words[0] in {"demo", "test", "web"} or words[0].startswith("--")


def test_promises_of_safety_name_tests_that_exist() -> None:
    promises = text_of(ROOT / "SECURITY.md").split("## What is promised")[1].split("\n## ")[0]
    table = [line for line in promises.splitlines() if line.startswith("| ")]
    rows = [line for line in table if "`test_" in line or "`tests/test_advisories.py`" in line]
    tests = "\n".join(text_of(path) for path in (ROOT / "tests").glob("test_*.py"))
    assert len(rows) == len(table) - 1 >= 9, "every promise names its tests"
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert not [name for name in named if f"def {name}(" not in tests], row


def test_the_bug_form_names_the_report_as_the_page_does() -> None:
    texts = json.loads(text_of(ROOT / "i18n" / "en_US.json"))
    form = text_of(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    assert all(f'"{texts[key]}"' in form for key in ("tab.settings", "settings.report", "bug.run"))


def test_the_address_of_the_repository_stands_in_one_place() -> None:
    (address,) = re.findall(r"^\[repository\]: https://github\.com/(\S+)$", text_of(README), re.MULTILINE)
    for name, path in (("zip", "archive/refs/heads/main.zip"), ("colab", "blob/main/notebooks/colab.ipynb")):
        (link,) = re.findall(rf"^\[{name}\]: (\S+)$", text_of(README), re.MULTILINE)
        assert link.endswith(f"github/{address}/{path}") or link == f"https://github.com/{address}/{path}"
    (given,) = re.findall(r'REPOSITORY = \\"(.*?)\\"', text_of(ROOT / "notebooks" / "colab.ipynb"))
    assert given in ("", f"https://github.com/{address}", f"https://github.com/{address}.git")
    others = [path for path in DOCUMENTS if path != README and address in text_of(path)]
    assert not others, f"{others} repeat the address"


def test_the_workflow_runs_what_developers_run() -> None:
    workflow = text_of(ROOT / ".github" / "workflows" / "ci.yml")
    started = re.findall(r"run: (\S+)", workflow)
    assert started == [".ci/run", "./go-web.sh", r".\go-web.bat"]
