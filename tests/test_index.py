"""FeatureIndex: golden retrieval, its invariants, and files that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import index as index_module
from lib.errors import CheckpointError, ConfigError, MachineError, MissingFileError
from lib.index import FeatureIndex, count_cells, index_names, neighbour_weights
from tests.helpers import error, read_golden
from train.index import write_total_features

Floats = npt.NDArray[np.float32]


def vectors(n: int, width: int = 8, seed: int = 0) -> Floats:
    """Random features (n, width)."""
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def test_golden_retrieval_of_the_function_vectors(golden: Path) -> None:
    data = np.load(golden / "functions/12_retrieval.npz")
    index = FeatureIndex.load(golden / "functions/12_retrieval.index")
    assert len(index) == len(data["vectors"])
    assert error(neighbour_weights(data["score"], data["ids"]), data["weights"]) < 1e-5
    retrieved = index.search(data["query"])
    assert error(retrieved, data["retrieved"]) < 1e-5
    assert error(0.75 * retrieved + 0.25 * data["query"], data["mixed_075"]) < 1e-5


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_golden_retrieval_with_too_few_neighbours(golden: Path, family: str) -> None:
    """Some of the stored rows have fewer than eight hits; none may bring in the last vector."""
    data = read_golden(golden / f"pipeline/retrieval_{family}.safetensors")
    index = FeatureIndex.load(golden / f"pipeline/index_{family}.index")
    content = data["in.feats"].numpy()
    plain = [key for key in data if key.endswith("_protect0.5")]
    assert plain
    for key in plain:
        rate = float(key.split("_protect")[0].removeprefix("out.feats.rate"))
        mixed = np.float32(rate) * index.search(content) + np.float32(1 - rate) * content
        assert error(np.repeat(mixed, 2, axis=0), data[key][0].numpy()) < 1e-4, key


def test_weights_mask_missing_neighbours_and_survive_exact_hits() -> None:
    scores = np.array([[1.0, 2.0, 3.4e38], [0.0, 1e-3, 5.0], [3.4e38, 3.4e38, 3.4e38]], np.float32)
    ids = np.array([[4, 2, -1], [0, 1, 2], [-1, -1, -1]])
    weights = neighbour_weights(scores, ids)
    np.testing.assert_allclose(weights, [[0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8))
def test_weights_are_shares_and_prefer_the_nearest(scores: list[float]) -> None:
    row = np.sort(np.array([scores], np.float32))
    weights = neighbour_weights(row, np.arange(row.size)[None])
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (np.diff(weights[0]) <= 0).all()


def test_an_indexed_vector_finds_itself() -> None:
    stored = vectors(500)
    index = FeatureIndex.build([stored[:200], stored[200:]], seed=3)
    assert (len(index), index.width) == (500, 8)
    np.testing.assert_array_equal(index.search(stored[:50]), stored[:50])


def test_a_frame_without_neighbours_keeps_its_features() -> None:
    """Two far-apart groups in two cells; one cell is then emptied."""
    stored = np.concatenate([vectors(60) + 100, vectors(60) - 100])
    index = FeatureIndex.build([stored])
    assert index.n_cells == 3
    inner: Any = index._index
    inner.invlists.reset()  # what a damaged or partly filled index looks like to a search
    query = vectors(3, seed=9)
    np.testing.assert_array_equal(index.search(query), query)


def test_the_width_must_match_the_encoder() -> None:
    with pytest.raises(CheckpointError, match=r"contains vectors of 8 features.*computes 16"):
        FeatureIndex.build([vectors(10)]).search(vectors(2, 16))


@pytest.mark.parametrize(("n", "cells"), [(1, 1), (38, 1), (39, 1), (90, 2), (250, 6), (10_000, 256), (200_000, 5128)])
def test_number_of_cells(n: int, cells: int) -> None:
    assert count_cells(n) == cells


def test_names_are_those_of_rvc() -> None:
    trained, added = index_names("my voice", "v2", 17)
    assert trained == "trained_IVF17_Flat_nprobe_1_my voice_v2.index"
    assert added == "added_IVF17_Flat_nprobe_1_my voice_v2.index"


def test_save_and_load_return_the_same(tmp_path: Path) -> None:
    index = FeatureIndex.build([vectors(300)])
    path = tmp_path / "ünï 声音.index"
    index.save(path)
    loaded = FeatureIndex.load(path)
    query = vectors(20, seed=1)
    np.testing.assert_array_equal(loaded.search(query), index.search(query))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_same_seed_same_file_other_seed_other_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        FeatureIndex.build([vectors(400)], seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_many_vectors_are_sampled_then_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_VECTORS", 300)
    monkeypatch.setattr(index_module, "N_CENTRES", 20)
    blocks = [vectors(100, seed=i) for i in range(10)]
    index = FeatureIndex.build(iter(blocks), seed=5)
    assert len(index) == 20
    everything = np.concatenate(blocks)
    assert np.concatenate([*index.vectors()]).mean() == pytest.approx(everything.mean(), abs=0.3)
    again = FeatureIndex.build(iter(blocks), seed=5)
    np.testing.assert_array_equal(np.concatenate([*index.vectors()]), np.concatenate([*again.vectors()]))


def test_the_sample_of_many_vectors_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors number themselves: of 0..9999 a uniform sample of 1000 has a mean near 5000."""
    monkeypatch.setattr(index_module, "MAX_VECTORS", 1000)
    blocks = [np.arange(i, i + 500, dtype=np.float32)[:, None] for i in range(0, 10_000, 500)]
    kept, seen = index_module._collect(blocks, seed=0)
    assert (kept.shape, seen) == ((1000, 1), 10_000)
    assert len(np.unique(kept)) == 1000
    assert abs(kept.mean() - 5000) < 5 * 2887 / 1000**0.5


