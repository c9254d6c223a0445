"""Suggests epochs and sample rate for checked recordings, with the reason; a button applies them."""

from typing import Any

import gradio as gr
import numpy as np

from lib.config import FAMILIES, Family, load_family
from train.data_report import DataReport
from train.estimate import GOOD_STEPS, MAX_EPOCHS, NOISY_EPOCHS, suggested_epochs
from train.options import RunOptions
from web.i18n.translator import Translator

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class SuggestionPanel:
    """The suggestion and the button that applies it. Nothing changes before the button is pressed.

    The constructor adds them to the current Blocks.
    """

    def __init__(self, t: Translator) -> None:
        self._t = t
        with gr.Row(visible=False) as self.row:
            self.text = gr.Markdown(elem_id="train-suggestion")
            self.use = gr.Button(t("suggest.use"), size="sm", scale=0, min_width=160, elem_id="train-use")
        self.proposed = gr.State((None, None))  # epochs, sample rate

    def wire(self, family: Any, rate: Any, epochs: Any, found: Any, seconds: Any) -> None:
        """Show a suggestion whenever recordings have been checked or another family is chosen."""
        gr.on(
            [family.change, found.change], self.propose, [family, found, seconds],
            [self.row, self.text, self.proposed], **_QUIET,
        )  # fmt: skip
        self.use.click(lambda proposed: list(proposed), self.proposed, [epochs, rate], **_QUIET)

    def propose(self, family: Family, found: DataReport | None, seconds: float) -> tuple[Any, str, tuple[int, str]]:
        """Return whether to show a suggestion, its text, and the suggested epochs and sample rate."""
        config = load_family(family)
        rate = fitting_rate(family, found)
        if not seconds:
            return gr.update(visible=False), "", (RunOptions().epochs, rate)
        noisy = found is not None and found.is_noisy
        epochs = suggested_epochs(config, RunOptions(), seconds, noisy=noisy)
        if noisy and epochs == NOISY_EPOCHS:
            text = self._t("suggest.epochs_noisy", epochs=epochs)
        elif epochs == MAX_EPOCHS:
            text = self._t("suggest.epochs_short", epochs=epochs, seconds=f"{seconds:.0f}")
        elif steps := GOOD_STEPS.get(family):
            text = self._t("suggest.epochs_steps", epochs=epochs, steps=steps, minutes=f"{seconds / 60:.0f}")
        else:
            text = self._t("suggest.epochs_usual", epochs=epochs)
        if len(FAMILIES[family]) > 1:
            text += " " + self._t("suggest.rate", rate=rate)
        return gr.update(visible=True), text, (epochs, rate)


def fitting_rate(family: Family, found: DataReport | None) -> str:
    """Return the highest sample rate of a family that most recordings reach, or its lowest if they reach none."""
    rates = sorted(FAMILIES[family], key=_hertz)
    if found is None or not found.recordings:
        return FAMILIES[family][0]
    have = float(np.median([item.sample_rate for item in found.recordings]))
    return max((rate for rate in rates if _hertz(rate) <= have), key=_hertz, default=rates[0])


def _hertz(rate: str) -> int:
    """Return 48000 for "48k"."""
    return 1000 * int(rate.removesuffix("k"))
