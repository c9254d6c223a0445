"""The page for everybody: axe finds no violation, drop-downs work by keyboard and are described, narrow pages fit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_server import CHROMIUM, ROOT, copy_program, open_browser, start_page, stop_page

PATIENCE = 300_000  # milliseconds
SETTLE = 1_000  # milliseconds for a tab to be laid out
TABS = ("convert", "train", "voices", "settings")
LONG_WORDS = ("de", "ru", "pt-BR", "fr")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian, Ubuntu: apt install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, found = start_page(copy_program(tmp_path_factory.mktemp("page")))
    yield found
    stop_page(process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: ./go-web.sh test installs it")
    with open_browser() as opened:
        yield opened


def visit(browser: Any, address: str, width: int, locale: str = "en-US") -> Any:
    """A page of a new visitor."""
    page = browser.new_context(viewport={"width": width, "height": 900}, locale=locale).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#convert").wait_for()
    page.wait_for_timeout(SETTLE)
    return page


def show(page: Any, tab: str) -> None:
    """Bring a tab to the front, also where a narrow page hides its button in a menu."""
    button = page.locator(f"#tab-{tab}-button:visible")
    if button.count():
        button.first.click()
    else:
        words = json.loads((ROOT / "i18n" / f"{page.evaluate('document.documentElement.lang').replace('-', '_')}.json")
                           .read_text(encoding="utf-8"))[f"tab.{tab}"]  # fmt: skip
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=words).first.click()
    page.wait_for_timeout(SETTLE)


def open_everything(page: Any) -> None:
    """Unfold what is folded on the tab that is shown."""
    for _ in range(3):  # what lies inside may be folded, too
        folded = page.locator("button.label-wrap:not(.open):visible")
        for number in reversed(range(folded.count())):
            folded.nth(number).click()
    page.wait_for_timeout(SETTLE)


def test_axe_finds_no_violation_in_either_theme(browser: Any, address: str) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page = visit(browser, address, 1440)
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found: set[str] = set()
    for tab in TABS:
        show(page, tab)
        open_everything(page)
        for dark in (False, True):
            page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(dark)})")
            page.wait_for_timeout(SETTLE)  # colours change gradually
            for violation in page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]:
                for node in violation["nodes"]:
                    theme = "dark" if dark else "light"
                    found.add(f"{tab}, {theme}: {violation['id']}: {node['target']}: {node['failureSummary']}")
    page.context.close()
    assert not found, "\n".join(sorted(found))


def test_a_drop_down_is_used_by_keyboard_and_described(browser: Any, address: str) -> None:
    """Screen readers announce the field, its list and the active entry by the attributes of an ARIA combobox."""
    page = visit(browser, address, 1440)
    field = page.get_by_role("combobox", name="Voice", exact=True)
    field.focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(SETTLE)
    assert field.get_attribute("aria-expanded") == "true"
    entries = page.locator(f"[id='{field.get_attribute('aria-controls')}'][role=listbox] [role=option]")
    names = entries.evaluate_all("options => options.map(option => option.getAttribute('aria-label'))")
    assert names == ["ljspeech", "mark"]
    active = page.locator(f"[id='{field.get_attribute('aria-activedescendant')}']")
    chosen = active.get_attribute("aria-label")
    page.keyboard.press("Enter")
    page.wait_for_timeout(SETTLE)
    assert field.input_value() == chosen and field.get_attribute("aria-expanded") == "false"
    page.context.close()


@pytest.mark.parametrize("locale", LONG_WORDS)
def test_phones_and_200_percent_zoom_need_no_sideways_scrolling(browser: Any, address: str, locale: str) -> None:
    page = visit(browser, address, 390, locale)
    for tab in TABS:
        show(page, tab)
        open_everything(page)
        for width in (390, 320, 720):  # phones; 720: half of 1440, as a zoom of 200 % shows it
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(SETTLE)
            needed, given = page.evaluate(
                "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert needed <= given, f"{tab} at {width} pixels needs {needed}"
    page.context.close()