def test_features_that_cannot_be_indexed() -> None:
    with pytest.raises(ConfigError, match="no content features"):
        FeatureIndex.build([])
    with pytest.raises(CheckpointError, match="do not match"):
        FeatureIndex.build([vectors(5), vectors(5, 9)])
    with pytest.raises(CheckpointError, match="not finite"):
        FeatureIndex.build([np.full((3, 4), np.nan, np.float32)])


def test_an_empty_index_is_refused_with_the_remedy(tmp_path: Path) -> None:
    index = FeatureIndex.build([vectors(100)])
    index.save_empty(tmp_path / "trained_x.index")
    with pytest.raises(CheckpointError, match=r"empty index.*Use the file named added_"):
        FeatureIndex.load(tmp_path / "trained_x.index")
    index.save(tmp_path / "added_x.index")
    with pytest.raises(CheckpointError, match=r"Use added_x\.index"):
        FeatureIndex.load(tmp_path / "trained_x.index")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="convert without one"):
        FeatureIndex.load(tmp_path / "none.index")
    with pytest.raises(MachineError, match="cannot be read: Is a directory"):
        FeatureIndex.load(tmp_path)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "HNSW8"])
def test_other_kinds_of_index_are_refused(tmp_path: Path, factory: str) -> None:
    import faiss

    index = faiss.index_factory(8, factory)
    index.train(vectors(2000))
    index.add(vectors(50))
    faiss.serialize_index(index).tofile(tmp_path / "x.index")
    with pytest.raises(CheckpointError, match="not an index of content features"):
        FeatureIndex.load(tmp_path / "x.index")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    FeatureIndex.build([vectors(100, 3)]).save(tmp_path / "x.index")
    whole = (tmp_path / "x.index").read_bytes()
    for length in [*range(250), *range(250, len(whole), 37), len(whole) - 1]:
        (tmp_path / "cut.index").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            FeatureIndex.load(tmp_path / "cut.index")


@pytest.mark.slow
def test_damaged_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    """Every byte of the structure, and a choice of the rest, set to values that lead astray a trusting reader."""
    FeatureIndex.build([vectors(90, 3)]).save(tmp_path / "x.index")
    whole = (tmp_path / "x.index").read_bytes()
    refused = 0
    for at in [*range(220), *range(220, len(whole), 41)]:
        for value in (0x00, 0x7F, 0xFF):
            damaged = bytearray(whole)
            damaged[at] = value
            (tmp_path / "bad.index").write_bytes(damaged)
            try:
                index = FeatureIndex.load(tmp_path / "bad.index")
            except CheckpointError:
                refused += 1
            else:
                assert index.search(vectors(2, 3)).shape == (2, 3)
    assert refused > 200


def test_an_index_can_be_made_small() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    assert len(FeatureIndex.build([vectors])) == 600
    small = FeatureIndex.build([vectors], max_vectors=150)
    assert len(small) == 150
    assert small.search(vectors[:50]).shape == (50, 8)
    assert len(FeatureIndex.build([vectors[:100]], max_vectors=150)) == 100


def test_all_content_features_can_be_written_as_one_array(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).standard_normal((3 + i, 4)).astype(np.float32) for i in range(3)]
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    write_total_features(paths, tmp_path / "total_fea.npy")
    written = np.load(tmp_path / "total_fea.npy")
    assert written.dtype == np.float32 and np.array_equal(written, np.concatenate(arrays))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "1.npy", "2.npy", "total_fea.npy"]
