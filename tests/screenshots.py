"""Makes the pictures in docs/images, every tab wide and narrow, light and dark: python -m tests.screenshots [FOLDER]

A copy of the program trains a voice for a minute from the shipped recordings and converts with it, so that the pictures
show a page in use. Needs Chromium.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.page_server import ROOT, copy_program, open_browser, start_page, stop_page
from web.i18n.translator import Translator

TABS = ("convert", "cover", "train", "voices", "settings")
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
COLOURS = 64  # of a picture
PATIENCE = 120_000  # milliseconds


def train_a_voice(program: Path) -> None:
    """Train the voice demo, shortly."""
    words = ["-m", "train", "run", "demo", "--data", "pretrained/lite/demo/voice", "--max-minutes", "0.5"]
    subprocess.run([sys.executable, *words], cwd=program, check=True, capture_output=True)


def choose(page: Any, field: str, text: str) -> None:
    """Choose an entry of a drop-down."""
    page.locator(f"#{field} input").click()
    page.locator("ul[role=listbox] li", has_text=text).first.click()


def use(page: Any, recording: Path) -> None:
    """Convert once and fill in what a user would."""
    choose(page, "voice", "demo")
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


def take_pictures(folder: Path) -> None:
    """Make all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="revoice-pictures-") as name, open_browser() as browser:
        program = copy_program(Path(name))
        train_a_voice(program)
        process, address = start_page(program)
        try:
            for colours in ("light", "dark"):
                for size, (width, height) in SIZES.items():
                    context = browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=colours, locale="en-US"
                    )
                    page = context.new_page()
                    page.goto(address)
                    page.locator("#convert").wait_for(timeout=PATIENCE)
                    use(page, program / "pretrained/lite/demo/source.flac")
                    for tab in TABS:
                        show(page, tab)
                        page.evaluate("window.scrollTo(0, 0)")
                        keep(page.screenshot(), folder / f"{tab}-{size}-{colours}.png")
                    context.close()
        finally:
            stop_page(process)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
