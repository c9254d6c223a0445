"""Freed memory of the process is returned to the system."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.models.memory import release_mapped_weights, trim_memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps holes")
def test_holes_between_what_is_held_go_back() -> None:
    trim_memory()
    parts = [np.ones(100_000, np.uint8) for _ in range(1000)]  # small enough for the heap
    held = parts[::10]
    before = resident_bytes()
    del parts
    trim_memory()
    assert before - resident_bytes() > 70e6
    assert all(part.all() for part in held)


def mapped_bytes() -> int:
    """Pages of files that are in this process's memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems show no mappings")
def test_mapped_weights_are_released_and_read_again_unless_they_were_changed(tmp_path: Path) -> None:
    values = torch.arange(2_000_000, dtype=torch.float32)
    networks = [torch.nn.Linear(2000, 1000, bias=False) for _ in range(2)]
    for i, network in enumerate(networks):
        save_file({"weight": values.view(1000, 2000)}, tmp_path / f"{i}.safetensors")
        network.load_state_dict(load_file(tmp_path / f"{i}.safetensors"), assign=True)
    kept, changed = (network.weight.detach().flatten() for network in networks)
    changed[7] = -1
    assert torch.equal(kept, values) and not torch.equal(changed, values)
    before = mapped_bytes()
    for network in networks:
        release_mapped_weights(network)
    assert before - mapped_bytes() > 6e6  # of the 8 MB of one file
    assert torch.equal(kept, values)
    assert changed[7] == -1 and torch.equal(changed[8:], values[8:])


def test_weights_that_are_not_mapped_stay() -> None:
    network = torch.nn.Linear(1000, 1000)
    before = network.weight.clone()
    release_mapped_weights(network)
    assert torch.equal(network.weight, before)
