"""ASGI middleware that decides which requests reach Gradio: who may send them, how large they are, who is logged in.

Without a login the page listens on this machine only, and a website that is open in the same browser must not use it.
So the header Host must name this machine (against DNS rebinding), and a request that changes something must come from
the page itself, or from a program that is not a browser.
"""

import contextlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api/"
UPLOAD = f"{API}upload"  # has a limit of its own, Gradio's max_file_size
MAX_BODY = 1_000_000  # bytes of any other request
MAX_HEADERS = 32_000  # bytes of all headers together
MAX_ECHOED = 200  # characters of a value that an answer repeats
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


class RequestTooLargeError(Exception):
    """The body of a request is larger than MAX_BODY."""


class RequestChecks:
    """Refuses requests before Gradio reads them, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        """`hosts`: names by which the server may be called; None: any, for a page with a login."""
        self._app = app
        self._hosts = None if hosts is None else LOOPBACK_NAMES | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if refusal := self._refuse(scope):
            await _answer(scope, send, *refusal)
        elif scope["type"] == "websocket" or scope["path"].startswith(UPLOAD):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _Limited(self._app, receive, _with_headers(send)).run(scope)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason of a refusal; None if the request may pass."""
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            return 431, "The headers are too large."
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            return 403, "This address is not a name of the server."
        if not _from_this_page(scope, headers):
            return 403, "Requests from other websites are not allowed."
        if not _logged_in(scope, headers):
            return 401, "Not authenticated"
        length = headers.get("content-length", "0")
        if not scope["path"].startswith(UPLOAD) and (not length.isdecimal() or int(length[:20]) > MAX_BODY):
            return 413, "The request is too large."
        return None


def host_name(host: str) -> str:
    """The name or address in a header Host, without its port: "127.0.0.1:7865" or "[::1]:7865"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _from_this_page(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a browser sent the request for this page or its user, not for another website.

    Browsers name the origin of a request, and no script can change what they say. Programs send neither header.
    """
    reads = scope.get("method", "GET") in SAFE_METHODS and scope["type"] == "http"
    if reads and not scope["path"].startswith(API):
        return True
    if (site := headers.get("sec-fetch-site")) is not None:
        navigates = reads and headers.get("sec-fetch-mode") == "navigate"  # such as a link to a result
        return site in ("same-origin", "none") or navigates
    origin = headers.get("origin")
    return origin is None or (not reads and origin.partition("://")[2].lower() == headers.get("host", "").lower())


def _logged_in(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether the request needs no login or has one; Gradio itself leaves some of its routes open."""
    app: Any = scope.get("app")  # Gradio's, which knows the tokens
    if getattr(app, "auth", None) is None:
        return True
    path = scope["path"].rstrip("/") or "/"
    if path in PUBLIC or path.startswith(PUBLIC_FOLDERS):
        return True
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in names and value in app.tokens for name, _, value in pairs)


def _with_headers(send: Send) -> Send:
    """Add the security headers to an answer."""

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


class _Limited:
    """Counts the body of a request while it is read, because a body without a declared length can be endless."""

    def __init__(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._received = 0
        self._started = False

    async def run(self, scope: Scope) -> None:
        """Pass the request on; answer 413 if it turns out to be too large, whatever Gradio answers."""
        with contextlib.suppress(RequestTooLargeError):
            await self._app(scope, self._receive_counted, self._send_unless_too_large)
        if self._received > MAX_BODY and not self._started:
            await _answer(scope, self._send, 413, "The request is too large.")

    async def _receive_counted(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > MAX_BODY:
            raise RequestTooLargeError
        return message

    async def _send_unless_too_large(self, message: Message) -> None:
        if self._received <= MAX_BODY or self._started:
            self._started = True
            await self._send(message)


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """The answer to an invalid request: what is wrong, without repeating the request."""
    assert isinstance(error, RequestValidationError)
    problems = [
        {"type": problem["type"], "loc": [str(part)[:MAX_ECHOED] for part in problem["loc"]], "msg": problem["msg"]}
        for problem in error.errors()[:10]
    ]
    return JSONResponse({"detail": problems}, status_code=422)
