"""Downloads a file from an https link without connecting to private addresses, within limits on size and time.

A host name is resolved once, all its addresses are checked, and the connection uses a checked address, so that a second
DNS response cannot redirect it (DNS rebinding). Each redirect is checked like the link itself. Proxies are not used.
"""

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message as Headers
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from lib.errors import LinkError, RevoiceError
from lib.files import replacing
from lib.messages import Message
from lib.progress import Progress, no_progress

MAX_BYTES = 1_000_000_000
MAX_SECONDS = 1800.0  # for a download in all
SILENT_SECONDS = 30.0  # without a response
MAX_REDIRECTS = 5
MAX_NAME = 100  # characters
BLOCK_BYTES = 1 << 16
AGENT = "Revoice"
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_IN_LINKS = "/%?:@!$&'()*+,;=~"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Allowed = Callable[[IPAddress], bool]


def is_public(address: IPAddress) -> bool:
    """Whether an address is public; an IPv4 address embedded in an IPv6 address must be public, too."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.is_site_local or not all(is_public(part) for part in inner if part is not None):
            return False
        if address.ipv4_mapped is not None:
            return True
    return address.is_global and not address.is_multicast


@dataclass(frozen=True)
class Limits:
    """Limits on a download. If `context` is None, the certificates of the system are used."""

    allowed: Allowed = is_public
    max_bytes: int = MAX_BYTES
    max_seconds: float = MAX_SECONDS
    silent_seconds: float = SILENT_SECONDS
    context: ssl.SSLContext | None = None


def is_link(text: str) -> bool:
    """Whether a string looks like a URL."""
    return re.match(r"https?:", text.strip(), re.IGNORECASE) is not None


def fetch(link: str, folder: Path, progress: Progress = no_progress, limits: Limits | None = None) -> Path:
    """Download the file at an https URL into `folder`, and return its path.

    The file name comes from the Content-Disposition header, otherwise from the link. `progress` counts bytes.

    Raises LinkError if the link is not allowed, cannot be reached, leads to a web page or exceeds a limit, and
    WriteError if the file cannot be written. In either case no file is left behind.
    """
    limits = limits or Limits()
    clock = _Deadline(limits.max_seconds)
    try:
        with clock, _opened(link, limits, clock) as (response, name):
            return _save(response, folder / name, limits, progress, clock)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise clock.error or _unreachable(link, error) from error
    except RevoiceError:
        if clock.error:
            raise clock.error from None
        raise


class _Deadline:
    """Shuts down the connection when the time is up, even while a call is waiting for data."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._connection: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._over = False

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        """Shut this connection down at the deadline. Raises TimeoutError if the time is up."""
        self._connection = connection
        if self._over:
            raise TimeoutError

    def _end(self) -> None:
        self._over = True
        if self._connection is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)  # leaves the state of TLS to its thread

    @property
    def error(self) -> LinkError | None:
        """The error if the time is up."""
        return too_slow(self._seconds) if self._over else None


