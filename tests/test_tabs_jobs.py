"""The list of jobs: the content of a card in the user's language, with every text from outside escaped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib.messages import Message
from web.i18n.translator import Translator
from web.jobs.registry import JobContext, JobRegistry, JobView, State
from web.jobs.requests import ConvertRequest, Kind, TrainRequest
from web.tabs.jobs import NOTHING_SHOWN, _describe, _JobPanel

GERMAN = Translator("de")
EMPTY = Message("{path} is empty (0 bytes). Replace or remove it.", path="<b>.wav")
ROWS = [["a.wav", "001_a_voice.wav"], ["<b>.wav", EMPTY]]


def card(kind: Kind, state: State, **values: object) -> str:
    """The card of a job."""
    return _describe(GERMAN, JobView("0" * 16, kind, "a <i>job</i>", TrainRequest(name="x"), state, **values))  # type: ignore[arg-type]


def test_a_batch_lists_the_result_of_each_recording() -> None:
    shown = card("batch", "done", details={"rows": ROWS})
    assert "(2)" in shown and "001_a_voice.wav" in shown
    assert "&lt;b&gt;.wav ist leer (0 Byte)" in shown
    assert "<b>.wav" not in shown and "<i>" not in shown
    assert "<table>" not in card("batch", "running", details={"rows": ROWS}), "only when it has ended"


def test_steps_and_errors_are_shown_in_the_language_of_the_page() -> None:
    assert "Stimme wird geladen" in card("convert", "running", what="loading the voice", done=1, total=2)
    assert "wird angehalten" in card("train", "running", stopping=True)
    failed = card("train", "failed", error=Message("Training ended early: {reason}", reason=EMPTY))
    assert "Das Training endete vorzeitig: &lt;b&gt;.wav ist leer" in failed


def run(request: Any, context: JobContext) -> list[Path]:
    """Write a result, except for the voice "fail"."""
    if getattr(request, "voice", "") == "fail":
        raise OSError
    path = context.folder / "result.wav"
    path.write_bytes(b"x")
    return [path]


@pytest.mark.parametrize("kind", ["convert", "train"])
def test_a_button_that_deletes_a_result_says_so_and_clearing_the_list_deletes_none(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(b"x")
    registry = JobRegistry(tmp_path / "jobs", {"convert": run, "train": run})
    panel = _JobPanel(GERMAN, SimpleNamespace(registry=registry), [kind], "stop", results=True)  # type: ignore[arg-type]
    convert, train = ConvertRequest(voice="a", recording=tmp_path / "in.wav"), TrainRequest(name="a")
    for _ in range(2):
        job = registry.wait(registry.submit("job", convert if kind == "convert" else train), 120.0)
    assert panel.show(NOTHING_SHOWN, None)[6]["value"] == GERMAN(
        "results.delete" if kind == "convert" else "jobs.forget"
    )
    panel.clear()
    assert registry.jobs(kind)[0].id == job.id
    assert len(registry.jobs(kind)) == (2 if kind == "convert" else 1)
    failed = registry.submit("job", ConvertRequest(voice="fail", recording=tmp_path / "in.wav"))
    registry.wait(failed, 120.0)
    assert panel.show(NOTHING_SHOWN, failed if kind == "convert" else None)[6]["value"] == GERMAN("jobs.forget")
    registry.close()
