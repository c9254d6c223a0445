"""docs/compatibility.md is true: every row names tests that exist, and the sentences it quotes are in the code."""

import ast
import re
from typing import NamedTuple

import pytest

from tests.helpers import ROOT

TABLE = ROOT / "docs" / "compatibility.md"


class Row(NamedTuple):
    """One kind of file."""

    file: str
    result: str
    tests: str


def rows() -> list[Row]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(*row) for row in cells if row[0] != "file" and not row[0].startswith("---")]


ROWS = rows()


def functions_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def texts_in_code() -> str:
    """Every piece of text in the code; what an f-string fills in separates pieces."""
    sources = [path for package in ("lib", "train", "infer") for path in (ROOT / package).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_every_row_is_backed_by_existing_tests(row: Row) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.tests)
    assert named and len(named) == row.tests.count("::")
    for file, function in named:
        assert function in functions_of(file), f"tests/{file} has no {function}"


@pytest.mark.slow
def test_every_refusal_is_quoted_and_every_quotation_is_in_the_code() -> None:
    code, missing = texts_in_code(), []
    for row in ROWS:
        quoted = re.findall(r'"([^"]+)"', row.result)
        assert bool(quoted) == ("refused" in row.result), row.file
        pieces = [piece.strip() for sentence in quoted for piece in sentence.replace("G_…", "G_\0").split("…")]
        missing += [piece for piece in pieces if piece.replace("\0", "…") not in code]
    assert not missing


def test_the_tables_are_read_as_a_whole() -> None:
    assert len(ROWS) >= 40 and {len(row) for row in ROWS} == {3}
