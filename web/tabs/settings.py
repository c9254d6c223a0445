"""Settings and help: language, theme, manual, devices and their speed, downloads of weights, bug report, FAQ."""

from typing import Any

import gradio as gr

from lib import assets
from lib.devices import list_devices
from web.bug_report import write_bug_report
from web.i18n.messages import translated
from web.i18n.middleware import choose_script
from web.i18n.translator import LANGUAGES, Translator
from web.manual.pages import PAGES, page_title
from web.services import Services
from web.tabs.handlers import handle_errors, show_percent
from web.tabs.needs import download_with_progress

QUESTIONS = (
    "begin", "data", "time", "index", "stop", "gpu", "memory", "paths", "other", "words", "pitch", "share", "expecting",
    "missing",
)  # fmt: skip
WIDTHS = ["120px", "190px", "110px", "110px", "110px", "120px"]  # of the table of devices
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_settings_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and connect its events, inside the current Blocks."""
    with gr.Row(), gr.Column():
        _build_looks(t)
    gr.Markdown(" · ".join(f"[{page_title(t, page)}](manual/{page})" for page in PAGES), elem_id="manual")
    with gr.Accordion(t("settings.faq"), open=True, elem_id="faq"):
        for name in QUESTIONS:
            with gr.Accordion(t(f"faq.{name}.question"), open=False):
                gr.Markdown(t(f"faq.{name}.answer"))
    with gr.Accordion(t("settings.devices"), open=True):
        _build_devices(t, services)
    with gr.Accordion(t("settings.weights"), open=True):
        _build_weights(t, services)
    with gr.Accordion(t("doctor.title"), open=False, elem_id="doctor"):
        _build_doctor(t)
    with gr.Accordion(t("settings.report"), open=True):
        _build_report(t, services)


def _build_looks(t: Translator) -> None:
    """Lay out language and theme: both are stored in the browser, so JavaScript sets them and reloads the web UI."""
    with gr.Row():
        language = gr.Dropdown(
            label=t("settings.language"),
            info=t("settings.language_info"),
            choices=[(name, key) for key, name in LANGUAGES.items()],
            value=None,
            elem_id="language",
        )
        themes = [(t(f"settings.theme_{name}"), name) for name in ("system", "light", "dark")]
        theme = gr.Radio(label=t("settings.theme"), choices=themes, value=None, elem_id="theme")

    def current(request: gr.Request) -> str:
        return t.for_request(request).locale

    gr.on(None, current, outputs=language, **_QUIET)
    language.input(None, [language], js=choose_script(), **_QUIET)
    gr.on(None, None, outputs=theme, js="()=>localStorage.getItem('revoice-theme')||'system'", **_QUIET)
    theme.input(
        None,
        [theme],
        js="(look)=>{localStorage.setItem('revoice-theme',look);const url=new URL(location.href);"
        "url.searchParams.delete('__theme');location.replace(url);}",
        **_QUIET,
    )


def _build_devices(t: Translator, services: Services) -> None:
    """The table of devices, and the speed test."""
    headers = [t(f"speed.{name}") for name in ("device", "what", "f0", "features", "synthesis", "step")]
    table = gr.Dataframe(headers=headers, interactive=False, wrap=True, column_widths=WIDTHS, elem_id="devices")
    gr.Markdown(t("speed.info"))
    run = gr.Button(t("speed.run"), elem_id="measure")

    def measure_speed(bar: gr.Progress = gr.Progress()) -> list[list[str]]:  # noqa: B008
        """Measure F0, features, synthesis and a training step on every device of this machine, some seconds each."""
        rows, devices = [], _named_devices()
        with handle_errors(t):
            from web.speed_test import measure_in_subprocess

            for number, (name, reason) in enumerate(devices):
                show_percent(bar, number, len(devices), name)
                found = measure_in_subprocess(name)
                speeds = (found.f0, found.features, found.synthesis)
                times = [t("speed.times", count=f"{value:.1f}") for value in speeds]
                rows.append([name, translated(t, reason), *times, t("speed.steps", count=f"{found.step:.2f}")])
        return rows

    gr.on(
        None, lambda: [[name, translated(t, reason), "", "", "", ""] for name, reason in _named_devices()],
        outputs=table, **_QUIET,
    )  # fmt: skip
    run.click(measure_speed, outputs=table, api_name="measure_speed", concurrency_limit=1)


def _named_devices() -> list[tuple[str, str]]:
    """Every device except "auto", which stands for one of the others, with its description."""
    return [(name, reason) for name, reason in list_devices() if name != "auto"]


def _build_weights(t: Translator, services: Services) -> None:
    """The list of downloadable weights, and a download button."""
    shown = gr.Markdown(_list_weights(t), elem_id="weights")
    with gr.Row():
        chosen = gr.Dropdown(label=t("weights.choose"), choices=_choices(), elem_id="weights-choice")
        run = gr.Button(t("weights.download"), elem_id="weights-download")
    message = gr.Markdown(elem_id="weights-message")

    def download_weights(name: str | None, bar: gr.Progress = gr.Progress()) -> tuple[str, Any, str]:  # noqa: B008
        """Download published weights by name and verify them."""

        with handle_errors(t):
            said = download_with_progress(t, [name] if name else [], bar)
            return _list_weights(t), gr.update(choices=_choices(), value=None), said

    run.click(
        download_weights, [chosen], [shown, chosen, message], api_name="download_weights", concurrency_limit=1,
        show_progress_on=message,
    )  # fmt: skip


def _missing() -> list[str]:
    """Return the names of downloads of which a file is missing and can be downloaded."""
    return list(dict.fromkeys(a.name for a in assets.MANIFEST if a.source and not assets.path_of(a).is_file()))


def _sets() -> dict[str, str]:
    """Return the sets of downloads that are not complete, with their contents."""
    missing = set(_missing())
    return {name: ", ".join(parts) for name, parts in assets.SETS.items() if missing.intersection(parts)}


def _choices() -> list[tuple[str, str]]:
    """Return sets and individual downloads that are missing, with their sizes if known, short enough for a phone."""
    return [(f"{name}{_size(name)}", name) for name in (*_sets(), *_missing())]


def _size(name: str) -> str:
    megabytes = assets.missing_megabytes([name])
    return f" ({megabytes} MB)" if megabytes else ""


def _list_weights(t: Translator) -> str:
    """Return the weights as a Markdown list: sets with contents, then single downloads with purposes."""
    missing = set(_missing())
    purposes = {asset.name: asset.needed_by for asset in assets.MANIFEST if asset.source}
    here = [name for name in purposes if name not in missing]
    lines = [t("weights.info"), "", t("weights.here", names=", ".join(here) or "-")]
    lines += [f"- `{name}`: {parts}{_size(name)}" for name, parts in _sets().items()]
    lines += [f"- `{name}`: {translated(t, purposes[name])}{_size(name)}" for name in purposes if name in missing]
    return "\n".join(lines)


def _build_doctor(t: Translator) -> None:
    """A button that checks the installation, and a table of the findings with remedies."""
    gr.Markdown(t("doctor.info"))
    run = gr.Button(t("doctor.run"), elem_id="doctor-run")
    headers = [t(f"doctor.{name}") for name in ("what", "state", "found", "remedy")]
    table = gr.Dataframe(headers=headers, interactive=False, wrap=True, visible=False, elem_id="doctor-table")

    def check_installation(bar: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
        """Check versions, devices, driver, memory, disk, weights and write access, and convert three seconds."""

        def progress(done: int, total: int, what: str) -> None:
            show_percent(bar, done, total, translated(t, what))

        with handle_errors(t):
            from infer.doctor import check_installation as check

            rows = [
                [
                    translated(t, finding.what), t(f"doctor.{finding.state}"), translated(t, finding.found),
                    translated(t, finding.remedy) if finding.remedy else "",
                ]
                for finding in check(progress)
            ]  # fmt: skip
            return gr.update(value=rows, visible=True)

    run.click(check_installation, outputs=table, api_name="check_installation", concurrency_limit=1)


def _build_report(t: Translator, services: Services) -> None:
    gr.Markdown(t("bug.info"))
    run = gr.Button(t("bug.run"), elem_id="bug-report")
    made = gr.File(label=t("bug.file"), interactive=False, visible=False, elem_id="bug-report-file")

    def bug_report() -> Any:
        """Write versions, devices and the last log lines into a ZIP file without private paths."""
        with handle_errors(t):
            return gr.update(value=str(write_bug_report(services.registry.jobs(), services.folder)), visible=True)

    run.click(bug_report, outputs=made, api_name="bug_report", concurrency_limit=1)
