"""Stereo files with their resolution, tags and cover: written and read again in every format."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lib.audio import AUDIO_FORMATS
from lib.audio.decode import load_audio_native, load_stereo
from lib.audio.encode import Subtype, array_blocks, save_blocks, source_subtype
from lib.audio.tags import Cover, Tags, read_tags
from tests.helpers import Floats

RATE = 48_000
VALUES = {"title": "Grüße", "artist": "Some One", "album": "It", "genre": "Pop", "track": "3", "comment": "é"}


def stereo(seconds: float = 1.0) -> Floats:
    """A tone on the left, another at half its level on the right: (2, T)."""
    time = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.25 * np.sin(2 * np.pi * 660 * time)]).astype(np.float32)


def picture(kind: str) -> Cover:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 60)).save(out, kind)
    return Cover("mjpeg" if kind == "JPEG" else "png", out.getvalue(), 40, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_tags_and_cover_are_carried_and_lengths_stay_exact(tmp_path: Path, suffix: str, kind: str) -> None:
    tags = Tags(VALUES, picture(kind))
    path = tmp_path / f"song.{suffix}"
    save_blocks(path, array_blocks(stereo()), RATE, tags=tags)
    found = read_tags(path)
    assert found.values == VALUES
    assert found.cover == (None if suffix == "wav" else tags.cover)
    audio, rate = load_stereo(path)
    assert (audio.shape, rate) == ((2, RATE), RATE)
    for channel, level in zip(audio[:, 4800:-4800], (0.5, 0.25), strict=True):
        assert np.sqrt(2 * np.mean(channel**2)) == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize("tags", [Tags(), Tags(VALUES)], ids=["plain", "tagged"])
@pytest.mark.parametrize(
    ("suffix", "subtype", "bits"), [("wav", "PCM_16", 15), ("wav", "PCM_24", 23), ("flac", "PCM_24", 23)]
)
def test_the_resolution_is_kept(tmp_path: Path, suffix: str, subtype: Subtype, bits: int, tags: Tags) -> None:
    path = tmp_path / f"song.{suffix}"
    save_blocks(path, array_blocks(stereo()), RATE, subtype, tags)
    assert soundfile.info(path).subtype == subtype == source_subtype(path)
    assert np.abs(load_stereo(path)[0] - stereo()).max() <= 2.0**-bits


def test_float_wav_keeps_samples_exactly_and_flac_takes_24_bits_of_them(tmp_path: Path) -> None:
    loud = 3 * stereo()
    for tags in (Tags(), Tags(VALUES)):
        save_blocks(tmp_path / "song.wav", array_blocks(loud), RATE, "FLOAT", tags)
        assert np.array_equal(load_stereo(tmp_path / "song.wav")[0], loud)
    save_blocks(tmp_path / "song.flac", array_blocks(stereo()), RATE, "FLOAT")
    assert source_subtype(tmp_path / "song.flac") == "PCM_24"


def test_mono_has_one_channel_and_surround_two(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", stereo()[0], RATE)
    assert load_stereo(tmp_path / "mono.wav")[0].shape == (1, RATE)
    quiet = np.zeros((RATE, 6), np.float32)
    quiet[:, 2] = 0.5  # the centre
    soundfile.write(tmp_path / "surround.wav", quiet, RATE)
    left, right = load_stereo(tmp_path / "surround.wav")[0]
    assert np.array_equal(left, right) and 0.1 < left.mean() < 0.5


def test_the_mix_is_that_of_the_channels(tmp_path: Path) -> None:
    save_blocks(tmp_path / "song.wav", array_blocks(stereo()), RATE, "FLOAT")
    assert load_audio_native(tmp_path / "song.wav")[0] == pytest.approx(stereo().sum(axis=0) / np.sqrt(2), abs=1e-6)


def test_a_recording_without_tags_has_none(tmp_path: Path) -> None:
    save_blocks(tmp_path / "song.flac", array_blocks(stereo()), RATE)
    assert not read_tags(tmp_path / "song.flac")
