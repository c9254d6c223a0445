"""build_app(services) -> the page; serve() -> the page on an address."""

import ipaddress
import socket
import sys
from dataclasses import dataclass

import gradio as gr

from lib.errors import ConfigError
from web.convert_tab import convert_tab
from web.i18n import Translator
from web.services import Services

FIRST_PORT, PORTS_TRIED = 7865, 100
LARGEST_UPLOAD = "500mb"
CACHE_SECONDS = 24 * 3600  # uploads and results older than this are deleted while the page runs
# Fonts of the user's system: Gradio's themes would otherwise fetch theirs from the internet.
FONT = ["system-ui", "sans-serif"]
MONOSPACE_FONT = ["ui-monospace", "monospace"]


@dataclass(frozen=True)
class Address:
    """Where the page is served; a login of None means that anybody who reaches it may use it."""

    host: str
    port: int
    share: bool = False
    login: tuple[str, str] | None = None  # user, password


def build_app(services: Services, t: Translator | None = None) -> gr.Blocks:
    """Build the page; everything it does to files and voices goes through `services`."""
    t = t or Translator()
    with gr.Blocks(title=t("app.title"), analytics_enabled=False, delete_cache=(3600, CACHE_SECONDS)) as app:
        gr.Markdown(f"# {t('app.title')}\n{t('app.subtitle')}")
        convert_tab(t, services)
    app.queue(default_concurrency_limit=4, max_size=64)
    return app


def serve(app: gr.Blocks, address: Address) -> list[str]:
    """Start serving in the background and return the addresses of the page (local, and public if shared)."""
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONOSPACE_FONT)
    _, local, public = app.launch(
        server_name=address.host,
        server_port=address.port,
        share=address.share,
        auth=address.login,
        theme=theme,
        max_file_size=LARGEST_UPLOAD,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        quiet=True,
    )
    return [local, *([public] if public else [])]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_port(host: str, wanted: int | None) -> int:
    """Return `wanted` if it can be used, or without a wish the first port from 7865 that can. Raises ConfigError."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if wanted is None else [wanted]
    problem = ""
    for port in ports:
        problem = _port_problem(host, port)
        if not problem:
            return port
    which = f"The port {wanted} cannot" if wanted is not None else f"No port from {ports[0]} to {ports[-1]} can"
    raise ConfigError(f"{which} be used on {host!r} ({problem}). Name another with --port or --host.")


def _port_problem(host: str, port: int) -> str:
    """Say why nothing can listen on a port; empty if it can be used."""
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
