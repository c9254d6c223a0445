"""The backend of the page: conversions as jobs, voices from their folder, archives."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile

from infer import model_cache as loaded_module
from infer.options import ConvertOptions
from lib.errors import LinkError
from lib.progress import Progress
from lib.voice.archive import export_voice
from lib.voice.model_file import extract_voice_model, write_voice_model
from tests.tiny_voice import TinyEncoder, lite_synthesizer, voice_like
from web.i18n.translator import Translator
from web.jobs.registry import JobView
from web.jobs.requests import BatchRequest, CompareRequest, ConvertRequest, Request
from web.services import make_services
from web.tabs.voice_intake import _Intake

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recording") / "my song 歌.wav"
    soundfile.write(path, voice_like(0.5), 16_000)
    return str(path)


def test_an_exported_voice_is_imported_by_the_real_services(tmp_path: Path) -> None:
    write_voice_model(tmp_path / "alice.pth", extract_voice_model(lite_synthesizer(), "lite", "test"))
    export_voice(tmp_path / "alice.pth", None, tmp_path / "alice.zip")
    services = make_services(tmp_path, "cpu", [tmp_path / "voices"], tmp_path / "logs")
    intake = _Intake(Translator(), services)
    table, name, button = intake.show([str(tmp_path / "alice.zip")])
    assert table["value"] == [["alice.pth", "New voice alice: lite, 24k, with F0, without index"]]
    assert (name["value"], name["visible"], button["visible"]) == ("alice", True, True)
    assert services.list_voices() == [], "looking adds nothing"
    assert intake.add_voices([str(tmp_path / "alice.zip")], "alice") == ("The voice alice was imported.", None)
    assert services.list_voices() == ["alice"]
    table, name, button = intake.show([str(tmp_path / "alice.pth"), str(tmp_path / "alice.zip"), str(ROOT / "LICENSE")])
    assert [row[1] for row in table["value"][:2]] == ["Already installed as alice"] * 2
    assert table["value"][2] == ["LICENSE", "is neither a voice model nor an index nor a ZIP archive"]
    assert not name["visible"] and not button["visible"]
    with pytest.raises(gr.Error, match="installed already, as alice"):
        intake.import_voice(str(tmp_path / "alice.pth"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("import-")] == []


def test_the_files_of_a_link_are_shown_like_dropped_ones(tmp_path: Path) -> None:
    def fetch(link: str, folder: Path, progress: Progress) -> list[Path]:
        if not link.endswith(".pth"):
            raise LinkError("{link} is not a link to a file.", link=link)
        write_voice_model(folder / "alice.pth", extract_voice_model(lite_synthesizer(), "lite", "test"))
        progress(1, 2, "downloading")
        return [folder / "alice.pth"]

    services = make_services(tmp_path, "cpu", [tmp_path / "voices"], tmp_path / "logs")
    intake = _Intake(Translator(), replace(services, fetch_link=fetch))
    files, link = intake.fetch("https://example.org/alice.pth")
    assert intake.show(files)[0]["value"] == [["alice.pth", "New voice alice: lite, 24k, with F0, without index"]]
    assert link == "" and services.list_voices() == []
    with pytest.raises(gr.Error, match="not a link"):
        intake.fetch("https://example.org")
    assert len([*tmp_path.glob("link-*")]) == 1, "what failed leaves nothing"


@pytest.mark.parametrize(("local", "links", "allowed"), [(True, None, True), (False, None, False), (False, True, True)])
def test_a_shared_page_takes_links_only_if_its_owner_allows_it(
    tmp_path: Path, local: bool, links: bool | None, allowed: bool
) -> None:
    services = make_services(tmp_path, "cpu", [tmp_path], tmp_path / "logs", local=local, links=links)
    services.registry.close()
    assert (services.fetch_link is not None) == allowed


@pytest.mark.slow
def test_services_convert_with_a_listed_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recording: str) -> None:
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    voices = tmp_path / "voices"
    voices.mkdir()
    services = make_services(tmp_path, "cpu", [voices], tmp_path / "logs")
    assert services.list_voices() == []
    write_voice_model(voices / "tiny 语音.pth", extract_voice_model(lite_synthesizer(), "lite", "1epoch", None))
    assert services.list_voices() == ["tiny 语音"]
    song = Path(recording)
    work: dict[str, Any] = {"voice": "tiny 语音", "options": ConvertOptions(pitch_method="pm", device="cpu")}

    def finished(request: Request) -> JobView:
        return services.registry.wait(services.registry.submit("a job", request))

    done = finished(ConvertRequest(**work, recording=song))
    assert done.error is None
    audio, rate = soundfile.read(done.results[0])
    report = done.details["report"]
    assert (len(audio), rate, report["sample_rate"]) == (12_000, 24_000, 24_000)
    assert np.isfinite(audio).all()
    assert re.fullmatch(r"my song 歌_tiny 语音_\+0_i0_0m00s_\d{8}-\d{6}\.wav", Path(done.results[0]).name)
    assert report["index_rate"] == 0
    assert (report["audio_seconds"], report["pitch_method"], report["index"]) == (0.5, "pm", None)
    batch = finished(BatchRequest(**work, uploads=(song, ROOT / "pyproject.toml"), inputs=(song,)))
    assert [row[0] for row in batch.details["rows"]] == ["my song 歌.wav", "pyproject.toml", "my song 歌.wav"]
    assert "pyproject.toml" in batch.details["rows"][1][1]
    assert zipfile.ZipFile(batch.results[0]).namelist() == ["my song 歌.wav", "my song 歌_2.wav"]
    assert [row[1] for row in batch.details["rows"]][::2] == ["my song 歌.wav", "my song 歌_2.wav"]
    compared = finished(CompareRequest(**work, recording=song, index_rates=(0, 0.5)))
    assert len(compared.results) == 2
    outside = work | {"voice": str(voices / "tiny 语音.pth")}
    refused = finished(ConvertRequest(**outside, recording=song))
    assert refused.state == "failed" and "no voice" in str(refused.error)
    services.delete_voice("tiny 语音")
    assert services.list_voices() == []
    assert services.undo_delete() == "tiny 语音" and services.list_voices() == ["tiny 语音"]
    services.registry.close()


def test_long_names_make_a_short_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    voice = "声" * 66
    write_voice_model(tmp_path / f"{voice}.pth", extract_voice_model(lite_synthesizer(), "lite", "1epoch", None))
    song = tmp_path / f"{'😀' * 60}.wav"
    soundfile.write(song, voice_like(0.1), 16_000)
    work = ConvertRequest(voice=voice, options=ConvertOptions(pitch_method="pm", device="cpu"), recording=song)
    registry = make_services(tmp_path, "cpu", [tmp_path], tmp_path / "logs").registry
    done = registry.wait(registry.submit("long", work))
    assert len(Path(done.results[0]).name.encode()) <= 255
