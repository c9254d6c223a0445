"""Names of results, and batches in which a file fails."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from infer.batch import Job, convert_file, convert_files, plan_jobs
from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from lib.audio import AUDIO_FORMATS
from lib.audio.decode import load_audio_native
from lib.audio.encode import save_audio
from lib.errors import AudioError, ConfigError
from lib.progress import Cancelled
from tests.tiny_voice import tiny_converter, voice_like

PM = ConvertOptions(pitch_method="pm")


@pytest.fixture(scope="module")
def converter() -> VoiceConverter:
    return tiny_converter()


def recording(path: Path, seconds: float = 0.3) -> Path:
    save_audio(path, voice_like(seconds), 16_000)
    return path


def outputs(inputs: list[Path], output: Path | None, audio_format: str | None = None) -> list[str]:
    """Names of the results below the common folder."""
    jobs, failures = plan_jobs(inputs, output, "eve", audio_format)
    assert not failures
    return [job.output.name for job in jobs]


def test_without_output_the_result_lies_beside_the_recording(tmp_path: Path) -> None:
    (job,), _ = plan_jobs([tmp_path / "a.b.flac"], None, "eve")
    assert job.output == tmp_path / "a.b_eve.wav"


def test_without_output_a_folder_gets_a_folder_beside_it(tmp_path: Path) -> None:
    recording(tmp_path / "songs/one.wav")
    (job,), _ = plan_jobs([tmp_path / "songs"], None, "eve", "flac")
    assert job.output == tmp_path / "songs_eve/one.flac"


def test_the_results_of_sub_folders_lie_in_the_same_sub_folders(tmp_path: Path) -> None:
    for name in ("a.wav", "x/a.wav", "x/y/a.b.wav", "x/A.flac"):
        recording(tmp_path / "songs" / name)
    jobs, _ = plan_jobs([tmp_path / "songs"], tmp_path / "songs/out", "eve")
    want = {"a.wav", "x/a_wav.wav", "x/A_flac.wav", "x/y/a.b.wav"}
    assert {job.output.relative_to(tmp_path / "songs/out").as_posix() for job in jobs} == want
    recording(tmp_path / "songs/out/x/a_wav.wav")  # a result of the first run is not converted by the second
    assert plan_jobs([tmp_path / "songs"], tmp_path / "songs/out", "eve")[0] == jobs


def test_an_existing_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "v1.wma").mkdir()
    (job,), _ = plan_jobs([tmp_path / "a.wav"], tmp_path / "v1.wma", "eve")
    assert job.output == tmp_path / "v1.wma/a.wav"


def test_one_recording_may_be_given_a_file_name(tmp_path: Path) -> None:
    (job,), _ = plan_jobs([tmp_path / "a.wav"], tmp_path / "x.mp3", "eve")
    assert job.output == tmp_path / "x.mp3"
    (job,), _ = plan_jobs([tmp_path / "a.wav"], tmp_path / "v1.2", "eve")
    assert job.output == tmp_path / "v1.2/a.wav"


@pytest.mark.parametrize(
    ("inputs", "output", "audio_format", "sentence"),
    [
        ([], None, None, "nothing to convert"),
        (["a.wav", "b.wav"], "x.wav", None, "Specify a folder"),
        (["a.wav"], "x.wav", "flac", r"does not end in \.flac"),
        (["a.wav"], "./a.wav", None, "never overwritten"),
        (
            ["a.wav"],
            "song.wma",
            None,
            re.escape(f"song.wma cannot be written: results are .{', .'.join(AUDIO_FORMATS)} files"),
        ),
        (["a.wav", "b.wav"], "out/song.MKV", "flac", r"song\.MKV cannot be written"),
    ],
)
def test_outputs_that_cannot_be(inputs: list[str], output: str | None, audio_format: str | None, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_jobs([Path(name) for name in inputs], Path(output) if output else None, "eve", audio_format)


def test_names_that_would_collide_differ(tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("a.wav", "a.mp3", "A.flac", "x/a.wav", "b.wav")]
    assert outputs(inputs, tmp_path / "out") == ["a_wav.wav", "a_mp3.wav", "A_flac.wav", "a_wav_eve.wav", "b.wav"]
    assert outputs([*reversed(inputs)], tmp_path / "out")[1:] == [
        "a_wav.wav",
        "A_flac.wav",
        "a_mp3.wav",
        "a_wav_eve.wav",
    ]


def test_a_result_never_replaces_a_recording(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    recording(tmp_path / "a_eve.wav")
    assert outputs([tmp_path], tmp_path) == ["a_eve_2.wav", "a_eve_eve.wav"]
    assert outputs([tmp_path / "a.wav", tmp_path / "a_eve.wav"], None) == ["a_eve_eve.wav", "a_eve_eve_eve.wav"]


def test_a_folder_without_recordings_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    jobs, failures = plan_jobs([tmp_path / "empty", tmp_path / "a.wav"], None, "eve")
    assert [job.path.name for job in jobs] == ["a.wav"]
    assert [failure.path.name for failure in failures] == ["empty"]
    assert "is empty" in (failures[0].error or "")


@pytest.mark.parametrize(("rate", "n"), [(44_100, 30_011), (8_000, 5_003), (22_050, 9_999), (48_000, 4_801)])
def test_the_result_is_as_long_as_the_recording(converter: VoiceConverter, tmp_path: Path, rate: int, n: int) -> None:
    save_audio(tmp_path / "in.wav", np.resize(voice_like(0.7), n), rate)
    outcome = convert_file(converter, Job(tmp_path / "in.wav", tmp_path / "out.flac"), PM)
    converted, out_rate = load_audio_native(tmp_path / "out.flac")
    assert out_rate == outcome.sample_rate == 24_000
    assert len(converted) == -(-n * 24_000 // rate)
    assert outcome.audio_seconds == n / rate
    assert outcome.pitch_method == "pm"


def test_one_failure_does_not_stop_the_rest(converter: VoiceConverter, tmp_path: Path) -> None:
    good = [recording(tmp_path / "in" / name) for name in ("a.wav", "声 o'é 🎤.wav")]
    (tmp_path / "in/bad.wav").write_bytes(b"not audio at all")
    save_audio(tmp_path / "in/still.wav", np.zeros(16_000, np.float32), 16_000)
    (tmp_path / "in/none.wav").touch()
    (tmp_path / "in/read me.txt").write_text("hello")
    jobs, _ = plan_jobs([tmp_path / "in", tmp_path / "missing.wav"], tmp_path / "out", "eve")
    outcomes = {outcome.path.name: outcome for outcome in convert_files(converter, jobs, PM)}
    assert {name for name, outcome in outcomes.items() if outcome.error is None} == {path.name for path in good}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in good}
    for name in ("bad.wav", "still.wav", "none.wav", "missing.wav"):
        assert name in (outcomes[name].error or "")
    assert "digital silence" in (outcomes["still.wav"].error or "")


def test_a_failure_names_the_recording(converter: VoiceConverter, tmp_path: Path) -> None:
    path = recording(tmp_path / "short.wav", 0.02)
    with pytest.raises(AudioError, match=r"short\.wav cannot be converted\. It is 0\.020 s long"):
        convert_file(converter, Job(path, tmp_path / "x.wav"), PM)


def test_a_result_that_cannot_be_written_is_reported(converter: VoiceConverter, tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    (tmp_path / "file").touch()
    jobs = [Job(path, tmp_path / "file/a.wav"), Job(path, tmp_path / ("x" * 300 + ".wav"))]
    assert all("Cannot write" in (outcome.error or "") for outcome in convert_files(converter, jobs, PM))


def test_progress_covers_all_files_and_cancelling_leaves_nothing_half_written(
    converter: VoiceConverter, tmp_path: Path
) -> None:
    jobs = [Job(recording(tmp_path / f"{i}.wav"), tmp_path / f"out/{i}.wav") for i in range(3)]
    seen: list[float] = []

    def watch(done: int, total: int, what: str) -> None:
        seen.append(done / total)
        if done / total > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        convert_files(converter, jobs, PM, watch)
    assert seen == sorted(seen)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.wav"]


def test_a_recording_whose_channels_cancel_is_converted_from_one(converter: VoiceConverter, tmp_path: Path) -> None:
    voice = voice_like(0.4)
    soundfile.write(tmp_path / "in.wav", np.stack([voice, -voice], axis=1), 16_000)
    job = Job(tmp_path / "in.wav", tmp_path / "out.wav")
    (outcome,) = convert_files(converter, [job], PM)
    assert "channels cancel each other" in (outcome.error or "") and not job.output.exists()
    (outcome,) = convert_files(converter, [job], PM.model_copy(update={"channel": "left"}))
    assert outcome.error is None and np.abs(load_audio_native(job.output)[0]).max() > 0.01
