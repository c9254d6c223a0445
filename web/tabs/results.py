"""The results of conversions: a list of all that are kept, and player, report, plot and files of the selected one."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lib.audio import ANALYSIS_RATE, AUDIO_FORMATS
from lib.audio.decode import load_audio
from lib.errors import ConfigError
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.registry import JobView
from web.jobs.requests import BatchRequest, CompareRequest, ConversionRequest, ConvertRequest, Kind
from web.services import Services
from web.tabs.convert_inputs import report_text
from web.tabs.handlers import handle_errors

REFRESH_SECONDS = 2.0
PICTURED = 30 * ANALYSIS_RATE  # samples of each
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class ResultPanel:
    """The list of finished conversions and the details of the selected one.

    The constructor adds it to the current Blocks.
    """

    def __init__(self, t: Translator, services: Services, kinds: Sequence[Kind]) -> None:
        self._t = t
        self._services = services
        self._kinds = kinds
        self.entries = gr.State([])  # what the list shows: (title, id of a job)
        self.chosen = gr.State(None)  # id of a job; not the list's value, which Gradio would compare with newer choices
        self.player = gr.Audio(
            label=t("convert.result"), type="filepath", interactive=False, buttons=["download"], elem_id="result"
        )
        self.file = gr.Dropdown(
            label=t("results.file"), choices=[], visible=False, allow_custom_value=True, elem_id="result-file"
        )
        self.report = gr.Textbox(label=t("convert.report"), lines=5, interactive=False, elem_id="report")
        with gr.Row():
            self.draw = gr.Button(t("convert.picture"), size="sm", elem_id="picture")
            self.reuse = gr.Button(t("results.reuse"), size="sm", elem_id="result-reuse")
        self.picture = gr.Image(
            label=t("train.mels"), visible=False, interactive=False, buttons=["fullscreen"], elem_id="spectrograms"
        )
        self.files = gr.Files(label=t("jobs.results"), visible=False, interactive=False, elem_id="result-files")
        self.list = gr.Radio(label=t("results.title"), info=t("results.none"), choices=[], elem_id="results")
        with gr.Row(visible=False) as self.row:
            self.delete = gr.Button(t("results.delete"), size="sm", elem_id="result-delete")
            self.clear = gr.Button(  # not where others would lose theirs
                t("results.clear"), size="sm", visible=services.local, elem_id="results-clear"
            )
        with gr.Row(visible=False) as self.asked:
            self.confirm = gr.Button(t("results.confirm"), size="sm", variant="stop", elem_id="results-confirm")
            self.keep = gr.Button(t("results.keep"), size="sm", elem_id="results-keep")

    def wire(self, recording: Any) -> None:
        """Connect all events; `recording` is the component for the recording to convert."""
        t, chosen = self._t, [self.player, self.file, self.report, self.picture, self.files]
        outputs = [self.entries, self.list, self.chosen, self.row, *chosen]
        before = [self.entries, self.chosen]
        gr.on([gr.Timer(REFRESH_SECONDS).tick], self.refresh, before, outputs, queue=False, **_QUIET)
        self.list.input(self._choose, [self.list], [self.chosen, *chosen], queue=False, **_QUIET)
        self.file.input(self._play, [self.chosen, self.file], [self.player, self.picture], queue=False, **_QUIET)
        self.reuse.click(self._sound, [self.chosen, self.file], recording, **_QUIET)
        self.draw.click(self._draw, [self.chosen, self.file], self.picture, concurrency_limit=1, **_QUIET)
        gr.Button(t("convert.picture"), visible=False).click(
            self.draw_spectrograms, [recording, self.player], self.picture, api_name="draw_spectrograms",
            concurrency_limit=1,
        )  # fmt: skip
        self.delete.click(self._delete, before, outputs, queue=False, **_QUIET)
        self.clear.click(lambda: gr.update(visible=True), outputs=self.asked, queue=False, **_QUIET)
        self.keep.click(lambda: gr.update(visible=False), outputs=self.asked, queue=False, **_QUIET)
        self.confirm.click(self._delete_all, before, [self.asked, *outputs], queue=False, **_QUIET)

    def begin(self) -> list[Any]:
        """Return the values of `begin_outputs` at the start of a conversion, which clear the previous result."""
        return [gr.update(value=None, label=self._t("convert.result")), "", *_HIDDEN, None, None]

    def begin_outputs(self) -> list[Any]:
        """Return the components that `begin` updates."""
        return [self.player, self.report, self.picture, self.file, self.list, self.chosen]

    def follow(self, event: Any, made: Any = None) -> None:
        """After `event` (a conversion in this browser session), select the conversion's entry if `made` contains a
        result.

        `made` is the component that shows the result, by default the player of this panel.
        """
        chosen = [self.player, self.file, self.report, self.picture, self.files]
        outputs = [self.entries, self.list, self.chosen, self.row, *chosen]
        event.then(self._newest, [made or self.player], outputs, queue=False, **_QUIET)

    # --- handlers ---------------------------------------------------------------------------------------------------

    def refresh(self, before: Sequence[Any], picked: str | None) -> tuple[Any, ...]:
        """Update the list from the jobs; if the selection is gone, or none was ever shown, select the newest."""
        jobs = self._jobs()
        entries = [(describe(self._t, job), job.id) for job in jobs]
        if entries == [tuple(entry) for entry in before]:
            return (gr.skip(),) * 9
        ids = [job.id for job in jobs]
        stays = picked in ids or bool(before and picked is None)  # nothing is chosen while a conversion runs
        value = picked if stays else next(iter(ids), None)
        return (*self._listed(entries, value), *((gr.skip(),) * 5 if stays else self._show(value)))

    def draw_spectrograms(self, recording: str | None, result: str | None) -> Any:
        """Plot two recordings: spectrograms up to 8 kHz, and F0."""
        with handle_errors(self._t):
            if not recording or not result:
                raise ConfigError(self._t("convert.no_picture"))
            path = Path(tempfile.mkdtemp(dir=self._services.folder)) / "spectrograms.png"
            return gr.update(value=str(draw_pair(path, Path(recording), Path(result))), visible=True)

    def _jobs(self) -> list[JobView]:
        return [job for job in self._services.registry.jobs(*self._kinds) if job.state == "done" and sounds_of(job)]

    def _job(self, job_id: str | None) -> JobView | None:
        return next((job for job in self._jobs() if job.id == job_id), None)

    def _listed(self, entries: list[tuple[str, str]], value: str | None) -> tuple[Any, ...]:
        info = "" if entries else self._t("results.none")
        return entries, gr.update(choices=entries, value=value, info=info), value, gr.update(visible=bool(entries))

    def _choose(self, job_id: str | None) -> tuple[Any, ...]:
        return (job_id, *self._show(job_id))

    def _newest(self, made: str | None) -> tuple[Any, ...]:
        if not made:
            return (gr.skip(),) * 9
        jobs = self._jobs()
        entries = [(describe(self._t, job), job.id) for job in jobs]
        return (*self._listed(entries, jobs[0].id), *self._show(jobs[0].id))

    def _show(self, job_id: str | None) -> tuple[Any, ...]:
        """Return player, file, report, plot and files of a job."""
        job = self._job(job_id)
        if job is None:
            return (gr.update(value=None, label=self._t("convert.result")), _HIDDEN[1], "", _HIDDEN[0], _HIDDEN[0])
        sounds = sounds_of(job)
        names = [sound.name for sound in sounds]
        others = [path for path in job.results if Path(path).is_file() and Path(path) not in sounds]
        return (
            _playing(sounds[0]),
            gr.update(choices=names, value=names[0], visible=len(names) > 1),
            self._report(job),
            _picture(sounds[0]),
            gr.update(value=others or None, visible=bool(others)),
        )

    def _report(self, job: JobView) -> str:
        t, details = self._t, job.details
        if job.kind == "batch":
            return "\n".join(batch_line(name, translated(t, result)) for name, result in details.get("rows", ()))
        return report_text(t, details["report"]) if "report" in details else ""

    def _play(self, job_id: str | None, name: str | None) -> tuple[Any, Any]:
        sound = self._sound_of(job_id, name)
        return (_playing(sound), _picture(sound)) if sound else (gr.skip(), gr.skip())

    def _sound_of(self, job_id: str | None, name: str | None) -> Path | None:
        job = self._job(job_id)
        sounds = sounds_of(job) if job else []
        return next((sound for sound in sounds if sound.name == name), next(iter(sounds), None))

    def _sound(self, job_id: str | None, name: str | None) -> str:
        with handle_errors(self._t):
            sound = self._sound_of(job_id, name)
            if sound is None:
                raise ConfigError(self._t("convert.no_picture"))
            return str(sound)

    def _draw(self, job_id: str | None, name: str | None) -> Any:
        """Plot the selected result next to its own recording, not the recording now in the form."""
        with handle_errors(self._t):
            job, sound = self._job(job_id), self._sound_of(job_id, name)
            source = source_of(job, sound) if job and sound else None
            if sound is None or source is None:
                raise ConfigError(self._t("convert.no_picture"))
            picture = sound.with_suffix(".png")
            if not picture.is_file():
                draw_pair(picture, source, sound)
            return _picture(sound)

    def _delete(self, before: Sequence[Any], picked: str | None) -> tuple[Any, ...]:
        with handle_errors(self._t):
            if picked:
                self._services.registry.delete(picked)
        return self.refresh(before, picked)

    def _delete_all(self, before: Sequence[Any], picked: str | None) -> tuple[Any, ...]:
        with handle_errors(self._t):
            for job in self._jobs():
                self._services.registry.delete(job.id)
        return (gr.update(visible=False), *self.refresh(before, picked))


_HIDDEN = (gr.update(value=None, visible=False), gr.update(choices=[], value=None, visible=False))


def batch_line(name: str, result: str) -> str:
    """Return the line of a recording in the report of a batch; errors that contain its name do not repeat it."""
    return result if name in result else f"{name}: {result}"


def sounds_of(job: JobView) -> list[Path]:
    """Return those audio files of a job that still exist."""
    paths = [Path(path) for path in job.results]
    return [path for path in paths if path.suffix.lower().removeprefix(".") in AUDIO_FORMATS and path.is_file()]


def source_of(job: JobView, sound: Path) -> Path | None:
    """Return the recording from which a result was converted; None if it no longer exists."""
    request, source = job.request, None
    if isinstance(request, ConvertRequest | CompareRequest):
        source = request.recording
    elif isinstance(request, BatchRequest):
        number, paths = sound.name.split("_")[0], [*request.uploads, *request.inputs]
        source = paths[int(number) - 1] if number.isdecimal() and 0 < int(number) <= len(paths) else None
    return source if source and source.is_file() else None


def describe(t: Translator, job: JobView) -> str:
    """Describe a result in one line: recording and voice, transposition, index rate, length, time."""
    parts, report = [translated(t, job.title)], job.details.get("report", {})
    if isinstance(job.request, ConversionRequest):
        options = job.request.options
        parts.append(f"{options.pitch_shift:+g}")
        rate = report.get("index_rate", options.index_rate)
        if job.kind != "compare" and rate is not None:
            parts.append(t("results.index", rate=f"{rate:g}"))
    if "audio_seconds" in report:
        minutes, seconds = divmod(round(report["audio_seconds"]), 60)
        parts.append(f"{minutes}:{seconds:02d}")
    parts.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created)))
    return " · ".join(parts)


def draw_pair(path: Path, recording: Path, result: Path) -> Path:
    """Plot the spectrograms and F0 curves of the first 30 seconds of a recording and a result; return `path`."""
    import torch

    from infer.report import draw
    from lib.pitch import load_pitch_extractor

    source, output = (load_audio(file, ANALYSIS_RATE)[:PICTURED] for file in (recording, result))
    draw(path, source, output, load_pitch_extractor("swift", torch.device("cpu")), ("", ""))  # fonts lack scripts
    return path


def _playing(sound: Path) -> Any:
    return gr.update(value=str(sound), label=sound.name)


def _picture(sound: Path) -> Any:
    picture = sound.with_suffix(".png")
    return gr.update(value=str(picture), visible=True) if picture.is_file() else _HIDDEN[0]
