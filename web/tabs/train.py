"""The Train tab: check recordings, choose options, start training, follow its progress."""

import filecmp
import html
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lib.audio.decode import list_recordings
from lib.config import FAMILIES, Family, load_family
from lib.errors import ConfigError
from lib.files import copy_file, write_text
from lib.messages import Message
from lib.paths import LOGS, ROOT, check_name, given_path
from train.estimate import estimate_training
from train.experiment import Experiment, list_samples
from train.metrics import Events
from train.options import RunOptions
from train.pipeline import STAGES
from train.preflight import VoiceKind, preflight
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.requests import VOICE_SETTINGS, TrainRequest
from web.jobs.runners import ALL_GPUS, FROM_RECORDINGS, chosen_gpus, train_commands
from web.limits import client_of_request
from web.services import Services
from web.tabs.device_choice import device_choice
from web.tabs.form import Form
from web.tabs.handlers import with_names
from web.tabs.jobs import job_panel
from web.tabs.needs import Needs, NeedsPanel, needs_of_training
from web.tabs.train_base import dropped_base, keep_base, with_base
from web.tabs.train_held_out import HeldOutPanel
from web.tabs.train_report import DataReportPanel, describe_estimate
from web.tabs.train_suggestion import SuggestionPanel
from web.tabs.voice_names import updated_list
from web.validation import checked

