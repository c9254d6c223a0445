"""Settings and help: contents and privacy of a bug report, the speed test, downloadable weights."""

import getpass
import logging
import platform
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.options import ConvertOptions
from lib import assets
from lib.bug_report import without_private_parts
from lib.errors import ConfigError
from lib.paths import ROOT
from web.bug_report import LOG_LINES, LogTail, log_lines, write_bug_report
from web.i18n.translator import LANGUAGES, Translator, texts_of
from web.jobs.registry import JobView
from web.jobs.requests import ConvertRequest
from web.speed_test import measure, measure_in_subprocess
from web.tabs import settings as settings_tab

T = Translator()


@pytest.fixture
def tail() -> Iterator[LogTail]:
    """A tail of the root logger, as the program adds it."""
    handler = LogTail()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def read(archive: Path) -> dict[str, str]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name).decode() for name in opened.namelist()}


def test_a_bug_report_holds_versions_devices_jobs_and_the_end_of_the_log(tail: LogTail, tmp_path: Path) -> None:
    logger = logging.getLogger("test")
    for number in range(LOG_LINES + 50):
        logger.info("line %d", number)
    try:
        raise ValueError(f"in {ROOT / 'lib' / 'audio.py'} and {Path.home() / 'secret folder'}")
    except ValueError:
        logger.exception("it broke")
    request = ConvertRequest(voice="somebody", options=ConvertOptions(pitch_shift=3), recording=Path("/a/b/song.wav"))
    job = JobView(
        "0" * 16, "convert", "my private song → alice", request,
        state="failed", error="The file /home/somebody/music/song.wav is damaged.", log=("step 1", "step 2"),
    )  # fmt: skip
    parts = read(write_bug_report([job, replace(job, state="done", error=None)], tmp_path))
    assert "torch 2" in parts["program.txt"] and "device cpu: " in parts["program.txt"]
    assert parts["log.txt"].count("\n") == LOG_LINES
    assert "line 249" in parts["log.txt"] and "line 1\n" not in parts["log.txt"]
    assert "ValueError: in <revoice>/lib/audio.py" in parts["log.txt"]
    assert "convert: failed" in parts["jobs.txt"] and "'pitch_shift': 3" in parts["jobs.txt"]
    assert "<folder>/song.wav is damaged" in parts["jobs.txt"] and "step 2" in parts["jobs.txt"]
    everything = "\n".join(parts.values())
    for private in (str(ROOT), str(Path.home()), "somebody", "my private song", str(tmp_path)):
        assert private not in everything
    assert log_lines()[-1].startswith("ValueError")


def test_without_a_tail_and_jobs_a_report_says_so(tmp_path: Path) -> None:
    parts = read(write_bug_report([], tmp_path))
    assert parts["log.txt"] == "(no log was kept)\n" and parts["jobs.txt"] == "(no jobs)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"read {ROOT}/weights/alice.pth.", "read <revoice>/weights/alice.pth."),
        (f"at {tempfile.gettempdir()}/gradio/x.wav", "at <temporary>/gradio/x.wav"),
        ("open /mnt/disk 7/x, /data/music/a.flac: no", "open <folder>/x, <folder>/a.flac: no"),
        (r'in "C:\Users\Jane\Music\a.wav"', '"<folder>/a.wav"'),
        ("see https://example.org/a/b or lib/audio/encode.py", "see https://example.org/a/b or lib/audio/encode.py"),
    ],
)
def test_folders_are_taken_out_of_a_text(text: str, expected: str) -> None:
    cleaned = without_private_parts(text)
    assert expected in cleaned
    assert not any(private in cleaned for private in (str(ROOT), "Jane", "music", "/mnt"))


@given(st.text())
def test_the_names_of_user_and_machine_never_get_through(text: str) -> None:
    for name in (getpass.getuser(), platform.node()):
        if len(name) >= 3:
            assert f" {name} " not in without_private_parts(f"{text} {name} {text}")


@pytest.mark.slow
def test_speeds_are_measured_in_a_process_of_its_own() -> None:
    found = measure_in_subprocess("cpu")
    assert found.device == "cpu"
    assert 0.1 < found.f0 < 10_000 and 0.1 < found.features < 10_000 and 0.1 < found.synthesis < 1000
    assert 0.01 < found.step < 1000


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="'cuda:77' cannot be used here; available: cpu"):
        measure("cuda:77")


def test_missing_weights_are_listed_until_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PRETRAINED", tmp_path)
    names = {asset.name for asset in assets.MANIFEST if asset.source}
    assert set(settings_tab._missing()) == names
    (tmp_path / "rmvpe.pt").write_bytes(b"there, whatever it is")
    assert set(settings_tab._missing()) == names - {"rmvpe"}
    listed = settings_tab._list_weights(T)
    assert "Installed: rmvpe." in listed and "- `hubert_base`: every v1 and v2 voice" in listed


@pytest.mark.parametrize("locale", ["en_US", "ja"])
def test_every_question_has_an_answer(locale: str) -> None:
    texts = texts_of(locale)
    asked = {key.split(".")[1] for key in texts if key.startswith("faq.")}
    assert asked == set(settings_tab.QUESTIONS)
    assert all(f"faq.{name}.answer" in texts and f"faq.{name}.question" in texts for name in asked)


def test_answers_use_the_names_of_buttons_and_folders() -> None:
    texts = texts_of("en_US")
    for key, named in {
        "faq.stop.answer": ("jobs.stop", "jobs.resume"),
        "faq.data.answer": ("train.check", "tab.train"),
        "faq.other.answer": ("settings.weights",),
        "faq.words.answer": ("convert.compare",),
        "faq.begin.answer": ("tab.convert", "tab.train", "tab.voices", "convert.run", "train.start"),
        "faq.gpu.answer": ("tab.train", "convert.options"),
        "faq.index.answer": ("tab.convert", "convert.report"),
        "faq.memory.answer": ("tab.train",),
        "faq.missing.answer": ("settings.weights",),
        "jobs.trained": ("tab.convert",),
        "train.sample_info": ("jobs.stop", "jobs.resume"),
        "voices.deleted": ("voices.undo",),
    }.items():
        for locale in LANGUAGES:
            for name in named:
                assert re.split(r" ?[(\uff08]", texts_of(locale)[name])[0] in texts_of(locale)[key], (locale, key, name)
    assert "`hubert_base`" in texts["faq.other.answer"] and "logs/NAME" in texts["faq.index.answer"]
