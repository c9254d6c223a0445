"""The page: its form, its handlers, and conversions through Gradio's own client, without a browser."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from infer.options import ConvertOptions
from lib.audio.decode import load_audio
from lib.errors import AudioError, CheckpointError, ConfigError, LinkError
from lib.pitch import load_pitch_extractor
from lib.pitch.scale import suggested_shift
from lib.progress import Progress
from lib.voice.intake import FoundModel, FoundVoice, Inspected, Part
from tests.tiny_voice import voice_like
from train.options import RunOptions
from web.app import Address, build_app, serve_somewhere
from web.i18n.translator import Translator
from web.jobs.registry import JobContext, JobRegistry
from web.jobs.requests import ConvertRequest
from web.presets import Presets
from web.services import Services, VoiceCard
from web.tabs.form import Form

ROOT = Path(__file__).resolve().parents[1]
T = Translator()
PATIENCE = 120.0  # seconds
SKIP = frozenset({"device"})


class FakeConverter:
    """Stands in for `infer`: fast, and fails or waits on request by the name of the voice."""

    def __init__(self) -> None:
        self.voices = ["alice", "broken", "patient", "wrong"]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.started = threading.Event()
        self.steps = 0

    def inspect_files(self, files: Sequence[Path], folder: Path) -> Inspected:
        """One voice per file, named as the file, unless it is one to refuse."""
        if any(file.stem == "bomb" for file in files):
            raise CheckpointError("{path} unfolds to far more than it holds.", path=files[0])
        models = [FoundModel(Part(file, file.name, file), "v2", 40_000, True, 768) for file in files]
        return Inspected(tuple(FoundVoice(model.part.stem, model) for model in models))

    def add_files(self, found: Inspected, name: str | None) -> list[str]:
        """Add the voices to the list."""
        names = [name or voice.name for voice in found.voices]
        self.voices = sorted({*self.voices, *names})
        return names

    def fetch_link(self, link: str, folder: Path, progress: Progress) -> list[Path]:
        """A file named as the link's last part, unless the link is one to refuse."""
        if link.endswith("/none.pth"):
            raise LinkError("{link} could not be downloaded ({reason}).", link=link, reason="no route")
        path = folder / link.rpartition("/")[2]
        path.write_bytes(b"a voice")
        progress(3, 7, f"downloading {path.name}")
        return [path]

    def convert(self, request: ConvertRequest, context: JobContext) -> list[Path]:
        """Write the recording back at half its loudness."""
        voice, path = request.voice, request.recording
        self.calls.append((voice, request.options.model_dump()))
        if voice == "broken":
            raise AudioError(f"{path.name} holds only <b>silence</b>.")
        if voice == "wrong":
            raise ZeroDivisionError("a mistake of ours")
        for self.steps in range(100_000 if voice == "patient" else 2):
            context.progress(self.steps, 100_000, "converting")
            self.started.set()
            time.sleep(0.01)
        audio, rate = soundfile.read(path)
        output = context.folder / "result.wav"
        soundfile.write(output, audio / 2, rate)
        context.publish(
            report={
                "audio_seconds": len(audio) / rate, "elapsed_seconds": 0.5, "sample_rate": rate, "pitch_method": "pm",
                "index": None, "device": "cpu", "reason": "test",
            }
        )  # fmt: skip
        return [output]

    def services(self, folder: Path) -> Services:
        """Services whose conversions this does."""
        return Services(
            device="cpu",
            registry=JobRegistry(folder / "jobs", {"convert": self.convert}),
            list_voices=lambda: list(self.voices),
            voice_cards=lambda: [VoiceCard(name, True, 7.5, "2026-01-31") for name in self.voices],
            inspect_files=self.inspect_files,
            add_files=self.add_files,
            delete_voice=self.voices.remove,
            undo_delete=lambda: "",
            voice_range=lambda name: (100.0, 220.0, 400.0) if name == "alice" else None,
            voice_family=lambda name: "lite",
            index_rate=lambda name: 0.25 if name == "alice" else 0.75,
            speaker_names=lambda name: {0: "Alice", 3: "Ada"} if name == "alice" else {},
            presets=Presets(folder / "presets"),
            list_checkpoints=dict,
            list_indexes=dict,
            folder=folder,
            files=folder / "jobs",
            fetch_link=self.fetch_link,
        )


