"""Recordings to clips: the whole golden run, numbering, levels, and bad files."""

import json
import logging
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lib.audio.decode import load_audio, load_audio_native
from lib.audio.encode import save_audio
from lib.errors import AudioError, MissingFileError
from lib.progress import Cancelled
from tests.helpers import Floats, golden_metadata, read_golden
from train.options import PrepareOptions
from train.preprocess import PrepareReport, cut_clips, normalise, prepare

Tone = Callable[..., Floats]
OPTIONS = PrepareOptions()


def run(data: Path, out: Path, rate: int = 32000, options: PrepareOptions = OPTIONS) -> PrepareReport:
    return prepare(data, out / "0_gt_wavs", out / "1_16k_wavs", rate, options)


def names(folder: Path) -> list[str]:
    """File names in the order of their numbers."""
    return sorted((path.name for path in folder.iterdir()), key=lambda n: [int(i) for i in n[:-4].split("_")])


def reference_numbers(slices: list[int], rate: int, seconds: float) -> list[int]:
    """The reference's second number of every clip it writes, for slices of given lengths in samples.

    It skips numbers, and where a slice of one clip is followed by one with a full clip, both get the same number: the
    second overwrites the first, which is lost. Ours are counted without gaps, so nothing is lost, and clips of golden
    runs are found by this rule.
    """
    numbers: list[int] = []
    number = 0
    for length in slices:
        full = len(cut_clips(length, rate, seconds)) - 1
        numbers.extend(range(number, number + full))
        number += full + 1
        numbers.append(number)
    return numbers


def test_golden_clip_cutting(golden: Path) -> None:
    for case in json.loads((golden / "functions/03_piece_naming.json").read_text())["cases"]:
        slices = [int(seconds * 40000) for seconds in case["slices"]]
        pieces = [piece for length in slices for piece in cut_clips(length, 40000, case["per"])]
        numbers = reference_numbers(slices, 40000, case["per"])
        assert [[n, *piece] for n, piece in zip(numbers, pieces, strict=True)] == case["writes"]


def golden_numbers(golden: Path, seconds: float) -> tuple[int, list[int]]:
    """The rate of the golden recording and the reference's number of every clip it cuts from it."""
    data = json.loads((golden / "preprocess/preprocess.json").read_text())
    slices = [length for _, length in data["slicer_chunks_start_length"]]
    return data["sample_rate"], reference_numbers(slices, data["sample_rate"], seconds)


def clips_by_number(numbers: list[int]) -> dict[str, str]:
    """The reference's name of a clip -> ours; where it used a name twice, the last counts."""
    return {f"0_{number}.wav": f"0_{i}.wav" for i, number in enumerate(numbers)}


@pytest.mark.parametrize("which", [0, 1])
def test_golden_run(golden: Path, tmp_path: Path, which: int) -> None:
    runs = json.loads((golden / "preprocess/preprocess.json").read_text())["runs"]
    run_name, rows = list(runs.items())[which]
    seconds = float(run_name.removeprefix("per_"))
    native, numbers = golden_numbers(golden, seconds)
    report = run(golden / "preprocess/recording.wav", tmp_path, native, PrepareOptions(slice_seconds=seconds))
    assert names(tmp_path / "0_gt_wavs") == [f"0_{i}.wav" for i in range(len(numbers))]
    assert names(tmp_path / "1_16k_wavs") == names(tmp_path / "0_gt_wavs")
    assert report.clips == len(numbers) >= len(set(numbers)) == len(rows)  # the reference overwrites the others
    ours = clips_by_number(numbers)
    for row in rows:
        for folder, rate, prefix in (("0_gt_wavs", native, "gt"), ("1_16k_wavs", 16000, "16k")):
            path = tmp_path / folder / ours[row["file"]]
            clip, clip_rate = soundfile.read(path, dtype="float32")
            assert (clip_rate, soundfile.info(path).subtype) == (rate, "FLOAT")
            assert len(clip) == row[f"{prefix}_len"]
            assert np.abs(clip).max() == pytest.approx(row[f"{prefix}_max"], rel=1e-4)
            assert np.square(clip, dtype=np.float64).sum() == pytest.approx(row[f"{prefix}_sumsq"], rel=1e-4)
            rms = [np.sqrt(np.square(part, dtype=np.float64).mean()) for part in np.array_split(clip, 8)]
            assert rms == pytest.approx(row[f"{prefix}_rms_in_8_parts"], abs=2e-6)


def test_golden_samples(golden: Path, tmp_path: Path) -> None:
    """Every sample of one clip; its name and run are written in the golden data."""
    path = golden / "preprocess/one_output.safetensors"
    want, reference_name = read_golden(path), golden_metadata(path)["file"]
    match = re.search(r"\(0_\d+\.wav of run per_([\d.]+)\)", (golden / "README.md").read_text())
    assert match
    rate, numbers = golden_numbers(golden, float(match[1]))
    name = clips_by_number(numbers)[reference_name]
    run(golden / "preprocess/recording.wav", tmp_path, rate, PrepareOptions(slice_seconds=float(match[1])))
    assert np.abs(load_audio(tmp_path / "0_gt_wavs" / name, rate) - want["out.gt"].numpy()).max() < 2e-6
    assert np.abs(load_audio(tmp_path / "1_16k_wavs" / name, 16000) - want["out.16k"].numpy()).max() < 1e-4


