"""Covers: a synthetic song with known stems goes through the whole path, with a voice that returns its input."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.ndimage import maximum_filter1d

from infer.song.cover import Cover, CoverMaker, Sources, instrumental_shift
from infer.song.key_change import change_key
from infer.song.mix import mix
from infer.song.options import CoverOptions
from infer.song.stems import split_song
from infer.song.step_cache import StepCache
from lib.audio.decode import load_stereo
from lib.audio.encode import array_blocks, save_blocks
from lib.audio.tags import Tags, read_tags
from lib.effects.loudness import integrated_loudness
from lib.errors import AudioError, ConfigError
from lib.progress import Cancelled, Progress
from tests.echo_voice import echo_converter
from tests.helpers import Floats

RATE = 44_100
PLAIN = {"precision": "fp32", "rms_mix_rate": 1.0}


def voiced(seconds: float) -> Floats:
    """Notes of 0.6 s with 10 harmonics and vibrato, and 0.4 s of silence after each: (T,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    note = np.floor(time) % 5
    phase = 2 * np.pi * np.cumsum(220 * 2 ** (2 * note / 12) * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 11))
    envelope = np.clip(np.minimum(time % 1 / 0.05, (0.6 - time % 1) / 0.05), 0, 1)
    audio: Floats = (0.1 * np.asarray(voice) * envelope).astype(np.float32)
    return audio