class _CheckedConnection(http.client.HTTPConnection):
    """A TLS connection to an address that has been checked; the certificate must be that of the host name."""

    default_port = http.client.HTTPS_PORT

    def __init__(self, host: str, port: int, limits: Limits, clock: _Deadline) -> None:
        super().__init__(host, port, timeout=limits.silent_seconds)
        self._limits = limits
        self._clock = clock

    def connect(self) -> None:
        """Resolve the host, check all its addresses, and connect to the first that responds."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
        for address in addresses:
            if not self._limits.allowed(ipaddress.ip_address(address)):
                raise LinkError(
                    "The link points to {host}, which is an address of this computer or of a private network.",
                    host=self.host,
                )
        failure: OSError = ConnectionError("no address")
        for address in addresses:
            try:
                plain = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError as error:
                failure = error
        else:
            raise failure
        self._clock.watch(plain)
        context = self._limits.context or ssl.create_default_context()
        self.sock = context.wrap_socket(plain, server_hostname=self.host)
        self._clock.watch(self.sock)


@contextlib.contextmanager
def _opened(link: str, limits: Limits, clock: _Deadline) -> Iterator[tuple[http.client.HTTPResponse, str]]:
    """Yield the response of the server, after redirects, and the name of the file; close the connection at the end."""
    address = link.strip()
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(address)
        assert parts.hostname is not None
        connection = _CheckedConnection(parts.hostname, parts.port or http.client.HTTPS_PORT, limits, clock)
        try:
            path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_IN_LINKS)
            connection.request("GET", path, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            target = response.headers.get("Location") if response.status in _REDIRECTS else None
            if target is None:
                _check_answer(response, address, limits)
                yield response, _name(response.headers, link, address)
                return
            address = urljoin(address, target)
        finally:
            connection.close()
    raise LinkError("The link {link} is redirected more than {most} times.", link=link, most=MAX_REDIRECTS)


def _checked(link: str) -> SplitResult:
    """Return the parts of a link. Raises LinkError unless it is an https link with a host and without credentials."""
    try:
        parts = urlsplit(link)
        usable = bool(parts.hostname) and parts.port != 0 and parts.username is None
        (parts.hostname or "").encode("idna")
    except ValueError:  # also of IDNA
        usable, parts = False, urlsplit("")
    if parts.scheme and parts.scheme.lower() != "https":
        raise LinkError("The link {link} does not begin with https://; other links are not supported.", link=link)
    if not usable:
        raise not_a_link(link)
    return parts


def not_a_link(text: str) -> LinkError:
    """Return the error for a string that is not the URL of a file."""
    return LinkError(
        "{link} is not a link to a file. Copy a link to a file or to a Hugging Face repository.", link=text
    )  # fmt: skip


def _check_answer(response: http.client.HTTPResponse, link: str, limits: Limits) -> None:
    """Raise LinkError unless the server sends a file of an allowed size."""
    if response.status != 200:
        raise LinkError(
            "The server of {link} returned status {status}: the file is missing or requires a login.",
            link=link, status=response.status,
        )  # fmt: skip
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise LinkError(
            "{link} is a web page, not a file. Open it, and copy the link of its download button.", link=link
        )  # fmt: skip
    if response.length is not None and response.length > limits.max_bytes:
        raise too_large(limits.max_bytes)


def too_large(max_bytes: int) -> LinkError:
    """Return the error for a file that exceeds the allowed size."""
    return LinkError(
        "The file is larger than the limit of {most} MB. Download it yourself, then add it.",
        most=max_bytes // 10**6,
    )  # fmt: skip


def too_slow(seconds: float) -> LinkError:
    """Return the error for a download that exceeds the allowed time."""
    return LinkError(
        "The download took longer than {minutes} minutes and was stopped. Download the file yourself, then add it.",
        minutes=f"{seconds / 60:.2g}",
    )


def _unreachable(link: str, error: Exception) -> LinkError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return LinkError(
        "{link} could not be downloaded ({reason}). Check the link and the connection.",
        link=link, reason=(reason or type(error).__name__).rstrip("."),
    )  # fmt: skip


def _name(headers: Headers, *links: str) -> str:
    """Return a file name from the Content-Disposition header or from one of the links, without any folder."""
    stated = headers.get_filename()
    names = [stated, *(unquote(PurePosixPath(urlsplit(link).path).name) for link in links)]
    candidates = [_NOT_IN_NAMES.sub("_", name).strip(" .") for name in names if name]
    name = next((name for name in candidates if Path(name).suffix), next(filter(None, candidates), "download"))
    suffix = Path(name).suffix[:MAX_NAME]
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - len(suffix)] + suffix


def _blocks(response: http.client.HTTPResponse, name: str) -> Iterator[bytes]:
    """Yield the body of a response. Raises LinkError if the connection fails, which is not a failure to write."""
    try:
        while block := response.read1(BLOCK_BYTES):
            yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(name, error) from error


def _save(response: http.client.HTTPResponse, path: Path, limits: Limits, progress: Progress, clock: _Deadline) -> Path:
    """Write the body of a response. Raises LinkError if it is larger than allowed or ends early."""
    total, received, shown = response.length or 0, 0, 0.0
    what = Message("downloading {file}", file=path.name)
    with replacing(path) as temporary, temporary.open("wb") as file:
        for block in _blocks(response, path.name):
            received += len(block)
            if received > limits.max_bytes:
                raise too_large(limits.max_bytes)
            file.write(block)
            if time.monotonic() - shown > 0.2:
                shown = time.monotonic()
                progress(received, max(total, received), what)
        if clock.error or (total and received < total):
            raise clock.error or LinkError("The download of {file} ended early. Try again.", file=path.name)
    return path
