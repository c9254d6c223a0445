"""Voices of other programs: other configs, versions and NumPy values."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.config import Family
from lib.errors import CheckpointError
from lib.voice.model_file import (
    read_voice_model,
)
from lib.voice.safe_load import safe_load
from tests.tiny_files import save_voice, small_voice


def test_the_classical_24k_network_of_applio_opens(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "sample_rate": 24000,
        "upsample_rates": (10, 6, 2, 2),
        "upsample_kernel_sizes": (20, 12, 4, 4),
    }
    save_voice(tmp_path / "a.pth", small_voice("v2", "32k", **changes))
    voice = read_voice_model(tmp_path / "a.pth")
    assert (voice.family, voice.rate_name) == ("v2", "24k")


@pytest.mark.slow
def test_the_config_of_19_values_opens(tmp_path: Path) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice("v1", "40k"))
    content["config"].insert(17, 256)
    more = {"params": {"emb_channels": 256}, "embedder_name": "hubert_base", "speaker_info": {"0": "anna"}}
    torch.save(content | more, tmp_path / "b.pth")
    voice = read_voice_model(tmp_path / "b.pth")
    assert voice.config == read_voice_model(tmp_path / "a.pth").config and voice.extra == more


@pytest.mark.slow
@pytest.mark.parametrize("family", ["v1", "v2"])
def test_only_weight_and_config_are_needed(tmp_path: Path, family: Family) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice(family, "40k"))
    weights = OrderedDict(content["weight"])
    weights["enc_q.pre.weight"] = torch.zeros(4, 1025, 1)  # some voices kept a posterior; it is not a part of a voice
    torch.save({"config": content["config"], "weight": weights}, tmp_path / "b.pth")
    voice = read_voice_model(tmp_path / "b.pth")
    assert voice.family == family and voice.info == "" and "enc_q.pre.weight" not in voice.weights


@pytest.mark.parametrize("version", ["V2", 2, "2", "", " v2 ", None, "v1", 1, "v2.0", 2.0, b"v2", "RVC v2", "version 2",
                                     "\uff36\uff12", True, ["v2"]])  # fmt: skip
def test_versions_are_spelled_in_many_ways(tmp_path: Path, version: object) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice("v2", "40k"))
    torch.save(content | {"version": version}, tmp_path / "b.pth")
    assert read_voice_model(tmp_path / "b.pth").family == "v2"


@pytest.mark.parametrize("modern", [True, False])
def test_numpy_scalars_are_read_as_numbers(tmp_path: Path, modern: bool) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice())
    scalars = {"epoch": np.int64(-3), "loss": np.float32(2.5), "big": np.array(1.5, ">f8")[()], "best": np.bool_(True),
               "name": np.str_("声")}  # fmt: skip
    torch.save(content | scalars, tmp_path / "b.pth", _use_new_zipfile_serialization=modern)
    expected = {"epoch": -3, "loss": 2.5, "big": 1.5, "best": True, "name": "声"}
    assert read_voice_model(tmp_path / "b.pth").extra == expected


@pytest.mark.parametrize("value", [np.zeros(3), np.void(b"abc"), np.complex128(1), np.datetime64("2026-01-01")])
def test_other_numpy_values_are_refused(tmp_path: Path, value: object) -> None:
    torch.save({"a": value}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        safe_load(tmp_path / "b.pth")
