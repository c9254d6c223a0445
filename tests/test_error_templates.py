"""Every error and message for users is a constant template with all of its values, so that it can be translated."""

import pytest

from lib.errors import CheckpointError, MissingFileError
from tests.error_templates import PACKAGES, Call, calls, calls_in, placeholders, templates
from tests.helpers import ROOT

CALLS = list(calls())


def problem_of(call: Call) -> str:
    """What is wrong with a call; empty if nothing is."""
    if call.template is None:
        return "its first text is not a constant"
    if call.has_unpacking:
        return "its values are not written out"
    if not call.values:
        return "" if not placeholders(call.template) else "its placeholders have no values"
    if missing := placeholders(call.template) - call.values - ({"path"} if call.kind == "MissingFileError" else set()):
        return f"it lacks the values {sorted(missing)}"
    if unused := call.values - placeholders(call.template):
        return f"its template does not use {sorted(unused)}"
    return ""


@pytest.mark.parametrize("package", PACKAGES)
def test_errors_and_messages_are_templates(package: str) -> None:
    checked = [call for call in CALLS if call.where.startswith(f"{package}/")]
    assert checked, "the package raises nothing: the search is wrong"
    problems = {call.where: problem_of(call) for call in checked}
    assert not {where: problem for where, problem in problems.items() if problem}


def test_the_search_finds_all_forms() -> None:
    lines = (
        'raise ConfigError("{a} and {b}", a=1, b=2)',
        'raise errors.ConfigError(f"{a}")',
        'raise MissingFileError(path, "Get {it}.", it=1) from error',
        'error = AudioError("{a}", **values)',
        'raise AudioError("{a} {b}", a=1)',
        'raise AudioError("{a}", a=1, b=2)',
        'text = Message("plain")',
        'raise ValueError("{a}")',
        "reason = Message(error.template, **values)",
        'raise ConfigError(self._t("voices.none"))',
    )
    problems = [problem_of(call) for call in calls_in("\n".join(lines), "a.py")]
    assert [bool(problem) for problem in problems] == [False, True, False, True, True, True, False]


@pytest.mark.slow
def test_templates_are_those_of_the_errors() -> None:
    found = templates(["lib"])
    assert found["{path} was not opened: its tensors declare a larger size than the file has. Get a new copy."] == {
        "path"
    }
    remedy = "Specify the name of a voice, or the path of a voice model (.pth or .safetensors)."
    assert f"Not found: {{path}}. {remedy}" in found
    assert MissingFileError(ROOT, remedy).template in found
    error = CheckpointError("{path} has damaged metadata. Get a new copy of the voice.", path=ROOT)
    assert error.template in found
