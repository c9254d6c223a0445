"""A clip's content features in other guises: what a small voice trains on."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lib.config import load_family
from lib.content import load_content_encoder
from lib.content.lite import LiteContentEncoder
from tests.test_loop import recordings as recordings
from train.dataset import ClipDataset
from train.experiment import Experiment
from train.extract import extract
from train.feature_augment import augment_features, choose_features
from train.options import ExtractOptions, PrepareOptions
from train.preprocess import prepare_stage


def voice() -> npt.NDArray[np.float32]:
    times = np.arange(32_000) / 16_000
    harmonics = sum(np.sin(2 * np.pi * 150 * k * times) / k for k in range(1, 12))
    return (0.1 * harmonics * (1 + np.sin(2 * np.pi * 3 * times))).astype(np.float32)


def encoder() -> LiteContentEncoder:
    found = load_content_encoder("lite", torch.device("cpu"))
    assert isinstance(found, LiteContentEncoder)
    return found


def test_views_have_the_frames_of_the_features_and_depend_on_the_name_only() -> None:
    for samples in (32_000, 31_999, 24_123, 16_250, 400, 320, 0):
        audio = voice()[:samples]
        views = augment_features(encoder(), audio, 3, "a.wav")
        assert views.shape == (3, *encoder()(audio).shape) and views.dtype == np.float16
        assert np.isfinite(views).all()
        np.testing.assert_array_equal(views, augment_features(encoder(), audio, 3, "a.wav"))
        if views.shape[1] > 1:
            assert not np.array_equal(views, augment_features(encoder(), audio, 3, "b.wav"))
            assert not np.array_equal(views[0], views[1])


def test_own_features_are_served_as_often_as_two_views() -> None:
    own, views = np.zeros((4, 2), np.float32), np.arange(1, 7, dtype=np.float16)[:, None, None] * np.ones((4, 2))
    rng = np.random.default_rng(0)
    drawn = [float(choose_features(own, views.astype(np.float16), rng)[0, 0]) for _ in range(4000)]
    shares = [drawn.count(float(i)) / 4000 for i in range(7)]
    np.testing.assert_allclose(shares, [2 / 8, *[1 / 8] * 6], atol=0.03)
    assert choose_features(own, None, rng) is own


def test_extraction_makes_views_and_training_hears_them(tmp_path: Path, recordings: Path) -> None:
    experiment = Experiment("x", tmp_path / "logs", tmp_path / "weights")
    family = load_family("lite")
    assert family.views > 0
    prepare_stage(experiment, recordings, family, PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm"))
    clips = experiment.clips()
    assert all(clip.views is not None and len(np.load(clip.views)) == family.views for clip in clips)
    dataset = ClipDataset(clips[:1], family.model_copy(update={"max_frames": 900}), seed=1)  # no crops
    heard = set()
    for dataset.epoch in range(40):
        heard.add(dataset[0].content.sum().item())
    assert len(heard) == family.views + 1
    assert clips[0].views is not None
    clips[0].views.unlink()
    assert not extract(experiment, ExtractOptions(pitch_method="pm")).skipped
    assert clips[0].views.is_file()
