"""Suggestions for checked recordings: nothing is set until the user confirms."""

from typing import Any

import gradio as gr
import pytest

from lib.config import FAMILIES
from web.i18n.translator import Translator
from web.tabs import train as train_tab
from web.tabs.train_suggestion import SuggestionPanel, fitting_rate

T = Translator()


class Recordings:
    """A report on recordings with these sample rates."""

    is_noisy = False

    def __init__(self, *rates: int) -> None:
        self.recordings = [type("Item", (), {"sample_rate": rate}) for rate in rates]


def propose(family: Any, found: Any, seconds: float) -> Any:
    with gr.Blocks():
        panel = SuggestionPanel(T)
    return panel.propose(family, found, seconds)


@pytest.mark.slow
def test_epochs_are_proposed_with_their_reason() -> None:
    row, text, proposed = propose("lite", Recordings(44_100), 600.0)
    assert row["visible"] and proposed == (167, "24k")
    assert "167 epochs" in text and "10 minutes" in text and "3500 steps" in text and "24k" not in text
    row, text, proposed = propose("v2", Recordings(44_100, 48_000, 16_000), 600.0)
    assert proposed == (200, "40k")
    assert "200 to 600" in text and "40k" in text
    noisy = Recordings(44_100)
    noisy.is_noisy = True
    row, text, proposed = propose("v2", noisy, 600.0)
    assert proposed[0] == 30 and "noisy" in text
    assert propose("lite", noisy, 600.0)[2][0] == 167
    _, text, proposed = propose("lite", Recordings(44_100), 8.0)
    assert proposed[0] == 600 and "only 8 seconds" in text
    assert not propose("v2", None, 0.0)[0]["visible"], "before recordings were checked"


@pytest.mark.parametrize(("rates", "best"), [((48_000,), "48k"), ((44_100,), "40k"), ((16_000,), "32k"), ((), "40k")])
def test_the_rate_is_the_highest_that_the_recordings_reach(rates: tuple[int, ...], best: str) -> None:
    found: Any = Recordings(*rates)
    assert fitting_rate("v2", found) == best


@pytest.mark.slow
def test_checking_recordings_sets_neither_epochs_nor_rate() -> None:
    """Of all events of the tab only the button of the proposal sets the epochs; it or a choice sets the rate."""
    services: Any = type("Nobody", (), {"device": "cpu", "local": True})()
    with gr.Blocks() as app:
        tab = train_tab._TrainTab(T, services)
        tab.lay_out_recordings()
        tab.lay_out_options()
        tab.lay_out_advanced()
        tab.wire()
    setters: dict[str, list[str]] = {}
    for function in app.fns.values():
        for name in ("epochs", "sample_rate"):
            if tab.inputs[name] in function.outputs:
                source = [app.blocks.get(block) for block, _ in function.targets if block is not None]
                setters.setdefault(name, []).extend(str(getattr(block, "elem_id", "")) for block in source)
    assert setters["epochs"] == ["train-use"]
    assert set(setters["sample_rate"]) == {"", "train-family", "train-rate", "train-use"}, "none of a report"


def test_a_chosen_rate_stays_where_the_family_has_it() -> None:
    assert train_tab._rates("v1", "48k")["value"] == "48k"
    assert train_tab._rates("v2", "24k")["value"] == FAMILIES["v2"][0]
    assert train_tab._rates("lite", "48k")["value"] == "24k"
