"""ASGI middleware that caches the page and its configuration, which are identical for all users with the same
address, language and login state.

Gradio copies and formats half a megabyte for each of these requests, which takes 200 ms of CPU time.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.i18n.placeholders import request_language
from web.request_checks import has_token, route_path

PATHS = frozenset({"/", "/config", "/gradio_api/info"})
MAX_ANSWERS = 16  # that are kept; the one that was used longest ago is dropped
MAX_BYTES = 4 << 20  # of an answer that is kept
# What else Gradio and the middleware read of such a request, to find the address and the language of the page.
HEADERS = ("host", "x-forwarded-host", "x-forwarded-proto", "x-gradio-server")

Key = tuple[object, ...]


class _Answer(NamedTuple):
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class PageCache:
    """Serves repeated requests for the page without calling Gradio."""

    def __init__(self, app: ASGIApp, default: str | None = None) -> None:
        """`default` is the language of users who have not chosen one, as in TranslateMiddleware."""
        self._app = app
        self._default = default
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        key = self._key(scope)
        if key is None:
            await self._app(scope, receive, send)
        elif (answer := self._answers.get(key)) is None:
            await self._app(scope, receive, _recording(send, lambda answer: self._keep(key, answer)))
        else:
            self._answers.move_to_end(key)
            await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
            await send({"type": "http.response.body", "body": answer.body})

    def _key(self, scope: Scope) -> Key | None:
        """What a response depends on; None for requests whose responses are not kept."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope.get("query_string"):
            return None
        path = route_path(scope)
        if path not in PATHS:
            return None
        headers = Headers(scope=scope)
        return (
            path, scope["path"], scope.get("root_path", ""), scope.get("scheme"), has_token(scope, headers),
            request_language(headers, self._default), *(headers.get(name) for name in HEADERS),
        )  # fmt: skip

    def _keep(self, key: Key, answer: _Answer) -> None:
        self._answers[key] = answer
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)


def _recording(send: Send, keep: Callable[[_Answer], None]) -> Send:
    """`send` that keeps a complete, successful response that sets no cookie."""
    start: Message | None = None
    parts: list[bytes] = []

    async def record(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            headers = tuple((bytes(name), bytes(value)) for name, value in message["headers"])
            if message["status"] == 200 and not any(name.lower() == b"set-cookie" for name, _ in headers):
                start = {"status": 200, "headers": headers}
        elif start is not None and message["type"] == "http.response.body":
            parts.append(message.get("body", b""))
            if sum(map(len, parts)) > MAX_BYTES:
                start = None
            elif not message.get("more_body"):
                keep(_Answer(start["status"], start["headers"], b"".join(parts)))
        await send(message)

    return record
