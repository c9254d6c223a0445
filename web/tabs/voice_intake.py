"""Adds voices in the web UI: a drop zone for files from any program, a table of their contents, and a button."""

import html
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from lib.errors import ConfigError
from lib.progress import Progress, no_progress
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.handlers import handle_errors, show_percent, show_success

if TYPE_CHECKING:
    from lib.voice.intake import FoundVoice, Inspected

WIDTHS = ["40%", "60%"]  # of the table of what was found


def build_intake(t: Translator, services: Services, message: Any) -> None:
    """Lay out the drop zone, the table of the files' contents, and the button, and connect their events."""
    intake = _Intake(t, services)
    files = gr.Files(
        label=t("convert.import_file"), type="filepath", height=190, elem_id="import"
    )  # fmt: skip
    if services.fetch_link is not None:
        _build_link(t, intake, files)
    plan = gr.Dataframe(
        headers=[t("voices.plan_file"), t("voices.plan_result")], label=t("voices.plan"), interactive=False, wrap=True,
        visible=False, column_widths=WIDTHS, elem_id="import-plan",
    )  # fmt: skip
    name = gr.Textbox(label=t("voices.add_name"), info=t("voices.add_name_info"), visible=False, elem_id="import-name")
    add = gr.Button(t("voices.add"), variant="primary", visible=False, elem_id="import-add")
    files.change(intake.show, [files], [plan, name, add], api_visibility="private", show_progress_on=files)
    add.click(
        intake.add_voices, [files, name], [message, files], api_name="add_voices", concurrency_limit=1,
        show_progress_on=plan,
    )  # fmt: skip
    archive = gr.File(label=t("convert.import_file"), visible=False)  # for programs that add one file
    archive.upload(intake.import_voice, [archive], [message, archive], api_name="import_voice", concurrency_limit=1)


def _build_link(t: Translator, intake: "_Intake", files: Any) -> None:
    """Lay out the field for a link; its files are then shown like dropped ones."""
    link = gr.Textbox(
        label=t("voices.link"), info=t("voices.link_info"), placeholder="https://huggingface.co/", elem_id="import-link"
    )
    get = gr.Button(t("voices.link_get"), size="sm", elem_id="import-get")
    for event in (get.click, link.submit):
        event(
            intake.fetch, [link], [files, link], api_visibility="private", concurrency_id="link", concurrency_limit=1,
            show_progress_on=files,
        )  # fmt: skip
    gr.api(intake.add_link, api_name="add_link", concurrency_id="link", concurrency_limit=1)


