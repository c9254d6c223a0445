"""What a page and a call of the API cost the server: pages are computed once, sessions keep only what they use."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio import route_utils
from gradio.blocks import BlocksConfig
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from tests.test_request_checks import start
from web.page_cache import MAX_ANSWERS, MAX_BYTES, PATHS, PageCache
from web.sessions import MAX_SESSIONS, Sessions


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from start(tmp_path_factory, hosts=("voices.example",))


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """The count of calls of a function of Gradio, in a list of one number."""
    usual, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **values: Any) -> Any:
        calls[0] += 1
        return usual(*arguments, **values)

    monkeypatch.setattr(owner, name, staticmethod(counted) if isinstance(owner, type) else counted)
    return calls


def test_a_page_is_computed_once_for_each_language_and_address(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, route_utils, "update_root_in_config")
    kinds: list[dict[str, str]] = [
        {"Cookie": "revoice-language=de"}, {"Cookie": "revoice-language=ja"},
        {"Host": "voices.example"}, {"X-Forwarded-Host": "voices.example:1"}, {"X-Forwarded-Proto": "https"},
    ]  # fmt: skip
    first = [client.get("/", headers=kind) for kind in kinds]
    assert calls == [len(kinds)] and len({answer.text for answer in first}) == len(kinds)
    for kind, answer in zip(kinds, first, strict=True):
        again = client.get("/", headers=kind)
        assert (again.text, again.headers["content-length"]) == (answer.text, answer.headers["content-length"])
        assert again.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert calls == [len(kinds)]
    assert client.head("/").content == b"" and client.get("/?deep_link=x").status_code == 200
    assert {client.get(path).headers["content-type"].split(";")[0] for path in PATHS} == {
        "text/html",
        "application/json",
    }


def test_kept_pages_are_bounded() -> None:
    pages = PageCache(PlainTextResponse("page"))
    asking = TestClient(pages)
    for number in range(2 * MAX_ANSWERS):
        assert asking.get("/", headers={"Host": f"{number}.example"}).text == "page"
    assert len(pages._answers) == MAX_ANSWERS
    large = PageCache(PlainTextResponse("a" * (MAX_BYTES + 1)))
    assert len(TestClient(large).get("/").text) == MAX_BYTES + 1 and not large._answers


def test_a_call_of_the_api_computes_no_configuration(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, BlocksConfig, "config_for_block")
    begun = client.post("/gradio_api/call/list_voices", json={"data": []}).json()["event_id"]
    assert "event: complete" in client.get(f"/gradio_api/call/list_voices/{begun}").text
    assert calls[0] < 5  # of its result; the page has hundreds of components


def test_the_oldest_sessions_are_dropped(client: httpx.Client) -> None:
    sessions = Sessions(client.app)  # type: ignore[attr-defined]
    for number in range(MAX_SESSIONS + 5):
        assert sessions[str(number)].config_values == {}
    assert len(sessions.session_data) == len(sessions.time_last_used) == MAX_SESSIONS
    assert "4" not in sessions and "5" in sessions
