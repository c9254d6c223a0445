"""ASGI middleware that decides which requests reach Gradio, based on sender, size, number and login.

Without a login, only this machine can reach the web UI, and a website open in the same browser must not be able to use
it. Therefore the Host header must name this machine (against DNS rebinding), and a request that changes something must
come from the web UI itself, or from a program that is not a browser.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.limits import MAX_EVENTS, THIS_MACHINE, ClientLimits, Refusal, check_disk, client_of, events_of

API = "/gradio_api/"
UPLOAD = f"{API}upload"  # has limits of its own: Gradio's max_file_size, and web/limits.py
LOGIN = "/login"
# Gradio's deep links: each request for one writes a file of half a megabyte, which nothing counts.
NOT_OFFERED = f"{API}deep_link"
STARTS_EVENT = (f"{API}queue/join", f"{API}call/", f"{API}run/", f"{API}api/")
MAX_BODY = 1_000_000  # bytes of any other request
MAX_HEADERS = 32_000  # bytes of all headers together
MAX_LENGTH_DIGITS = 15  # of the header Content-Length
MAX_ECHOED = 200  # characters of a value that a response repeats
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# Paths that a browser needs for the login form, and that Gradio requests from itself at startup.
PUBLIC = frozenset(
    {"/", "/login", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon"}
    | {f"{API}{name}" for name in ("theme.css", "login_check", "startup-events", "app_id")}
)
PUBLIC_FOLDERS = ("/assets/", "/static/", "/svelte/", "/pwa_icon/")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), payment=(), usb=(), microphone=(self)",
    # Gradio needs inline scripts, eval (plots) and workers; nothing is loaded from or sent to another address.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
}


class RefusedBodyError(Exception):
    """The body of a request exceeds a limit."""


class RequestChecks:
    """Refuses requests before Gradio reads them, and adds security headers to all responses."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None, limits: ClientLimits | None = None) -> None:
        """`hosts` are the names that requests may use for the server; None, for a server with a login, allows any."""
        self._app = app
        self._limits = limits or ClientLimits()
        self._hosts = None if hosts is None else LOOPBACK_NAMES | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        client = client_of((scope.get("client") or (None,))[0])
        uploads = route_path(scope).startswith(UPLOAD)
        if refusal := self._refuse(scope, client) or self._limits.enter(client, uploads=uploads):
            await _answer(scope, send, *refusal)
            return
        try:
            if scope["type"] == "websocket":
                await self._app(scope, receive, _with_headers(send))
            else:
                check = self._upload_check(scope, client) if uploads else _check_size
                await _Checked(self._app, receive, self._watch_login(scope, client, send), check).run(scope)
        finally:
            self._limits.leave(client, uploads=uploads)

    def _refuse(self, scope: Scope, client: str) -> Refusal | None:
        """Return status and reason of a refusal; None if the request is allowed."""
        headers, path = Headers(scope=scope), route_path(scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            return 431, "The headers are too large."
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            return 403, "This address is not a name of the server."
        if not _from_this_page(scope, path, headers):
            return 403, "Requests from other websites are not allowed."
        if not _logged_in(scope, path, headers):
            return 401, "Not authenticated"
        if path.rstrip("/") == NOT_OFFERED:
            return 404, "Not Found"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS):
            return 413, "The request is too large."
        if path.startswith(UPLOAD):
            return check_disk(_upload_folder(scope), int(length)) or self._limits.receive(client, 0, Path())
        if int(length) > MAX_BODY:
            return 413, "The request is too large."
        return self._refuse_use(scope, path, client)

    def _refuse_use(self, scope: Scope, path: str, client: str) -> Refusal | None:
        """Return a refusal if a client that logs in or sends an event has reached its limit."""
        if scope.get("method") != "POST":
            return None
        if path.rstrip("/") == LOGIN and _has_login(scope):
            return self._limits.login(client)
        if client != THIS_MACHINE and path.startswith(STARTS_EVENT):
            queue: Any = scope["app"].get_blocks()._queue
            if events_of(client, queue) >= MAX_EVENTS:
                return 429, "Too many requests of this address are queued. Wait until some of them have ended."
        return None

    def _upload_check(self, scope: Scope, client: str) -> "BodyCheck":
        folder = _upload_folder(scope)
        return lambda size, total: self._limits.receive(client, size, folder)

    def _watch_login(self, scope: Scope, client: str, send: Send) -> Send:
        """Return `send` with the security headers; for a login it also records whether it succeeded."""
        sending = _with_headers(send)
        if route_path(scope).rstrip("/") != LOGIN or scope["method"] != "POST":
            return sending

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._limits.logins.succeed(client)
            await sending(message)

        return watch


