"""The curve of a training on its held-out recordings, and the sentence about its best epoch."""

import glob
import html
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lib.messages import Message
from lib.paths import LOGS, WEIGHTS, check_name
from train.history import STAGE, describe_best, read_history
from train.metrics import Events
from web.i18n.messages import translated
from web.i18n.translator import Translator

BEST = "*_best_epoch.pth"  # voices of best epochs, below the folder of voices


class HeldOutPanel:
    """A plot and a sentence; hidden for trainings without held-out recordings. Laid out where it is made."""

    def __init__(self, t: Translator) -> None:
        self._t = t
        with gr.Column(visible=False) as self.column:
            self.plot = gr.LinePlot(
                x="step", y="mel", title=t("train.held_out"), x_title=translated(t, Message("step")), y_title=" ",
                height=200, elem_id="train-held-out",
            )  # fmt: skip
            self.text = gr.Markdown(elem_id="train-best")

    @property
    def outputs(self) -> list[Any]:
        """The components that `update` returns values for."""
        return [self.column, self.plot, self.text]

    def show(self, chosen: str | None) -> tuple[Any, ...]:
        """`update` for an experiment of this installation; nothing changes without one."""
        if not chosen:
            return (gr.skip(),) * len(self.outputs)
        return self.update(LOGS / check_name(chosen, "experiment"), WEIGHTS)

    def update(self, folder: Path, voices: Path) -> tuple[Any, pd.DataFrame, str]:
        """Visibility, curve and sentence for the experiment in a folder, whose voices are in another."""
        history = read_history(Events(folder / "events.jsonl").read(STAGE))
        curve = pd.DataFrame([(item.step, item.mel) for item in history], columns=["step", "mel"])
        found = sorted(voices.glob(f"{glob.escape(folder.name)}_e{BEST}"), key=lambda path: path.stat().st_mtime)
        sentence = describe_best(history, found[-1] if found else None)
        text = "" if sentence is None else html.escape(translated(self._t, sentence), quote=False)
        return gr.update(visible=bool(history)), curve, text
