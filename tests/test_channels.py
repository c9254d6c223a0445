"""Stereo recordings whose channels cancel each other, and the choice of one channel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lib.audio.decode import load_audio
from lib.audio.encode import save_audio
from lib.errors import AudioError
from lib.typing import FloatArray

Tone = Callable[..., FloatArray]


@pytest.mark.parametrize(("right", "cancels"), [(-1.0, True), (-0.95, True), (-0.3, False), (0.0, False), (1.0, False)])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_channels_that_cancel_are_reported_and_one_can_be_chosen(
    tmp_path: Path, tone: Tone, right: float, cancels: bool, subtype: str
) -> None:
    left = tone(220, 0.5)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right * left], axis=1), 16000, subtype=subtype)
    if cancels:
        with pytest.raises(AudioError, match=r"channels cancel each other.*--channel left"):
            load_audio(path, 16000)
    else:
        assert np.abs(load_audio(path, 16000) - (1 + right) * left / 2**0.5).max() < 1e-4
    assert np.abs(load_audio(path, 16000, "left") - left).max() < 1e-4
    assert np.abs(load_audio(path, 16000, "right") - right * left).max() < 1e-4


def test_silence_does_not_cancel_and_mono_has_one_channel(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((800, 2)), 16000)
    assert not load_audio(tmp_path / "silent.wav", 16000).any()
    save_audio(tmp_path / "mono.wav", tone(220, 0.1), 16000)
    assert np.array_equal(load_audio(tmp_path / "mono.wav", 16000, "right"), load_audio(tmp_path / "mono.wav", 16000))
