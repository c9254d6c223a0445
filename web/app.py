"""Builds the web UI with `build_app(services)` and serves it at an address with `serve()`."""

import importlib.util
import ipaddress
import re
import socket
import ssl
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio import http_server, route_utils, routes
from gradio.exceptions import ServerFailedToStartError
from gradio.route_utils import GradioMultiPartParser
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from uvicorn import Config

from lib.errors import ConfigError
from web.api import describe_api
from web.cache_cleaner import CacheCleaner
from web.connections import limit_connections
from web.i18n.middleware import TranslateMiddleware
from web.i18n.placeholders import PageTexts
from web.i18n.translator import Translator
from web.manual.pages import manual_routes
from web.page_cache import PageCache
from web.quick_start import without_applications
from web.request_checks import RequestChecks, answer_invalid
from web.services import Services
from web.sessions import MAX_SESSIONS, Sessions
from web.tabs.convert import build_convert_tab
from web.tabs.cover import build_cover_tab
from web.tabs.jobs import JobApi
from web.tabs.settings import build_settings_tab
from web.tabs.train import build_train_tab
from web.tabs.voices import build_voices_tab

FIRST_PORT, PORTS_TRIED = 7865, 100
PORT_ATTEMPTS = 5  # times that another program may take the free port before us
MAX_UPLOAD = "500mb"
MAX_FIELD = 10_000  # bytes of a field of an upload that is not a file
ROOT_PATH = re.compile(r"(https?://[\w.:\[\]-]+)?(/[\w.~-]+)*/?")
# Fonts of the user's system: Gradio's themes would otherwise fetch theirs from the internet.
FONT = ["system-ui", "sans-serif"]
# What is clicked or touched is at least 24 x 24 pixels (WCAG 2.2, 2.5.8); text that a field cannot show ends in "…".
# Headings of accordions are aligned left even on two lines; on a phone, long names of tabs and choices get more room.
STYLE = """
button, .checkbox-container {min-height: 24px}
button[aria-label]:not([role=tab]) {min-width: 24px}
input[type=number], input[type=range], .secondary-wrap input {min-height: 24px}
.secondary-wrap input {margin-block: 0; text-overflow: ellipsis}
.tab-like-container {min-height: 26px}
input[type=range]:focus-visible {outline: 2px solid var(--color-accent) !important; outline-offset: 3px}
#manual a {display: inline-block; line-height: 24px}
.label-wrap {text-align: start; gap: .5em}
.dark {--color-accent: var(--primary-400)}
.flag {min-width: min(280px, 100%) !important}
#results .wrap {flex-flow: column nowrap; max-height: 18em; overflow-y: auto}
.job, #results label, #result label {overflow-wrap: anywhere}
#listening audio {width: 100%; margin-top: .3em}
.label-wrap .icon {flex: none}
@media (max-width: 480px) {
    .tab-container button {padding-inline: .5em; font-size: .95em}
    .wrap-inner {padding-inline: 4px}
    .wrap-inner .icon-wrap {right: 0}
    .secondary-wrap input {margin-inline: 2px; padding-inline-end: 15px}
}
"""
# Gradio's field for recordings refuses or ignores files that browsers do not call audio, such as videos. This passes
# them on as audio: the decoder reads any container, and reports in the user's language what it cannot read.
ANY_RECORDING = """<script>
(() => {
  const field = (event) => event.target.closest?.("#recording")?.querySelector("input[type=file]");
  const asAudio = (files) => {
    const all = new DataTransfer();
    for (const file of files) {
      all.items.add(file.type.startsWith("audio/") ? file : new File([file], file.name, {type: "audio/x-any"}));
    }
    return all.files;
  };
  addEventListener("click", (event) => field(event)?.removeAttribute("accept"), true);
  addEventListener("change", (event) => {
    if (event.target === field(event)) event.target.files = asAudio(event.target.files);
  }, true);
  addEventListener("drop", (event) => {
    const input = field(event);
    if (!input || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    input.files = asAudio(event.dataTransfer.files);
    input.dispatchEvent(new Event("change", {bubbles: true}));
  }, true);
})();
</script>"""
MONOSPACE_FONT = ["ui-monospace", "monospace"]
# Colours with a contrast of at least 4.5:1 (WCAG AA) in both themes, where those of Gradio's theme have less.
READABLE = {
    "body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300",
    "block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300",
    "block_label_text_color": "*neutral_600", "block_label_text_color_dark": "*neutral_200",
    "block_title_text_color": "*neutral_700", "block_title_text_color_dark": "*neutral_200",
    "input_placeholder_color": "*neutral_600", "input_placeholder_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700", "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800", "button_primary_background_fill_hover_dark": "*primary_800",
    "button_cancel_background_fill": "#b91c1c", "button_cancel_background_fill_hover": "#991b1b",
    "link_text_color_dark": "*primary_300", "link_text_color_hover_dark": "*primary_200",
    "link_text_color_active_dark": "*primary_200", "link_text_color_visited_dark": "*primary_300",
    "color_accent": "*primary_700",
}  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where the web UI is served. Without a login, anyone who can reach it can use it."""

    host: str
    port: int = FIRST_PORT
    share: bool = False
    login: tuple[str, str] | None = None  # user, password
    language: str | None = None  # of users who have not chosen one; None: their browser's
    hosts: tuple[str, ...] = ()  # further host names accepted by a page without a login
    mcp: bool = False  # also serve the actions as MCP tools for language models
    certificate: Path | None = None  # for HTTPS, with its key in the same file or in `key`
    key: Path | None = None
    root_path: str = ""  # under which a proxy in front of the server offers the page, such as "/voices"


@without_applications()
def build_app(services: Services, t: Translator | None = None) -> gr.Blocks:
    """Build the web UI; it accesses files and voices only through `services`."""
    t = t or PageTexts()
    with gr.Blocks(title=t("app.title"), analytics_enabled=False) as app:
        gr.Markdown(f"# {t('app.title')}\n{t('app.subtitle')}")
        with gr.Tab(t("tab.convert"), elem_id="tab-convert"):
            build_convert_tab(t, services)
        with gr.Tab(t("tab.cover"), elem_id="tab-cover"):
            build_cover_tab(t, services)
        with gr.Tab(t("tab.train"), elem_id="tab-train"):
            build_train_tab(t, services)
        with gr.Tab(t("tab.voices"), elem_id="tab-voices"):
            build_voices_tab(t, services)
        with gr.Tab(t("tab.settings"), elem_id="tab-settings"):
            build_settings_tab(t, services)
        JobApi(t, services).add()
    describe_api(app)
    app.queue(default_concurrency_limit=4, max_size=64)
    return app


class _BoundedParser(GradioMultiPartParser):  # type: ignore[misc]  # Gradio has no types
    """Gradio's parser of uploads with a limit for fields that are not files, which it holds in memory."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Receive a part of a field or file."""
        if self._current_part.file is None and len(self._current_part.data) + end - start > MAX_FIELD:
            raise MultiPartException("A field of the form is too large.")
        super().on_part_data(data, start, end)