class _Intake:
    """The handlers of drop zone and button; the API endpoints have their names and descriptions."""

    def __init__(self, t: Translator, services: Services) -> None:
        self._t = t
        self._services = services

    @contextmanager
    def _inspected(self, files: Sequence[str] | None) -> "Iterator[Inspected]":
        """Yield the contents of the files; archives stay unpacked until the `with` block ends."""
        with tempfile.TemporaryDirectory(prefix="import-", dir=self._services.folder) as folder:
            yield self._services.inspect_files([Path(file) for file in files or []], Path(folder))

    def show(self, files: Sequence[str] | None) -> tuple[Any, Any, Any]:
        """Return the table of the files' contents; the name can be changed if there is exactly one new voice."""
        if not files:
            return (gr.update(visible=False),) * 3
        with handle_errors(self._t, names_only=True), self._inspected(files) as found:
            new = [voice for voice in found.voices if voice.installed is None]
            name = gr.update(value=new[0].name if len(new) == 1 else "", visible=len(new) == 1)
            return gr.update(value=self._rows(found), visible=True), name, gr.update(visible=_has_news(found))

    def _rows(self, found: "Inspected") -> list[list[str]]:
        """One row per voice, per index of an installed voice, and per file that is not used."""
        t = self._t
        rows = [[_labels(voice), self._describe(voice)] for voice in found.voices]
        for index in found.indexes:
            name = index.voice.name if index.voice else ""
            rows.append([index.part.label, t("voices.plan_add_index", name=name)])
        return rows + [[label, translated(t, reason)] for label, reason in found.unused]

    def _describe(self, voice: "FoundVoice") -> str:
        t, model = self._t, voice.model
        if voice.installed is not None:
            return t("voices.plan_add_index" if voice.index else "voices.plan_installed", name=voice.installed)
        facts = [
            model.family, f"{model.sample_rate // 1000}k",
            t("voices.with_f0" if model.has_f0 else "voices.without_f0"),
            t("voices.indexed" if voice.index else "voices.unindexed"),
        ]  # fmt: skip
        return t("voices.plan_new", name=voice.name, facts=", ".join(facts))

    def add_voices(self, files: Sequence[str] | None, name: str | None = None) -> tuple[str, None]:
        """Add the voices and indexes in any number of files: .pth, .safetensors, .index and .zip.

        `name` names the new voice, if there is exactly one; if it is empty, the name of its file is used.
        """
        with handle_errors(self._t, names_only=True), self._inspected(files) as found:
            if not _has_news(found):
                raise _nothing_new(self._t, found)
            single = sum(voice.installed is None for voice in found.voices) == 1
            wanted = name.strip() if name and single else ""
            unchanged = single and wanted == next(v.name for v in found.voices if v.installed is None)
            names = self._services.add_files(found, None if unchanged or not wanted else wanted)
            said = self._t("convert.imported", name=html.escape(", ".join(names)))
            show_success(self._t, said)
            return said, None

    def fetch(self, link: str, bar: gr.Progress = gr.Progress()) -> tuple[list[str], str]:  # noqa: B008
        """Download the files that a link points to for the drop zone, and clear the link field."""

        def progress(done: int, total: int, what: str) -> None:
            size = f"({done / 1e6:.0f} / {total / 1e6:.0f} MB)"
            show_percent(bar, done, total, f"{translated(self._t, what)} {size}")

        folder = Path(tempfile.mkdtemp(prefix="link-", dir=self._services.folder))  # removed with the server's folder
        with handle_errors(self._t, names_only=True), ExitStack() as failed:
            failed.callback(shutil.rmtree, folder, ignore_errors=True)
            files = [str(path) for path in self._fetch(link, folder, progress)]
            failed.pop_all()
            return files, ""

    def add_link(self, link: str, name: str | None = None) -> str:
        """Add the voices and indexes from a link: a Hugging Face repository or file, or an https link to a file.

        `name` names the new voice, if there is exactly one; if it is empty, the name of its file is used.
        """
        with tempfile.TemporaryDirectory(prefix="link-", dir=self._services.folder) as folder:
            with handle_errors(self._t, names_only=True):
                files = self._fetch(link, Path(folder), no_progress)
            return self.add_voices([str(path) for path in files], name)[0]

    def _fetch(self, link: str, folder: Path, progress: Progress) -> list[Path]:
        if not link.strip():
            raise ConfigError(self._t("voices.link_missing"))
        assert self._services.fetch_link is not None
        return self._services.fetch_link(link, folder, progress)

    def import_voice(self, archive: str) -> tuple[str, None]:
        """Add the voice or the index in one file: .pth, .safetensors, .index or .zip."""
        return self.add_voices([archive])


def _labels(voice: "FoundVoice") -> str:
    """The names of the files of a voice."""
    parts = [voice.model.part, *([voice.index.part] if voice.index else [])]
    return " + ".join(part.label for part in parts)


def _has_news(found: "Inspected") -> bool:
    return bool(found.indexes) or any(voice.installed is None or voice.index for voice in found.voices)


def _nothing_new(t: Translator, found: "Inspected") -> ConfigError:
    """Return the first reason why nothing would be added."""
    if found.unused:
        label, reason = found.unused[0]
        return ConfigError("{file} {reason}.", file=label, reason=reason)
    name = next((voice.installed for voice in found.voices if voice.installed), "")
    return ConfigError("The same voice is installed already, as {name}.", name=name)
