"""The metrics of a run on its held-out recordings as curves, and a sentence about its best epoch."""

import glob
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lib.messages import Message
from lib.paths import LOGS, WEIGHTS, check_name
from train.history import STAGE, Evaluation, describe_best, read_history
from train.metrics import Events
from web.i18n.messages import translated
from web.i18n.translator import Translator

FIGURES = ("mel", "f0_cents", "similarity")
BEST = "*_best_epoch.pth"  # voices of best epochs, below the folder of voices


class HeldOutPanel:
    """Plots and a sentence; hidden for runs without held-out recordings.

    The constructor adds them to the current Blocks.
    """

    def __init__(self, t: Translator) -> None:
        self._t = t
        with gr.Column(visible=False) as self.column:
            with gr.Row():
                self.plots = [self._plot(figure) for figure in FIGURES]
            self.text = gr.Markdown(elem_id="train-best")

    def _plot(self, figure: str) -> Any:
        steps = translated(self._t, Message("step"))
        return gr.LinePlot(
            x="step", y=figure, title=self._t(f"train.held_out_{figure}"), x_title=steps, y_title=" ", height=200,
            visible=figure == "mel", elem_id=f"train-held-out-{figure.replace('_', '-')}",
        )  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """The components that `update` updates."""
        return [self.column, *self.plots, self.text]

    def show(self, chosen: str | None) -> tuple[Any, ...]:
        """Return the updates for a chosen experiment of this installation; nothing changes if none is chosen."""
        if not chosen:
            return (gr.skip(),) * len(self.outputs)
        return self.update(LOGS / check_name(chosen, "experiment"), WEIGHTS)

    def update(self, folder: Path, voices: Path) -> tuple[Any, ...]:
        """Return the updates for the experiment in `folder`: visibility, curves and sentence.

        The voice of its best epoch is looked up in `voices`.
        """
        history = read_history(Events(folder / "events.jsonl").read(STAGE))
        found = sorted(voices.glob(f"{glob.escape(folder.name)}_e{BEST}"), key=lambda path: path.stat().st_mtime)
        sentence = describe_best(history, found[-1] if found else None)
        text = "" if sentence is None else html.escape(translated(self._t, sentence), quote=False)
        return gr.update(visible=bool(history)), *(_curve(history, figure) for figure in FIGURES), text


def _curve(history: Sequence[Evaluation], figure: str) -> Any:
    """Return the curve of a metric; hidden if no evaluation has it, such as similarity without a speaker encoder."""
    points = [(item.step, getattr(item, figure)) for item in history if getattr(item, figure) is not None]
    return gr.update(value=pd.DataFrame(points, columns=["step", figure]), visible=figure == "mel" or bool(points))
