"""The list of jobs: the content of a card in the user's language, with every text from outside escaped."""

from lib.messages import Message
from web.i18n.translator import Translator
from web.jobs.registry import JobView, State
from web.jobs.requests import Kind, TrainRequest
from web.tabs.jobs import _describe

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
