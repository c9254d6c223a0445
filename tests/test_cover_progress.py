"""Every step of a cover reports its progress, and can be cancelled, after every few seconds of audio."""

import importlib.util
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from infer.between_layers import between_layers
from infer.song.cover import CoverMaker, Sources
from infer.song.key_change import change_key
from infer.song.mix import mix, silence_where_silent
from infer.song.options import CoverOptions
from infer.song.stems import split_song
from infer.song.step_cache import StepCache
from lib.audio.encode import save_array
from lib.audio.filters import resample
from lib.effects.chain import APPLY, apply_chain
from lib.effects.formants import shift_formants
from lib.effects.loudness import integrated_loudness, to_loudness
from lib.effects.noise import wiener_filter
from lib.effects.spec import parse_chain
from lib.effects.stereo import find_image
from lib.progress import Cancelled, Progress, no_progress, pieces
from tests.echo_voice import echo_converter
from tests.helpers import Floats
from tests.test_cover import write

RATE, SECONDS = 8000, 6
Step = Callable[[Floats, Progress], object]


def sound() -> Floats:
    """Two channels with a common tone that is silent at times, and noise: (2, T)."""
    time = np.arange(RATE * SECONDS + 77) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 300 * time) * (time % 1 > 0.4)
    noise = 0.02 * np.random.default_rng(0).standard_normal((2, len(time)))
    return (np.stack([tone, 0.5 * tone]) + noise).astype(np.float32)


def image(audio: Floats, progress: Progress) -> Floats:
    found = find_image(audio, RATE, progress)
    assert found is not None
    return found[0].apply(found[1], RATE)


STEPS: dict[str, Step] = {
    "resample": lambda audio, progress: resample(audio, RATE, 7000, progress),
    "image": image,
    "apply image": lambda audio, progress: find_image(audio, RATE)[0].apply(audio[0], RATE, progress),  # type: ignore[index]
    "silence": lambda audio, progress: silence_where_silent(audio, audio, RATE, progress),
    "mix": lambda audio, progress: mix(audio, audio, RATE, CoverOptions(vocal_pan=0.3), progress),
    "split": lambda audio, progress: split_song(audio, 0.5 * audio, RATE, Path("stem"), progress)[0],
    "wiener filter": lambda audio, progress: wiener_filter(audio[0], RATE, progress),
    "loudness": lambda audio, progress: integrated_loudness(audio, RATE, progress),
    "limited": lambda audio, progress: to_loudness(audio, RATE, -8.0, progress),
    "formants": lambda audio, progress: shift_formants(audio[0], RATE, np.full(700, 150, np.float32), 1.2, progress),
} | {
    name: lambda audio, progress, name=name: apply_chain(audio, RATE, parse_chain(name), progress)
    for name in APPLY if name not in ("denoise", "reverb")
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reports_every_few_seconds_and_its_result_does_not_depend_on_that(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, reports = sound(), list[tuple[int, int]]()
    result = STEPS[name](audio, lambda done, total, what: reports.append((done, total)))
    assert len(reports) >= SECONDS / 2
    shares = [done / total for done, total in reports]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    monkeypatch.setattr("lib.progress.PIECE_SECONDS", 1000.0)
    assert np.abs(np.asarray(STEPS[name](audio, no_progress)) - np.asarray(result)).max() < 2e-6


def test_a_reverb_reports_at_least_once_per_length_of_its_response() -> None:
    reports: list[int] = []
    apply_chain(sound(), RATE, parse_chain("reverb=0.2:0.5:10"), lambda done, total, what: reports.append(done))
    assert len(reports) >= SECONDS / 1.2


def test_cancelling_stops_a_step_in_the_middle() -> None:
    seen = []

    def stop(done: int, total: int, what: str) -> None:
        if done >= 3 * RATE:
            raise Cancelled

    with pytest.raises(Cancelled):
        for piece in pieces(100 * RATE, RATE, stop):
            seen.append(piece)
    assert seen == [slice(i * RATE, (i + 1) * RATE) for i in range(3)]


@pytest.mark.slow
def test_every_step_of_a_cover_reports_by_name(tmp_path: Path) -> None:
    audio = sound()
    for name in ("song", "vocals"):
        write(tmp_path / f"{name}.wav", audio if name == "vocals" else audio + 0.1 * audio[::-1], RATE)
    reports: list[tuple[float, str]] = []

    def progress(done: int, total: int, what: str) -> None:
        reports.append((done / total, what))

    options = CoverOptions(
        noise_reduction=0.5, effects="highpass=80", loudness=-20, formant_shift=1.1, precision="fp32"
    )
    sources = Sources(tmp_path / "song.wav", tmp_path / "vocals.wav")
    CoverMaker(echo_converter(), StepCache(tmp_path / "cache")).make(sources, tmp_path / "cover.wav", options, progress)
    shares = [share for share, _ in reports]
    assert shares == sorted(shares) and shares[-1] == 1
    counts = Counter(what for _, what in reports)
    assert "" not in counts
    for what in (
        "finding the stem in the song", "reducing noise", "converting", "shifting the formants", "applying the effects",
        "mixing", "writing the result",
    ):  # fmt: skip
        assert counts[what] >= SECONDS / 2, what
    assert {"reading the recording", "reading the stems"} < set(counts)


def test_a_file_and_a_result_in_the_cache_are_written_and_read_with_reports(tmp_path: Path) -> None:
    audio, reports = sound(), list[int]()

    def progress(done: int, total: int, what: str) -> None:
        reports.append(done)

    save_array(tmp_path / "sound.flac", audio, RATE, progress=progress)
    assert len(reports) > SECONDS
    for expected in (2 * SECONDS, SECONDS):  # the content is hashed, and written the first time
        reports.clear()
        StepCache(tmp_path / "cache").get("step", {"audio": audio}, RATE, lambda _: (audio, {}), progress)
        assert len(reports) >= expected


def test_a_network_is_cancelled_between_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.progress.CHECK_SECONDS", 0.0)
    network, reports = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5))), list[int]()

    def stop(done: int, total: int, what: str) -> None:
        reports.append(done)
        if len(reports) == 4:
            raise Cancelled

    with pytest.raises(Cancelled), between_layers(stop) as progress:
        network(torch.zeros(1, 2))  # nothing was reported yet
        progress(1, 2, "converting")
        other = threading.Thread(target=network, args=(torch.zeros(1, 2),))
        other.start()
        other.join()
        assert reports == [1]
        network(torch.zeros(1, 2))
    assert reports == [1] * 4
    network(torch.zeros(1, 2))
    assert len(reports) == 4


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("python_stretch") is None, reason="python-stretch is not installed")
def test_a_key_change_is_cancelled_at_once() -> None:
    reports: list[int] = []

    def stop(done: int, total: int, what: str) -> None:
        reports.append(done)
        if len(reports) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        change_key(np.zeros((2, 600 * RATE), np.float32), RATE, 3, stop)
    assert len(reports) == 3
