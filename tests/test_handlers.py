"""Handlers: cancelling, and their names."""

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


def test_handlers_are_tools_by_their_own_names() -> None:
    """Language models see the name of a handler."""

    def say(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> str:
        """Say it."""
        return str(values["word"])

    handler = with_names(T, say, ["word"], None)
    assert (handler.__name__, handler.__doc__) == ("say", "Say it.")
    assert handler(None, "hello") == "hello"
