"""The results of conversions: each is listed, chosen, played, plotted, compared and deleted."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import soundfile

from infer.options import ConvertOptions
from lib.errors import AudioError
from tests.test_web import FakeConverter
from tests.tiny_voice import voice_like
from web.i18n.translator import Translator
from web.jobs.registry import JobContext, JobRegistry, JobView
from web.jobs.requests import BatchRequest, CompareRequest, ConvertRequest
from web.jobs.runners import NAME_BYTES, names_in_archive, result_name, shorten
from web.services import Services
from web.tabs import results as results_module
from web.tabs.convert import CONVERSIONS
from web.tabs.jobs import NOTHING_SHOWN, _JobPanel
from web.tabs.listening import build_listening
from web.tabs.results import ResultPanel, describe, sounds_of, source_of

T = Translator()
SKIPPED = gr.skip()


class Converter:
    """Copies recordings; fails for the voice "broken", and waits for the voice "patient"."""

    def __init__(self) -> None:
        self.may_stop = threading.Event()

    def run(self, request: Any, context: JobContext) -> list[Path]:
        """Make one result, or a ZIP and a result per upload."""
        if request.voice == "broken":
            raise AudioError("The recording is silent. Give another.")
        if request.voice == "patient":
            self.may_stop.wait(60)
            context.progress(0, 1, "waiting")
        sources = request.uploads if isinstance(request, BatchRequest) else [request.recording]
        made = [context.folder / f"{number + 1:03d}_{path.stem}.wav" for number, path in enumerate(sources)]
        for source, path in zip(sources, made, strict=True):
            path.write_bytes(source.read_bytes())
        if isinstance(request, BatchRequest):
            context.publish(rows=[(path.name, path.name) for path in sources])
            (context.folder / "all.zip").write_bytes(b"PK")
            return [context.folder / "all.zip", *made]
        report = {"audio_seconds": 64.6, "elapsed_seconds": 1.0, "sample_rate": 16_000, "index": None}
        context.publish(
            report={**report, "index_rate": 0.5, "pitch_method": "pm", "device": "cpu", "reason": "test"},
        )
        return made


class Page:
    """A panel of results over a registry of its own."""

    def __init__(self, folder: Path) -> None:
        self.converter = Converter()
        self.song = folder / "song.wav"
        soundfile.write(self.song, voice_like(0.3), 16_000)
        self.registry = JobRegistry(folder / "jobs", dict.fromkeys(CONVERSIONS, self.converter.run))
        fake = FakeConverter().services(folder / "fake")
        fake.registry.close()
        self.services: Services = replace(fake, registry=self.registry, files=folder / "jobs", folder=folder)
        with gr.Blocks() as self.app:
            self.panel = ResultPanel(T, self.services, CONVERSIONS)
            build_listening(T, self.services, self.panel)

    def convert(self, voice: str = "alice", **options: Any) -> JobView:
        """Convert the song and wait."""
        return self.finish(ConvertRequest(voice=voice, recording=self.song, options=ConvertOptions(**options)))

    def finish(self, request: Any) -> JobView:
        """Do a job and wait for its end."""
        return self.registry.wait(self.registry.submit(f"song.wav → {request.voice}", request), 60)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    (tmp_path / "fake").mkdir()
    made = Page(tmp_path)
    yield made
    made.converter.may_stop.set()
    made.registry.close()


def test_two_conversions_of_one_file_are_distinguished(page: Page) -> None:
    first, second = page.convert(pitch_shift=12), page.convert(pitch_shift=-3.5)
    titles = [describe(T, job) for job in (first, second)]
    assert titles[0].startswith("song.wav → alice · +12 · index 0.5 · 1:05 · 20")
    assert titles[1].startswith("song.wav → alice · -3.5 · ")
    names = {
        result_name(job.request, 0.5, "song", 64.6)
        for job in (first, second)
        if isinstance(job.request, ConvertRequest)
    }
    assert len(names) == 2 and any(name.startswith("song_alice_+12_i0.5_1m05s_20") for name in names)


def test_every_kept_result_is_listed_whatever_failed_in_between(page: Page) -> None:
    made = [page.convert(pitch_shift=number) for number in range(12)]
    for _ in range(9):
        page.convert("broken")
    entries, shown, chosen, row, player, *_ = page.panel.refresh([], None)
    assert [job_id for _, job_id in entries] == [job.id for job in reversed(made)]
    assert shown["value"] == chosen == made[-1].id and row["visible"] and player["value"] == made[-1].results[0]
    assert page.panel.refresh(entries, made[3].id) == (SKIPPED,) * 9
    player, file, report, picture, files = page.panel._show(made[3].id)
    assert (player["value"], player["label"]) == (made[3].results[0], "001_song.wav")
    assert "64.6 s" in report and not file["visible"] and not picture["visible"] and not files["visible"]


def test_nothing_of_an_earlier_result_stays_while_one_is_made(page: Page) -> None:
    done = page.convert()
    Path(done.results[0]).with_suffix(".png").write_bytes(b"a picture")
    assert page.panel._show(done.id)[3]["visible"], "its own picture"
    begun = dict(zip(page.panel.begin_outputs(), page.panel.begin(), strict=True))
    assert begun[page.panel.player]["value"] is None and begun[page.panel.picture]["value"] is None
    assert begun[page.panel.list] is None
    entries = page.panel.refresh([], None)[0]
    page.convert(pitch_shift=1)
    listed = page.panel.refresh(entries, None)
    assert len(listed[0]) == 2 and listed[1]["value"] is None and listed[4] == SKIPPED, "another page's result"
    assert page.panel._newest(None) == (SKIPPED,) * 9, "a conversion that failed shows no earlier result"
    newest = page.panel._newest("made")
    assert newest[1]["value"] == listed[0][0][1] and newest[7]["value"] is None


def test_results_of_a_batch_are_played_one_by_one(page: Page, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(page.song.read_bytes())
    batch = page.finish(BatchRequest(voice="alice", uploads=(page.song, other)))
    player, file, report, _, files = page.panel._show(batch.id)
    assert file["visible"] and file["choices"] == ["001_song.wav", "002_other.wav"]
    assert player["label"] == "001_song.wav" and report.splitlines() == ["song.wav", "other.wav"]
    assert [Path(path).name for path in files["value"]] == ["all.zip"]
    assert page.panel._play(batch.id, "002_other.wav")[0]["label"] == "002_other.wav"
    assert page.panel._play(batch.id, "../../etc/passwd")[0]["label"] == "001_song.wav", "only what is listed"
    source = source_of(batch, sounds_of(batch)[1])
    assert source is not None and source.name == "other.wav"


def test_the_picture_is_of_the_result_and_its_own_recording(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    done = page.finish(CompareRequest(voice="alice", recording=page.song, index_rates=(0.0,)))
    drawn: list[tuple[str, str]] = []

    def draw(path: Path, recording: Path, result: Path) -> Path:
        drawn.append((recording.name, result.name))
        path.write_bytes(b"a picture")
        return path

    monkeypatch.setattr(results_module, "draw_pair", draw)
    picture = page.panel._draw(done.id, None)
    assert drawn == [("song.wav", "001_song.wav")] and Path(picture["value"]).parent == Path(done.results[0]).parent
    assert page.panel._draw(done.id, None) == picture and len(drawn) == 1, "drawn once"
    with pytest.raises(gr.Error, match="Convert a recording first"):
        page.panel._draw("0" * 16, None)
    assert page.panel._sound(done.id, None) == done.results[0], "as the next input"


def test_results_are_deleted_singly_and_all(page: Page) -> None:
    made = [page.convert(pitch_shift=number) for number in range(3)]
    page.convert("broken")
    entries = page.panel.refresh([], None)[0]
    left = page.panel._delete(entries, made[2].id)
    assert left[1]["value"] == made[1].id and not Path(made[2].results[0]).exists()
    asked, left, shown, _, row, player, *_ = page.panel._delete_all(left[0], made[1].id)
    assert (asked["visible"], left, shown["value"], row["visible"], player["value"]) == (False, [], None, False, None)
    assert [job.state for job in page.registry.jobs()] == ["failed"], "failures belong to the other list"


def test_a_result_is_played_beside_its_recording_or_another_result(page: Page) -> None:
    first, second = page.convert(), page.convert(pitch_shift=1)
    show = next(f.fn for f in page.app.fns.values() if f.fn and f.fn.__qualname__ == "build_listening.<locals>.show")
    beside = show(first.id, None, "source")
    assert (
        beside.count("<audio") == 2
        and f"{first.id}/001_song.wav" in beside
        and f"{first.id}/inputs/0/song.wav" in beside
    )
    assert f"{second.id}/001_song.wav" in show(first.id, None, second.id)
    assert show(None, None, "source") == T("listen.none") and show("x", None, "../y") == T("listen.none")
    offer = next(f.fn for f in page.app.fns.values() if f.fn and f.fn.__qualname__ == "build_listening.<locals>.offer")
    assert offer([("a title", first.id)], first.id)["value"] == first.id and offer([], first.id)["value"] == "source"


def test_failures_are_folded_and_can_be_cleared(page: Page) -> None:
    panel = _JobPanel(T, page.services, CONVERSIONS, T("jobs.cancel"), results=False)
    failed = [page.convert("broken") for _ in range(3)]
    page.convert()
    mark, current, _, chosen, cancel, resume, _, folded, earlier, player, _ = panel.show(NOTHING_SHOWN, failed[0].id)
    assert 'data-state="done"' in current and "failed" not in current
    assert earlier.count('data-state="failed"') == 3 and folded["visible"] and "(3)" in folded["label"]
    assert chosen["value"] == failed[0].id and not player["visible"]
    assert (cancel["interactive"], resume["interactive"]) == (False, True)
    assert panel.show(mark, failed[0].id) == (SKIPPED,) * 11
    panel.clear()
    assert [job.state for job in page.registry.jobs()] == ["done"]


def test_stopping_is_shown_at_once_and_the_button_is_used_once(page: Page) -> None:
    panel = _JobPanel(T, page.services, CONVERSIONS, T("jobs.stop"), results=False)
    assert panel.show(("", "x", None, 0.0), None)[4]["interactive"] is False, "nothing runs"
    job_id = page.registry.submit("a job", ConvertRequest(voice="patient", recording=page.song))
    while page.registry.get(job_id).state != "running":
        page.registry.wait(job_id, 0.01)
    before, _, _, _, cancel, *_ = panel.show(NOTHING_SHOWN, job_id)
    assert cancel["interactive"] and cancel["value"] == T("jobs.stop")
    pressed = panel._press(page.registry.cancel)(before, job_id)
    assert T("jobs.stopping") in pressed[1] and pressed[4]["value"] == T("jobs.stopping")
    assert not pressed[4]["interactive"]
    page.converter.may_stop.set()
    ended = page.registry.wait(job_id, 60)
    assert (ended.state, ended.stopping) == ("cancelled", False)


def test_a_job_that_starts_is_selected(page: Page) -> None:
    """Otherwise the button that stops it would be disabled while an earlier job is selected."""
    panel = _JobPanel(T, page.services, CONVERSIONS, T("jobs.stop"), results=False)
    earlier = page.convert("broken")
    shown, *_ = panel.show(NOTHING_SHOWN, earlier.id)
    job_id = page.registry.submit("a job", ConvertRequest(voice="patient", recording=page.song))
    shown, _, _, chosen, cancel, *_ = panel.show(shown, earlier.id)
    assert chosen["value"] == job_id and cancel["interactive"]
    assert panel.show(shown, earlier.id)[3]["value"] == earlier.id, "the user's choice stays"
    page.converter.may_stop.set()
    page.registry.cancel(job_id)
    page.registry.wait(job_id, 60)


def test_names_in_an_archive_are_the_recordings_own() -> None:
    paths = [Path("a/Song.mp3"), Path("b/song.wav"), Path("c/song_2.wav"), Path("d/song.ogg"), Path("e/\udcff.wav")]
    assert names_in_archive(paths, "flac") == [
        "Song.flac",
        "song_2.flac",
        "song_2_2.flac",
        "song_3.flac",
        "recording.flac",
    ]
    assert shorten("声" * 100) == "声" * (NAME_BYTES // 3) and shorten("a" * 90) == "a" * 90
