"""Error messages and cancellation for the handlers of the web UI."""

import html
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from lib.errors import RevoiceError
from lib.machine import machine_error
from lib.messages import Message
from lib.progress import Cancelled, Progress
from web.i18n.messages import translated
from web.i18n.translator import Translator

logger = logging.getLogger(__name__)

_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
BROWSER_HEADERS = ("origin", "referer", "sec-fetch-site", "sec-fetch-mode")
ERROR_SECONDS = 30  # for which a message is shown, unless it is closed


@contextmanager
def handle_errors(t: Translator, *, names_only: bool = False) -> Iterator[None]:
    """Show a RevoiceError or a system failure as a message in the web UI.

    Any other exception is logged and shown as a generic message. `names_only` shows paths as file names.
    """
    try:
        yield
    except (gr.Error, Cancelled):
        raise
    except RevoiceError as error:
        message = _without_folders(error.message) if names_only else error.message
        raise _message(t, translated(t, message)) from error
    except Exception as error:  # shown as a message instead of a page that does not react
        logger.exception("unexpected error")
        if known := machine_error(error):
            raise _message(t, translated(t, known.message)) from error
        raise _message(t, t("error.unexpected", kind=type(error).__name__)) from error


def _message(t: Translator, text: str) -> gr.Error:
    """Create a message; it is escaped for browsers, because Gradio renders HTML and texts contain file names."""
    shown = text if _asked_by_program() else html.escape(text)
    return gr.Error(shown, duration=ERROR_SECONDS, title=t("error.title"), print_exception=False)


def _asked_by_program() -> bool:
    """Whether the current request came from an API client, not from a browser.

    Browsers send the origin, or the site, of every request that changes something.
    """
    request = LocalContext.request.get(None)
    headers = getattr(request, "headers", None)
    return headers is not None and not any(name in headers for name in BROWSER_HEADERS)


def _without_folders(message: Message) -> Message:
    """Return a message whose paths are replaced by their file names."""

    def shown(value: object) -> object:
        if isinstance(value, Message):
            return _without_folders(value)
        return value.name if isinstance(value, Path) else value

    return Message(message.template, **{key: shown(value) for key, value in message.values.items()})


def show_success(t: Translator, text: str) -> None:
    """Show a short message (HTML) in the web UI; does nothing for API requests."""
    gr.Success(text, title=t("message.done"))


class CancelButton:
    """A cancel button, and the browser sessions in which it has been pressed.

    Gradio always lets a running function finish; the function's Progress checks the sessions.
    """

    def __init__(self, t: Translator) -> None:
        self._t = t
        self._pressed: set[str] = set()  # adding to and removing from a set is atomic, so threads need no lock

    def lay_out(self, elem_id: str) -> gr.Button:
        """Create the button; it is disabled until a job runs."""
        return gr.Button(self._t("convert.cancel"), scale=1, interactive=False, elem_id=elem_id)

    def wire(
        self, button: gr.Button, run: gr.Button, begin: Any = None, inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
    ) -> Any:  # fmt: skip
        """Connect `button`, which is enabled when `run` is clicked; return that click event.

        The caller chains the job to this event, and then `end`. `begin` is also called when `run` is clicked,
        with the values of `inputs`; it returns those of `outputs`.
        """

        def start(request: gr.Request, *values: Any) -> Any:
            enabled = self.reset(request)
            return [enabled, *begin(*values)] if begin else enabled  # Gradio shows a list as the value of one output

        button.click(self.press, outputs=button, **_AT_ONCE)
        return run.click(start, list(inputs), [button, *outputs], **_AT_ONCE)

    def end(self, event: Any, button: gr.Button) -> None:
        """Disable the button after an event, whether it succeeded or not."""
        event.then(self.idle, outputs=button, **_AT_ONCE)

    def press(self, request: gr.Request) -> Any:
        """Record that the button was pressed, and show this on it.

        The session's job, running or queued, stops at its next progress report.
        """
        self._pressed.add(request.session_hash)
        return gr.update(value=self._t("jobs.stopping"), interactive=False)

    def reset(self, request: gr.Request) -> Any:
        """Clear an earlier press, before a new job is queued, and enable the button."""
        self._pressed.discard(request.session_hash)
        return gr.update(value=self._t("convert.cancel"), interactive=True)

    def idle(self) -> Any:
        """Return the update that disables the button when no job is running."""
        return gr.update(value=self._t("convert.cancel"), interactive=False)

    def progress(self, request: gr.Request, bar: gr.Progress) -> Progress:
        """Return a Progress that updates Gradio's bar and raises Cancelled once the button has been pressed."""

        def report(done: int, total: int, what: str) -> None:
            if request.session_hash in self._pressed:
                raise Cancelled
            show_percent(bar, done, total, what)

        return report


def show_percent(bar: gr.Progress, done: float, total: float, what: str) -> None:
    """Show a progress bar in percent; otherwise Gradio would show a count with the English unit "steps"."""
    bar(done / total if total else 0.0, desc=what)


def with_names(t: Translator, action: Any, names: Sequence[str], cancelled: Any, *, required: int = 0) -> Any:
    """Turn a function (request, bar, values) into a handler, where `values` is keyed by name; its API has the
    parameters `names`.

    Gradio takes the parameter names of an endpoint from the handler's signature. The first `required` of them must be
    given; if one of the others is omitted, it has the value of the control in the web UI, or None. If the handler is
    cancelled, it returns `cancelled`.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter("request", kind, annotation=gr.Request),
            *(inspect.Parameter(name, kind) for name in names[:required]),
            *(inspect.Parameter(name, kind, default=None) for name in names[required:]),
            inspect.Parameter("bar", kind, default=gr.Progress(), annotation=gr.Progress),
        ]
    )

    def handle(*positional: Any, **keywords: Any) -> Any:
        given = signature.bind(*positional, **keywords)
        given.apply_defaults()
        values = dict(given.arguments)
        with handle_errors(t):
            try:
                return action(values.pop("request"), values.pop("bar"), values)
            except Cancelled:
                return cancelled

    handle.__signature__ = signature  # type: ignore[attr-defined]
    handle.__annotations__ = {"request": gr.Request, "bar": gr.Progress}
    handle.__doc__ = action.__doc__
    handle.__name__ = action.__name__  # also the name of the MCP tool
    return handle
