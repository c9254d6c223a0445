"""ASGI middleware that replaces the placeholders in all responses with text in the user's language.

HTML pages, results of handlers, messages and progress pass through it. Changing the language sets a cookie and reloads
the web UI; jobs on the server keep running.
"""

import json

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.i18n.gradio_texts import translate_script
from web.i18n.messages import page_texts
from web.i18n.placeholders import may_contain_placeholders, request_language, translate
from web.i18n.translator import COOKIE

_TRANSLATED = ("text/html", "application/json", "text/event-stream")
_FILES = "/gradio_api/file="  # responses with files of the user, which are not changed
_HEAD = b"<head>"
LARGE = 65_536  # bytes of a response that is translated outside the event loop


class TranslateMiddleware:
    """Replaces placeholders in responses, and inserts the chosen language and theme into HTML pages."""

    def __init__(self, app: ASGIApp, default: str | None = None) -> None:
        self._app = app
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"].startswith(_FILES):
            await self._app(scope, receive, send)
            return
        locale = request_language(Headers(scope=scope), self._default)
        await self._app(scope, receive, _Answer(send, locale).send)


class _Answer:
    """Translates one response: event streams message by message, other bodies once they are complete."""

    def __init__(self, send: Send, locale: str) -> None:
        self._send = send
        self._locale = locale
        self._start: Message | None = None  # held back until the length of the body is known
        self._kind = ""
        self._body: list[bytes] = []

    async def send(self, message: Message) -> None:
        """Pass on a part of the response."""
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "").split(";")[0]
            self._kind = kind if kind in _TRANSLATED else ""
            if self._kind in ("", "text/event-stream"):
                await self._send(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body" or not self._kind:
            await self._send(message)
        elif self._start is None:
            await self._send({**message, "body": await self._translate(message.get("body", b""))})
        else:
            await self._send_whole(self._start, message)

    async def _send_whole(self, start: Message, message: Message) -> None:
        self._body.append(message.get("body", b""))
        if message.get("more_body"):
            return
        original = b"".join(self._body)
        body = await self._translate(original)
        if self._kind == "text/html":
            script = f"<head><script>{page_script(self._locale)}</script>"
            body = body.replace(_HEAD, script.encode(), 1)
        headers = MutableHeaders(raw=start["headers"])
        if "content-length" in headers and body != original:
            headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _translate(self, body: bytes) -> bytes:
        if not may_contain_placeholders(body):
            return body
        if len(body) < LARGE:
            return self._translated(body)
        return await anyio.to_thread.run_sync(self._translated, body)

    def _translated(self, body: bytes) -> bytes:
        text = body.decode("utf-8", "surrogateescape")
        words = translate(text, page_texts(self._locale), in_html=self._kind == "text/html")
        return words.encode("utf-8", "surrogateescape")


# Attributes that Gradio's components lack for screen readers: elements, attribute, value.
ATTRIBUTES = (
    (".empty[aria-label]", "role", "img"),  # an empty player or picture has a name, which needs a role
)


def page_script(locale: str) -> str:
    """Return the first script of the HTML page.

    Gradio's own texts follow `navigator.language` as far as it has translations, and its theme a query parameter.
    """
    tag = locale.replace("_", "-")
    return (
        f"document.documentElement.lang='{tag}';"
        f"Object.defineProperty(navigator,'language',{{get:()=>'{tag}'}});"
        "(()=>{const look=localStorage.getItem('revoice-theme'),url=new URL(location.href);"
        "if((look==='light'||look==='dark')&&url.searchParams.get('__theme')!==look){"
        "url.searchParams.set('__theme',look);history.replaceState(null,'',url);}})();"
        f"new MutationObserver(()=>{{for(const [which,name,value] of {json.dumps(ATTRIBUTES)})"
        "for(const element of document.querySelectorAll(`${which}:not([${name}])`))element.setAttribute(name,value);"
        "}).observe(document,{childList:true,subtree:true});"
        f"{translate_script(locale)}"
    )


def choose_script() -> str:
    """Return a JavaScript function that stores a language and reloads the web UI in it."""
    attributes = "path=/;max-age=31536000;SameSite=Lax"
    return f"(name)=>{{document.cookie='{COOKIE}='+name+';{attributes}';location.reload();}}"