class _Server(http_server.Server):  # type: ignore[misc]  # Gradio has no types
    """Gradio's server with limits on connections, and without its start-up limit of 5 s: it waits for its thread."""

    def __init__(self, config: Config, *arguments: Any, **values: Any) -> None:
        limit_connections(config)
        super().__init__(config, *arguments, **values)

    def run_in_thread(self) -> None:
        """Start serving. Raises ServerFailedToStartError if the server ends, for example because its port is taken."""
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        while not self.started:
            if not self.thread.is_alive():
                raise ServerFailedToStartError("The server has ended.")
            time.sleep(0.01)


@contextmanager
def _own_server() -> Iterator[None]:
    """Make Gradio use `_Server`."""
    usual = http_server.Server
    http_server.Server = _Server
    try:
        yield
    finally:
        http_server.Server = usual


@_own_server()
def serve(app: gr.Blocks, address: Address, folders: Sequence[Path] = ()) -> list[str]:
    """Start serving in the background, including the files below `folders`; returns the addresses (local, public)."""
    if address.mcp and importlib.util.find_spec("mcp") is None:
        raise ConfigError("--mcp requires an additional package. Run: .venv/bin/python -m pip install 'mcp>=1.21,<2'")
    check_address(address)
    routes.GradioMultiPartParser = route_utils.GradioMultiPartParser = _BoundedParser
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONOSPACE_FONT)
    theme.set(**READABLE)
    _, local, public = app.launch(
        server_name=address.host,
        server_port=address.port,
        share=address.share,
        auth=address.login,
        theme=theme,
        css=STYLE,
        head=ANY_RECORDING,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(folder) for folder in folders],
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        mcp_server=address.mcp,
        ssl_certfile=address.certificate and str(address.certificate),
        ssl_keyfile=address.key and str(address.key),
        ssl_verify=False,  # Gradio's request to itself goes to an address that is not the certificate's
        root_path=address.root_path,
        state_session_capacity=MAX_SESSIONS,
        run_history=False,  # through it, users could let the server send files to Hugging Face
        quiet=True,
        # Gradio's own request for its page has a timeout of 3 s, which is too short on a busy machine. The request
        # before it, which has no limit, has shown that the page is served.
        _frontend=False,
        app_kwargs=_app_arguments(address),
    )
    if app.mcp_error:
        raise ConfigError("The MCP server cannot be started: {reason}", reason=app.mcp_error)
    app.app.state_holder = Sessions(app)
    CacheCleaner(app).start()
    return [local, *([public] if public else [])]


