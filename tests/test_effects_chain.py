"""Effects: gain by frequency, decay, echoes; and the written form of chains."""

import numpy as np
import pytest

from lib.effects.chain import APPLY, apply_chain
from lib.effects.spec import EFFECTS, PRESETS, parse_chain
from lib.errors import ConfigError
from tests.helpers import Floats

RATE = 48_000


def tone(frequency: float, seconds: float = 0.5) -> Floats:
    """(2, T)."""
    time = np.arange(round(seconds * RATE)) / RATE
    return np.tile(0.1 * np.sin(2 * np.pi * frequency * time), (2, 1)).astype(np.float32)


def gain(chain: str, frequency: float) -> float:
    """What a chain does to a tone, in dB, after it has settled."""
    before, after = tone(frequency), apply_chain(tone(frequency), RATE, parse_chain(chain))
    return float(20 * np.log10(np.std(after[:, RATE // 4 :]) / np.std(before[:, RATE // 4 :])))


@pytest.mark.parametrize(
    ("chain", "frequency", "expected"),
    [
        ("highpass=200", 200, -3), ("highpass=200", 50, -24), ("highpass=200", 2000, 0), ("lowpass=1000", 1000, -3),
        ("lowpass=1000", 100, 0), ("lowpass=1000", 4000, -24.2), ("eq=1000:6:1", 1000, 6), ("eq=1000:-6:2", 1000, -6),
        ("eq=1000:6:1", 60, 0), ("lowshelf=500:6", 60, 6), ("lowshelf=500:6", 8000, 0), ("highshelf=4000:6", 16_000, 6),
        ("highshelf=4000:6", 200, 0), ("highshelf=4000:-6", 4000, -3),
    ],
)  # fmt: skip
def test_filters_have_their_gains(chain: str, frequency: float, expected: float) -> None:
    assert gain(chain, frequency) == pytest.approx(expected, abs=0.35)


def test_the_reverb_decays_by_60_db_in_its_time_and_differs_between_channels() -> None:
    click = np.zeros((2, RATE), np.float32)
    click[:, 0] = 1
    wet = apply_chain(click, RATE, parse_chain("reverb=0.5:0.8:10"))
    assert np.array_equal(wet[:, 0], [1, 1]) and np.abs(wet[:, 1 : RATE // 100]).max() < 1e-6
    level = [20 * np.log10(np.std(wet[0, round(at * RATE) :][:2000])) for at in (0.05, 0.45)]
    assert level[0] - level[1] == pytest.approx(30, abs=2)
    assert abs(np.corrcoef(wet[:, 1000:])[0, 1]) < 0.1
    assert np.sqrt(np.square(wet[0, 1:]).sum()) == pytest.approx(0.5, rel=0.01)


def test_echoes_stand_where_they_should() -> None:
    click = np.zeros((1, RATE), np.float32)
    click[0, 0] = 1
    wet = apply_chain(click, RATE, parse_chain("delay=100:0.5:0.4"))[0]
    assert {i: round(float(wet[i]), 4) for i in np.flatnonzero(wet)[:4]} == {0: 1.0, 4800: 0.4, 9600: 0.2, 14_400: 0.1}


def test_every_effect_and_preset_keeps_shape_and_is_finite() -> None:
    assert APPLY.keys() == EFFECTS.keys()
    for chain in [*EFFECTS, *PRESETS]:
        for channels in (1, 2):
            dry = 4 * tone(440)[:channels]
            wet = apply_chain(dry, RATE, parse_chain(chain))
            assert wet.shape == (channels, RATE // 2) and wet.dtype == np.float32 and np.isfinite(wet).all(), chain
            assert np.abs(wet - dry).max() > 1e-5 or chain == "limiter"


def test_chains_are_parsed_in_order_with_defaults_and_presets() -> None:
    assert parse_chain("") == ()
    assert parse_chain(" reverb , highpass = 100") == (("reverb", (0.2, 1.2, 15)), ("highpass", (100.0,)))
    assert parse_chain("double,limiter") == (("chorus", (4, 0.6, 0.5)), ("limiter", (-1,)))


@pytest.mark.parametrize("text", ["echoes", "reverb=x", "reverb=2", "limiter=-1:2", "eq=nan", ",".join(["hall"] * 99)])
def test_mistakes_are_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="effect"):
        parse_chain(text)