@pytest.fixture(scope="module")
def fake() -> FakeConverter:
    return FakeConverter()


@pytest.fixture(scope="module")
def address(fake: FakeConverter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        folder = tmp_path_factory.mktemp("jobs")
        app = build_app(fake.services(folder))
        yield serve_somewhere(app, Address("127.0.0.1"), None, [folder])[0]
        app.close(verbose=False)


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    """A client of the page, as programs use it."""
    made = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    yield made
    made.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recording") / "my song 歌.wav"
    soundfile.write(path, voice_like(0.5), 16_000)
    return str(path)


def convert(client: Client, voice: str | None, recording: str | None, **options: Any) -> Any:
    """Call the page's endpoint, by the names of its parameters."""
    file = handle_file(recording) if recording else None
    return client.predict(voice=voice, recording=file, f0_file=None, **options, api_name="/convert")


@pytest.mark.slow
def test_page_converts_with_the_options_of_the_form(client: Client, fake: FakeConverter, recording: str) -> None:
    result, report = convert(client, "alice", recording, pitch_shift=-3.5, protect=0.2, seed=7)
    audio, rate = soundfile.read(result)
    assert (len(audio), rate) == (8_000, 16_000)
    assert "0.5 s" in report and "16000 Hz" in report and "pm" in report and "cpu (test)" in report
    voice, options = fake.calls[-1]
    assert voice == "alice"
    wanted = ConvertOptions(pitch_shift=-3.5, protect=0.2, seed=7, device="cpu")
    assert ConvertOptions.model_validate(options) == wanted
    convert(client, "alice", recording, speaker_id="Ada")
    assert fake.calls[-1][1]["speaker_id"] == 3, "by the name stored in the voice"
    assert fake.calls[-1][1]["index_rate"] is None, "what the voice recommends"
    convert(client, "alice", recording, index_rate=0.6)
    assert fake.calls[-1][1]["index_rate"] == 0.6


@pytest.mark.slow
def test_the_api_describes_jobs_by_the_names_of_the_command_line(client: Client, recording: str) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    named = {name: [p["parameter_name"] for p in facts["parameters"]] for name, facts in endpoints.items()}
    assert {*ConvertOptions.model_fields} - SKIP < {*named["/convert"]}
    assert {*RunOptions.model_fields} < {*named["/train"]}
    assert not any(name.startswith("param_") for names in named.values() for name in names)
    convert(client, "alice", recording)
    newest = client.predict(api_name="/list_jobs")[0]
    assert (newest["kind"], newest["state"], newest["error"]) == ("convert", "done", None)
    assert client.predict(job_id=newest["id"], api_name="/job_status")["results"] == ["result.wav"]
    client.predict(job_id=newest["id"], api_name="/forget_job")
    for unknown in (newest["id"], "../../etc"):
        with pytest.raises(AppError, match="no job"):
            client.predict(job_id=unknown, api_name="/job_status")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("voice", "sentence"),
    [("broken", "only <b>silence</b>"), ("wrong", r"unexpected error occurred \(ZeroDivisionError\)")],
)
def test_errors_become_messages(client: Client, recording: str, voice: str, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        convert(client, voice, recording)


@pytest.mark.slow
def test_missing_choices_are_reported(client: Client, recording: str) -> None:
    with pytest.raises(AppError, match="No recording yet"):
        convert(client, "alice", None)
    with pytest.raises(AppError, match=r"Index .* not found"):
        convert(client, "alice", recording, index="../x")


@pytest.mark.parametrize("changes", [{"protect": 0.9}, {"seed": -1}, {"pitch_method": "guess"}, {"resample_rate": 5}])
def test_values_out_of_range_are_refused(client: Client, recording: str, changes: dict[str, Any]) -> None:
    with pytest.raises(AppError):
        convert(client, "alice", recording, **changes)


@pytest.mark.parametrize("voice", ["../../etc/passwd", str(ROOT / "weights" / "x.pth"), "nobody"])
def test_only_listed_voices_can_be_named(client: Client, fake: FakeConverter, recording: str, voice: str) -> None:
    n_calls = len(fake.calls)
    with pytest.raises(AppError):
        convert(client, voice, recording)
    assert len(fake.calls) == n_calls


def test_files_of_the_machine_are_not_served(address: str) -> None:
    for path in ("/etc/passwd", ROOT / "pyproject.toml", ROOT / "weights" / ".gitkeep"):
        assert httpx.get(f"{address}gradio_api/file={path}", timeout=PATIENCE).status_code in (403, 404)


@pytest.mark.slow
def test_page_needs_nothing_from_the_internet(address: str) -> None:
    page = "".join(httpx.get(f"{address}{file}", timeout=PATIENCE).text for file in ("", "theme.css"))
    assert "<script" in page
    for wanted in ("fonts.googleapis.com", "fonts.gstatic.com", "cdnjs", "cdn.jsdelivr"):
        assert wanted not in page


@pytest.mark.slow
def test_cancel_ends_a_running_conversion(client: Client, fake: FakeConverter, recording: str) -> None:
    fake.started.clear()
    running = client.submit(
        voice="patient", recording=handle_file(recording), f0_file=None, api_name="/convert"
    )  # fmt: skip
    assert fake.started.wait(PATIENCE)
    (job,) = [job for job in client.predict(api_name="/list_jobs") if job["state"] == "running"]
    client.predict(job_id=job["id"], api_name="/cancel_job")
    steps = fake.steps
    result, report = running.result(timeout=PATIENCE)
    assert fake.steps <= steps + 1  # the next report of progress ends it
    assert (result, report) == (None, T("convert.cancelled"))
    assert client.predict(job_id=job["id"], api_name="/job_status")["state"] == "cancelled"


@pytest.mark.slow
def test_new_voices_appear_and_a_choice_that_exists_stays(fake: FakeConverter, tmp_path: Path) -> None:
    voices = ["alice", "bob"]
    app = build_app(replace(fake.services(tmp_path), list_voices=lambda: list(voices)))
    refresh = next(f.fn for f in app.fns.values() if f.fn and f.fn.__qualname__ == "_keep_fresh.<locals>.refresh")
    known, dropdown, _ = refresh(None, "bob")
    assert known == [[["alice", "alice"], ["bob", "bob"]], []]
    assert (dropdown["choices"], dropdown["value"]) == ([("alice", "alice"), ("bob", "bob")], "bob")
    assert refresh(known, "bob") == (gr.skip(), gr.skip(), gr.skip())
    voices.remove("bob")
    assert refresh(known, "bob")[1]["value"] is None, "no other voice takes its place behind the user's back"
    assert refresh(None, None)[1]["value"] == "alice", "the first one when the page opens"


@pytest.mark.slow
def test_presets_are_kept_and_a_voice_remembers(client: Client, recording: str, tmp_path: Path) -> None:
    client.predict(name="Soft ♪", protect=0.1, pitch_shift=5, api_name="/save_preset")
    loaded = client.predict(name="Soft ♪", api_name="/load_preset")
    file = Path(loaded[-1])
    assert json.loads(file.read_text(encoding="utf-8"))["protect"] == 0.1
    shutil.copy(file, tmp_path / "again.json")
    client.predict(file=handle_file(tmp_path / "again.json"), api_name="/import_preset")
    assert client.predict(name="again", api_name="/load_preset")[0] == 5
    for wrong in ("../x", "", "no such"):
        with pytest.raises(AppError):
            client.predict(name=wrong, api_name="/save_preset" if wrong != "no such" else "/load_preset")
    (tmp_path / "bad.json").write_text('{"os": "rm"}', encoding="utf-8")
    with pytest.raises(AppError, match="not a preset"):
        client.predict(file=handle_file(tmp_path / "bad.json"), api_name="/import_preset")


def test_a_pitch_shift_is_suggested(client: Client, recording: str) -> None:
    shift = client.predict(voice="alice", recording=handle_file(recording), api_name="/suggest_pitch_shift")
    assert shift == suggested_shift(float(np.median(swift_f0(recording))), 220.0)
    with pytest.raises(AppError, match="pitch range of this voice is unknown"):
        client.predict(voice="broken", recording=handle_file(recording), api_name="/suggest_pitch_shift")
    assert (suggested_shift(110.0, 220.0), suggested_shift(440.0, 220.0), suggested_shift(10.0, 880.0)) == (12, -12, 24)


def swift_f0(recording: str) -> Any:
    f0 = load_pitch_extractor("swift", torch.device("cpu"))(load_audio(Path(recording), 16_000))
    return f0[f0 > 0]


class Every(BaseModel, frozen=True):
    """One field of every kind that a form can show."""

    pitch_shift: float = Field(0.0, ge=-24, le=24)
    protect: float = Field(0.33, ge=0, le=0.5)
    resample_rate: int = Field(0, ge=0, le=48_000)
    speaker_id: int = Field(0, ge=0, le=9)
    seed: int = Field(0, ge=0)
    interpolate_unvoiced: bool = False


def test_form_has_the_ranges_of_the_model() -> None:
    with gr.Blocks():
        shift, protect, rate, speaker, seed, flag = Form(Every, T).components
    assert isinstance(shift, gr.Slider) and (shift.minimum, shift.maximum, shift.step) == (-24, 24, 0.1)
    assert isinstance(protect, gr.Slider) and (protect.value, protect.step) == (0.33, 0.01)
    assert isinstance(rate, gr.Number) and (rate.minimum, rate.maximum, rate.precision) == (0, 48_000, 0)
    assert isinstance(speaker, gr.Slider) and speaker.step == 1
    assert isinstance(seed, gr.Number) and seed.maximum is None
    assert isinstance(flag, gr.Checkbox)


def test_form_of_the_conversion_has_every_option() -> None:
    with gr.Blocks():
        form = Form(ConvertOptions, T, skip=SKIP)
    assert set(form.names) == set(ConvertOptions.model_fields) - SKIP
    assert form.parse([component.value for component in form.components], device="cpu") == ConvertOptions(device="cpu")


FORM = Form(Every, T)


@given(st.floats(-30, 30), st.floats(-1, 1))
def test_form_accepts_exactly_what_the_model_accepts(shift: float, protect: float) -> None:
    values = [shift, protect, 0, 0, 0, False]
    if abs(shift) <= 24 and 0 <= protect <= 0.5:
        assert FORM.parse(values).pitch_shift == shift
    else:
        with pytest.raises(ConfigError, match=r"pitch_shift|protect"):
            FORM.parse(values)


@pytest.mark.slow
def test_login_is_required_where_it_was_asked_for(
    fake: FakeConverter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    app = build_app(fake.services(tmp_path))
    url = serve_somewhere(app, Address("127.0.0.1", login=("me", "secret")), None)[0]
    try:
        assert httpx.get(f"{url}config", timeout=PATIENCE).status_code == 401
        for password, status in (("wrong", 400), ("secret", 200)):
            entered = {"username": "me", "password": password}
            assert httpx.post(f"{url}login", data=entered, timeout=PATIENCE).status_code == status
    finally:
        app.close(verbose=False)


def test_the_page_starts_on_a_busy_machine(
    fake: FakeConverter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradio gives its server 5 s to start and then 3 s to answer; here its clock runs too fast for either."""
    clock = SimpleNamespace(time=itertools.count(step=60).__next__, sleep=time.sleep)
    monkeypatch.setattr("gradio.http_server.time", clock)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    app = build_app(fake.services(tmp_path))
    try:
        url = serve_somewhere(app, Address("127.0.0.1"), None)[0]
        assert httpx.get(url, timeout=PATIENCE).status_code == 200
    finally:
        app.close(verbose=False)