@given(length=st.integers(1, 2_000_000), rate=st.sampled_from([24000, 32000, 40000, 48000]), seconds=st.floats(1, 8))
def test_clips_cover_a_slice_with_overlap(length: int, rate: int, seconds: float) -> None:
    pieces = cut_clips(length, rate, seconds)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == length
    assert all(0 < end - start <= (seconds + 0.3) * rate for start, end in pieces)
    for (_, end), (start, _) in pairwise(pieces):
        assert abs((end - start) - 0.3 * rate) <= 2


def test_normalising_keeps_a_quarter_of_the_level(tone: Tone) -> None:
    loud, soft = normalise(tone(220, 0.1, amplitude=1.0)), normalise(tone(220, 0.1, amplitude=0.01))
    assert np.abs(loud).max() == pytest.approx(0.9 * 0.75 + 0.25, rel=1e-3)
    assert np.abs(soft).max() == pytest.approx(0.9 * 0.75 + 0.0025, rel=1e-3)


@pytest.mark.slow
def test_real_recordings(shared_data: Path, tmp_path: Path) -> None:
    report = run(shared_data / "voices/ljspeech", tmp_path, rate=40000)
    assert report.recordings == 32
    assert report.failures == ()
    assert 200 < report.seconds < 240
    assert report.clips == len(names(tmp_path / "0_gt_wavs")) == len(names(tmp_path / "1_16k_wavs"))
    clip, rate = load_audio_native(tmp_path / "0_gt_wavs/31_0.wav")
    assert rate == 40000
    assert 0.675 < np.abs(clip).max() < 0.93


def test_the_same_recordings_give_the_same_clips(golden: Path, tmp_path: Path) -> None:
    found: list[dict[str, Floats]] = []
    for name in ("one", "two"):
        run(golden / "pipeline/speech_16k.wav", tmp_path / name)
        paths = (tmp_path / name).rglob("*.wav")  # not their bytes: a float WAV contains the time of writing
        found.append({str(path.relative_to(tmp_path / name)): load_audio_native(path)[0] for path in paths})
    assert found[0].keys() == found[1].keys() and len(found[0]) >= 2
    for path, clip in found[0].items():
        np.testing.assert_array_equal(clip, found[1][path])


