"""The page in a browser: a running server in a separate folder, and headless Chromium.

Train from uploaded files, reload in the middle, stop, go on, convert; import a ZIP; change the language; wrong inputs.
"""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_server import CHROMIUM, ROOT, copy_program, open_browser, start_page, stop_page

SHIPPED = ROOT / "pretrained" / "lite" / "demo"
PATIENCE = 180_000  # milliseconds for what takes a moment on an idle machine
TRAINING = 600_000  # milliseconds for a short training
UPLOADS = 5  # attempts
LIST_REFRESH = 7_000  # milliseconds after which the page's lists have followed the disk, on an idle machine
VOICE = "Tiny voice 声"  # with what makes trouble in other programs
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian, Ubuntu: apt install chromium)"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program, in a path with a space."""
    return copy_program(tmp_path_factory.mktemp("page") / "my program")


@pytest.fixture(scope="module")
def address(program: Path) -> Iterator[str]:
    process, found = start_page(program)
    yield found
    stop_page(process)
    log = (program / "page.log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log[-3000:]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: ./go-web.sh test installs it")
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visitor whose browser speaks English."""
    context = browser.new_context(locale="en-US", viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    visit(opened, address)
    yield opened
    assert "Traceback" not in opened.inner_text("body")
    context.close()


def playwright_error() -> type[Exception]:
    """What playwright raises when it has waited in vain; the package is imported only where it is needed."""
    from playwright.sync_api import TimeoutError as WaitedInVain

    return WaitedInVain


def visit(page: Any, address: str) -> None:
    page.goto(address)
    page.locator("#convert").wait_for(timeout=PATIENCE)


def text_of(name: str, locale: str = "en_US") -> str:
    texts: dict[str, str] = json.loads((ROOT / "i18n" / f"{locale}.json").read_text(encoding="utf-8"))
    return texts[name]


def show(page: Any, tab: str) -> None:
    page.locator(f"#tab-{tab}-button:visible").first.click()


def choose(page: Any, field: str, text: str) -> None:
    """Choose from a list; it is opened again until it has followed the disk."""
    for _ in range(PATIENCE // LIST_REFRESH):
        page.locator(f"#{field} input").click()
        wanted = page.locator("ul[role=listbox] li", has_text=text).first
        with contextlib.suppress(playwright_error()):
            wanted.wait_for(timeout=LIST_REFRESH)
            wanted.click(timeout=5 * LIST_REFRESH, no_wait_after=True)  # which may reload the page
            return
        if not page.locator(f"#{field} input").is_visible():
            return  # the page was reloaded before the click was reported
        page.locator(f"#{field} input").press("Escape")
        page.locator(f"#{field} input").blur()
    raise AssertionError(f"{field} does not list {text}")


def upload(page: Any, field: str, path: Path) -> None:
    """Upload a file; again if the page was not ready to notice it."""
    for _ in range(UPLOADS):
        page.locator(f"#{field} input[type=file]").set_input_files(str(path))
        with contextlib.suppress(playwright_error()):
            page.locator(f"#{field}").get_by_text(path.stem).first.wait_for(timeout=3 * LIST_REFRESH)
            return
    raise AssertionError(f"{path.name} could not be uploaded")


def give_recording(page: Any, path: Path) -> None:
    """Upload a recording, instead of the one that may be there."""
    chooser, clear = page.locator("#recording input[type=file]"), page.locator("#recording").get_by_label("Clear")
    chooser.or_(clear).first.wait_for(state="attached", timeout=PATIENCE)
    if not chooser.count():
        clear.first.click()
    chooser.set_input_files(str(path))


def convert(page: Any, path: Path) -> None:
    """Upload a recording, wait until it is there, and convert it."""
    give_recording(page, path)
    page.locator("#recording input[type=file]").wait_for(state="detached", timeout=PATIENCE)
    page.locator("#convert").click()


def message(page: Any) -> str:
    """The sentence of the message that is shown; it is closed afterwards."""
    shown = page.locator("[data-testid=toast-body]").first
    shown.wait_for(timeout=PATIENCE)
    text: str = shown.inner_text()
    with contextlib.suppress(playwright_error()):  # it has closed itself after ten seconds
        shown.locator("button").first.click(timeout=LIST_REFRESH)
    shown.wait_for(state="detached", timeout=PATIENCE)  # it fades, and the next one must not be taken for it
    return text


def wait_for_job(page: Any, panel: str, state: str, timeout: int = PATIENCE) -> None:
    """Wait until the newest job of a panel is in a state."""
    page.locator(f"#{panel}-jobs .job:first-child[data-state={state}]").wait_for(timeout=timeout)


def train(page: Any, recording: Path) -> None:
    """Start a training of one uploaded recording, short but long enough to be seen and cancelled on a busy machine."""
    show(page, "train")
    page.locator("#train-name textarea, #train-name input").first.fill(VOICE)
    upload(page, "train-files", recording)
    page.get_by_label(text_of("options.epochs.label"), exact=False).first.fill("100")
    page.locator("#train-start").click()


def test_an_option_leads_to_its_paragraph_in_the_manual(page: Any) -> None:
    with page.context.expect_page() as opened:
        page.locator("a[href='manual/options#pitch_shift']").first.click()
    manual = opened.value
    manual.wait_for_url("**/manual/en_US/options.md#pitch_shift")
    assert manual.locator("h3:has(#pitch_shift)").inner_text() == text_of("options.pitch_shift.label")


def test_recordings_are_checked_before_training(page: Any) -> None:
    show(page, "train")
    upload(page, "train-files", SHIPPED / "voice" / "01.flac")
    page.locator("#train-check").click()
    page.locator("#train-report", has_text=text_of("report.advice")).wait_for(timeout=PATIENCE)
    for picture in ("melody", "levels"):
        page.locator(f"#report-{picture} canvas, #report-{picture} svg").first.wait_for(timeout=PATIENCE)
    page.locator("#train-forecast", has_text="GB").wait_for(timeout=PATIENCE)


def test_train_from_uploads_reload_stop_resume_and_convert(page: Any, program: Path) -> None:
    smallest = min((SHIPPED / "voice").iterdir(), key=lambda path: path.stat().st_size)
    train(page, smallest)
    wait_for_job(page, "trainings", "running")
    show(page, "settings")
    choose(page, "language", "日本語")  # which reloads the page: the job is the server's
    page.locator("#convert", has_text=text_of("convert.run", "ja")).wait_for(state="attached", timeout=PATIENCE)
    show(page, "train")
    wait_for_job(page, "trainings", "running")
    page.locator("#trainings-jobs .job:first-child", has_text=text_of("jobs.running", "ja")).wait_for(timeout=PATIENCE)
    page.locator("#trainings-cancel").click()
    wait_for_job(page, "trainings", "cancelled")
    page.locator("#trainings-resume").click()
    wait_for_job(page, "trainings", "done", TRAINING)
    assert (program / "weights" / f"{VOICE}.pth").is_file()

    show(page, "convert")
    choose(page, "voice", VOICE)
    shift = page.locator("input[type=number]").first
    shift.fill("3")
    shift.press("Tab")
    convert(page, SHIPPED / "source.flac")
    wait_for_job(page, "conversions", "done", TRAINING)
    report = page.locator("#report textarea")
    page.wait_for_function("document.querySelector('#report textarea').value.includes('24000 Hz')", timeout=PATIENCE)
    assert "added_IVF" not in report.input_value(), "the index of a lite voice is used when asked for only"
    assert list((program / "logs" / VOICE).glob("added_IVF*.index"))
    page.locator("#results label", has_text=f"{VOICE} · +3 · ").wait_for(timeout=PATIENCE)
    page.locator("#result", has_text=f"source_{VOICE}_+3_i0_").wait_for(timeout=PATIENCE)
    page.reload()  # the result is still there, and so are the settings that were used with the voice
    page.locator("#result", has_text=f"source_{VOICE}_+3_i0_").wait_for(timeout=PATIENCE)
    choose(page, "voice", VOICE)
    page.locator("#remembered", has_text=VOICE).wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('input[type=number]').value === '3'", timeout=PATIENCE)
    page.locator("#options button").first.click()
    page.locator("#more-options button").first.click()
    speaker = page.get_by_label(text_of("options.speaker_id.label", "ja"), exact=False).first
    assert speaker.input_value() == f"{VOICE} (0)"


def test_import_a_voice_as_zip(page: Any, program: Path, tmp_path: Path) -> None:
    archive = tmp_path / "guest.zip"
    source = program / "weights" / f"{VOICE}.pth"
    if not source.is_file():
        pytest.skip("there is no voice to export: the training before this test failed")
    source.rename(program / "weights" / "guest.pth")  # a voice that is installed under any name is not added again
    words = ["-m", "train", "ckpt", "export", "guest", "--output", str(archive)]
    subprocess.run([sys.executable, *words], cwd=program, check=True, capture_output=True)
    (program / "weights" / "guest.pth").rename(tmp_path / "kept.pth")
    show(page, "voices")
    page.locator("#import input[type=file]").set_input_files(str(archive))
    page.locator("#import-plan *:visible", has_text="guest.pth").first.wait_for(timeout=PATIENCE)
    page.locator("#import-add").click()
    shown = page.locator("#voice-message")
    shown.get_by_text(text_of("convert.imported").format(name="guest")).wait_for(timeout=PATIENCE)
    assert (program / "weights" / "guest.pth").is_file()
    assert "guest" in message(page)
    (tmp_path / "kept.pth").rename(source)
    page.locator("#import input[type=file]").set_input_files(str(SHIPPED / "source.flac"))
    page.locator("#import-plan *:visible", has_text="ZIP").first.wait_for(timeout=PATIENCE)


def test_change_the_language_without_a_restart(page: Any) -> None:
    show(page, "settings")
    for language, name in (("ja", "日本語"), ("en_US", "English")):
        choose(page, "language", name)
        wanted = re.compile(re.escape(text_of("tab.settings", language)))
        page.locator("#tab-settings-button:visible", has_text=wanted).first.wait_for(timeout=PATIENCE)
        assert page.locator("#convert").inner_text() == text_of("convert.run", language)
        show(page, "settings")
        page.wait_for_function(f"document.querySelector('#language input').value === '{name}'", timeout=PATIENCE)
    page.locator("#tab-convert-button").click()
    page.locator("#convert").click()
    shown = message(page)
    assert text_of("convert.no_audio") in shown or text_of("convert.no_voice") in shown


def test_wrong_inputs_get_a_sentence(page: Any, program: Path, tmp_path: Path) -> None:
    show(page, "train")
    page.locator("#train-start").click()
    assert text_of("train.no_name") in message(page)
    page.locator("#train-name textarea, #train-name input").first.fill("a/b")
    page.locator("#train-start").click()
    assert "not allowed in file names" in message(page)
    page.locator("#train-name textarea, #train-name input").first.fill("nothing")
    page.locator("#train-start").click()
    assert text_of("train.no_data") in message(page)

    show(page, "convert")
    (program / "weights" / "short-lived.pth").write_bytes(b"not a voice")
    choose(page, "voice", "short-lived")
    renamed = tmp_path / "renamed.wav"
    renamed.write_text("this is a text, not a recording\n" * 100, encoding="utf-8")
    convert(page, renamed)
    shown = message(page)
    assert re.search(r"renamed\.wav|short-lived", shown) and "Traceback" not in shown

    (program / "weights" / "short-lived.pth").unlink()
    page.wait_for_function("document.querySelector('#voice input').value !== 'short-lived'", timeout=PATIENCE)
    page.locator("#voice input").fill("nobody")
    page.locator("#voice input").press("Enter")
    convert(page, SHIPPED / "source.flac")
    assert text_of("convert.unknown_voice").format(name="nobody") in message(page)


def test_a_video_is_chosen_or_dropped_as_a_recording(page: Any, tmp_path: Path) -> None:
    """Any file is accepted, and a file without sound gets a sentence of ours when it is converted."""
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"no video")
    give_recording(page, video)
    name = page.locator("#recording-name")
    name.get_by_text("clip.mp4").wait_for(timeout=PATIENCE)
    page.locator("#recording").get_by_label("Clear").first.click()
    name.get_by_text("clip.mp4").wait_for(state="detached", timeout=PATIENCE)
    page.locator("#recording button").first.evaluate(
        """button => {
            const files = new DataTransfer();
            files.items.add(new File(["no video"], "dropped.mkv", {type: "video/x-matroska"}));
            button.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
        }"""
    )
    name.get_by_text("dropped.mkv").wait_for(timeout=PATIENCE)
    page.locator("#convert").click()
    assert "dropped.mkv" in message(page)


def test_a_huge_file_is_refused(page: Any, tmp_path: Path) -> None:
    huge = tmp_path / "huge.wav"
    with huge.open("wb") as file:
        file.truncate(600_000_000)  # takes no room on the disk
    give_recording(page, huge)
    assert "500" in message(page)
