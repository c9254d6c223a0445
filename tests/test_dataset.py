"""Batches from clips on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import ConfigError
from tests.test_state import tiny_family
from train.dataset import BOUNDARIES, BucketSampler, ClipDataset, collate
from train.experiment import Clip

CONFIG = tiny_family().model_copy(update={"max_frames": 50})


def write_clip(folder: Path, name: str, frames: int, rate: int = 8000) -> Clip:
    """A clip whose sample n has the value n, and whose features count frames."""
    audio, content, bins, f0 = (folder / f"{name}.{kind}" for kind in ("wav", "c.npy", "b.npy", "f.npy"))
    clip = Clip(name, audio, content, bins, f0, 2)
    soundfile.write(clip.audio, np.arange(frames * 80, dtype=np.float32) / 1e6, rate, "FLOAT")
    np.save(clip.content, np.repeat(np.arange((frames + 1) // 2, dtype=np.float32)[:, None], 12, 1))
    np.save(bins, np.full(frames, 7))
    np.save(f0, np.arange(frames, dtype=np.float64))
    return clip


def test_a_crop_cuts_audio_content_and_f0_at_the_same_place(tmp_path: Path) -> None:
    dataset = ClipDataset([write_clip(tmp_path, "a", 90)], CONFIG, seed=1)
    for epoch in range(5):
        dataset.epoch = epoch
        item = dataset[0]
        start = int(item.f0[0])
        assert item.f0.tolist() == list(range(start, start + 50))
        assert item.content[:, 0].tolist() == [place // 2 for place in range(start, start + 50)]
        assert item.audio[0] == pytest.approx(start * 80 / 1e6)
        assert len(item.audio) == 50 * 80


def test_crops_differ_between_epochs_and_repeat_with_the_seed(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, "a", 400)
    first, again, other = (ClipDataset([clip], CONFIG, seed) for seed in (1, 1, 2))
    starts = []
    for epoch in range(8):
        first.epoch = again.epoch = other.epoch = epoch
        assert torch.equal(first[0].f0, again[0].f0)
        starts.append((float(first[0].f0[0]), float(other[0].f0[0])))
    assert len({a for a, _ in starts}) > 4
    assert any(a != b for a, b in starts)


def test_a_clip_shorter_than_a_segment_is_padded_not_dropped(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path, "a", 5), write_clip(tmp_path, "b", 30)]
    dataset = ClipDataset(clips, CONFIG, seed=1)
    batch = collate([dataset[0], dataset[1]], CONFIG)
    assert batch.lengths.tolist() == [5, 30]
    assert batch.audio.shape == (2, 1, 30 * 80)
    assert batch.spec.shape == (2, 129, 30)
    assert not batch.f0[0, 5:].any() and not batch.content[0, 5:].any() and not batch.audio[0, 0, 400:].any()
    assert batch.speaker_id.tolist() == [2, 2]
    alone = collate([dataset[0]], CONFIG)
    assert alone.f0.shape[1] == CONFIG.synthesizer.segment_frames


def test_a_clip_of_another_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16000 Hz instead of 8000 Hz"):
        ClipDataset([write_clip(tmp_path, "a", 20, rate=16000)], CONFIG, seed=1)


def test_golden_functions_10_bucket_sampler(golden: Path) -> None:
    """World 1; with more the reference squares its batch size, and here Accelerate deals the batches out."""
    data = json.loads((golden / "functions" / "10_bucket_sampler.json").read_text())
    inside = [i for i, n in enumerate(data["lengths"]) if data["boundaries"][0] < n <= data["boundaries"][-1]]
    runs = [run for run in data["runs"] if run["world"] == 1]
    assert runs
    for run in runs:
        lengths = [data["lengths"][i] for i in inside]
        sampler = BucketSampler(lengths, run["sampler_batch_size"], data["boundaries"])
        sampler.epoch = run["epoch"]
        assert [[inside[i] for i in batch] for batch in sampler] == run["batches"]
        assert len(sampler) == run["len"]


@pytest.mark.slow
@given(st.lists(st.integers(1, 1200), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_every_clip_is_in_an_epoch_and_neighbours_are_similar(lengths: list[int], batch_size: int, epoch: int) -> None:
    sampler = BucketSampler(lengths, batch_size)
    sampler.epoch = epoch
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert {i for batch in batches for i in batch} == set(range(len(lengths)))
    for batch in batches:
        assert len(batch) == batch_size
        clamped = [min(max(lengths[i], BOUNDARIES[0] + 1), BOUNDARIES[-1]) for i in batch]
        assert max(clamped) - min(clamped) < 100


def test_skipping_leaves_the_rest_of_the_epoch_as_it_was() -> None:
    sampler = BucketSampler(list(range(100, 900, 10)), 4)
    sampler.epoch = 3
    whole = list(sampler)
    sampler.skip = 5
    assert list(sampler) == whole[5:]
