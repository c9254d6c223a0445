"""Blending, the two clocks, protection: golden features and the rules by hand."""

from pathlib import Path

import numpy as np
import pytest

from infer.features import blend_retrieved, protect_consonants, to_pitch_rate
from lib.index import FeatureIndex
from tests.helpers import Floats, error, read_golden

CASES = [("v1", rate, protect) for rate in ("0.3", "0.75", "1") for protect in ("0.5", "0.33")]
CASES += [("v1", "0", "0.5"), ("v1", "0", "0.33"), ("v1", "0", "0"), ("v1", "0.75", "0")]
CASES += [("v2", "0.6", "0.5"), ("v2", "0.6", "0.2")]


@pytest.mark.parametrize(("family", "rate", "protect"), CASES)
def test_golden_features_as_handed_to_the_synthesizer(golden: Path, family: str, rate: str, protect: str) -> None:
    data = read_golden(golden / f"pipeline/retrieval_{family}.safetensors")
    index = FeatureIndex.load(golden / f"pipeline/index_{family}.index")
    own, f0 = data["in.feats"].numpy(), data["in.pitchf"].numpy()
    blended = to_pitch_rate(blend_retrieved(own, index.search(own), float(rate)), len(f0))
    frames = len(blended)
    assert frames == int(data["out.p_len"])
    np.testing.assert_array_equal(f0[:frames], data["out.pitchf_cut"][0])
    got = protect_consonants(blended, to_pitch_rate(own, len(f0)), f0[:frames], float(protect))
    assert error(got, data[f"out.feats.rate{rate}_protect{protect}"][0]) < 1e-4


def test_each_content_frame_stands_for_two_and_no_more_than_asked() -> None:
    content: Floats = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert to_pitch_rate(content, 100)[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert to_pitch_rate(content, 3)[:, 0].tolist() == [0, 0, 2]


def test_protection_acts_below_one_hertz_only() -> None:
    f0: Floats = np.array([0.0, 0.99, 1.0, 200.0], np.float32)
    mixed, own = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    np.testing.assert_allclose(protect_consonants(mixed, own, f0, 0.2)[:, 0], [0.2, 0.2, 1, 1])
    assert protect_consonants(mixed, own, f0, 0.5).min() == 1