def _app_arguments(address: Address) -> dict[str, Any]:
    """Return the arguments of Gradio's FastAPI application: manual, middleware, response to invalid requests."""
    by_language = [Middleware(kind, default=address.language) for kind in (PageCache, TranslateMiddleware)]
    checks = Middleware(RequestChecks, hosts=None if address.login else [address.host, *address.hosts])
    return {
        "routes": [*manual_routes(address.language)],
        "middleware": [checks, *by_language],
        "exception_handlers": {RequestValidationError: answer_invalid},
    }


def check_address(address: Address) -> None:
    """Raise ConfigError if a certificate or the root path cannot be used."""
    if not ROOT_PATH.fullmatch(address.root_path):
        raise ConfigError("The root path {path!r} is not valid. Use a path like /voices.", path=address.root_path)
    if address.key and not address.certificate:
        raise ConfigError("--key is the key of a certificate. Specify the certificate, too (--certificate).")
    if not address.certificate:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            address.certificate, address.key, lambda: ""
        )
    except OSError as error:  # also of OpenSSL
        raise ConfigError(
            "{path} and its key cannot be used for HTTPS ({reason}). Use a certificate and its key without a "
            "password, both in PEM format.",
            path=address.certificate, reason=error.strerror or str(error),
        ) from error  # fmt: skip


def serve_somewhere(app: gr.Blocks, address: Address, port: int | None, folders: Sequence[Path] = ()) -> list[str]:
    """Call `serve` on the requested port, or on the first free one, trying again if another program takes it first."""
    for attempt in range(PORT_ATTEMPTS):
        try:
            return serve(app, replace(address, port=find_port(address.host, port)), folders)
        except OSError as error:
            if port is not None or attempt == PORT_ATTEMPTS - 1:
                raise ConfigError(
                    "The page cannot be served ({reason}). Choose another --port.", reason=error
                ) from error
    raise AssertionError


def open_in_browser(address: str, environment: Mapping[str, str]) -> bool:
    """Open the web UI in the user's browser, in the background; returns whether this machine has a desktop for it.

    `environment` contains the environment variables of this process.
    """
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & environment.keys():
        return False  # a text browser would take over the terminal
    threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_port(host: str, wanted: int | None) -> int:
    """Return `wanted` if it is free; if it is None, return the first free port from 7865 on.

    Raises ConfigError if no port is free.
    """
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if wanted is None else [wanted]
    problem = ""
    for port in ports:
        problem = _port_problem(host, port)
        if not problem:
            return port
    raise ConfigError(
        "No port from {first} to {last} can be used on {host!r} ({problem}). Choose another --port or --host.",
        first=ports[0], last=ports[-1], host=host, problem=problem,
    )  # fmt: skip


def _port_problem(host: str, port: int) -> str:
    """Return why a port cannot be used; an empty string if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there it would let two programs share a port
            # As the server will: otherwise a port that was in use a minute ago seems taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
        except OverflowError:
            return "ports are numbers from 1 to 65535"
    return ""
