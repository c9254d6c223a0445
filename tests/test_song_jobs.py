"""Covers and speech as jobs of the server, and through the API of the page, with a tiny voice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from infer.song import step_cache
from infer.song.options import CoverOptions
from infer.speech import engines
from infer.speech.options import SpeechOptions
from lib.errors import AudioError, ConfigError
from lib.progress import Cancelled
from tests.test_say import SRT, Buzz
from tests.tiny_voice import tiny_converter, voice_like
from web.app import Address, build_app, serve_somewhere
from web.jobs.registry import JobContext
from web.jobs.requests import CoverRequest, SayRequest, kind_of, read_request
from web.jobs.runners import make_runners
from web.services import make_services

COVER = CoverOptions(pitch_method="pm", device="cpu")
SPEECH = SpeechOptions(pitch_method="pm", device="cpu")


@pytest.fixture(autouse=True)
def _own_cache_and_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cache.StepCache.__init__, "__defaults__", (tmp_path / "cache", 1 << 30))
    monkeypatch.setattr(engines, "Hibari", Buzz)


@pytest.fixture
def stems(tmp_path: Path) -> tuple[Path, Path]:
    """Vocals and instrumental of half a second."""
    paths = tmp_path / "vocals.wav", tmp_path / "music.wav"
    tone = 0.1 * np.sin(2 * np.pi * 330 * np.arange(8000) / 16_000)
    for path, audio in zip(paths, (voice_like(0.5), tone), strict=True):
        soundfile.write(path, audio, 16_000)
    return paths


def run(folder: Path, request: CoverRequest | SayRequest) -> tuple[list[Path], list[dict[str, object]]]:
    """The files that a job makes, and what it publishes."""
    changes: list[dict[str, object]] = []
    context = JobContext(folder, lambda **values: changes.append(values), print)
    runners = make_runners(lambda *_: tiny_converter())
    return [*runners[kind_of(request)](request, context)], changes


def test_a_cover_is_a_job_with_its_stems_and_progress(tmp_path: Path, stems: tuple[Path, Path]) -> None:
    request = CoverRequest(voice="eve", options=COVER, vocals=stems[0], instrumental=stems[1], format="flac")
    assert read_request("cover", request.model_dump(mode="json")) == request
    copied = request.with_uploads(lambda path: path.with_name(f"copy of {path.name}"))
    assert copied.vocals and copied.vocals.name == "copy of vocals.wav" and copied.song is None
    made, changes = run(tmp_path / "job", request)
    assert made[0].suffix == ".flac" and made[0].name.startswith("music_eve_+0")
    assert [path.stem for path in made[1:]] == ["vocals", "original_vocals", "instrumental"]
    assert all(path.is_file() and path.is_relative_to(tmp_path / "job") for path in made)
    details = next(values["details"] for values in changes if "details" in values)
    assert details["cover"]["seconds"] == 0.5 and details["cover"]["shift"] == 0  # type: ignore[index]
    steps = [str(values["what"]) for values in changes if "what" in values]
    assert {"loading the voice", "converting", "changing the key", "mixing"} <= set(steps)


def test_errors_name_files_without_their_folders(tmp_path: Path, stems: tuple[Path, Path]) -> None:
    stems[0].write_bytes(b"no recording")
    with pytest.raises(AudioError, match=r"^vocals\.wav is not a recording"):
        run(tmp_path, CoverRequest(voice="eve", options=COVER, vocals=stems[0], instrumental=stems[1]))
    with pytest.raises(AudioError, match="needs the song"):
        run(tmp_path, CoverRequest(voice="eve", options=COVER, vocals=stems[0]))


def test_a_cancelled_cover_leaves_nothing(tmp_path: Path, stems: tuple[Path, Path]) -> None:
    request = CoverRequest(voice="eve", options=COVER, vocals=stems[0], instrumental=stems[1])
    context = JobContext(tmp_path / "job", lambda **_: None, print)
    context.cancelled.set()
    with pytest.raises(Cancelled):
        make_runners(lambda *_: tiny_converter())["cover"](request, context)
    assert not (tmp_path / "job").exists()


@pytest.mark.slow
def test_text_and_subtitles_are_jobs(tmp_path: Path) -> None:
    (made,), _ = run(tmp_path / "job", SayRequest(voice="eve", options=SPEECH, text="Hi there."))
    assert soundfile.info(made).duration == pytest.approx(0.9)
    (tmp_path / "film.srt").write_text(SRT, encoding="utf-8")
    (made,), _ = run(tmp_path / "job", SayRequest(voice="eve", options=SPEECH, file=tmp_path / "film.srt"))
    assert soundfile.info(made).duration > 5
    with pytest.raises(ConfigError, match="Enter text or choose a file"):
        run(tmp_path, SayRequest(voice="eve", options=SPEECH))


@pytest.mark.slow
def test_the_api_makes_covers_and_speech(
    tmp_path: Path, stems: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    runners = make_runners(lambda *_: tiny_converter())
    services = make_services(tmp_path, "cpu", (tmp_path,), tmp_path / "logs", runners=runners)
    services = replace(services, list_voices=lambda: ["eve"])
    app = build_app(services)
    address = serve_somewhere(app, Address("127.0.0.1"), None, [services.files])[0]
    client = Client(address, verbose=False, httpx_kwargs={"timeout": 120})
    try:
        cover, report, files = client.predict(
            voice="eve", vocals=handle_file(stems[0]), instrumental=handle_file(stems[1]), song=None,
            pitch_method="pm", index_rate=None, api_name="/make_cover",
        )  # fmt: skip
        assert soundfile.info(cover).frames == 8000 and "16000 Hz" in report and len(files) == 3
        result = client.predict(voice="eve", text="Hi there.", file=None, api_name="/say")
        assert soundfile.info(result).duration == pytest.approx(0.9)
        with pytest.raises(AppError, match="needs the song"):
            client.predict(
                voice="eve", song=None, vocals=None, instrumental=None, index_rate=None, api_name="/make_cover"
            )
    finally:
        client.close()
        app.close(verbose=False)
        services.registry.close()
