"""The report on recordings as training data, as text and plots, and the estimate of a training run."""

import html
import math
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lib.audio.decode import list_recordings
from lib.errors import ConfigError
from lib.paths import given_path
from train.data_report import MAX_CLIPPED, SILENCE_DB, DataReport, check_recordings, sample_rates
from train.estimate import Estimate
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.handlers import handle_errors, show_percent

MELODY_BIN = 20  # Hz, width of a bar
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class DataReportPanel:
    """The button that checks recordings, its report and two plots.

    The constructor adds them to the current Blocks.
    """

    def __init__(self, t: Translator, services: Services) -> None:
        self.t = t
        self.services = services
        self.button = gr.Button(t("train.check"), elem_id="train-check")
        self.text = gr.Markdown(elem_id="train-report")
        with gr.Column(visible=False) as self.pictures:
            self.melody = gr.BarPlot(
                x="Hz", y="s", x_bin=MELODY_BIN, y_aggregate="sum", title=t("report.melody"), height=200,
                elem_id="report-melody",
            )  # fmt: skip
            self.levels = gr.ScatterPlot(
                x="s",
                y="dB",
                color="recordings",
                title=t("report.levels"),
                color_title=" ",
                height=200,
                elem_id="report-levels",
            )
        self.found = gr.State(None)
        self.seconds = gr.State(0.0)  # of the recordings, without silence

    def wire(self, files: Any, folder: Any) -> None:
        """Connect the event of the button."""
        self.button.click(
            self.check_recordings, [files, folder], [self.text, self.found, self.seconds], api_name="check_recordings"
        ).then(self._draw, [self.found], [self.pictures, self.melody, self.levels], **_QUIET)

    def check_recordings(
        self,
        files: list[str] | None = None,
        folder: str | None = None,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, DataReport, float]:
        """Check recordings before training: length, silence, loudness, clipping, duplicates, F0."""

        def progress(done: int, total: int, what: str) -> None:
            show_percent(bar, done, total, translated(self.t, what))

        with handle_errors(self.t):
            if files:
                found = check_recordings([Path(path) for path in files], progress)
            elif folder and self.services.local:
                found = check_recordings(list_recordings(given_path(folder)), progress)
            else:
                raise ConfigError(self.t("train.no_data"))
        return describe(self.t, found), found, 60 * found.speaking_minutes

    def _draw(self, found: DataReport | None) -> tuple[Any, Any, Any]:
        if found is None or not found.recordings:
            return gr.update(visible=False), None, None
        names = (self.t("report.sound"), self.t("report.overdriven"))
        levels = [
            (item.seconds, item.loudness, names[item.clipped > MAX_CLIPPED])
            for item in found.recordings
            if math.isfinite(item.loudness)
        ]
        melody = pd.DataFrame(found.f0_histogram, columns=["Hz", "s"])
        return gr.update(visible=True), melody, pd.DataFrame(levels, columns=["s", "dB", "recordings"])


def describe(t: Translator, report: DataReport) -> str:
    """Format a data report as Markdown: measurements, advice, and unreadable files."""
    items = report.recordings
    lines = [
        t(
            "report.length",
            count=len(items),
            minutes=f"{report.minutes:.1f}",
            speaking=f"{report.speaking_minutes:.1f}",
        ),
        t("report.rates", rates=sample_rates(report)),
    ]
    if items:
        loudness = sorted(item.loudness for item in items if math.isfinite(item.loudness)) or [SILENCE_DB]
        lines.append(t("report.loudness", low=f"{-loudness[-1]:.0f}", high=f"{-loudness[0]:.0f}"))
    if report.f0:
        lines.append(
            t("report.f0", low=f"{report.f0[0]:.0f}", middle=f"{report.f0[1]:.0f}", high=f"{report.f0[2]:.0f}")
        )
    text = "\n".join(f"- {line}" for line in lines)
    advice = [t(f"advice.{name}") for name in report.advice()] or [t("advice.good")]
    text += f"\n\n**{t('report.advice')}**\n" + "\n".join(f"- {line}" for line in advice)
    if report.failures:
        failures = "\n".join(f"- {html.escape(translated(t, line))}" for line in report.failures)
        text += f"\n\n**{t('report.failures')}**\n{failures}"
    return text


def describe_estimate(t: Translator, found: Estimate) -> str:
    """Format the estimate of a training run as Markdown."""
    if found.minutes is None:
        time = t("forecast.unknown")
    else:
        hours, minutes = divmod(math.ceil(found.minutes), 60)
        time = t("forecast.time", time=f"{hours}:{minutes:02d}")
    space = t("forecast.disk", disk=_gigabytes(found.disk), free=_gigabytes(found.free))
    lines = [t("forecast.steps", steps=found.steps), time, space]
    if found.disk > found.free:
        lines.append(f"**{t('forecast.full')}**")
    return " ".join(lines)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}"
