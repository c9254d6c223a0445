"""Handlers: cancelling, and their names."""

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr
import pytest

from lib.progress import Cancelled
from tests.test_web import T
from web.tabs.handlers import CancelButton, handle_errors, with_names


def test_cancelling_is_not_shown_as_an_error() -> None:
    with pytest.raises(Cancelled), handle_errors(T):
        raise Cancelled
    button, request = CancelButton(T), gr.Request(session_hash="s", username=None)
    reports: list[Any] = []
    progress = button.progress(request, lambda *args, **kw: reports.append((args, kw)))
    progress(1, 2, "converting")
    assert reports == [((0.5,), {"desc": "converting"})]
    assert button.press(request) == gr.update(value=T("jobs.stopping"), interactive=False), "at once"
    with pytest.raises(Cancelled):
        progress(2, 2, "converting")
    assert button.reset(request)["interactive"] and not button.idle()["interactive"]


@pytest.mark.parametrize("cleared", [(), ("none",)])
def test_a_job_enables_its_cancel_button(cleared: tuple[str, ...]) -> None:
    """Also where nothing but the button changes: Gradio would show a list as the text of the button."""
    with gr.Blocks() as app:
        cancel, others = CancelButton(T), [gr.Textbox() for _ in cleared]
        button, run = cancel.lay_out("cancel"), gr.Button("run")
        cancel.wire(button, run, (lambda: cleared) if cleared else None, (), others)
    started = next(fn for fn in app.fns.values() if fn.targets == [(run._id, "click")])
    values = started.fn(gr.Request(session_hash="s", username=None))
    shown = asyncio.run(app.postprocess_data(started, values, None))
    assert shown == [gr.update(value=T("convert.cancel"), interactive=True), *cleared]


def test_handlers_are_tools_by_their_own_names() -> None:
    """Language models see the name of a handler."""

    def say(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> str:
        """Say it."""
        return str(values["word"])

    handler = with_names(T, say, ["word"], None)
    assert (handler.__name__, handler.__doc__) == ("say", "Say it.")
    assert handler(None, "hello") == "hello"
