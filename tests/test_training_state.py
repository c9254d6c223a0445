"""Training states of every program: the optimiser is matched by name, in any order."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.config import NetworkConfig
from lib.errors import CheckpointError
from lib.voice.infer_config import Network
from lib.voice.training_state import (
    TrainingState,
    optimizer_for,
    peek_progress,
    read_training_state,
    write_training_state,
)
from lib.voice.weights import load_weights, rvc_key, rvc_state_dict
from tests.tiny_files import tiny_family, tiny_network

ORDER_2026 = ("dec.", "enc_q.", "flow.", "emb_g.", "enc_p.")  # of v2 in the 2026 reference


def step(network: Network, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step on gradients that depend only on the seed and the name of the parameter."""
    for name, parameter in sorted(network.named_parameters()):
        generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def trained(config: NetworkConfig) -> tuple[Network, torch.optim.AdamW]:
    """A network after two steps."""
    network = tiny_network(config, posterior=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.8, 0.99), eps=1e-9)
    step(network, optimizer, 1)
    step(network, optimizer, 2)
    return network, optimizer


def in_order(network: Network, optimizer: torch.optim.AdamW, order: list[str]) -> TrainingState:
    """The state as a program stores it that registers its parameters in another order."""
    weights, names = rvc_state_dict(network), [rvc_key(name) for name, _ in network.named_parameters()]
    state = optimizer.state_dict()
    moved: dict[str, Any] = {
        "state": {order.index(name): state["state"][i] for i, name in enumerate(names)},
        "param_groups": state["param_groups"],
    }
    return TrainingState({name: weights[name] for name in order}, 2, moved, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("year", [2023, 2026])
def test_both_orders_of_parameters_go_on_to_the_same_step(tmp_path: Path, year: int) -> None:
    config = tiny_family("v2", "40k").synthesizer
    network, optimizer = trained(config)
    order = list(rvc_state_dict(network))
    if year == 2026:
        order.sort(key=lambda name: ORDER_2026.index(name.split(".")[0] + "."))
    write_training_state(tmp_path / "G_2.pth", in_order(network, optimizer, order))
    step(network, optimizer, 3)

    state = read_training_state(tmp_path / "G_2.pth")
    assert list(state.weights) == order and peek_progress(tmp_path / "G_2.pth") == (2, 0)
    resumed = tiny_network(config, posterior=True, seed=9)
    load_weights(resumed, state.weights, "G_2.pth")
    other = torch.optim.AdamW(resumed.parameters(), lr=5.0)
    other.load_state_dict(optimizer_for(resumed, state, "G_2.pth"))
    step(resumed, other, 3)
    got, want = rvc_state_dict(resumed), rvc_state_dict(network)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("kind", ["f0", "nof0"])
def test_the_orders_tried_here_are_those_of_the_references(specification: Path, kind: str) -> None:
    spec = json.loads((specification / "state_dict" / f"v2_40k_{kind}.json").read_text())
    order = sorted(spec["parameter_order_2023"], key=lambda name: ORDER_2026.index(name.split(".")[0] + "."))
    assert order == spec["parameter_order_2026"] != spec["parameter_order_2023"]


def damaged(change: Any) -> TrainingState:
    network, optimizer = trained(tiny_family("v2", "40k").synthesizer)
    state = in_order(network, optimizer, list(rvc_state_dict(network)))
    change(state)
    return state


def swap_moments(state: TrainingState) -> None:
    moments = state.optimizer["state"]
    moments[0], moments[1] = moments[1], moments[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda s: s.optimizer.update(param_groups=[]), "0 parameter groups"),
        (lambda s: s.optimizer["state"].update({9999: {}}), "does not belong"),
        (lambda s: s.optimizer["state"].update({"a": {}}), "does not belong"),
        (swap_moments, "a different shape from its weights"),
    ],
)
def test_optimiser_states_of_other_models_are_refused(change: Any, pattern: str) -> None:
    state = damaged(change)
    network = tiny_network(tiny_family("v2", "40k").synthesizer, posterior=True)
    with pytest.raises(CheckpointError, match=pattern):
        optimizer_for(network, state, "G_2.pth")


@pytest.mark.parametrize(
    ("entry", "value", "pattern"),
    [
        ("iteration", "many", "is damaged"), ("optimizer", 3, "is damaged"), ("learning_rate", [1], "is damaged"),
        ("model", {"a": torch.full((3,), torch.inf)}, "not finite"), ("model", {}, "no state dict"),
    ],
)  # fmt: skip
def test_damaged_states_are_refused(tmp_path: Path, entry: str, value: Any, pattern: str) -> None:
    content = {"model": {"a": torch.zeros(3)}, "iteration": 1, "optimizer": {}, "learning_rate": 1e-4}
    torch.save(content | {entry: value}, tmp_path / "G_1.pth")
    with pytest.raises(CheckpointError, match=pattern):
        read_training_state(tmp_path / "G_1.pth")


def test_other_files_have_no_progress(tmp_path: Path) -> None:
    for i, content in enumerate(([1], {"iteration": None}, {"iteration": 1, "revoice": 2}, {})):
        torch.save(content, tmp_path / f"{i}.pth")
        with pytest.raises(CheckpointError, match="not a training checkpoint"):
            peek_progress(tmp_path / f"{i}.pth")