def chords(seconds: float) -> Floats:
    """A chord track with drum-like noise: (2, T)."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * f * time + i) for i, f in enumerate((130.81, 164.81, 196.0, 261.63))]
    hits = np.random.default_rng(0).standard_normal((2, len(time))) * np.exp(-20 * (time % 0.5))
    left, right = tones[0] + tones[2], tones[1] + tones[3]
    audio: Floats = (0.06 * np.stack([left, right]) + 0.03 * hits).astype(np.float32)
    return audio


def write(path: Path, audio: Floats, rate: int = RATE) -> Path:
    soundfile.write(path, audio.T, rate, subtype="FLOAT")
    return path


class Song:
    """Files of a song and its stems."""

    def __init__(self, folder: Path, seconds: float) -> None:
        voice = voiced(seconds)
        self.vocals, self.instrumental = np.stack([voice, 0.8 * voice]).astype(np.float32), chords(seconds)
        self.song = self.vocals + self.instrumental
        self.song_path = write(folder / "song.wav", self.song)
        self.vocals_path = write(folder / "vocals.wav", self.vocals)
        self.instrumental_path = write(folder / "instrumental.wav", self.instrumental)


@pytest.fixture
def song(tmp_path: Path) -> Song:
    return Song(tmp_path, 3.0)


def make(folder: Path, sources: Sources, maker: CoverMaker | None = None, **options: object) -> Cover:
    maker = maker or CoverMaker(echo_converter(), StepCache(folder / "cache"))
    return maker.make(sources, folder / "cover.wav", CoverOptions.model_validate(PLAIN | options))


def oracle(name: str, device: str) -> object:
    """A separator with the ideal ratio mask of the synthetic song: every time and frequency to the louder stem."""

    def separate(audio: Floats, sample_rate: int, progress: Progress) -> Floats:
        seconds = audio.shape[1] / sample_rate
        voice = np.stack([voiced(seconds), 0.8 * voiced(seconds)])
        progress(0, 2, "")
        size, hop = 4096, 1024
        window = np.sqrt(np.hanning(size + 1)[:-1])
        parts, backing = np.zeros((2, audio.shape[1] + 2 * size)), chords(seconds)
        weight = np.full(parts.shape[1], 1e-9)
        pad = ((0, 0), (size, size))
        mixed, voices, others = (np.pad(a, pad) for a in (audio, voice, backing))
        for at in range(0, mixed.shape[1] - size, hop):
            spectra = [np.fft.rfft(a[:, at : at + size] * window) for a in (mixed, voices, others)]
            power = [np.abs(s) ** 2 for s in spectra[1:]]
            mask = power[0] / (power[0] + power[1] + 1e-12)
            parts[:, at : at + size] += np.fft.irfft(mask * spectra[0], size) * window
            weight[at : at + size] += window**2
        progress(2, 2, "")
        return (parts / weight)[:, size : size + audio.shape[1]].astype(np.float32)  # type: ignore[no-any-return]

    return separate


def lag(first: Floats, second: Floats) -> int:
    """By how many samples the second signal is later."""
    size = 1 << int(np.ceil(np.log2(2 * len(first))))
    product = np.fft.rfft(second, size) * np.conj(np.fft.rfft(first, size))
    best = int(np.fft.irfft(product, size).argmax())
    return best if best < size // 2 else best - size


def silent(vocals: Floats) -> np.ndarray:  # type: ignore[type-arg]
    """Samples around which 80 ms of the vocals are silent."""
    return maximum_filter1d(np.abs(vocals).max(axis=0), 2 * round(0.08 * RATE) + 1) == 0  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", ["both", *(pytest.param(name, marks=pytest.mark.slow) for name in ("instrumental", "vocals", "separated"))]
)
def test_the_remix_is_the_instrumental_where_the_vocals_are_silent(tmp_path: Path, song: Song, given: str) -> None:
    vocals = song.vocals_path if given in ("both", "vocals") else None
    instrumental = song.instrumental_path if given in ("both", "instrumental") else None
    maker = CoverMaker(echo_converter(), StepCache(tmp_path / "cache"), oracle)  # type: ignore[arg-type]
    cover = make(tmp_path, Sources(song.song_path, vocals, instrumental), maker, separation="oracle")
    result, rate = load_stereo(cover.path)
    assert (result.shape, rate) == (song.song.shape, RATE)
    pauses = silent(song.vocals)
    assert pauses.sum() > RATE / 2
    difference = np.abs(result - song.instrumental)[:, pauses].max()
    assert difference <= (2.0**-14 if given != "separated" else 0.02)  # 16 bits; an oracle mask is no oracle
    assert np.corrcoef((result - song.instrumental)[0], song.vocals[0])[0, 1] > 0.98
    stems = {path.stem: load_stereo(path)[0] for path in cover.stems}
    assert stems.keys() == {"vocals", "original_vocals", "instrumental"}
    assert stems["vocals"] + stems["instrumental"] == pytest.approx(result, abs=2.0**-14)


@pytest.mark.slow
def test_five_minutes_stay_aligned_within_a_millisecond(tmp_path: Path) -> None:
    song = Song(tmp_path, 300.0)
    cover = make(tmp_path, Sources(song.song_path, song.vocals_path, song.instrumental_path), bit_depth=32)
    voice = load_stereo(cover.path)[0][0] - song.instrumental[0]
    for start in (0, 150, 290):
        part = slice(start * RATE, (start + 10) * RATE)
        assert abs(lag(song.vocals[0, part], voice[part])) <= RATE // 1000
    pauses = silent(song.vocals)
    assert np.abs(voice[pauses]).max() <= 1e-6


@pytest.mark.slow
def test_every_step_is_reused_until_what_it_depends_on_changes(tmp_path: Path, song: Song) -> None:
    maker = CoverMaker(echo_converter(), StepCache(tmp_path / "cache"), oracle)  # type: ignore[arg-type]
    sources = Sources(song.song_path)
    first = make(tmp_path, sources, maker, separation="oracle").path.read_bytes()
    assert maker.cache.computed == ["separation", "conversion"] and not maker.cache.reused
    for options, computed in (
        ({}, []), ({"vocal_level": 3.0}, []), ({"seed": 1}, ["conversion"]), ({"effects": "room"}, ["conversion"]),
    ):  # fmt: skip
        maker.cache = StepCache(tmp_path / "cache")
        again = make(tmp_path, sources, maker, separation="oracle", **options)
        assert maker.cache.computed == computed, options
        assert (again.path.read_bytes() == first) == (not options or "seed" in options)
    other = CoverMaker(echo_converter(median_f0=1.0), StepCache(tmp_path / "cache"), oracle)  # type: ignore[arg-type]
    other.converter.identity = "another voice"
    make(tmp_path, sources, other, separation="oracle")
    assert (other.cache.reused, other.cache.computed) == (["separation"], ["conversion"])


def test_the_cache_evicts_the_least_recently_used(tmp_path: Path) -> None:
    audio = chords(0.2)
    cache = StepCache(tmp_path, max_bytes=3 * audio.nbytes + 2000)
    for number in range(5):
        cache.get("step", {"number": number}, RATE, lambda _: (audio, {"x": 1.0}))
    assert len(list(tmp_path.glob("*.wav"))) == len(list(tmp_path.glob("*.json"))) <= 3
    found, numbers = cache.get("step", {"number": 4}, RATE, lambda _: (audio, {}))
    assert np.array_equal(found, audio) and numbers == {"x": 1.0} and cache.reused == ["step"]
    next(tmp_path.glob("*.wav")).write_bytes(b"damaged")
    for number in range(3, 5):
        cache.get("step", {"number": number}, RATE, lambda _: (audio, {}))


@pytest.mark.slow
def test_level_pan_reverb_and_loudness(tmp_path: Path, song: Song) -> None:
    sources = Sources(None, song.vocals_path, song.instrumental_path)
    quiet = np.zeros_like(song.instrumental)
    louder = mix(song.vocals, quiet, RATE, CoverOptions(vocal_level=6.0)) / np.where(song.vocals == 0, 1, song.vocals)
    assert np.median(louder[song.vocals != 0]) == pytest.approx(2, rel=0.01)
    right = mix(song.vocals, quiet, RATE, CoverOptions(vocal_pan=1.0))
    assert np.abs(right[0]).max() < 1e-6 < np.abs(right[1]).max()
    wet = mix(song.vocals, quiet, RATE, CoverOptions(vocal_reverb=0.5))
    assert np.abs(wet[:, silent(song.vocals)]).max() > 1e-3
    cover = make(tmp_path, sources, loudness=-16.0)
    assert integrated_loudness(*load_stereo(cover.path)) == pytest.approx(-16, abs=0.3)


def test_tags_are_carried_and_the_format_is_kept_on_request(tmp_path: Path, song: Song) -> None:
    path = tmp_path / "tagged.flac"
    save_blocks(path, array_blocks(song.song), RATE, "PCM_24", Tags({"title": "A Song"}))
    cover = make(tmp_path, Sources(path, song.vocals_path, None), keep_format=True, preview=1.5)
    about = soundfile.info(cover.path)
    assert (about.subtype, about.samplerate, about.frames) == ("PCM_24", RATE, round(1.5 * RATE))
    assert read_tags(cover.path).values == {"title": "A Song"}


@pytest.mark.slow
@pytest.mark.parametrize("moved", [-400, 0, 5000])
def test_a_stem_that_is_early_late_or_at_another_level_is_matched(tmp_path: Path, song: Song, moved: int) -> None:
    stem = np.pad(song.instrumental, ((0, 0), (max(-moved, 0), 0)))[:, max(moved, 0) :] * 0.5
    path = write(tmp_path / "stem.wav", stem)
    cover = make(tmp_path, Sources(song.song_path, None, path))
    vocals = load_stereo(next(stem for stem in cover.stems if stem.stem == "original_vocals"))[0]
    inner = slice(6000, -6000)
    assert np.abs(vocals - song.vocals)[:, inner].max() < 1e-3 * (1 + 40 * (moved != 0))


@pytest.mark.parametrize("level", [1.0, 0.5])
def test_the_level_of_a_stem_is_exact_though_vocals_and_instrumental_correlate(level: float) -> None:
    instrumental = chords(3.0)
    vocals = np.stack([voiced(3.0)] * 2) + 0.3 * instrumental * (voiced(3.0) != 0)
    inside, rest = split_song(vocals + instrumental, level * instrumental, RATE, Path("stem.wav"))
    assert np.abs(inside - instrumental).max() < 1e-5
    assert np.abs(rest - vocals).max() < 1e-5


def test_mistakes_are_one_sentence_and_write_nothing(tmp_path: Path, song: Song) -> None:
    with pytest.raises(ConfigError, match="has to be separated"):
        make(tmp_path, Sources(song.song_path))
    with pytest.raises(ConfigError, match="needs the song"):
        Sources(None, song.vocals_path)
    noise = np.random.default_rng(5).standard_normal((2, 2 * RATE)).astype(np.float32) * np.float32(0.1)
    with pytest.raises(AudioError, match="not part of the song"):
        make(tmp_path, Sources(song.song_path, None, write(tmp_path / "other.wav", noise)))
    with pytest.raises(AudioError, match="not part of the song"):
        make(tmp_path, Sources(write(tmp_path / "silent.wav", 0 * song.song), None, song.instrumental_path))
    with pytest.raises(
        AudioError, match=r"The vocals of \S*silent\.wav cannot be converted\. It contains only digital silence"
    ):
        make(tmp_path, Sources(None, tmp_path / "silent.wav", song.instrumental_path))
    with pytest.raises(ConfigError, match="never overwritten"):
        CoverMaker(echo_converter(), StepCache(tmp_path / "cache")).make(
            Sources(song.song_path, song.vocals_path), song.song_path, CoverOptions()
        )
    assert not (tmp_path / "cover.wav").exists()


def test_the_stems_of_a_cover_are_not_overwritten_by_a_cover_of_them(tmp_path: Path, song: Song) -> None:
    first = make(tmp_path, Sources(song.song_path, song.vocals_path, song.instrumental_path))
    stems = {path.stem: path for path in first.stems}
    before = {path: path.read_bytes() for path in first.stems}
    sources = Sources(None, stems["original_vocals"], stems["instrumental"])
    with pytest.raises(ConfigError, match=r"original_vocals\.flac is the recording itself, which is never overwritten"):
        make(tmp_path, sources, instrumental_shift=0, vocal_level=6.0)
    assert {path: path.read_bytes() for path in first.stems} == before


def test_the_shorter_stem_is_extended(tmp_path: Path, song: Song) -> None:
    short = write(tmp_path / "short.wav", song.instrumental[:, : 2 * RATE])
    cover = make(tmp_path, Sources(None, song.vocals_path, short))
    result = load_stereo(cover.path)[0]
    assert (cover.seconds, result.shape) == (3.0, song.song.shape)
    assert np.abs(result[:, 2 * RATE :] - load_stereo(cover.stems[0])[0][:, 2 * RATE :]).max() <= 2.0**-14


def test_cancelling_writes_nothing(tmp_path: Path, song: Song) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done >= total // 2:
            raise Cancelled

    maker = CoverMaker(echo_converter(), StepCache(tmp_path / "cache"))
    with pytest.raises(Cancelled):
        maker.make(Sources(song.song_path, song.vocals_path), tmp_path / "cover.wav", CoverOptions(), stop)
    assert not (tmp_path / "cover.wav").exists() and not (tmp_path / "cover_stems").exists()


def test_the_instrumental_follows_the_vocals_less_octaves() -> None:
    shifts = {0: 0, 3: 3, 7: -5, -4: -4, 12: 0, -12: 0, 14: 2, 11.6: 0}
    assert {shift: instrumental_shift(CoverOptions(), shift) for shift in shifts} == shifts
    assert instrumental_shift(CoverOptions(instrumental_shift=0), 3) == 0


@pytest.mark.skipif(importlib.util.find_spec("python_stretch") is None, reason="python-stretch is not installed")
def test_a_key_change_keeps_length_and_time() -> None:
    audio = chords(3.0)
    changed = change_key(audio, RATE, 3)
    assert changed.shape == audio.shape
    inner = slice(RATE, 2 * RATE)
    spectrum = np.abs(np.fft.rfft(changed[0, inner] * np.hanning(RATE)))
    assert abs(int(spectrum[100:180].argmax()) + 100 - 130.81 * 2 ** (3 / 12)) <= 1.5
    envelopes = [np.convolve(a[0] ** 2, np.ones(441), "same") for a in (audio, changed)]
    assert abs(lag(*envelopes)) < 0.003 * RATE


@pytest.mark.skipif(importlib.util.find_spec("python_stretch") is not None, reason="python-stretch is installed")
def test_a_key_change_without_its_package_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install python-stretch"):
        change_key(chords(0.1), RATE, 3)
    missing = Sources(tmp_path / "missing.wav", tmp_path / "missing.wav")  # would be reported when it is read
    with pytest.raises(ConfigError, match="pip install python-stretch"):
        make(tmp_path, missing, pitch_shift=3)
