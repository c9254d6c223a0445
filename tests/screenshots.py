"""Makes the pictures in docs/images, every tab wide and narrow, light and dark: python -m tests.screenshots [FOLDER]

A copy of the program converts with a shipped voice first, so that the pictures show a page in use. Needs Chromium.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.page_server import ROOT, copy_program, open_browser, start_page, stop_page, tabs_of
from web.i18n.translator import Translator

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
COLOURS = 64  # of a picture
COLOUR_SCHEMES = ("light", "dark")
PATIENCE = 600_000  # milliseconds
SETTLE = 700  # milliseconds


def choose(page: Any, field: str, text: str) -> None:
    """Choose an entry of a drop-down."""
    page.locator(f"#{field} input").click()
    page.locator("ul[role=listbox] li", has_text=text).first.click()


def use(page: Any, recording: Path) -> None:
    """Convert once and fill in what a user would."""
    choose(page, "voice", "LJ Speech")
    page.locator("#recording input[type=file]").set_input_files(str(recording))
    page.locator("#recording audio, #recording [data-testid*=waveform], #recording canvas").first.wait_for(
        state="attached", timeout=PATIENCE
    )
    page.locator("#convert").click()
    page.wait_for_function("document.querySelector('#report textarea').value.length > 10", timeout=PATIENCE)


def show(page: Any, tab: str) -> None:
    """Bring a tab to the front, also where a narrow page hides it in a menu."""
    button = page.locator(f"#tab-{tab}-button:visible")
    if button.count():
        button.first.click()
    else:
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=Translator()(f"tab.{tab}")).first.click()
    page.wait_for_timeout(1500)


def keep(picture: bytes, path: Path) -> None:
    """Write a picture small."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    image.save(path, optimize=True)


def viewport(size: str) -> dict[str, int]:
    """A size as playwright wants it."""
    width, height = SIZES[size]
    return {"width": width, "height": height}


def take_pictures(folder: Path) -> None:
    """Make all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="revoice-pictures-") as name, open_browser() as browser:
        program = copy_program(Path(name))
        process, address = start_page(program)
        try:
            page = browser.new_context(viewport=viewport("wide"), locale="en-US").new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.locator("#convert").wait_for()
            use(page, program / "pretrained/lite/demo/source.flac")
            for size in SIZES:
                page.set_viewport_size(viewport(size))
                for tab in tabs_of(page):
                    show(page, tab)
                    page.evaluate("window.scrollTo(0, 0)")
                    for colours in COLOUR_SCHEMES:
                        page.evaluate("dark => document.body.classList.toggle('dark', dark)", colours == "dark")
                        page.wait_for_timeout(SETTLE)  # colours change gradually
                        keep(page.screenshot(), folder / f"{tab}-{size}-{colours}.png")
            page.context.close()
        finally:
            stop_page(process)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