def test_a_bad_file_does_not_stop_the_rest(tmp_path: Path, tone: Tone, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / 'My voice\'s "best" 🎤 录音'
    save_audio(data / "a good one.wav", tone(220, 2.0), 16000)
    (data / "b text.wav").write_text("not audio at all\n" * 50)
    (data / "c empty.mp3").write_bytes(b"")
    save_audio(data / "d silent.flac", np.zeros(32000, np.float32), 16000)
    save_audio(data / "e cut off.flac", tone(220, 4.0), 16000)
    raw = (data / "e cut off.flac").read_bytes()
    (data / "e cut off.flac").write_bytes(raw[: len(raw) // 2])
    soundfile.write(data / "f too loud.wav", 8 * tone(220, 1.0), 16000, subtype="FLOAT")
    (data / "notes.txt").write_text("recorded on Monday\n" * 20)
    save_audio(data / "z good too 中文.ogg", tone(330, 2.0), 16000)
    with caplog.at_level(logging.WARNING):
        report = run(data, tmp_path / "out")
    assert names(tmp_path / "out/0_gt_wavs") == ["0_0.wav", "4_0.wav", "6_0.wav"]
    assert (report.recordings, report.clips, report.short) == (3, 3, 0)
    reasons = {path.name: reason for path, reason in report.failures}
    assert set(reasons) == {"b text.wav", "c empty.mp3", "d silent.flac", "f too loud.wav"}
    assert "not a recording" in reasons["b text.wav"]
    assert "empty" in reasons["c empty.mp3"]
    assert "silence" in reasons["d silent.flac"]
    assert "2.5 times full scale" in reasons["f too loud.wav"]
    assert all(name in reason for name, reason in reasons.items())
    assert "e cut off.flac is truncated" in caplog.text


def test_faint_noise_is_silence_and_is_not_amplified(tmp_path: Path, tone: Tone) -> None:
    hiss = np.random.default_rng(0).uniform(-1e-4, 1e-4, 48000).astype(np.float32)
    fading = hiss * np.geomspace(1, 1e-3, len(hiss), dtype=np.float32)  # the slicer keeps the louder beginning
    save_audio(tmp_path / "in/a.wav", fading, 16000, subtype="FLOAT")
    save_audio(tmp_path / "in/b.wav", tone(220, 1.0), 16000)
    report = run(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path / "out/0_gt_wavs") == ["1_0.wav"]
    assert report.skipped_silent > 0
    assert "a.wav contains only silence" in report.failures[0][1]


def test_short_clips_are_counted(tmp_path: Path, tone: Tone) -> None:
    save_audio(tmp_path / "in/a.wav", tone(220, 0.02), 16000)
    save_audio(tmp_path / "in/b.wav", tone(220, 1.0), 16000)
    report = run(tmp_path / "in", tmp_path / "out")
    assert (report.clips, report.short) == (2, 1)


def write_nothing(path: Path, tone: Tone) -> None:
    """One case per name of what cannot become a training set."""
    if path.name == "empty":
        path.mkdir()
    elif path.name == "texts":
        path.mkdir()
        (path / "a.txt").write_text("some text\n" * 20)
    elif path.name == "silence":
        save_audio(path / "a.wav", np.zeros(32000, np.float32), 16000)
    elif path.name == "20 ms":
        save_audio(path / "a.wav", tone(220, 0.02), 16000)
    elif path.name == "broken":
        path.mkdir()
        (path / "a.wav").write_text("some text\n" * 20)
        (path / "b.mp3").write_bytes(b"")
    elif path.name == "file.txt":
        path.write_text("some text\n" * 20)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("missing", "Not found"),
        ("empty", "is empty"),
        ("texts", "no recordings"),
        ("silence", "only silence"),
        ("20 ms", r"shorter than 0\.32 s"),
        ("broken", r"None of the 2 recordings.*a\.wav"),
        ("file.txt", r"file\.txt (is not a recording|contains no audio)"),
    ],
)
def test_nothing_to_train_on_is_one_sentence_and_no_file(tmp_path: Path, tone: Tone, name: str, pattern: str) -> None:
    write_nothing(tmp_path / name, tone)
    with pytest.raises((AudioError, MissingFileError), match=pattern) as caught:
        run(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_new_run_leaves_no_clip_of_the_old_one(tmp_path: Path, tone: Tone) -> None:
    save_audio(tmp_path / "in/a.wav", tone(220, 9.0), 16000)
    run(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path / "out/0_gt_wavs") == ["0_0.wav", "0_1.wav", "0_2.wav"]
    (tmp_path / "out/0_gt_wavs/0_1.spec.pt").write_bytes(b"a cache that belongs to the old clip")
    save_audio(tmp_path / "in/a.wav", tone(220, 2.0), 16000)
    run(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path / "out/0_gt_wavs") == names(tmp_path / "out/1_16k_wavs") == ["0_0.wav"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0_gt_wavs", "1_16k_wavs"]


@pytest.mark.slow
def test_a_failed_or_cancelled_run_leaves_the_old_clips(tmp_path: Path, tone: Tone) -> None:
    save_audio(tmp_path / "in/a.wav", tone(220, 2.0), 16000)
    save_audio(tmp_path / "in/b.wav", tone(220, 2.0), 16000)
    run(tmp_path / "in", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.wav")}

    def cancel(done: int, total: int, what: str) -> None:
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare(tmp_path / "in", tmp_path / "out/0_gt_wavs", tmp_path / "out/1_16k_wavs", 40000, OPTIONS, cancel)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.wav").write_text("some text\n" * 20)
    with pytest.raises(AudioError):
        run(tmp_path / "broken", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.wav")} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0_gt_wavs", "1_16k_wavs"]


def test_progress_counts_recordings_up_to_the_end(tmp_path: Path, tone: Tone) -> None:
    for name in "abc":
        save_audio(tmp_path / f"in/{name}.wav", tone(220, 1.0), 16000)
    seen: list[tuple[int, int]] = []
    prepare(
        tmp_path / "in",
        tmp_path / "gt",
        tmp_path / "16k",
        16000,
        OPTIONS,
        lambda done, total, _: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match="slice_seconds"):
        PrepareOptions(slice_seconds=0.1)
    with pytest.raises(ValidationError, match="procesess"):
        PrepareOptions.model_validate({"procesess": 2})


def test_recordings_whose_channels_cancel_are_prepared_from_one(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "data").mkdir()
    sound = tone(220, 1.0, 32000)
    soundfile.write(tmp_path / "data/a.wav", np.stack([sound, -sound], axis=1), 32000)
    with pytest.raises(AudioError, match="channels cancel each other"):
        run(tmp_path / "data", tmp_path / "out")
    assert run(tmp_path / "data", tmp_path / "out", options=PrepareOptions(channel="right")).clips == 1


def test_noise_is_reduced_only_on_request(tmp_path: Path, tone: Tone) -> None:
    noise = (0.02 * np.random.default_rng(0).standard_normal(3 * 16_000)).astype(np.float32)
    notes = tone(220, 3.0) * (np.arange(3 * 16_000) % 12_000 < 6000)  # a steady tone would count as noise
    save_audio(tmp_path / "data/a.wav", notes + noise, 16_000)
    clips = {}
    for strength in (0.0, 1.0):
        out = tmp_path / f"out {strength}"
        assert run(tmp_path / "data", out, options=PrepareOptions(noise_reduction=strength)).clips > 0
        clips[strength] = load_audio_native(next((out / "1_16k_wavs").iterdir()))[0]
    high = [float(np.abs(np.fft.rfft(clip)[len(clip) // 8 :]).mean()) for clip in clips.values()]
    assert high[1] < 0.7 * high[0]
