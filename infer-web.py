"""Starts the web UI: ./go-web.sh, or python infer-web.py [--port N] [--device NAME] [--host ADDRESS] [--share]."""

import argparse
import gc
import importlib
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lib.models.memory import PRIMITIVE_CACHE
from lib.run_main import run_main

if TYPE_CHECKING:
    from web.jobs.worker import Worker
    from web.services import Services

WARM_UP_SECONDS = 5.0  # after startup, in which the packages of a conversion are imported in the background
SWITCH_SECONDS = 0.0005  # after which a computing thread gives Python's global lock to the event loop, if that waits
CONVERTING = ("infer.batch",)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line, before heavy imports."""
    parser = argparse.ArgumentParser(
        description="Start the web UI; by default it is reachable only from this machine.",
        epilog="If the web UI is reachable from other machines, a login is required. Set the environment variables "
        "REVOICE_USER and REVOICE_PASSWORD; otherwise the user name is 'revoice', and a random password is generated "
        "and printed at startup.",
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free port starting at 7865)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1); 0.0.0.0 accepts connections from other machines",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the web UI in this machine's browser")
    parser.add_argument(
        "--device", default="auto", help="device to run on: auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument("--share", action="store_true", help="also create a public link through Gradio's servers")
    parser.add_argument(
        "--language", help="language of the web UI, such as ja or pt_BR (default: the browser's language)"
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="also run an MCP server, exposing the web UI's functions as MCP tools to language models",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="additional host name to accept in requests, such as a reverse proxy's; can be repeated",
    )
    parser.add_argument(
        "--allow-links",
        action="store_true",
        help="let logged-in users add voices from a URL; the server downloads the files",
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="private key of the certificate, if it is in a separate file"
    )
    parser.add_argument(
        "--root-path",
        default=os.environ.get("GRADIO_ROOT_PATH", ""),
        metavar="/PATH",
        help="path prefix under which a reverse proxy serves the web UI, such as /voices",
    )
    add_rvc_options(parser)
    return parser.parse_args()


def add_rvc_options(parser: argparse.ArgumentParser) -> None:
    """Accept the options of RVC's infer-web.py, so that existing start scripts keep working."""
    rvc = parser.add_argument_group("RVC options, accepted for compatibility with its launch scripts")
    rvc.add_argument("--colab", dest="share", action="store_true", help="the same as --share")
    rvc.add_argument("--noautoopen", dest="no_browser", action="store_true", help="the same as --no-browser")
    rvc.add_argument(
        "--pycmd", metavar="COMMAND", help="ignored; Revoice always uses the interpreter it was started with"
    )
    rvc.add_argument("--noparallel", action="store_true", help="ignored; conversions always run one at a time")


def prepare_environment(folder: str) -> None:
    """Set environment variables for oneDNN's cache, Gradio's folder and analytics, and a proxy bypass.

    Otherwise Gradio would also compute statistics on its last 10,000 events after each event; nothing here reads them.
    """
    os.environ.setdefault(*PRIMITIVE_CACHE)
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)  # events between two of these statistics
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))


def _warm_up(start_worker: Callable[[], object]) -> None:
    start_worker()  # conversions have a process of their own
    importlib.import_module(CONVERTING[0])  # this process reads voices and recordings for display
    gc.freeze()  # a full collection of the page and the packages would stop all threads for a quarter of a second


def _print_addresses(addresses: Sequence[str], login: tuple[str, str] | None) -> None:
    print(f"The page is at {' and '.join(addresses)} (press Ctrl-C to stop).")
    if login and "REVOICE_PASSWORD" not in os.environ:
        print(f"Log in as {login[0]} with the password {login[1]}")
    sys.stdout.flush()


class Page(NamedTuple):
    """The running web UI, and the parts to stop with it."""

    wait: Callable[[], object]  # until Ctrl-C
    services: "Services"
    worker: "Worker"


def _choose_login(arguments: argparse.Namespace, *, is_loopback: bool) -> tuple[str, str] | None:
    """Return user and password; None if only this machine can reach the web UI, unless a password is set."""
    required = {"COLAB_RELEASE_TAG", "REVOICE_PASSWORD"} & os.environ.keys()
    if is_loopback and not arguments.share and not required:
        return None
    password = os.environ.get("REVOICE_PASSWORD") or secrets.token_urlsafe(12)
    return os.environ.get("REVOICE_USER") or "revoice", password


def start(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> Page:
    """Lock the jobs folder until `stack` closes, build the web UI, serve it and print its address.

    Raises RevoiceError if another server is using the folder or an argument is invalid.
    """
    from lib.paths import LOGS
    from web.app import Address, build_app, is_loopback, open_in_browser, serve_somewhere
    from web.i18n.placeholders import PageTexts
    from web.i18n.translator import check_language
    from web.jobs.worker import Worker
    from web.server_lock import ServerLock
    from web.services import JOBS, converting_runners, in_subprocess, make_services

    login = _choose_login(arguments, is_loopback=is_loopback(arguments.host))
    lock = ServerLock(LOGS / JOBS)
    stack.enter_context(lock.held())
    worker = Worker(converting_runners, CONVERTING)
    services = make_services(
        folder, arguments.device, local=login is None, links=arguments.allow_links or None,
        runners=in_subprocess(worker),
    )  # fmt: skip
    language = check_language(arguments.language)
    app = build_app(services, PageTexts(language))
    address = Address(
        arguments.host, share=arguments.share, login=login, language=language, mcp=arguments.mcp,
        hosts=tuple(arguments.allow_host), certificate=arguments.certificate, key=arguments.key,
        root_path=arguments.root_path,
    )  # fmt: skip
    addresses = serve_somewhere(app, address, arguments.port, [services.files])
    lock.announce(addresses)
    _print_addresses(addresses, login)
    if login is None and not arguments.no_browser:
        open_in_browser(addresses[0], os.environ)
    return Page(app.block_thread, services, worker)


def main() -> None:
    """Serve the web UI until Ctrl-C."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio's requests to itself
    logging.getLogger("faiss").setLevel(logging.WARNING)  # its attempts to load a faster build
    sys.setswitchinterval(SWITCH_SECONDS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the temporary folder is deleted in this case, too
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="revoice-", ignore_cleanup_errors=True))
        prepare_environment(folder)
        print("Starting the page ...", flush=True)
        from lib.errors import RevoiceError
        from web.bug_report import LogTail
        from web.quick_start import import_gradio

        import_gradio()
        logging.getLogger().addHandler(LogTail())
        try:
            page = start(arguments, Path(folder), stack)
        except RevoiceError as error:
            sys.exit(f"infer-web: {error}")
        warm_up = threading.Timer(WARM_UP_SECONDS, _warm_up, [page.worker.start])
        warm_up.daemon = True
        warm_up.start()
        try:
            page.wait()
        finally:
            page.services.registry.close()  # running training saves a checkpoint
            page.worker.end()


if __name__ == "__main__":
    try:
        sys.exit(run_main(main))
    except KeyboardInterrupt:  # before the page is served; later, Gradio handles Ctrl-C
        sys.exit(130)
