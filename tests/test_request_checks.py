"""Which requests the server accepts: hosts, origins, login on every route, sizes, headers, huge worst inputs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.test_web import FakeConverter
from web import request_checks
from web.app import Address, build_app, find_port, serve
from web.i18n.placeholders import BEGIN, END
from web.request_checks import HEADERS, MAX_BODY, host_name

PATIENCE = 120.0  # seconds


def start(tmp_path_factory: pytest.TempPathFactory, **values: Any) -> Iterator[httpx.Client]:
    """A client of a page that runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        app = build_app(FakeConverter().services(tmp_path_factory.mktemp("jobs")))
        url = serve(app, Address("127.0.0.1", find_port("127.0.0.1", None), **values))[0]
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client
        app.close(verbose=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from start(tmp_path_factory, hosts=("voices.example",))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from start(tmp_path_factory, login=("me", "secret"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:7865", True), ("127.0.0.1", True), ("[::1]:7865", True), ("LOCALHOST", True),
        ("voices.example", True), ("evil.example:7865", False), ("127.0.0.1.evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_a_page_without_login_answers_to_its_own_names_only(client: httpx.Client, host: str, allowed: bool) -> None:
    """Else a website whose name is made to point here (DNS rebinding) could use the page."""
    assert client.get("/config", headers={"Host": host}).status_code == (200 if allowed else 403)


def test_host_names() -> None:
    assert [host_name(host) for host in ("A:1", "[::1]:2", "[::1", "")] == ["a", "::1", "::1", ""]


CROSS_SITE = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]  # fmt: skip


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("path", ["upload", "cancel", "reset", "call/delete_voice", "queue/join", "run/delete_voice"])
def test_other_websites_change_nothing(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    sent = client.post(f"/gradio_api/{path}", headers=headers | {"Content-Type": "text/plain"}, content=b"{}")
    assert sent.status_code == 403


@pytest.mark.parametrize("headers", CROSS_SITE[:-1], ids=str)
def test_other_websites_start_nothing_by_reading(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/gradio_api/deep_link?session_hash=x", headers=headers).status_code == 403


def test_functions_of_gradio_that_write_or_send_uncounted_files_are_not_offered(client: httpx.Client) -> None:
    """Links to the state of a page, and the history of runs in a bucket of Hugging Face."""
    begun = client.post("/gradio_api/call/list_voices", json={"data": [], "session_hash": "links"}).json()["event_id"]
    assert "complete" in client.get(f"/gradio_api/call/list_voices/{begun}").text
    for path in ("/gradio_api/deep_link", "/gradio_api/deep_link/"):
        assert client.get(path, params={"session_hash": "links"}).status_code == 404
    assert not list(Path(client.app.app.uploaded_file_dir).rglob("state.json"))  # type: ignore[attr-defined]
    asked = client.post("/gradio_api/run-history/connect", json={"bucket_id": "a/b"}, headers={"X-HF-Token": "t"})
    assert asked.status_code in (404, 405)
    assert not [path for _, path in routes(client) if "run-history" in path]


def test_the_page_itself_programs_and_links_may_ask(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    body = {"data": [], "session_hash": "s"}
    for headers in ({}, {"Origin": own}, {"Sec-Fetch-Site": "same-origin", "Origin": own}, {"Sec-Fetch-Site": "none"}):
        assert client.post("/gradio_api/call/list_voices", headers=headers, json=body).status_code == 200
    for path in ("/", "/theme.css", "/gradio_api/info"):
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get(path, headers=link).status_code == 200


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    """Every method and path of Gradio's server, with names for what is variable."""
    app: Any = client.app.server_app  # type: ignore[attr-defined]
    inner = [route for outer in app.routes for route in getattr(getattr(outer, "original_router", None), "routes", [])]
    found = []
    for route in [*app.routes, *inner]:
        path = re.sub(r"\{\w+(:path)?\}", "x", getattr(route, "path", None) or "")
        found += [(method, path) for method in sorted(getattr(route, "methods", None) or ())]
    return found


def test_every_route_needs_the_login(guarded: httpx.Client) -> None:
    asked = 0
    for method, path in routes(guarded):
        plain = path.rstrip("/") or "/"
        if plain in request_checks.PUBLIC or plain.startswith(request_checks.PUBLIC_FOLDERS):
            continue
        answer = guarded.request(method, path, content=b"{}" if method == "POST" else None)
        assert answer.status_code == 401, (method, path)
        asked += 1
    assert asked > 40
    assert {"/gradio_api/cancel", "/gradio_api/reset", "/config"} <= {path for _, path in routes(guarded)}


def test_the_login_opens_the_page(guarded: httpx.Client) -> None:
    assert guarded.get("/").status_code == 200
    assert guarded.get("/gradio_api/login_check").status_code == 401
    assert guarded.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    entered = guarded.post("/login", data={"username": "me", "password": "secret"})
    tokens = "; ".join(f"{cookie.name}={cookie.value}" for cookie in entered.cookies.jar)
    guarded.cookies.clear()
    assert guarded.get("/config", headers={"Cookie": tokens}).status_code == 200
    assert guarded.get("/config", headers={"Cookie": f"{tokens[:-3]}xxx"}).status_code in (200, 401)
    assert guarded.get("/config", headers={"Cookie": tokens.replace("=", "=x")}).status_code == 401


def test_every_answer_has_security_headers(client: httpx.Client) -> None:
    refused = client.get("/config", headers={"Host": "evil.example"})
    for answer in (client.get("/"), client.get("/config"), client.get("/nothing"), refused):
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


WORST = {
    "a": "a", "marks": "\ue7b0a\ue7b3", "open marks": "\ue7b0", "colons": "a: ", "braces": "{", "brackets": "[",
    "quotes": '"', "backslashes": "\\", "spaces": " ", "tags": "<b>", "lines": "\n", "escapes": "\\ue7b0",
    "our own": f"{BEGIN}convert.run{END}",
}  # fmt: skip


def megabyte(unit: str, share: float = 1.0) -> str:
    """A text of a unit that just fits into a request, or into a share of it, as JSON."""
    return unit * int(share * (MAX_BODY - 2000) / len(json.dumps(unit).encode()))


@pytest.mark.parametrize("unit", WORST)
@pytest.mark.parametrize("path", ["cancel", "reset", "queue/join", "call/voice_info", "run/voice_info"])
def test_no_answer_repeats_a_megabyte(client: httpx.Client, path: str, unit: str) -> None:
    text = megabyte(WORST[unit])
    for body in (text, json.dumps(text), json.dumps({"data": text})):
        headers = {"Content-Type": "application/json"}
        answer = client.post(f"/gradio_api/{path}", content=body.encode(), headers=headers)
        assert len(answer.content) < 10_000
        assert answer.status_code != 413


def endpoints(client: httpx.Client) -> Iterator[tuple[str, list[str]]]:
    """Every endpoint with the types of its parameters."""
    named = client.get("/gradio_api/info").json()["named_endpoints"]
    for name, about in named.items():
        kinds = [parameter["type"] for parameter in about["parameters"]]
        yield (
            name,
            ["string" if {"type": "string"} in kind.get("anyOf", [kind]) else kind.get("type", "") for kind in kinds],
        )


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["colons", "marks", "tags", "our own"])
def test_no_endpoint_answers_with_more_than_was_sent(client: httpx.Client, unit: str) -> None:
    """Every text parameter of every endpoint at once. Our own messages are short; Gradio repeats a wrong choice."""
    asked = 0
    for name, kinds in endpoints(client):
        if "string" not in kinds:
            continue
        text = megabyte(WORST[unit], 1 / kinds.count("string"))
        data = [text if kind == "string" else None for kind in kinds]
        begun = client.post(f"/gradio_api/call{name}", json={"data": data})
        assert begun.status_code in (200, 422), (name, begun.text[:500])
        asked += 1
        if begun.status_code == 200:
            answer = client.get(f"/gradio_api/call{name}/{begun.json()['event_id']}")
            assert answer.status_code == 200 and len(answer.content) < MAX_BODY, (name, len(answer.content))
            assert len(answer.content) < 20_000 or answer.text.startswith('event: error\ndata: {"error": "Value: '), (
                name
            )
    assert asked > 10
    assert client.get("/config").status_code == 200


def test_larger_requests_are_refused_with_and_without_a_length(client: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        yield from [b" " * 100_000] * 30

    for content in (b" " * (MAX_BODY + 1), parts()):
        sent = client.post("/gradio_api/cancel", content=content, headers={"Content-Type": "application/json"})
        assert (sent.status_code, sent.json()) == (413, {"detail": "The request is too large."})
    assert client.get("/config", headers={"Cookie": "a" * 40_000}).status_code in (400, 431)


def test_uploads_have_a_limit_of_their_own(client: httpx.Client) -> None:
    files = {"files": ("a.wav", b"x" * (MAX_BODY + 1000))}
    assert client.post("/gradio_api/upload", files=files).status_code == 200


def test_a_field_of_an_upload_that_is_no_file_is_not_held_in_memory(client: httpx.Client) -> None:
    def body(name: str, size: int) -> bytes:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{"x" * size}\r\n--b--\r\n'.encode()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    sent = client.post("/gradio_api/upload", content=body("files", 5_000_000), headers=headers)
    assert sent.status_code == 400 and "too large" in sent.text
    assert client.post("/gradio_api/upload", files={"files": ("a.wav", b"x" * 50_000)}).status_code == 200


def test_a_page_behind_a_login_is_not_shown_to_others(guarded: httpx.Client) -> None:
    """Although pages are kept (web/page_cache.py)."""
    before = guarded.get("/").text
    with httpx.Client(base_url=guarded.base_url, timeout=PATIENCE) as user:
        assert user.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
        own = user.get("/").text
        assert "tab-convert" in own and user.get("/").text == own and user.get("/config").status_code == 200
        forged = "; ".join(f"{name}={'0' * len(value)}" for name, value in user.cookies.items())
    assert "auth_required" in before and guarded.get("/config").status_code == 401
    for cookie in ("", forged):
        assert guarded.get("/", headers={"Cookie": cookie}).text == before
        assert guarded.get("/config", headers={"Cookie": cookie}).status_code == 401
