"""Retrieval blend, frame rates and protection: golden features, and the rules computed by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from infer.features import FAR, NEAR, blend_near, blend_retrieved, protect_consonants, to_pitch_rate
from lib.index import FeatureIndex
from tests.helpers import Floats, error, read_golden


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_golden_features_as_handed_to_the_synthesizer(golden: Path, family: str) -> None:
    data = read_golden(golden / f"pipeline/retrieval_{family}.safetensors")
    index = FeatureIndex.load(golden / f"pipeline/index_{family}.index")
    own, f0 = data["in.feats"].numpy(), data["in.pitchf"].numpy()
    cases = [(key, re.fullmatch(r"out\.feats\.rate(.+)_protect(.+)", key)) for key in data if "out.feats" in key]
    assert len(cases) >= 2
    for key, found in cases:
        assert found, key
        rate, protect = float(found[1]), float(found[2])
        blended = to_pitch_rate(blend_retrieved(own, index.search(own), rate), len(f0))
        frames = len(blended)
        assert frames == int(data["out.p_len"])
        np.testing.assert_array_equal(f0[:frames], data["out.pitchf_cut"][0])
        got = protect_consonants(blended, to_pitch_rate(own, len(f0)), f0[:frames], protect)
        assert error(got, data[key][0]) < 1e-4, key


def test_lite_frames_far_from_what_was_retrieved_keep_their_own_features() -> None:
    own = np.zeros((4, 2), np.float32)
    distances = np.array([NEAR / 2, NEAR, (NEAR + FAR) / 2, 1.5 * FAR], np.float32)
    retrieved: Floats = np.stack([np.sqrt(distances), np.zeros(4, np.float32)], 1)
    for rate in (1.0, 0.4):
        weights = blend_near(own, retrieved, rate)[:, 0] / retrieved[:, 0]
        np.testing.assert_allclose(weights, [rate, rate, rate / 2, 0], atol=1e-6)
    assert np.array_equal(blend_near(own, retrieved, 0.0), own)
    assert np.array_equal(blend_near(own, own, 1.0), own)


def test_each_content_frame_stands_for_two_and_no_more_than_asked() -> None:
    content: Floats = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert to_pitch_rate(content, 100)[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert to_pitch_rate(content, 3)[:, 0].tolist() == [0, 0, 2]


def test_protection_acts_below_one_hertz_only() -> None:
    f0: Floats = np.array([0.0, 0.99, 1.0, 200.0], np.float32)
    mixed, own = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    np.testing.assert_allclose(protect_consonants(mixed, own, f0, 0.2)[:, 0], [0.2, 0.2, 1, 1])
    np.testing.assert_allclose(protect_consonants(mixed, own, f0, 0.49)[:, 0], [0.49, 0.49, 1, 1])
    assert protect_consonants(mixed, own, f0, 0.5).min() == 1
