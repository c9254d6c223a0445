"""The job list: queued, running, interrupted and ended jobs, with buttons to cancel, resume and delete them.

It reads the registry only, so a reloaded page and a second browser show the same.
"""

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lib.audio import AUDIO_FORMATS
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.registry import JobView
from web.jobs.requests import Kind, TrainRequest
from web.services import Services
from web.tabs.handlers import handle_errors

SHOWN = 8  # jobs in the list
LOG_SHOWN = 12  # lines
SHOWN_ROWS = 200  # recordings of a batch
REFRESH_SECONDS = 1.0
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def job_panel(t: Translator, services: Services, kinds: Sequence[Kind], name: str) -> None:
    """Lay out the list of jobs of these kinds; `name` distinguishes the panels of a page."""
    known = gr.State("")
    table = gr.HTML(elem_id=f"{name}-jobs")
    with gr.Row(visible=False) as row:
        chosen = gr.Dropdown(label=t("jobs.choose"), choices=[], scale=3, elem_id=f"{name}-job")
        cancel = gr.Button(t("jobs.cancel"), scale=1, elem_id=f"{name}-cancel")
        resume = gr.Button(t("jobs.resume"), scale=1, elem_id=f"{name}-resume")
        delete = gr.Button(t("jobs.forget"), scale=1, elem_id=f"{name}-forget")
    player = gr.Audio(
        label=t("convert.result"), type="filepath", visible=False, interactive=False, buttons=["download"],
        elem_id=f"{name}-player",
    )  # fmt: skip
    results = gr.Files(label=t("jobs.results"), visible=False, interactive=False, elem_id=f"{name}-results")

    def show(before: str, picked: str | None) -> tuple[Any, ...]:
        jobs = services.registry.jobs(*kinds)[:SHOWN]
        text = "".join(_describe(t, job) for job in jobs) or f"<p>{t('jobs.none')}</p>"
        mark = f"{text}{picked}"
        if mark == before:
            return tuple(gr.skip() for _ in range(8))
        choices = [(f"{translated(t, job.title)} ({t(f'jobs.{job.state}')})", job.id) for job in jobs]
        picked = picked if picked in {job.id for job in jobs} else (jobs[0].id if jobs else None)
        job = next((job for job in jobs if job.id == picked), None)
        files = [path for path in job.results if Path(path).is_file()] if job else []
        sounds = [path for path in files if Path(path).suffix.lower().removeprefix(".") in AUDIO_FORMATS]
        return (
            mark,
            text,
            gr.update(visible=bool(jobs)),
            gr.update(choices=choices, value=picked),
            gr.update(interactive=bool(job and job.active)),
            gr.update(interactive=bool(job and job.resumable)),
            gr.update(value=next(iter(sounds), None), visible=bool(sounds)),
            gr.update(value=files or None, visible=bool(files)),
        )

    shown = [known, table, row, chosen, cancel, resume, player, results]
    gr.on([gr.Timer(REFRESH_SECONDS).tick, chosen.change], show, [known, chosen], shown, queue=False, **_QUIET)

    def act(action: Any) -> Any:
        def press(job_id: str | None) -> None:
            with handle_errors(t):
                if job_id:
                    action(job_id)

        return press

    for button, action in ((cancel, services.registry.cancel), (resume, services.registry.resume)):
        button.click(act(action), [chosen], queue=False, **_QUIET)
    delete.click(act(services.registry.delete), [chosen], queue=False, **_QUIET)


class JobApi:
    """The endpoints of the API that list jobs, cancel them and resume them."""

    def __init__(self, t: Translator, services: Services) -> None:
        self._t = t
        self._registry = services.registry

    def add(self) -> None:
        """Add the endpoints to the Blocks that is being built."""
        for action in (self.list_jobs, self.job_status, self.cancel_job, self.resume_job, self.forget_job):
            gr.api(action, api_name=action.__name__)

    def list_jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest first: id, kind, title, state, done, total, what, error."""
        return [self._to_dict(job) for job in self._registry.jobs()]

    def job_status(self, job_id: str) -> dict[str, Any]:
        """One job by its id, with the last lines of its log."""
        with handle_errors(self._t):
            job = self._registry.get(job_id)
            return self._to_dict(job) | {"log": list(job.log), "results": [Path(path).name for path in job.results]}

    def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: a conversion stops at once, training after the current step, with a checkpoint."""
        with handle_errors(self._t):
            self._registry.cancel(job_id)
            return self.job_status(job_id)

    def resume_job(self, job_id: str) -> dict[str, Any]:
        """Put an interrupted, failed or cancelled job back in its queue."""
        with handle_errors(self._t):
            return self.job_status(self._registry.resume(job_id))

    def forget_job(self, job_id: str) -> None:
        """Remove a job that has ended from the list, with the files it made."""
        with handle_errors(self._t):
            self._registry.delete(job_id)

    @staticmethod
    def _to_dict(job: JobView) -> dict[str, Any]:
        names = ("id", "kind", "title", "state", "done", "total", "what", "error", "created")
        return {name: getattr(job, name) for name in names} | {"seconds_left": job.seconds_left}


def _describe(t: Translator, job: JobView) -> str:
    """One job as a card; every text from outside is escaped."""
    share = 100 * job.done / job.total if job.total else 0
    bar = ""
    if job.state == "running":
        bar = f'<progress max="100" value="{share:.1f}" style="width:100%;accent-color:var(--color-accent)"></progress>'
    facts = [html.escape(translated(t, job.what))] if job.state == "running" else []
    left = job.seconds_left
    if left is not None:
        facts.append(t("jobs.left", time=_duration(left)))
    elif job.ended and job.started:
        facts.append(t("jobs.took", time=_duration(job.ended - job.started)))
    request = job.request
    if isinstance(request, TrainRequest) and job.state == "done" and request.stage in ("run", "fit"):
        facts.append(t("jobs.trained", name=html.escape(request.name)))
    if job.error:
        facts.append(f'<strong style="color:var(--error-text-color)">{html.escape(translated(t, job.error))}</strong>')
    log = ""
    if job.state in ("running", "failed") and job.log:
        lines = html.escape("\n".join(job.log[-LOG_SHOWN:]))
        log = f'<pre style="white-space:pre-wrap;font-size:.8em;margin:.3em 0">{lines}</pre>'
    rows = _rows(t, job.details.get("rows", ())) if job.kind == "batch" and not job.active else ""
    when = time.strftime("%H:%M", time.localtime(job.created))
    return (
        f'<div class="job" data-state="{job.state}" style="border-left:3px solid var(--color-accent);padding:.2em .8em;'
        f'margin:.4em 0"><b>{html.escape(translated(t, job.title))}</b> · {t(f"jobs.{job.state}")} · {when}'
        f"{bar}<div>{' · '.join(facts)}</div>{log}{rows}</div>"
    )


def _rows(t: Translator, rows: Sequence[Sequence[str]]) -> str:
    """The results of a batch, one row per recording, collapsed."""
    lines = [
        "<tr>"
        + "".join(f'<td style="padding-right:1.5em">{html.escape(translated(t, cell))}</td>' for cell in row)
        + "</tr>"
        for row in rows[:SHOWN_ROWS]
    ]
    return f"<details><summary>{t('batch.result')} ({len(rows)})</summary><table>{''.join(lines)}</table></details>"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