REFRESH_SECONDS = 3
UPLOADS = "recordings"  # below an experiment's folder: the uploaded recordings
SOURCE = "recordings.txt"  # there too: the path that was typed instead
SHOWN_POINTS = 400
ALL_RATES = list(dict.fromkeys(rate for rates in FAMILIES.values() for rate in rates))
MAIN_OPTIONS = frozenset({"max_minutes", "epochs", "batch_size"})
PATH_OPTIONS = frozenset({"base_generator", "base_discriminator"})  # only for the user of this machine
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_train_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and connect its events, inside the current Blocks."""
    tab = _TrainTab(t, services)
    with gr.Row():
        with gr.Column():
            tab.lay_out_recordings()
        with gr.Column():
            tab.lay_out_options()
    with gr.Accordion(t("train.advanced"), open=False), gr.Row():
        tab.lay_out_advanced()
    with gr.Accordion(t("jobs.title"), open=True):
        job_panel(t, services, ("train",), "trainings", stop=t("jobs.stop"))
    _build_progress(t)
    tab.wire()


class _TrainTab:
    """The components of the tab, keyed by the names of their options, and the handlers of its buttons."""

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
        self.report = DataReportPanel(t, self.services)

    def lay_out_options(self) -> None:
        """The main options, the start button, and the equivalent command line."""
        t = self.t
        with gr.Row():
            self.inputs["family"] = gr.Dropdown(
                label=t("train.family"),
                info=t("train.family_info"),
                choices=list(FAMILIES),
                value="lite",
                elem_id="train-family",
            )
            self.inputs["sample_rate"] = gr.Dropdown(
                # all rates, as API clients may choose any family; the web UI shows those of the family
                label=t("train.sample_rate"), choices=ALL_RATES, value="24k", elem_id="train-rate",
            )  # fmt: skip
            self.inputs["pitch"] = gr.Checkbox(
                label=t("train.pitch"), info=t("train.pitch_info"), value=True, elem_classes="flag"
            )
        with gr.Row():
            form = Form(RunOptions, t, skip=frozenset(RunOptions.model_fields) - MAIN_OPTIONS, tab="train")
        self.inputs |= dict(zip(form.names, form.components, strict=True))
        self.inputs["device"] = device_choice(t, self.services, "train-device", together=True)
        self.suggestion = SuggestionPanel(t)
        self.forecast = gr.Markdown(elem_id="train-forecast")
        self.start = gr.Button(t("train.start"), variant="primary", elem_id="train-start")
        self.index_only = gr.Button(t("train.stage_index"), size="sm", elem_id="train-index")
        self.needs = NeedsPanel(t, "train")
        self.message = gr.Markdown(elem_id="train-message")
        self.command = gr.Textbox(
            label=t("train.command"), interactive=False, buttons=["copy"], elem_id="train-command"
        )

    def lay_out_advanced(self) -> None:
        """Lay out all other options, and the choice of an individual stage."""
        stages = [(self.t(f"train.stage_{name}"), name) for name in ("run", *STAGES)]
        self.inputs["stage"] = gr.Dropdown(
            label=self.t("train.stage"), info=self.t("train.stage_info"), choices=stages, value="run",
            elem_id="train-stage",
        )  # fmt: skip
        remote = frozenset() if self.services.local else PATH_OPTIONS
        form = Form(RunOptions, self.t, skip=MAIN_OPTIONS | remote | {"device"}, tab="train")
        self.inputs |= dict(zip(form.names, form.components, strict=True))
        self.inputs["base_files"] = gr.Files(
            label=self.t("train.base_files"),
            type="filepath",
            height=190,
            elem_id="train-base-files",
        )

    def wire(self) -> None:
        """Connect buttons and fields."""
        inputs, names = list(self.inputs.values()), list(self.inputs)
        files, folder, family, rate = (self.inputs[name] for name in ("files", "folder", "family", "sample_rate"))
        self.report.wire(files, folder)
        self.start.click(
            with_names(self.t, self.train, names, None, required=1),
            inputs,
            [self.message, files, gr.Textbox(visible=False)],
            api_name="train",
        )
        self.index_only.click(
            with_names(self.t, self.train_index, names, None, required=1), inputs, self.message,
            api_visibility="private",
        )  # fmt: skip
        changes = [field.change for field in inputs]
        gr.on(None, self._show_command, inputs, self.command, queue=False, **_QUIET)  # when the web UI opens, too
        gr.on(
            [*changes, self.report.seconds.change], self._show_estimate, [self.report.seconds, *inputs], self.forecast,
            trigger_mode="always_last", **_QUIET,
        )  # fmt: skip
        found, seconds = self.report.found, self.report.seconds
        needed = ["family", "sample_rate", "pitch", "pitch_method", "base", "content_encoder", "device"]
        self.needs.wire(self._needs, inputs, [self.inputs[name].change for name in needed])
        gr.on(None, _rates, [family, rate], [rate], **_QUIET)  # when the web UI opens and after changes
        self.suggestion.wire(family, rate, self.inputs["epochs"], found, seconds)

    def _request(self, values: Mapping[str, Any]) -> TrainRequest:
        """Return the request of a training job without its recordings. Raises ConfigError if a value is not allowed."""
        name = check_name((values["name"] or "").strip(), "voice")
        options = checked(RunOptions, {key: values[key] for key in RunOptions.model_fields if key in values})
        settings = {key: values[key] for key in VOICE_SETTINGS}
        return checked(TrainRequest, {"name": name, "stage": values["stage"] or "run", "options": options, **settings})

    def train(self, request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[str, None, str]:
        """Start or resume training (prepare, extract, index, fit) as a job; job_status shows its progress."""
        if not values["name"]:
            raise ConfigError(self.t("train.no_name"))
        work = self._request(values)
        if work.family:  # a rate that the family lacks is refused here, not in the log of the job
            load_family(work.family, work.sample_rate, has_f0=work.pitch is not False)
        if work.stage in FROM_RECORDINGS:
            data = _recordings(self.t, self.services, work.name, values["files"], values["folder"])
            work = work.model_copy(update={"data": data and Path(data)})
        if work.stage in ("run", "fit"):
            _check_unfinished(self.t, work.name, work.options.epochs)
        base = dropped_base(values["base_files"])
        _check_before(with_base(work, base))
        work = with_base(work, keep_base(base, Experiment(work.name).folder))
        title = Message("Training of {name}", name=work.name)
        job_id = self.services.registry.submit(title, work, client_of_request(request))
        return self.t("train.started", name=html.escape(work.name)), None, job_id

    def train_index(self, request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> str:
        """Build the index of a training run again, from the existing features."""
        return self.train(request, bar, {**values, "stage": "index"})[0]

    def _needs(self, *given: Any) -> Needs:
        values = dict(zip(self.inputs, given, strict=True))
        options = checked(RunOptions, {key: values[key] for key in RunOptions.model_fields})
        return needs_of_training(values["family"], values["sample_rate"], bool(values["pitch"]), options)

    def _show_command(self, *given: Any) -> str:
        values = dict(zip(self.inputs, given, strict=True))
        try:
            work = self._request({**values, "name": values["name"] or "NAME"})
        except ConfigError:
            return ""
        kept = Experiment(work.name).folder / UPLOADS
        known = values["folder"] or (None if Experiment(work.name).config_file.is_file() else "FOLDER")
        data = kept if values["files"] or kept.is_dir() else known
        work = work.model_copy(update={"data": data and Path(data)})
        gpus = chosen_gpus(work.options.device)
        return " && ".join(_typed([_python(), *words]) for words in train_commands(work, gpus))

    def _show_estimate(self, seconds: float, *given: Any) -> str:
        """The estimate, once the length of the recordings is known."""
        values = dict(zip(self.inputs, given, strict=True))
        if not seconds:
            return ""
        try:
            options = checked(RunOptions, {key: values[key] for key in RunOptions.model_fields if key in values})
            config = load_family(values["family"], values["sample_rate"], has_f0=bool(values["pitch"]))
            return describe_estimate(self.t, estimate_training(config, options, seconds))
        except ConfigError:  # shown when training is started
            return ""


def _check_before(work: TrainRequest) -> None:
    """Raise all problems that prevent a training job, together, before it is queued."""
    kind = VoiceKind(work.family, work.sample_rate, bool(work.pitch)) if work.data and work.family else None
    options = work.options
    if options.device == ALL_GPUS or chosen_gpus(options.device):
        options = options.model_copy(update={"device": "auto"})
    stages = tuple(STAGES) if work.stage == "run" else (work.stage,)
    preflight(Experiment(work.name), kind, work.data, options, stages).raise_problems()


def _python() -> str:
    """The Python of this server, as written in a command line in the program's folder."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "python"  # that of a container or notebook


