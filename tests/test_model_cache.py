"""The caches: nothing is loaded or computed twice, changed files are loaded again, and old values are evicted first."""

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infer import model_cache as cache_module
from infer.convert import VoiceConverter, VoiceParts
from infer.load import load_converter
from infer.lru_cache import LruCache
from infer.model_cache import ModelCache
from infer.options import ConvertOptions
from lib.devices import choose_device
from lib.index import FeatureIndex
from lib.models import VoiceSynthesizer
from lib.pitch import ExactExtractor, load_pitch_extractor
from lib.voice.model_file import extract_voice_model, write_voice_model
from tests.helpers import Floats
from tests.tiny_voice import WIDTH, TinyEncoder, lite_synthesizer, tiny_synthesizer, voice_like

PM = ConvertOptions(pitch_method="pm")


class CountingEncoder(TinyEncoder):
    """Tells how often it was called."""

    def __init__(self, calls: Counter[str]) -> None:
        self.calls = calls

    def __call__(self, audio: Floats) -> Floats:
        self.calls["content"] += 1
        return super().__call__(audio)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often encoders and pitch methods were loaded and called."""
    counted: Counter[str] = Counter()

    def load_encoder(*_: Any) -> CountingEncoder:
        counted["encoder loaded"] += 1
        return CountingEncoder(counted)

    def load_pitch(method: str, device: torch.device, hop_length: int, _: torch.dtype) -> ExactExtractor:
        counted["pitch loaded"] += 1
        extractor = load_pitch_extractor(method, device, hop_length)

        def extract(audio: Floats) -> Floats:
            counted["F0"] += 1
            return extractor(audio)

        return ExactExtractor(extractor.method, extract, extractor.cache_key)

    monkeypatch.setattr(cache_module, "load_content_encoder", load_encoder)
    monkeypatch.setattr(cache_module, "load_pitch_extractor", load_pitch)
    return counted


def voice(folder: Path, name: str, seed: int = 0) -> Path:
    synthesizer = lite_synthesizer()
    with torch.no_grad():
        synthesizer.emb_g.weight += seed
    write_voice_model(folder / f"{name}.pth", extract_voice_model(synthesizer, "lite", "1epoch"))
    return folder / f"{name}.pth"


def load(cache: ModelCache, path: Path) -> VoiceConverter:
    return load_converter(path, "auto", choose_device("cpu"), cache=cache)


@pytest.mark.slow
def test_another_voice_or_option_reuses_the_analysis(tmp_path: Path, calls: Counter[str]) -> None:
    cache, audio = ModelCache(), voice_like(0.5)
    alice, bob = voice(tmp_path, "alice"), voice(tmp_path, "bob", seed=1)
    first = load(cache, alice).convert(audio, PM)
    once = Counter({"encoder loaded": 1, "pitch loaded": 1, "F0": 1, "content": 1})
    assert calls == once
    assert load(cache, alice) is load(cache, alice)
    np.testing.assert_array_equal(load(cache, alice).convert(audio, PM), first)
    other = load(cache, bob).convert(audio, PM)
    higher = load(cache, alice).convert(audio, ConvertOptions(pitch_method="pm", pitch_shift=3, protect=0.1, seed=4))
    assert calls == once
    assert np.abs(other - first).max() > 1e-4 and np.abs(higher - first).max() > 1e-4
    load(cache, alice).convert(voice_like(0.5, seed=1), PM)
    assert calls == once + Counter({"F0": 1, "content": 1})
    load(cache, alice).convert(audio, ConvertOptions(pitch_method="dio"))
    assert calls == once + Counter({"F0": 2, "content": 1, "pitch loaded": 1})


@pytest.mark.slow
def test_one_dtype_of_the_generator_is_held_and_float32_comes_back() -> None:
    @torch.inference_mode(False)  # the folded weights must be parameters
    def reload() -> VoiceSynthesizer:
        return tiny_synthesizer().fold_weight_norm()

    converter = VoiceConverter(VoiceParts(reload(), TinyEncoder(), reload_synthesizer=reload))
    exact, narrow = (PM.model_copy(update={"precision": precision}) for precision in ("fp32", "bf16"))
    first = converter.convert(voice_like(0.5), exact)
    bytes_exact = converter.n_bytes
    other = converter.convert(voice_like(0.5), narrow)
    assert converter.n_bytes < bytes_exact and 1e-5 < np.abs(other - first).max() < 0.1
    np.testing.assert_array_equal(converter.convert(voice_like(0.5), exact), first)
    assert converter.n_bytes == bytes_exact


def test_cached_analyses_give_the_same_samples(tmp_path: Path, calls: Counter[str]) -> None:
    cache, path = ModelCache(), voice(tmp_path, "alice")
    changed = PM.model_copy(update={"filter_radius": 3, "interpolate_unvoiced": True})
    load(cache, path).convert(voice_like(0.5), PM)
    known = load(cache, path).convert(voice_like(0.5), changed)
    np.testing.assert_array_equal(known, load(ModelCache(), path).convert(voice_like(0.5), changed))


def test_a_changed_file_is_read_again(tmp_path: Path, calls: Counter[str]) -> None:
    cache, path = ModelCache(), voice(tmp_path, "alice")
    before = load(cache, path)
    voice(tmp_path, "alice", seed=1)
    os.utime(path, ns=(1, 1))
    again = load(cache, path)
    assert again is not before and again.index is None
    FeatureIndex.build([np.ones((50, WIDTH), np.float32)]).save(tmp_path / "alice_added_1.index")
    with_index = load(cache, path)
    assert with_index.index is not None and calls["encoder loaded"] == 1
    assert load_converter(path, None, choose_device("cpu"), cache=cache).index is None
    assert cache.index(Path(with_index.index.name)) is with_index.index


@pytest.mark.slow
def test_cached_analyses_are_bounded(tmp_path: Path, calls: Counter[str]) -> None:
    cache, path = ModelCache(analysis_bytes=16_000), voice(tmp_path, "alice")  # of two recordings
    for seed in (0, 0, 1, 2, 0):
        load(cache, path).convert(voice_like(0.5, seed), PM)
    assert calls["F0"] == calls["content"] == 4


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=40))
def test_cached_values_are_those_used_last(uses: list[tuple[int, int]]) -> None:
    cache, sizes, order = LruCache(100), dict[int, int](), list[int]()
    for key, size in uses:
        made: list[int] = cache.get(key, partial(list, [size]), lambda value: int(value[0]))
        assert made == [sizes.setdefault(key, size)]
        order = [*(other for other in order if other != key), key]
        while sum(sizes[other] for other in order) > 100:
            del sizes[order.pop(0)]
        assert cache.n_bytes == sum(sizes[other] for other in order) <= 100


def test_one_value_may_be_larger_than_the_bound() -> None:
    cache = LruCache(10)
    assert cache.get("a", lambda: "large", lambda _: 50) == "large"
    assert cache.get("a", lambda: "made again", lambda _: 50) == "large"
    assert cache.get("b", lambda: "small", lambda _: 5) == "small" and cache.n_bytes == 5
