"""A/B comparison of a result with its recording or another result, with a button that switches between the players."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from web.i18n.translator import Translator
from web.services import Services
from web.tabs.results import ResultPanel, sounds_of, source_of

SOURCE = "source"  # stands for the recording of the chosen result
# Pauses one player and continues at the same position in the other.
SWITCH = """() => {
  const [a, b] = document.querySelectorAll('#listening audio');
  if (!a || !b) return;
  const [from, to] = a.paused ? [b, a] : [a, b];
  to.currentTime = from.currentTime;
  from.pause();
  to.play();
}"""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_listening(t: Translator, services: Services, results: ResultPanel) -> None:
    """Lay out both players and connect their events."""
    other = gr.Dropdown(
        label=t("listen.other"),
        choices=[(t("listen.source"), SOURCE)],
        value=SOURCE,
        allow_custom_value=True,
        elem_id="listening-other",
    )
    players = gr.HTML(t("listen.none"), elem_id="listening")
    switch = gr.Button(t("listen.switch"), size="sm", elem_id="listening-switch")

    def offer(entries: Sequence[Any], picked: str) -> Any:
        choices = [(t("listen.source"), SOURCE), *map(tuple, entries)]
        return gr.update(choices=choices, value=picked if picked in dict(entries).values() else SOURCE)

    def show(job_id: str | None, name: str | None, with_what: str) -> str:
        jobs = {job.id: job for job in services.registry.jobs() if job.state == "done"}
        job = jobs.get(job_id or "")
        sounds = sounds_of(job) if job else []
        if job is None or not sounds:
            return t("listen.none")
        sound = next((sound for sound in sounds if sound.name == name), sounds[0])
        if with_what == SOURCE:
            second = source_of(job, sound)
        else:
            second = next(iter(sounds_of(jobs[with_what])), None) if with_what in jobs else None
        return "".join(_player(letter, path, services.files) for letter, path in (("A", sound), ("B", second)) if path)

    results.entries.change(offer, [results.entries, other], other, queue=False, **_QUIET)
    changes = [results.chosen.change, results.file.change, other.change]
    gr.on(changes, show, [results.chosen, results.file, other], players, queue=False, **_QUIET)
    switch.click(None, js=SWITCH, api_visibility="private")


def _player(letter: str, path: Path, folder: Path) -> str:
    """Return a native player; for files outside the jobs' folder, such as those of a local batch, only the name."""
    name = f"{letter}: {html.escape(path.name)}"
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"<p>{name}</p>"
    address = html.escape(f"gradio_api/file={quote(str(path))}")
    return f'<p>{name}<br><audio controls preload="metadata" aria-label="{name}" src="{address}"></audio></p>'
