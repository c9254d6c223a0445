"""docs/faq-audit.md: every row names tests that exist; and the answers that no other test shows."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lib.paths import ROOT

AUDIT = ROOT / "docs" / "faq-audit.md"


def rows() -> list[list[str]]:
    """The cells of every row: question, answer, tests."""
    lines = AUDIT.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "Question"]


def test_every_question_has_an_answer_and_tests_that_exist() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(rows()) >= 30
    for row in rows():
        question, answer, shown = row
        assert question and len(answer) > 20, row
        named = re.findall(r"`(test_\w+)`", shown)
        assert named or shown == "—", f"the row {question!r} is open"
        assert not [name for name in named if f"def {name}(" not in tests], row


def test_the_page_excludes_itself_from_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    for name in ("TEMP_DIR", "ANALYTICS_ENABLED", "ANALYTICS_CACHE_FREQUENCY", "ANALYTICS_MAX_EVENTS"):
        monkeypatch.setenv(f"GRADIO_{name}", "")
    runpy.run_path(str(ROOT / "infer-web.py"))["prepare_environment"](str(tmp_path))
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"


@pytest.mark.slow
def test_nothing_usual_loads_llvmlite() -> None:
    names = "infer.batch, infer.load, train.loop, train.extract, train.preprocess, lib.pitch.rmvpe, lib.pitch.swift"
    code = f"import sys, {names}; sys.exit(' '.join({{'numba', 'llvmlite'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
