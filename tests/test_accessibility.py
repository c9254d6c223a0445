"""The page for everybody: axe finds no violation in either theme, and the keyboard reaches and works the controls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_server import CHROMIUM, copy_program, open_browser, start_page, stop_page, tabs_of
from web.i18n.gradio_texts import gradio_texts
from web.i18n.translator import texts_of

PATIENCE = 300_000  # milliseconds
SETTLED = """async () => { // until the number of controls and texts has been the same for 300 ms, but at most 5 s
    for (let count = -1, equal = 0, turn = 0; equal < 3 && turn < 50; turn++) {
        const now = document.querySelectorAll("button, input, textarea, label, p, h1, h2, h3, li").length;
        [count, equal] = [now, now === count ? equal + 1 : 0];
        await new Promise(resolve => setTimeout(resolve, 100));
    }
}"""
# Ends the timers that refresh the lists: they would take half a processor while axe works.
STOP_TIMERS = "() => { for (let id = setTimeout(() => {}); id; id--) clearInterval(id); }"
CONTROLS = {"voice", "recording", "example", "convert", "options", "listen", "batch"}  # of the tab that opens first
UNFOLD = """() => document.querySelectorAll("button.label-wrap:not(.open)").forEach(
    button => button.checkVisibility() && button.click())"""
MAX_STEPS = 80  # presses of the tab key
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 360, "height": 740}
# Controls that are shown but less than 24 pixels wide or high (WCAG 2.2, 2.5.8; links in sentences are exempt), and
# drop-downs and tabs that cannot show their whole text.
FAULTS = """() => {
    const shown = element => element.offsetParent && element.checkVisibility({checkOpacity: true});
    const name = element => (element.ariaLabel || element.innerText || element.value || element.className).trim();
    const faults = [];
    for (const element of document.querySelectorAll("button, input:not([type=file]), textarea, #manual a")) {
        const {width, height} = (element.closest(".checkbox-container, label:has(> input)") || element)
            .getBoundingClientRect();
        if (shown(element) && Math.min(width, height) < 23.9)
            faults.push(`${name(element)}: ${width.toFixed(1)} x ${height.toFixed(1)} pixels`);
        if (shown(element) && element.role === "combobox" && element.scrollWidth > element.clientWidth)
            faults.push(`${name(element)}: "${element.value}" is cut`);
        const measured = element.closest(".visually-hidden"); // copies of the tabs with which Gradio measures them
        if (element.role === "tab" && !measured && element.scrollWidth > element.clientWidth + 4)
            faults.push(`the tab ${name(element)} is cut`);
    }
    return faults;
}"""
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


def visit(browser: Any, address: str, locale: str = "en-US") -> Any:
    """A page of a new visitor."""
    page = browser.new_context(viewport=WIDE, locale=locale).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#convert").wait_for()
    page.evaluate(SETTLED)
    return page


def show(page: Any, tab: str) -> None:
    """Bring a tab to the front."""
    page.locator(f"#tab-{tab}-button:visible").first.click()
    page.evaluate(SETTLED)


def open_everything(page: Any) -> None:
    """Unfold what is folded on the tab that is shown."""
    for _ in range(3):  # what lies inside may be folded, too
        page.evaluate(UNFOLD)
        page.evaluate(SETTLED)


def test_axe_finds_no_violation_in_either_theme(browser: Any, address: str) -> None:
    import axe_playwright_python as axe

    page = visit(browser, address)
    page.add_style_tag(content="* { transition: none !important }")  # colours change at once
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found: set[str] = set()
    for tab in tabs_of(page):
        show(page, tab)
        page.evaluate(STOP_TIMERS)
        open_everything(page)
        for dark in (False, True):
            page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(dark)})")
            rules = "runOnly: ['color-contrast']" if dark else ""  # only colours depend on the theme
            options = f"{{resultTypes: ['violations'], {rules}}}"
            for violation in page.evaluate(f"() => axe.run(document, {options})")["violations"]:
                for node in violation["nodes"]:
                    theme = "dark" if dark else "light"
                    found.add(f"{tab}, {theme}: {violation['id']}: {node['target']}: {node['failureSummary']}")
        page.set_viewport_size(PHONE)
        page.evaluate(SETTLED)
        found |= {f"{tab}, phone: {fault}" for fault in page.evaluate(FAULTS)}
        page.set_viewport_size(WIDE)
    page.context.close()
    assert not found, "\n".join(sorted(found))


def test_texts_of_gradio_are_in_the_language_of_the_page(browser: Any, address: str) -> None:
    """Names for screen readers and the heading of messages, for which Gradio has no translations."""
    page, texts, words = visit(browser, address, "it"), texts_of("it"), dict(gradio_texts("it"))
    page.locator("#convert").click()
    heading = page.locator(".toast-title").first
    heading.wait_for()
    assert heading.inner_text().strip() == texts["error.title"]
    assert words["Drop Audio Here"] in page.locator("#recording").inner_text()
    names = set(page.locator("button").evaluate_all("buttons => buttons.map(button => button.ariaLabel)"))
    wanted = ("Upload file", "Record audio", "Reset to default value", "Close")
    assert names >= {words[name] for name in wanted} and not names & words.keys()
    page.context.close()


def test_a_long_name_without_spaces_is_not_cut(browser: Any, address: str) -> None:
    page = visit(browser, address)
    fits = page.locator("#conversions-jobs").evaluate(
        """jobs => {
            const job = jobs.appendChild(document.createElement("div"));
            job.className = "job";
            job.textContent = "a".repeat(300);
            return job.scrollWidth <= job.clientWidth;
        }"""
    )
    page.context.close()
    assert fits


def test_a_drop_down_is_used_by_keyboard_and_described(browser: Any, address: str) -> None:
    """Screen readers announce the field, its list and the active entry by the attributes of an ARIA combobox."""
    page = visit(browser, address)
    field = page.get_by_role("combobox", name="Voice", exact=True)
    field.focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        page.evaluate(SETTLED)
    assert field.get_attribute("aria-expanded") == "true"
    entries = page.locator(f"[id='{field.get_attribute('aria-controls')}'][role=listbox] [role=option]")
    names = entries.evaluate_all("options => options.map(option => option.getAttribute('aria-label'))")
    assert names == ["LJ Speech (English, woman)", "Mark (English, man)"]
    active = page.locator(f"[id='{field.get_attribute('aria-activedescendant')}']")
    chosen = active.get_attribute("aria-label")
    page.keyboard.press("Enter")
    page.evaluate(SETTLED)
    assert field.input_value() == chosen and field.get_attribute("aria-expanded") == "false"
    page.context.close()


def test_every_control_of_a_conversion_is_reached_with_the_tab_key(browser: Any, address: str) -> None:
    page = visit(browser, address)
    page.locator("#tab-convert-button").focus()
    reached: list[str] = []
    outlines: list[str] = []  # of sliders that have the focus
    for _ in range(MAX_STEPS):
        page.keyboard.press("Tab")
        reached += page.evaluate("[...document.querySelectorAll('[id]:focus-within')].map(element => element.id)")
        sliders = page.locator("input[type=range]:focus")
        outlines += sliders.evaluate_all("sliders => sliders.map(slider => getComputedStyle(slider).outlineStyle)")
        if set(reached) >= CONTROLS:
            break
    page.context.close()
    assert not CONTROLS - set(reached)
    assert set(outlines) == {"solid"}
