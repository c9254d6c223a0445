"""Covers of songs with backing vocals and reverb, whose parts are known, through three separations."""

import json
from pathlib import Path

import numpy as np
import pytest

from infer.song.cover import CoverMaker, Sources
from infer.song.options import CoverOptions
from infer.song.separation import Separator
from infer.song.step_cache import StepCache
from lib.audio.decode import load_stereo
from lib.progress import Progress
from tests.echo_voice import echo_converter
from tests.helpers import Floats
from tests.test_cover import PLAIN, RATE, chords, voiced, write

SECONDS = 3.0
EXACT = 2.0**-14  # of a result in 16 bits


def seconds_between(first: float, last: float) -> np.ndarray:  # type: ignore[type-arg]
    """The samples between these tenths of every second: True."""
    time = np.arange(round(SECONDS * RATE)) / RATE % 1
    return (time > first) & (time < last)


class Parts:
    """Notes in the first 0.6 s of every second, their reverb until 0.76 s, backing vocals from 0.8 s to 0.98 s."""

    def __init__(self) -> None:
        lead = voiced(SECONDS)
        time = np.arange(len(lead)) / RATE
        envelope = np.clip(np.minimum(time % 1 - 0.8, 0.98 - time % 1) / 0.02, 0, 1)
        self.lead = np.stack([lead, lead])
        self.tail = 0.3 * np.roll(self.lead, round(0.16 * RATE), axis=1)
        tones = 0.1 * np.sin(2 * np.pi * 330 * time) + 0.01 * np.sin(2 * np.pi * 10_000 * time)
        self.backing = np.stack([tones * envelope] * 2).astype(np.float32)
        self.instrumental = chords(SECONDS)
        self.song = (self.lead + self.tail + self.backing + self.instrumental).astype(np.float32)

    def load_separator(self, name: str, device: str) -> Separator:
        """Separators that know the parts: all vocals, the lead with its reverb, the lead without."""
        removed = {"voices": self.instrumental, "lead": self.backing, "dry": self.tail}[name]

        def separate(audio: Floats, sample_rate: int, progress: Progress) -> Floats:
            assert (audio.shape, sample_rate) == (removed.shape, RATE)
            return (audio - removed).astype(np.float32)

        return separate


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts()


def make(folder: Path, parts: Parts, maker: CoverMaker | None = None, **options: object) -> Floats:
    """What a cover adds to the instrumental: (2, T)."""
    maker = maker or CoverMaker(echo_converter(), StepCache(folder / "cache"), parts.load_separator)
    chosen = PLAIN | {"separation": "voices", "lead_separation": "lead"} | options
    song = write(folder / "song.wav", parts.song)
    cover = maker.make(Sources(song), folder / "cover.wav", CoverOptions.model_validate(chosen))
    result: Floats = load_stereo(cover.path)[0] - parts.instrumental
    return result


@pytest.mark.slow
def test_backing_vocals_are_kept_converted_or_dropped(tmp_path: Path, parts: Parts) -> None:
    backing, alone = parts.backing, seconds_between(0.83, 0.94)
    kept = make(tmp_path, parts, backing="keep")
    assert np.abs(kept - backing)[:, alone].max() <= EXACT
    assert np.abs(make(tmp_path, parts, backing="drop")[:, alone]).max() <= EXACT
    converted = make(tmp_path, parts, backing="convert")
    assert np.corrcoef(converted[0, alone], backing[0, alone])[0, 1] > 0.99
    assert np.abs(converted - backing)[:, alone].max() > 0.005  # the voice computes nothing above 8 kHz
    singing = seconds_between(0.05, 0.6)
    for result in (kept, converted):
        assert np.corrcoef(result[0, singing], (parts.lead + parts.tail)[0, singing])[0, 1] > 0.98


@pytest.mark.slow
def test_reverb_is_removed_from_the_lead_before_its_conversion(tmp_path: Path, parts: Parts) -> None:
    reverb = seconds_between(0.72, 0.75)  # the notes have ended
    assert np.abs(make(tmp_path, parts)[:, reverb]).max() > 0.005
    dry = make(tmp_path, parts, dereverb="dry")
    assert np.abs(dry[:, reverb]).max() <= EXACT
    singing = seconds_between(0.05, 0.55)
    assert np.corrcoef(dry[0, singing], parts.lead[0, singing])[0, 1] > 0.98


@pytest.mark.slow
def test_separations_are_reused_when_the_fate_of_the_backing_changes(tmp_path: Path, parts: Parts) -> None:
    maker = CoverMaker(echo_converter(), StepCache(tmp_path / "cache"), parts.load_separator)
    make(tmp_path, parts, maker, dereverb="dry", backing="keep")
    assert maker.cache.computed == ["separation", "lead separation", "dereverb", "conversion"]
    maker.cache = StepCache(tmp_path / "cache")
    make(tmp_path, parts, maker, dereverb="dry", backing="convert")
    assert maker.cache.reused == ["separation", "lead separation", "dereverb", "conversion"]
    assert maker.cache.computed == ["conversion"]  # of the backing


@pytest.mark.slow
def test_backing_is_transposed_like_the_lead(tmp_path: Path, parts: Parts) -> None:
    """Alone, the backing (330 Hz) would stay, because it is nearer to the voice (480 Hz) than an octave higher."""
    voice = echo_converter(has_f0=True, median_f0=480.0)
    maker = CoverMaker(voice, StepCache(tmp_path / "cache"), parts.load_separator)
    make(tmp_path, parts, maker, backing="convert", auto_pitch="octaves", pitch_method="pm")
    shifts = [json.loads(path.read_text()).get("pitch_shift") for path in (tmp_path / "cache").glob("*.json")]
    assert [shift for shift in shifts if shift is not None] == [12, 12]


@pytest.mark.slow
def test_silent_backing_is_no_error(tmp_path: Path, parts: Parts) -> None:
    lonely = Parts()
    lonely.backing = np.zeros_like(parts.backing)
    lonely.song = parts.song - parts.backing
    result = make(tmp_path, lonely, backing="convert")
    assert np.abs(result[:, seconds_between(0.83, 0.94)]).max() <= EXACT