def _typed(words: Sequence[str]) -> str:
    """A command as it is typed on this system."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _check_unfinished(t: Translator, name: str, epochs: int) -> None:
    """Raise ConfigError if all epochs are done: training would end at once without a change."""
    if not Experiment(name).config_file.is_file() or (newest := Experiment(name).newest_pair()) is None:
        return
    from lib.voice.training_state import peek_progress

    done, _ = peek_progress(newest[0])
    if done >= epochs:
        raise ConfigError(t("train.all_done", name=html.escape(name), epochs=done))


def _rates(family: Family, chosen: str) -> Any:
    """The sample rates of a family; the chosen one stays if it is among them."""
    rates = list(FAMILIES[family])
    return gr.update(choices=rates, value=chosen if chosen in rates else rates[0])


def _recordings(t: Translator, services: Services, name: str, files: list[str] | None, folder: str) -> str | None:
    """Return the folder of recordings to train on, including those given earlier for this name.

    Uploads are copied into the experiment's folder, because Gradio deletes its own copies. A typed folder is used in
    place as long as nothing else was given. Returns None if nothing is given and the experiment has clips: these are
    used.
    """
    experiment = Experiment(name)
    kept, note = experiment.folder / UPLOADS, experiment.folder / SOURCE
    earlier = note.read_text(encoding="utf-8") if note.is_file() else ""
    typed = str(given_path(folder).resolve()) if folder and folder.strip() and services.local else ""
    if not files and not kept.is_dir():
        if not typed and not earlier and not experiment.config_file.is_file():
            raise ConfigError(t("train.no_data"))
        if not earlier or typed in ("", earlier):
            if typed:
                list_recordings(Path(typed))  # raises if there are no recordings, before a folder is created
                write_text(note, typed)
            return typed or earlier or None
    given = [Path(path) for path in files or []]
    for place in dict.fromkeys(filter(None, (earlier, typed))):
        given += list_recordings(Path(place))
    keep_recordings(given, kept)
    return str(kept)


def keep_recordings(paths: Sequence[Path], folder: Path) -> None:
    """Copy recordings into a folder, each atomically; existing files are not rewritten, so their modification times do
    not change."""
    for path in paths:
        target, number = folder / path.name, 1
        while target.exists() and not filecmp.cmp(path, target, shallow=False):
            number += 1
            target = folder / f"{path.stem}_{number}{path.suffix}"
        if not target.exists():
            copy_file(path, target)


def _experiments() -> list[str]:
    """Return the names of all experiments, most recently trained first."""
    found = [path.parent for path in LOGS.glob("*/events.jsonl") if not path.parent.name.startswith(".")]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _build_progress(t: Translator) -> None:
    """Loss curves and audio samples of one experiment, read from its folder."""
    experiments = _experiments()
    with gr.Accordion(t("train.progress"), open=True, visible=bool(experiments)) as panel:
        shown = gr.Dropdown(label=t("train.experiment"), choices=experiments, elem_id="train-shown")
        with gr.Row():
            plot = gr.LinePlot(
                x="step",
                y="loss",
                color="name",
                title=t("train.losses"),
                x_title=translated(t, Message("step")),
                y_title=" ",
                color_title=" ",
                height=260,
                elem_id="train-losses",
            )
            with gr.Column():
                sample = gr.Audio(
                    label=t("train.sample"),
                    type="filepath",
                    interactive=False,
                    buttons=["download"],
                    elem_id="train-sample",
                )
                mels = gr.Image(label=t("train.mels"), interactive=False, buttons=[], elem_id="train-mels")
                gr.Markdown(t("train.sample_info"))
        held_out = HeldOutPanel(t)
    known = gr.State(None)

    gr.on(
        [gr.Timer(REFRESH_SECONDS).tick, shown.change],
        _refresh_progress,
        [known, shown],
        [known, panel, shown, plot, sample, mels],
        **_QUIET,
    )
    known.change(held_out.show, [shown], held_out.outputs, **_QUIET)


def _refresh_progress(before: Any, asked: str | None) -> tuple[Any, ...]:
    """Return the new state and updates of the components; nothing if `before`, the state shown, is still valid."""
    experiments = _experiments()
    if not experiments:
        return (gr.skip(),) * 6
    newest_before, chosen = before[0][0] if before else None, asked
    if chosen not in experiments or (chosen == newest_before and chosen != experiments[0]):
        chosen = experiments[0]  # training has started, and the user had not chosen an older experiment
    folder = LOGS / chosen
    samples = list_samples(folder)
    events = Events(folder / "events.jsonl").read("fit")
    mark = [experiments, chosen, len(events), str(samples[-1]) if samples else None]
    if mark == before:
        return (gr.skip(),) * 6
    picture = samples[-1].with_suffix(".png") if samples else None
    shown_mels = str(picture) if picture and picture.is_file() else None
    names = updated_list(experiments, asked, chosen, first=before is None)
    return mark, gr.update(visible=True), names, losses(events), mark[-1], shown_mels


def losses(events: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the loss curves in the events of a run, as a table of step, loss and name."""
    rows = [
        (event["done"], event["losses"].get(f"loss/g/{key}"), key)
        for event in events[:: max(1, len(events) // SHOWN_POINTS)]
        for key in ("mel", "fm", "gen")
        if "losses" in event
    ]
    return pd.DataFrame([row for row in rows if row[1] is not None], columns=["step", "loss", "name"])
