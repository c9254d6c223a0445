"""From recordings to a voice on one page: look at the data, choose, train, follow, stop, go on."""

import filecmp
import html
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lib.audio import list_recordings
from lib.config import FAMILIES
from lib.devices import list_devices
from lib.errors import ConfigError
from lib.files import replacing, write_text
from lib.paths import LOGS, check_name
from train.data_report import SILENCE_DB, DataReport, check_recordings, sample_rates
from train.experiment import Experiment
from train.metrics import Events
from train.options import RunOptions
from train.samples import list_samples
from web.forms import Form, checked
from web.guard import guarded, with_names
from web.i18n import Translator
from web.job_panel import job_panel
from web.runners import train_command
from web.services import Services

REFRESH_SECONDS = 3
UPLOADS = "recordings"  # below an experiment's folder: what was given to the page
SOURCE = "recordings.txt"  # there too: the folder that was typed instead
SHOWN_POINTS = 400
MAIN_OPTIONS = frozenset({"max_minutes", "epochs", "batch_size"})
TRAIN_DOC = "Start or continue a training (prepare, extract, index, fit) as a job; list_jobs tells how it goes."
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_train_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and wire it, inside the Blocks that is being built."""
    tab = _TrainTab(t, services)
    with gr.Row():
        with gr.Column():
            tab.lay_out_recordings()
        with gr.Column():
            tab.lay_out_options()
    with gr.Accordion(t("train.advanced"), open=False), gr.Row():
        tab.lay_out_advanced()
    with gr.Accordion(t("jobs.title"), open=True):
        job_panel(t, services, ("train",), "trainings")
    _build_progress(t)
    tab.wire()


class _TrainTab:
    """The components of the tab by the names of their options, and what its buttons do."""

    def __init__(self, t: Translator, services: Services) -> None:
        self.t = t
        self.services = services
        self.inputs: dict[str, Any] = {}

    def lay_out_recordings(self) -> None:
        """Name and recordings, and the report on them."""
        t = self.t
        self.inputs["name"] = gr.Textbox(label=t("train.name"), info=t("train.name_info"), elem_id="train-name")
        self.inputs["files"] = gr.Files(label=t("train.files"), type="filepath", height=190, elem_id="train-files")
        self.inputs["folder"] = gr.Textbox(
            label=t("train.folder"), info=t("train.folder_info"), visible=self.services.local, elem_id="train-folder"
        )
        self.check = gr.Button(t("train.check"), elem_id="train-check")
        self.report = gr.Markdown(elem_id="train-report")

    def lay_out_options(self) -> None:
        """What has to be decided, the button, and the command line that does the same."""
        t = self.t
        with gr.Row():
            self.inputs["family"] = gr.Dropdown(
                label=t("train.family"), info=t("train.family_info"), choices=list(FAMILIES), value="lite"
            )
            self.inputs["sample_rate"] = gr.Dropdown(
                label=t("train.sample_rate"), choices=list(FAMILIES["lite"]), value="24k"
            )
            self.inputs["pitch"] = gr.Checkbox(label=t("train.pitch"), info=t("train.pitch_info"), value=True)
        with gr.Row():
            form = Form(RunOptions, t, skip=frozenset(RunOptions.model_fields) - MAIN_OPTIONS)
        self.inputs |= dict(zip(form.names, form.components, strict=True))
        self.inputs["device"] = gr.Dropdown(
            label=t("train.device"), choices=[self.services.device], value=self.services.device,
            allow_custom_value=True, elem_id="train-device",
        )  # fmt: skip
        self.start = gr.Button(t("train.start"), variant="primary", elem_id="train-start")
        self.said = gr.Markdown(elem_id="train-said")
        self.command = gr.Textbox(
            label=t("train.command"), interactive=False, buttons=["copy"], elem_id="train-command"
        )

    def lay_out_advanced(self) -> None:
        """Every other option."""
        form = Form(RunOptions, self.t, skip=MAIN_OPTIONS | {"device"})
        self.inputs |= dict(zip(form.names, form.components, strict=True))

    def wire(self) -> None:
        """Connect buttons and fields."""
        inputs, names = list(self.inputs.values()), list(self.inputs)
        files, folder, family, rate = (self.inputs[name] for name in ("files", "folder", "family", "sample_rate"))
        gr.on(None, _device_choices, outputs=self.inputs["device"], **_QUIET)
        self.check.click(self._check, [files, folder], self.report, api_name="check_recordings")
        self.start.click(
            with_names(self.t, lambda request, bar, values: self._train(values), names, None, doc=TRAIN_DOC),
            inputs,
            [self.said, files],
            api_name="train",
        )
        gr.on([field.change for field in inputs], self._show_command, inputs, self.command, queue=False, **_QUIET)
        family.change(
            lambda chosen: gr.update(choices=list(FAMILIES[chosen]), value=FAMILIES[chosen][0]), [family], [rate],
            **_QUIET,
        )  # fmt: skip

    def _request(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The request of a training job, checked; where its recordings lie is still to be said."""
        name = check_name((values["name"] or "").strip(), "voice")
        options = checked(RunOptions, {key: values[key] for key in RunOptions.model_fields})
        kind = {key: values[key] for key in ("family", "sample_rate", "pitch")}
        return {"name": name, "data": None, "options": kind | options.model_dump(mode="json")}

    def _train(self, values: Mapping[str, Any]) -> tuple[str, None]:
        if not values["name"]:
            raise ConfigError(self.t("train.no_name"))
        work = self._request(values)
        work["data"] = _recordings(self.t, self.services, work["name"], values["files"], values["folder"])
        self.services.registry.submit("train", self.t("train.job", name=work["name"]), work)
        return self.t("train.started", name=html.escape(work["name"])), None

    def _show_command(self, *given: Any) -> str:
        values = dict(zip(self.inputs, given, strict=True))
        try:
            work = self._request({**values, "name": values["name"] or "NAME"})
        except ConfigError:
            return ""
        work["data"] = values["folder"] or None
        return "python " + shlex.join(train_command(work))

    def _check(self, files: list[str] | None, folder: str, bar: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """Look at recordings before training on them: length, silence, loudness, clipping, duplicates, F0."""

        def progress(done: int, total: int, what: str) -> None:
            bar((done, max(total, 1)), desc=what)

        with guarded(self.t):
            if files:
                found = check_recordings([Path(path) for path in files], progress)
            elif folder and self.services.local:
                found = check_recordings(list_recordings(Path(folder.strip())), progress)
            else:
                raise ConfigError(self.t("train.no_data"))
        return describe(self.t, found)


def _device_choices() -> Any:
    """What can compute here; asked for when the page opens, because finding out takes seconds."""
    return gr.update(choices=[(f"{name}: {told}", name) for name, told in list_devices()])


def _recordings(t: Translator, services: Services, name: str, files: list[str] | None, folder: str) -> str | None:
    """Where a training's recordings lie; what was given before under this name stays in the training.

    Uploads are kept with the experiment, because the page's own copies vanish. A typed folder is used where it is, as
    long as nothing else was ever given. None where nothing is given and the experiment has clips: it goes on with them.
    """
    experiment = Experiment(name)
    kept, note = experiment.folder / UPLOADS, experiment.folder / SOURCE
    earlier = note.read_text(encoding="utf-8") if note.is_file() else ""
    typed = str(Path(folder.strip()).resolve()) if folder and folder.strip() and services.local else ""
    if not files and not kept.is_dir():
        if not typed and not earlier and not experiment.config_file.is_file():
            raise ConfigError(t("train.no_data"))
        if not earlier or typed in ("", earlier):
            if typed:
                list_recordings(Path(typed))  # raises where there is nothing, before a folder is made
                write_text(note, typed)
            return typed or earlier or None
    given = [Path(path) for path in files or []]
    for place in dict.fromkeys(filter(None, (earlier, typed))):
        given += list_recordings(Path(place))
    keep_recordings(given, kept)
    return str(kept)


def keep_recordings(paths: Sequence[Path], folder: Path) -> None:
    """Copy recordings into a folder, whole or not at all; what is there already stays untouched, with its time."""
    for path in paths:
        target, number = folder / path.name, 1
        while target.exists() and not filecmp.cmp(path, target, shallow=False):
            number += 1
            target = folder / f"{path.stem}_{number}{path.suffix}"
        if not target.exists():
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)