BodyCheck = Callable[[int, int], Refusal | None]  # bytes that arrived, bytes in all


def _check_size(size: int, total: int) -> Refusal | None:
    return (413, "The request is too large.") if total > MAX_BODY else None


def route_path(scope: Scope) -> str:
    """Return the path of a request below the prefix that a proxy adds, as Starlette's router uses it."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and f"{path}/".startswith(f"{prefix}/") else path


def _upload_folder(scope: Scope) -> Path:
    return Path(getattr(scope.get("app"), "uploaded_file_dir", None) or tempfile.gettempdir())


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without its port: "127.0.0.1:7865" or "[::1]:7865"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _from_this_page(scope: Scope, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser sent the request for the web UI or its user, not for another website.

    Browsers send the origin of a request, which no script can change. Other programs send neither header.
    """
    reads = scope.get("method", "GET") in SAFE_METHODS and scope["type"] == "http"
    if reads and not path.startswith(API):
        return True
    if (site := headers.get("sec-fetch-site")) is not None:
        navigates = reads and headers.get("sec-fetch-mode") == "navigate"  # such as a link to a result
        return site in ("same-origin", "none") or navigates
    origin = headers.get("origin")
    return origin is None or (not reads and origin.partition("://")[2].lower() == headers.get("host", "").lower())


def _has_login(scope: Scope) -> bool:
    """Whether the web UI requires a login."""
    return getattr(scope.get("app"), "auth", None) is not None


def _logged_in(scope: Scope, path: str, headers: Mapping[str, str]) -> bool:
    """Whether the request needs no login or has one; Gradio itself leaves some of its routes unprotected."""
    if not _has_login(scope):
        return True
    path = path.rstrip("/") or "/"
    return path in PUBLIC or path.startswith(PUBLIC_FOLDERS) or has_token(scope, headers)


def has_token(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether the request carries a valid login token."""
    app: Any = scope.get("app")  # Gradio's, which has the tokens
    if not _has_login(scope):
        return False
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in names and value in app.tokens for name, _, value in pairs)


def _with_headers(send: Send) -> Send:
    """Add the security headers to a response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


async def _answer(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Refuse a request."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    sending = _with_headers(send)
    await sending({"type": "http.response.start", "status": status, "headers": headers})
    await sending({"type": "http.response.body", "body": body})


class _Checked:
    """Checks the body of a request while it is read, because a body without a declared length can be endless."""

    def __init__(self, app: ASGIApp, receive: Receive, send: Send, check: BodyCheck) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._check = check
        self._received = 0
        self._refusal: Refusal | None = None
        self._started = False

    async def run(self, scope: Scope) -> None:
        """Pass the request on; if its body is refused, send the refusal instead of Gradio's response."""
        with contextlib.suppress(RefusedBodyError):
            await self._app(scope, self._receive_checked, self._send_unless_refused)
        if self._refusal and not self._started:
            await _answer(scope, self._send, *self._refusal)

    async def _receive_checked(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self._received += size
        self._refusal = self._refusal or (self._check(size, self._received) if size else None)
        if self._refusal:
            raise RefusedBodyError
        return message

    async def _send_unless_refused(self, message: Message) -> None:
        if self._refusal is None or self._started:
            self._started = True
            await self._send(message)


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """Return the response to an invalid request: what is invalid, without repeating the request."""
    assert isinstance(error, RequestValidationError)
    problems = [
        {"type": problem["type"], "loc": [str(part)[:MAX_ECHOED] for part in problem["loc"]], "msg": problem["msg"]}
        for problem in error.errors()[:10]
    ]
    return JSONResponse({"detail": problems}, status_code=422)
