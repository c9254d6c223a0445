"""The job list: queued, running, interrupted and finished jobs, with buttons to cancel, resume and delete them.

It reads only the registry, so a reloaded page and a second browser show the same list.
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

LOG_SHOWN = 12  # lines
SHOWN_ROWS = 200  # recordings of a batch
REFRESH_SECONDS = 2.0
NOTHING_SHOWN = ("", "", None, 0.0)  # current and earlier jobs, the id of the selected one, when the newest was created
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def job_panel(
    t: Translator, services: Services, kinds: Sequence[Kind], name: str, *, stop: str = "",
    results: bool = True,
) -> None:  # fmt: skip
    """Lay out the list of jobs of these kinds; `name` distinguishes several panels.

    `stop` is the text of the button that cancels a job, by default "Cancel". If `results` is false, the files of
    finished jobs are shown elsewhere, and only the newest finished job is listed.
    """
    _JobPanel(t, services, kinds, stop or t("jobs.cancel"), results).lay_out(name)


class _JobPanel:
    """Current jobs, earlier ones collapsed, buttons for the selected job, and the files that it has written."""

    def __init__(self, t: Translator, services: Services, kinds: Sequence[Kind], stop: str, results: bool) -> None:
        self._t = t
        self._registry = services.registry
        self._kinds = kinds
        self._stop = stop
        self._results = results

    def lay_out(self, name: str) -> None:
        """Create the components and connect their events."""
        t, registry = self._t, self._registry
        known = gr.State(NOTHING_SHOWN)
        current = gr.HTML(elem_id=f"{name}-jobs")
        with gr.Row(visible=False) as row:
            chosen = gr.Dropdown(
                label=t("jobs.choose"), choices=[], scale=3, allow_custom_value=True, elem_id=f"{name}-job"
            )
            cancel = gr.Button(self._stop, scale=1, interactive=False, elem_id=f"{name}-cancel")
            resume = gr.Button(t("jobs.resume"), scale=1, interactive=False, elem_id=f"{name}-resume")
            delete = gr.Button(t("jobs.forget"), scale=1, interactive=False, elem_id=f"{name}-forget")
        with gr.Accordion(t("jobs.earlier", count=0), open=False, visible=False, elem_id=f"{name}-folded") as folded:
            earlier = gr.HTML(elem_id=f"{name}-earlier")
            clear = gr.Button(t("jobs.clear"), size="sm", elem_id=f"{name}-clear")
        player = gr.Audio(
            label=t("convert.result"), type="filepath", visible=False, interactive=False, buttons=["download"],
            elem_id=f"{name}-player",
        )  # fmt: skip
        files = gr.Files(label=t("jobs.results"), visible=False, interactive=False, elem_id=f"{name}-results")

        inputs = [known, chosen]
        outputs = [known, current, row, chosen, cancel, resume, delete, folded, earlier, player, files]
        gr.on([gr.Timer(REFRESH_SECONDS).tick, chosen.change], self.show, inputs, outputs, queue=False, **_QUIET)
        for button, action in ((cancel, registry.cancel), (resume, registry.resume), (delete, registry.delete)):
            button.click(self._press(action), inputs, outputs, queue=False, **_QUIET)
        clear.click(self._press(lambda _: self.clear()), inputs, outputs, queue=False, **_QUIET)

    def show(self, before: Sequence[Any], picked: str | None) -> tuple[Any, ...]:
        """Return the values of all components, or no change.

        `before` is what was shown, `picked` the id of the selected job. A job that was started since then is selected,
        so that the buttons work on it.
        """
        t = self._t
        current, earlier = self._listed()
        texts = ["".join(_describe(t, job) for job in jobs) for jobs in (current, earlier)]
        listed = {job.id: job for job in (*current, *earlier)}
        newest = max(listed.values(), key=lambda job: job.created, default=None)
        started = newest if newest and newest.active and newest.created > before[3] else None
        job = started or listed.get(picked or "") or next(iter(listed.values()), None)
        mark = (*texts, job and job.id, newest.created if newest else 0.0)
        if mark == tuple(before):
            return (gr.skip(),) * 11
        titles = [(f"{translated(t, job.title)} ({_state(t, job)})", job.id) for job in listed.values()]
        paths = [path for path in job.results if Path(path).is_file()] if job else []
        shown = paths if self._results else []
        sounds = [path for path in shown if Path(path).suffix.lower().removeprefix(".") in AUDIO_FORMATS]
        stopping = bool(job and job.stopping)
        return (
            mark,
            texts[0] or f"<p>{t('jobs.none')}</p>",
            gr.update(visible=bool(listed)),
            gr.update(choices=titles, value=job and job.id),
            gr.update(
                value=t("jobs.stopping") if stopping else self._stop,
                interactive=bool(job and job.active and not stopping),
            ),
            gr.update(interactive=bool(job and job.resumable)),
            gr.update(
                value=t("results.delete" if job and paths and deletes_files(job) else "jobs.forget"),
                interactive=bool(job and not job.active),
            ),
            gr.update(visible=bool(earlier), label=t("jobs.earlier", count=len(earlier))),
            gr.skip() if texts[1] == before[1] else texts[1],
            gr.update(value=next(iter(sounds), None), visible=bool(sounds)),
            gr.update(value=shown or None, visible=bool(shown)),
        )

    def clear(self) -> None:
        """Delete the collapsed jobs, except for those whose results would be deleted."""
        for job in self._listed()[1]:
            if not deletes_files(job):
                self._registry.delete(job.id)

    def _listed(self) -> tuple[list[JobView], list[JobView]]:
        """Return the jobs that are queued or running, or otherwise the newest; and the collapsed ones."""
        jobs = self._registry.jobs(*self._kinds)
        current = [job for job in jobs if job.active] or jobs[:1]
        ids = {job.id for job in current}
        return current, [job for job in jobs if job.id not in ids and (self._results or job.state != "done")]

    def _press(self, action: Any) -> Any:
        def press(before: Sequence[Any], picked: str | None) -> tuple[Any, ...]:
            with handle_errors(self._t):
                if picked:
                    action(picked)
            return self.show(before, picked)

        return press


def deletes_files(job: JobView) -> bool:
    """Whether files that the user may want to keep are deleted with the job; those of a training run are kept."""
    return job.kind != "train" and job.state == "done"


class JobApi:
    """The API endpoints that list, cancel and resume jobs."""

    def __init__(self, t: Translator, services: Services) -> None:
        self._t = t
        self._registry = services.registry

    def add(self) -> None:
        """Add the endpoints to the current Blocks."""
        for action in (self.list_jobs, self.job_status, self.cancel_job, self.resume_job, self.forget_job):
            gr.api(action, api_name=action.__name__)

    def list_jobs(self) -> list[dict[str, Any]]:
        """List all jobs, newest first: id, kind, title, state, done, total, what, error."""
        return [self._to_dict(job) for job in self._registry.jobs()]

    def job_status(self, job_id: str) -> dict[str, Any]:
        """Return one job by its id, with the last lines of its log."""
        with handle_errors(self._t):
            job = self._registry.get(job_id)
            return self._to_dict(job) | {"log": list(job.log), "results": [Path(path).name for path in job.results]}

    def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: a conversion stops at once, training after the current step, with a checkpoint."""
        with handle_errors(self._t):
            self._registry.cancel(job_id)
            return self.job_status(job_id)

    def resume_job(self, job_id: str) -> dict[str, Any]:
        """Queue an interrupted, failed or cancelled job again."""
        with handle_errors(self._t):
            return self.job_status(self._registry.resume(job_id))

    def forget_job(self, job_id: str) -> None:
        """Delete a finished job and the files it has written."""
        with handle_errors(self._t):
            self._registry.delete(job_id)

    @staticmethod
    def _to_dict(job: JobView) -> dict[str, Any]:
        names = ("id", "kind", "title", "state", "done", "total", "what", "error", "created")
        return {name: getattr(job, name) for name in names} | {"seconds_left": job.seconds_left}


def _state(t: Translator, job: JobView) -> str:
    return t("jobs.stopping" if job.stopping else f"jobs.{job.state}")


def _describe(t: Translator, job: JobView) -> str:
    """Describe one job as a card; all external text is escaped."""
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
        f'margin:.4em 0"><b>{html.escape(translated(t, job.title))}</b> · {_state(t, job)} · {when}'
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
