"""Separation of whole songs by pymss: joins of chunks and segments, cancelling, a mixture with known masks, a cover."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import _global_forward_pre_hooks

from infer.song.cover import CoverMaker, Sources
from infer.song.options import CoverOptions
from infer.song.separation import load_separator
from infer.song.step_cache import StepCache
from lib.audio.decode import load_stereo
from lib.progress import Cancelled, no_progress
from tests.echo_voice import echo_converter
from tests.helpers import Floats
from tests.test_cover import PLAIN, write
from tests.test_pymss_engine import CHUNK, RATE, music, register, registered, with_pymss

pytestmark = with_pymss
__all__ = ["registered"]  # the fixture
SPLIT = 700.0  # Hz between instrumental and vocals
BINS = 1025


def set_masks(network: torch.nn.Module, masks: Floats) -> None:
    """Make the network multiply the spectrum (BINS,) by fixed real masks, whatever its input: GLU(m, 0) = m / 2."""
    start = 0
    for band in network.mask_estimators[0].to_freqs:  # type: ignore[index,union-attr]
        last = band[0][-1]
        width = last.out_features // 8  # bins; of two channels, real and imaginary part, and gates
        part = np.zeros((width, 2, 2), np.float32)
        part[:, :, 0] = 2 * masks[start : start + width, None]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.cat([torch.from_numpy(part.reshape(-1)), torch.zeros(4 * width)]))
        start += width
    assert start == BINS


def mixture(seconds: float) -> tuple[Floats, Floats]:
    """Vocals above SPLIT with a pause in every second, and an instrumental below it: (2, T) each."""
    time = np.arange(round(seconds * RATE)) / RATE
    envelope = np.clip(np.minimum(time % 1 / 0.1, (0.6 - time % 1) / 0.1), 0, 1) ** 2
    voice = 0.1 * envelope * sum(np.sin(2 * np.pi * f * time) for f in (1000, 2000, 3000))
    low = [0.1 * np.sin(2 * np.pi * f * time) for f in (131, 196, 262)]
    vocals, instrumental = np.stack([voice, 0.5 * voice]), np.stack([low[0] + low[1], low[1] + low[2]])
    return vocals.astype(np.float32), instrumental.astype(np.float32)


def test_chunks_are_joined_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant mask, every chunk is its part of the song times that: so are all chunks together."""
    name = register(tmp_path, monkeypatch, partial(set_masks, masks=np.full(BINS, 0.4, np.float32)))
    audio = music(3.3)
    assert audio.shape[1] > 3 * CHUNK
    vocals = load_separator(name, "cpu", tmp_path)(audio, RATE, no_progress)
    assert np.abs(vocals - 0.4 * audio).max() < 2e-6


@pytest.mark.slow
def test_segments_of_a_long_song_are_joined_as_if_it_were_one(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's attention spans a whole chunk, so that chunks at other places would have other results."""
    audio = music(6.7) * np.linspace(0.2, 1, round(6.7 * RATE), dtype=np.float32)
    whole = load_separator(registered, "cpu", tmp_path)(audio, RATE, no_progress)
    monkeypatch.setattr("infer.song.pymss_engine.MIN_SEGMENT", 2.0)
    separator = load_separator(registered, "cpu", tmp_path)
    seen: list[int] = []
    segments = separator(audio, RATE, lambda done, total, what: seen.append(done))
    peak = np.abs(whole).max()
    assert np.abs(segments - whole).max() < 1e-5 * peak
    assert seen == sorted(seen) and seen[-1] == audio.shape[1]
    separator._margin = 0  # type: ignore[attr-defined]
    alone = separator(audio, RATE, no_progress)
    assert np.abs(alone - whole).max() > 1e-3 * peak


def test_a_chunk_that_takes_long_is_cancelled_between_layers(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.progress.CHECK_SECONDS", 0.0)
    separator = load_separator(registered, "cpu", tmp_path)
    calls: list[int] = []

    def stop(done: int, total: int, what: str) -> None:
        calls.append(done)
        if len(calls) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        separator(music(0.9), RATE, stop)  # one chunk
    assert calls == [0] * 5
    assert not _global_forward_pre_hooks


@pytest.mark.slow
def test_a_cover_of_a_mixture_with_ideal_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = (np.arange(BINS) * RATE / 2048 > SPLIT).astype(np.float32)
    name = register(tmp_path, monkeypatch, partial(set_masks, masks=masks))
    vocals, instrumental = mixture(5.0)
    song = write(tmp_path / "song.wav", vocals + instrumental)
    maker = CoverMaker(echo_converter(), StepCache(tmp_path / "cache"), partial(load_separator, models=tmp_path))
    options = CoverOptions.model_validate(PLAIN | {"separation": name, "bit_depth": 32})
    cover = maker.make(Sources(song), tmp_path / "cover.wav", options)
    stems = {path.stem: load_stereo(path)[0] for path in cover.stems}
    for stem, known in (("original_vocals", vocals), ("instrumental", instrumental)):
        error = np.square(stems[stem] - known).sum() / np.square(known).sum()
        assert 10 * np.log10(error) < -45, stem
    result = load_stereo(cover.path)[0]
    time = np.arange(result.shape[1]) / RATE % 1
    pauses = (time > 0.75) & (time < 0.9)
    assert np.abs(result - instrumental)[:, pauses].max() < 1e-3
    assert np.corrcoef((result - instrumental)[0], vocals[0])[0, 1] > 0.98
