"""Downloads from links: no private address, no redirect off https, bounded in size and time, nothing half-written."""

import http.server
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lib.errors import LinkError
from lib.fetch import Limits, fetch, is_public
from lib.progress import Cancelled

CONTENT = bytes(range(256)) * 1000
HOST = "voices.test"  # in the certificate
WAIT = 60.0  # seconds for which a slow answer would go on


class Answers(http.server.BaseHTTPRequestHandler):
    """A server with files of every kind; it notes what it was asked for."""

    asked: ClassVar[list[str]]
    targets: ClassVar[dict[str, str]]  # of redirects
    ending: ClassVar[threading.Event]

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer by the path."""
        self.asked.append(self.path)
        if target := self.targets.get(self.path):
            self._head(302, Location=target)
        elif self.path == "/page.pth":
            self._head(200, **{"Content-Type": "text/html; charset=utf-8"})
        elif self.path == "/none.pth":
            self._head(404)
        elif self.path == "/endless.pth":  # without a length
            self._head(200)
            while not self.ending.is_set():
                self.wfile.write(CONTENT)
        elif self.path == "/short.pth":
            self._head(200, **{"Content-Length": "1000000"})
            self.wfile.write(CONTENT)
        elif self.path == "/slow.pth":
            self._head(200, **{"Content-Length": "1000000"})
            while not self.ending.wait(0.05):
                self.wfile.write(b"a")
                self.wfile.flush()
        elif self.path == "/slow-header.pth":
            while not self.ending.wait(0.05):
                self.wfile.write(b"X")
                self.wfile.flush()
        elif self.path == "/silent.pth":
            self.ending.wait(WAIT)
        else:
            named = (
                {"Content-Disposition": 'attachment; filename="../../my voice?.pth"'} if "named" in self.path else {}
            )
            self._head(200, **{"Content-Length": str(len(CONTENT)), **named})
            self.wfile.write(CONTENT)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class Quiet(http.server.ThreadingHTTPServer):
    """A server for which clients that go away are nothing to print."""

    def handle_error(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for HOST and 127.0.0.1 that has signed itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the command openssl is needed to make a certificate")
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    names = f"subjectAltName=DNS:{HOST},DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", names, "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[tuple[str, type[Answers]]]:
    """The address of a server that speaks HTTPS, and its handler."""

    class Handler(Answers):
        asked: ClassVar[list[str]] = []
        targets: ClassVar[dict[str, str]] = {}
        ending: ClassVar[threading.Event] = threading.Event()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Quiet(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.socket = tls.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{running.server_port}", Handler
        Handler.ending.set()
        running.shutdown()


@pytest.fixture
def limits(certificate: Path) -> Callable[..., Limits]:
    """Limits that allow the server of the test, and nothing else."""

    def make(**changes: Any) -> Limits:
        trusted = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
        values: dict[str, Any] = {"allowed": lambda address: str(address) == "127.0.0.1", "context": trusted}
        return Limits(**values | changes)

    return make


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_downloaded_with_progress(server: Any, limits: Any, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    path = fetch(f"{server[0]}/voices/My%20Voice.pth?download=true", tmp_path,
                 lambda done, total, what: reported.append((done, total)), limits())  # fmt: skip
    assert path == tmp_path / "My Voice.pth" and path.read_bytes() == CONTENT
    assert reported and all(done <= total == len(CONTENT) for done, total in reported)
    assert left(tmp_path) == ["My Voice.pth"]


def test_the_name_stated_by_the_server_cannot_leave_the_folder(server: Any, limits: Any, tmp_path: Path) -> None:
    assert fetch(f"{server[0]}/named?id=5", tmp_path, limits=limits()) == tmp_path / "_.._my voice_.pth"
    assert fetch(f"{server[0]}/", tmp_path, limits=limits()).name == "download"
    assert fetch(f"{server[0]}/..%2F..%2F{'a' * 300}.pth", tmp_path, limits=limits()).name == f"_.._{'a' * 92}.pth"


def test_a_redirect_is_followed_and_the_first_name_is_kept(server: Any, limits: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.targets.update({"/alice.pth": "/there", "/there": f"{address}/blob/1a2b.bin"})
    assert fetch(f"{address}/alice.pth", tmp_path, limits=limits()).name == "alice.pth"
    assert handler.asked == ["/alice.pth", "/there", "/blob/1a2b.bin"]
    handler.targets["/blob/1a2b.bin"] = "/alice.pth"
    with pytest.raises(LinkError, match="redirected more than 5 times"):
        fetch(f"{address}/alice.pth", tmp_path, limits=limits())


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/a.pth", "ftp://127.0.0.1/a.pth", "file:///etc/passwd", "gopher:a"]
)
def test_no_redirect_leads_off_https(server: Any, limits: Any, tmp_path: Path, target: str) -> None:
    address, handler = server
    handler.targets["/a.pth"] = target
    with pytest.raises(LinkError, match=r"does not begin with https://"):
        fetch(f"{address}/a.pth", tmp_path, limits=limits())
    assert handler.asked == ["/a.pth"] and not left(tmp_path)


def test_a_redirect_to_an_address_that_is_not_allowed_is_refused(server: Any, limits: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.targets["/a.pth"] = f"{address.replace('127.0.0.1', '127.0.0.2')}/secret.pth"
    with pytest.raises(LinkError, match=r"127\.0\.0\.2, which is an address of this computer"):
        fetch(f"{address}/a.pth", tmp_path, limits=limits())
    assert handler.asked == ["/a.pth"]


@pytest.mark.parametrize("host", [
    "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0", "10.1.2.3", "192.168.0.1",
    "172.16.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]",
    "224.0.0.1", "[ff02::1]", "[fec0::1]",
])  # fmt: skip
def test_private_addresses_are_never_connected_to(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> socket.socket:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(LinkError, match=r"address of this computer or of a private network|could not be downloaded"):
        fetch(f"https://{host}/a.pth", tmp_path)


def test_which_addresses_are_public() -> None:
    for address in ("1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"):
        assert is_public(ipaddress.ip_address(address)), address
    private = ("127.0.0.1", "::", "::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "fec0::1",
               "2001:0:7f00:1::", "2002:a00:1::", "ff0e::1", "240.0.0.1", "255.255.255.255", "198.18.0.1")  # fmt: skip
    for address in private:
        assert not is_public(ipaddress.ip_address(address)), address


def test_a_name_is_resolved_once_and_every_address_counts(
    server: Any, limits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []
    answers = ["127.0.0.1"]
    real = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **options: Any) -> Any:
        if host != HOST:
            return real(host, *rest, **options)
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answers]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    link = f"{server[0].replace('127.0.0.1', HOST)}/a.pth"
    assert fetch(link, tmp_path, limits=limits()).read_bytes() == CONTENT
    assert resolved == [HOST]
    answers.append("10.0.0.1")
    with pytest.raises(LinkError, match=HOST):
        fetch(link, tmp_path, limits=limits())
    with pytest.raises(LinkError, match=r"could not be downloaded.*certificate"):  # of another name
        answers[:] = ["127.0.0.1"]
        fetch(link, tmp_path, limits=limits(context=ssl.create_default_context()))


def test_sizes_are_bounded_with_and_without_a_declared_length(server: Any, limits: Any, tmp_path: Path) -> None:
    for name in ("a.pth", "endless.pth"):
        with pytest.raises(LinkError, match="larger than the limit of 0 MB"):
            fetch(f"{server[0]}/{name}", tmp_path, limits=limits(max_bytes=len(CONTENT) - 1))
    assert not left(tmp_path)
    assert fetch(f"{server[0]}/a.pth", tmp_path, limits=limits(max_bytes=len(CONTENT))).is_file()


@pytest.mark.parametrize("name", ["slow.pth", "slow-header.pth", "silent.pth"])
def test_time_is_bounded_whatever_the_server_does(server: Any, limits: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(LinkError, match=r"took longer than 0.0083 minutes"):
        fetch(f"{server[0]}/{name}", tmp_path, limits=limits(max_seconds=0.5))
    assert not left(tmp_path)


def test_a_silent_server_is_left(server: Any, limits: Any, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"could not be downloaded.*timed out"):
        fetch(f"{server[0]}/silent.pth", tmp_path, limits=limits(silent_seconds=0.3))


@pytest.mark.parametrize(("link", "pattern"), [
    ("http://127.0.0.1/a.pth", "does not begin with https"), ("ftp://example.org/a.pth", "does not begin with https"),
    ("https://user:secret@example.org/a.pth", "not a link to a file"), ("https:///a.pth", "not a link to a file"),
    ("https://example.org:99999/a.pth", "not a link to a file"), ("https://[::1/a.pth", "not a link to a file"),
    ("hello", "not a link to a file"), ("", "not a link to a file"),
])  # fmt: skip
def test_other_links_are_refused(tmp_path: Path, link: str, pattern: str) -> None:
    with pytest.raises(LinkError, match=pattern):
        fetch(link, tmp_path)


@pytest.mark.parametrize(("name", "pattern"), [
    ("page.pth", "is a web page, not a file"), ("none.pth", "status 404"), ("short.pth", "ended early|could not be"),
])  # fmt: skip
def test_an_answer_without_the_file_leaves_nothing(
    server: Any, limits: Any, tmp_path: Path, name: str, pattern: str
) -> None:
    with pytest.raises(LinkError, match=pattern):
        fetch(f"{server[0]}/{name}", tmp_path, limits=limits())
    assert not left(tmp_path)


def test_a_download_can_be_cancelled(server: Any, limits: Any, tmp_path: Path) -> None:
    def cancel(done: int, total: int, what: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        fetch(f"{server[0]}/a.pth", tmp_path, cancel, limits())
    assert not left(tmp_path)