def describe(t: Translator, report: DataReport) -> str:
    """A data report as Markdown: figures, advice, what could not be read."""
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
        lines.append(t("report.loudness", low=f"{loudness[0]:.0f}", high=f"{loudness[-1]:.0f}"))
    if report.f0:
        lines.append(
            t("report.f0", low=f"{report.f0[0]:.0f}", middle=f"{report.f0[1]:.0f}", high=f"{report.f0[2]:.0f}")
        )
    text = "\n".join(f"- {line}" for line in lines)
    advice = [t(f"advice.{name}") for name in report.advice()] or [t("advice.good")]
    text += f"\n\n**{t('report.advice')}**\n" + "\n".join(f"- {line}" for line in advice)
    if report.failures:
        failures = "\n".join(f"- {html.escape(line)}" for line in report.failures)
        text += f"\n\n**{t('report.failures')}**\n{failures}"
    return text


def _experiments() -> list[str]:
    """Names of the experiments that were trained, the newest first."""
    found = [path.parent for path in LOGS.glob("*/events.jsonl") if not path.parent.name.startswith(".")]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _build_progress(t: Translator) -> None:
    """Loss curves and listening samples of one experiment, read from its folder."""
    with gr.Accordion(t("train.progress"), open=True):
        shown = gr.Dropdown(label=t("train.experiment"), choices=_experiments(), elem_id="train-shown")
        with gr.Row():
            plot = gr.LinePlot(
                x="step", y="loss", color="name", title=t("train.losses"), height=260, elem_id="train-losses"
            )
            with gr.Column():
                sample = gr.Audio(label=t("train.sample"), type="filepath", interactive=False, elem_id="train-sample")
                gr.Markdown(t("train.sample_info"))
    known = gr.State(None)

    def refresh(before: Any, chosen: str | None) -> tuple[Any, ...]:
        experiments = _experiments()
        if not experiments:
            return (gr.skip(),) * 4
        newest_before = before[0][0] if before else None
        if chosen not in experiments or (chosen == newest_before and chosen != experiments[0]):
            chosen = experiments[0]  # a training has begun, and the user had not chosen an older one
        folder = LOGS / chosen
        samples = list_samples(folder)
        events = Events(folder / "events.jsonl").read("fit")
        mark = [experiments, chosen, len(events), str(samples[-1]) if samples else None]
        if mark == before:
            return (gr.skip(),) * 4
        return mark, gr.update(choices=experiments, value=chosen), losses(events), mark[-1]

    gr.on(
        [gr.Timer(REFRESH_SECONDS).tick, shown.change], refresh, [known, shown], [known, shown, plot, sample], **_QUIET
    )


def losses(events: list[dict[str, Any]]) -> pd.DataFrame:
    """The loss curves of a training's events as a table of step, loss and name."""
    rows = [
        (event["done"], event["losses"].get(f"loss/g/{key}"), key)
        for event in events[:: max(1, len(events) // SHOWN_POINTS)]
        for key in ("mel", "fm", "gen")
        if "losses" in event
    ]
    return pd.DataFrame([row for row in rows if row[1] is not None], columns=["step", "loss", "name"])
