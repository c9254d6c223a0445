"""Fairseq checkpoints: genuine ones give fairseq's features, and nothing in a file is ever executed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib.content import content_frames
from lib.content.fairseq_reader import hugging_face_name, read_fairseq
from lib.content.hubert import build
from lib.errors import CheckpointError
from lib.voice.weights import rvc_key
from tests.helpers import ROOT, error
from tests.tiny_hubert import TINY, fairseq_name, tensors_of

CPU = torch.device("cpu")
Floats = npt.NDArray[np.float32]
TOLERANCE = 5e-4  # of the golden data, for the tiny networks
KEY_MAP = ROOT.parent / "shared" / "spec" / "state_dict" / "hubert_base_fairseq_to_hf.json"
FEATURES = {"v1": "layer9_final_proj", "v2": "layer12"}


def recordings(golden: Path, name: str) -> Iterator[tuple[str, dict[str, Tensor], Floats]]:
    stored = load_file(golden / "hubert" / f"{name}.features.safetensors")
    for key in sorted(stored):
        if key.startswith("in."):
            audio = stored[key].numpy().astype(np.float32) / np.float32(32768)
            yield key.split(".")[1], stored, audio


@pytest.mark.slow
@pytest.mark.parametrize("family", ["v1", "v2"])
@pytest.mark.parametrize(
    ("file", "features"),
    [
        ("hubert_tiny_a", "hubert_tiny_a"),
        ("hubert_tiny_b_fp16", "hubert_tiny_b_fp16"),
        ("hubert_tiny_c_omegaconf", "hubert_tiny_b_fp16"),
        ("hubert_tiny_d_legacyfile", "hubert_tiny_b_fp16"),
    ],
)
def test_golden_fairseq_file_gives_fairseqs_features(golden: Path, file: str, features: str, family: str) -> None:
    path = golden / "hubert" / f"{file}.pt"
    encoder = build(read_fairseq(path), family, CPU, "contentvec", path)
    compared = 0
    for name, stored, audio in recordings(golden, features):
        want = stored[f"out.{name}.{FEATURES[family]}"][0]
        got = encoder(audio)
        assert got.dtype == np.float32
        assert len(got) == content_frames(len(audio))
        assert got.shape[1] == encoder.width
        assert error(got, want) < TOLERANCE
        compared += 1
    assert compared >= 2


@pytest.mark.slow
def test_golden_listing_agrees_with_what_is_read(golden: Path) -> None:
    listing = json.loads((golden / "hubert" / "fairseq_checkpoints.json").read_text(encoding="utf-8"))
    for file, facts in listing.items():
        weights = read_fairseq(golden / "hubert" / file)
        shape = weights.shape
        assert (shape.width, shape.heads, shape.feed_forward) == (
            facts["encoder_embed_dim"], facts["heads"], facts["ffn"],
        )  # fmt: skip
        assert (shape.projection, shape.layers) == (facts["final_dim"], facts["layers"])
        assert {str(tensor.dtype) for tensor in weights.tensors.values()} == {facts["model_dtype"]}


@pytest.mark.slow
def test_golden_precisions_and_formats_have_one_identity(golden: Path) -> None:
    def identity(name: str, family: str) -> str:
        path = golden / "hubert" / name
        return build(read_fairseq(path), family, CPU, "x", path).sha256

    same = {identity(f"hubert_tiny_{name}.pt", "v2") for name in ("b_fp16", "c_omegaconf", "d_legacyfile")}
    assert len(same) == 1
    assert identity("hubert_tiny_a.pt", "v2") not in same


def test_every_tensor_of_the_network_has_a_name_at_fairseq() -> None:
    names = [fairseq_name(name) for name in tensors_of(TINY)]
    assert [rvc_key(hugging_face_name(name) or "") for name in names] == list(tensors_of(TINY))


def test_key_map_is_that_of_the_specification() -> None:
    if not KEY_MAP.is_file():
        pytest.skip(f"no key map at {KEY_MAP}")
    table = json.loads(KEY_MAP.read_text(encoding="utf-8"))["map"]
    assert {name: hugging_face_name(name) for name in table} == {name: entry["hf"] for name, entry in table.items()}
    for name in ("encoder.layers.0.fc3.weight", "layer_norm", "encoder.layers.0.fc1", "foo.weight", "final_proj.scale"):
        with pytest.raises(KeyError):
            hugging_face_name(name)


class _Evil:
    """Runs a command when it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_fairseq_file_that_would_run_a_command_is_refused(tmp_path: Path) -> None:
    mark, path, allowed = tmp_path / "mark", tmp_path / "hubert_base.pt", set(torch.serialization.get_safe_globals())
    for legacy in (False, True):
        content = {"model": tensors_of(TINY), "task_state": _Evil(mark)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="could run code"):
            read_fairseq(path)
        assert not mark.exists()
    assert set(torch.serialization.get_safe_globals()) == allowed  # the stand-ins are known only while reading
