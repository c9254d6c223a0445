"""One page in every language: texts leave the program as marks, and become words where an answer leaves the server.

Gradio builds a page once for all users. So `PageTexts` returns, instead of a text, a mark that holds its id and its
values, and `SpeakMiddleware` replaces the marks in every answer by the words of the user who asked: pages, results of
handlers, messages and progress alike. Changing the language is a cookie and a reload; nothing on the server ends.
"""

import json
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.i18n.translator import COOKIE, MASTER, Translator, choose_language, texts_of

# Private-use characters, which JSON and HTML leave alone: begin, before each name, before each value, end.
BEGIN, NAME, VALUE, END = "\ue7b0", "\ue7b1", "\ue7b2", "\ue7b3"
_ESCAPED = re.compile(r"(\\+)ue7b([0-3])")  # the same as JSON may write them
_DEPTH = 0xE7B8  # the character of this number + n follows a beginning that was escaped n times
_MARK = re.compile(f"{BEGIN}([{chr(_DEPTH)}-{chr(_DEPTH + 7)}]?)([^{BEGIN}{END}]*){END}")
_FIRST_BYTES = (BEGIN.encode(), b"ue7b0")
_REPLACED = ("text/html", "application/json", "text/event-stream")
_FILES = "file="  # in the path of an answer that is a file of the user, which stays as it is
_HEAD = b"<head>"


class PageTexts(Translator):
    """Looks like a Translator; returns marks, so that each user reads the text in the language he chose."""

    def __init__(self, default: str | None = None) -> None:
        super().__init__(default or MASTER)
        self.default = default

    def __call__(self, key: str, **values: object) -> str:
        """Return the mark of a text; KeyError for an unknown id or a missing value, as in any language."""
        self.texts[key].format(**values)
        return BEGIN + key + "".join(f"{NAME}{name}{VALUE}{value}" for name, value in values.items()) + END

    def speaking(self, request: Any) -> Translator:
        """A translator into the language of a gr.Request, for texts that do not go to the browser as text."""
        headers = request.headers
        return Translator(_language(headers.get("cookie") or "", headers.get("accept-language") or "", self.default))


def speak(text: str, texts: Mapping[str, str]) -> str:
    """Replace every mark in plain text, JSON or HTML that holds JSON."""
    escaped = "ue7b0" in text
    if escaped:
        text = _ESCAPED.sub(_unescape, text)
    count = 1
    while count:  # from the inside out: a value may hold marks itself
        text, count = _MARK.subn(lambda match: _words(match, texts), text)
    return re.sub(f"{BEGIN}[{chr(_DEPTH)}-{chr(_DEPTH + 7)}]", BEGIN, text) if escaped else text


def plain(text: str, texts: Mapping[str, str] | None = None) -> str:
    """Replace the marks in a text that is not sent as JSON, such as a line of a log; without `texts` in English."""
    texts = texts or texts_of(MASTER)
    count = 1
    while count:
        text, count = _MARK.subn(lambda match: _fill(match[2], texts), text)
    return text


def _unescape(match: re.Match[str]) -> str:
    """Write an escaped character of a mark as it is.

    JSON in JSON in ... doubles every backslash each time, so 1, 2, 4 of them belong to the character, and those before
    (2, 4, 8 or a multiple) to the text in front of it: the lowest bit of their number tells.
    """
    count = len(match[1])
    own = count & -count
    character = chr(ord(BEGIN) + int(match[2]))
    depth = chr(_DEPTH + min(own.bit_length(), 7)) if character == BEGIN else ""
    return "\\" * (count - own) + character + depth


def _words(match: re.Match[str], texts: Mapping[str, str]) -> str:
    """The words of a mark, escaped as the JSON around it is; its values are already."""
    depth = ord(match[1]) - _DEPTH if match[1] else 1
    key = match[2].split(NAME)[0]
    return _fill(match[2], {key: _escape(texts[key], depth)} if key in texts else {})


def _escape(text: str, depth: int) -> str:
    """Escape for the inside of a string of JSON that may stand in a page of HTML."""
    for _ in range(depth):
        text = json.dumps(text, ensure_ascii=False)[1:-1]
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026") if depth == 1 else text


def _fill(body: str, texts: Mapping[str, str]) -> str:
    key, *pairs = body.split(NAME)
    values = dict(pair.split(VALUE, maxsplit=1) for pair in pairs if VALUE in pair)
    try:
        return texts[key].format(**values)
    except (KeyError, IndexError, ValueError):  # no mark of ours: somebody typed these characters
        return key


def _language(cookie: str, accepted: str, default: str | None) -> str:
    try:
        cookies = {name: morsel.value for name, morsel in SimpleCookie(cookie).items()}
    except CookieError:
        cookies = {}
    return choose_language(cookies, accepted, default)


class SpeakMiddleware:
    """Replaces the marks in answers; in pages it also tells Gradio the language and the theme that were chosen."""

    def __init__(self, app: ASGIApp, default: str | None = None) -> None:
        self._app = app
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or _FILES in scope["path"]:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        locale = _language(headers.get("cookie", ""), headers.get("accept-language", ""), self._default)
        await self._app(scope, receive, _Answer(send, locale).send)


class _Answer:
    """One answer on its way out: streams message by message, everything else once it is whole."""

    def __init__(self, send: Send, locale: str) -> None:
        self._send = send
        self._locale = locale
        self._start: Message | None = None  # held back until the length of the body is known
        self._kind = ""
        self._body = b""

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "").split(";")[0]
            self._kind = kind if kind in _REPLACED else ""
            if self._kind in ("", "text/event-stream"):
                await self._send(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body" or not self._kind:
            await self._send(message)
        elif self._start is None:
            await self._send({**message, "body": self._translate(message.get("body", b""))})
        else:
            await self._send_whole(self._start, message)

    async def _send_whole(self, start: Message, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._translate(self._body)
        if self._kind == "text/html":
            script = f"<head><script>{page_script(self._locale)}</script>"
            body = body.replace(_HEAD, script.encode(), 1)
        headers = MutableHeaders(raw=start["headers"])
        if "content-length" in headers and body != self._body:
            headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _translate(self, body: bytes) -> bytes:
        if not any(mark in body for mark in _FIRST_BYTES):
            return body
        return speak(body.decode("utf-8", "surrogateescape"), texts_of(self._locale)).encode("utf-8", "surrogateescape")


def page_script(locale: str) -> str:
    """What a page runs first: Gradio's own words follow `navigator.language`, and its colours a parameter.

    The heading of its messages is always "Error", whatever it is told, so a style puts other words in its place.
    """
    tag = locale.replace("_", "-")
    failed = json.dumps(texts_of(locale)["error.title"], ensure_ascii=False)
    style = f".toast-title.error{{font-size:0!important}}.toast-title.error::after{{content:{failed};font-size:1rem}}"
    return (
        f"document.head.appendChild(document.createElement('style')).textContent={json.dumps(style)};"
        f"document.documentElement.lang='{tag}';"
        f"Object.defineProperty(navigator,'language',{{get:()=>'{tag}'}});"
        "(()=>{const look=localStorage.getItem('revoice-theme'),url=new URL(location.href);"
        "if((look==='light'||look==='dark')&&url.searchParams.get('__theme')!==look){"
        "url.searchParams.set('__theme',look);history.replaceState(null,'',url);}})();"
    )


def choose_script() -> str:
    """A JavaScript function that stores the language it is given and shows the page in it."""
    kept = "path=/;max-age=31536000;SameSite=Lax"
    return f"(name)=>{{document.cookie='{COOKIE}='+name+';{kept}';location.reload();}}"
