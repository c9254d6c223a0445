"""Serves the documents in docs/ as HTML pages below /manual/, and redirects to the user's language.

/manual/options          redirects to the page in the user's language, or in English
/manual/ja/options.md    docs/ja/options.md as HTML; only documents of docs/ can be read
"""

import html
import posixpath
from collections.abc import Collection, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from lib.paths import ROOT
from web.i18n.placeholders import request_language
from web.i18n.translator import MASTER, Translator

DOCS = ROOT / "docs"
MANUALS = ("en_US", "zh_CN", "ja", "ko", "pt_BR", "es")  # languages that have a manual
PAGES = ("quick-start", "training", "faq", "troubleshooting", "options")
STYLE = """
:root {color-scheme: light dark}
body {max-width: 46em; margin: 2em auto; padding: 0 1em; line-height: 1.6; font-family: system-ui, sans-serif}
pre, code {font-family: ui-monospace, monospace; font-size: .95em}
pre {overflow-x: auto; padding: .7em; border: 1px solid #8888; border-radius: .4em}
blockquote {margin-left: 0; padding-left: 1em; border-left: .25em solid #0f766e}
table {border-collapse: collapse; display: block; overflow-x: auto}
td, th {border: 1px solid #8888; padding: .25em .6em; text-align: start}
:target {scroll-margin-top: 1em}
"""


def page_title(t: Translator, page: str) -> str:
    """Return the title of a page of the manual."""
    return t(f"manual.{page.replace('-', '_')}")


def manual_routes(default: str | None) -> Sequence[Route]:
    """Return the routes of the manual; `default` is the language if the browser requests no supported language."""

    def show(request: Request) -> Response:  # no coroutine: Starlette runs it in a thread
        path = request.path_params["path"]
        if path in PAGES:
            language = request_language(request.headers, default)
            return RedirectResponse(f"{language if language in MANUALS else MASTER}/{path}.md", 302)
        known = documents()
        if path not in known:
            return PlainTextResponse("There is no such page.", 404)
        return HTMLResponse(render(path, (DOCS / path).read_text(encoding="utf-8"), known))

    return [Route("/manual/{path:path}", show)]


def documents() -> frozenset[str]:
    """Return the paths of the documents below docs/ that can be served."""
    return frozenset(path.relative_to(DOCS).as_posix() for path in (*DOCS.glob("*.md"), *DOCS.glob("*/*.md")))


def render(path: str, text: str, known: Collection[str]) -> str:
    """Render a document as HTML. Links to files other than those in `known` become plain text."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    title = next((token.content for token in tokens if token.type == "inline"), "")
    for token in tokens:
        token.children = token.children and _without_dead_links(path, token.children, known)
    body = parser.renderer.render(tokens, parser.options, {})
    folder = path.partition("/")[0]
    language = folder.replace("_", "-") if folder in MANUALS else "en-US"
    # Without the tag <head>, which HTML does not need: the middleware would insert the page's script into it.
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><main>{body}</main>'
    )


def _without_dead_links(path: str, tokens: Sequence[Token], known: Collection[str]) -> list[Token]:
    kept, dead = [], False  # links do not nest
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrGet("href")).partition("#")[0]
            file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            dead = bool(target) and not target.startswith(("https://", "http://")) and file not in known
        if not (dead and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept
