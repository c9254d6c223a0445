"""Impossible models: voices of networks that cannot exist, and training states that no step could follow."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lib.errors import CheckpointError
from lib.voice.model_file import read_voice_model
from tests.hostile import Change, Content, import_everything, open_voice, refused
from tests.tiny_files import save_voice, small_voice, tiny_family
from train.checkpoints import resume_pair, save_pair
from train.state import TrainState, make_state


@pytest.fixture(scope="module", autouse=True)
def _everything_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    import_everything(tmp_path_factory.mktemp("warm"))


# --- voices that cannot be --------------------------------------------------------------------------------------------


def tensor(name: str, *shape: int) -> Change:
    """A tensor of another shape; sizes of 0 make the others cost nothing in the file."""
    return lambda content: content["weight"].__setitem__(name, torch.zeros(shape, dtype=torch.float16))


def declare(place: int, value: Any) -> Change:
    """Another value in the positional list."""
    return lambda content: content["config"].__setitem__(place, value)


def poisoned(value: float) -> Change:
    def change(content: Content) -> None:
        content["weight"]["flow.flows.0.enc.in_layers.0.bias"][0] = value

    return change


def without_a_kernel(content: Content) -> None:
    for name in [name for name in content["weight"] if name.startswith("dec.resblocks.11.")]:
        del content["weight"][name]


def stretched(content: Content) -> None:
    content["weight"]["emb_g.weight"] = torch.zeros(1, dtype=torch.float16).expand(1 << 40, 5)


IMPOSSIBLE: dict[str, Change] = {
    "NaN": poisoned(float("nan")), "infinite": poisoned(float("inf")), "stride 0": stretched,
    "a kernel too few": without_a_kernel,
    "no heads": tensor("enc_p.encoder.attn_layers.0.emb_rel_k", 1, 21, 7),
    "heads of no width": tensor("enc_p.encoder.attn_layers.0.emb_rel_k", 1, 21, 0),
    "no speakers": tensor("emb_g.weight", 0, 5), "no hidden channels": tensor("enc_p.emb_phone.weight", 0, 768),
    "enormous hidden channels": tensor("enc_p.emb_phone.weight", 1 << 40, 0),
    "enormous decoder": tensor("dec.conv_pre.weight", 1 << 40, 0, 7),
    "enormous feed-forward": tensor("enc_p.encoder.ffn_layers.0.conv_1.weight", 1 << 50, 0, 3),
    "kernel of no width": tensor("dec.ups.0.weight_v", 32, 16, 0), "no axes": tensor("dec.noise_convs.0.weight"),
    "too few axes": tensor("dec.ups.0.weight_v", 32), "negative dropout": declare(8, -1), "dropout": declare(8, 10**12),
    "negative segment": declare(1, -5), "enormous segment": declare(1, 2**70),
    "quarter precision": lambda content: content["weight"].update(
        {"emb_g.weight": torch.zeros(3, 5, dtype=torch.uint8).view(torch.float8_e4m3fn)}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_networks_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice())
    IMPOSSIBLE[name](content)
    torch.save(content, tmp_path / "x.pth")
    with refused(tmp_path):
        open_voice(tmp_path / "x.pth")


@pytest.mark.slow
@pytest.mark.parametrize("place", range(18))
def test_no_metadata_of_a_voice_changes_its_network(tmp_path: Path, place: int) -> None:
    for has_f0, value in ((True, 2**70), (True, [10**9] * 4), (False, -1)):
        content = save_voice(tmp_path / "a.pth", small_voice(has_f0=has_f0))
        content["config"][place] = value
        torch.save(content, tmp_path / "x.pth")
        try:  # metadata that contradicts the tensors is ignored, so many of these voices are valid
            config = read_voice_model(tmp_path / "x.pth").config
        except CheckpointError:
            continue
        want = small_voice(has_f0=has_f0).config.model_copy(update={"segment_frames": config.segment_frames})
        assert config == want


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(10**9,) * 4, (4000, 1, 1, 1), (64, 64, 64, 64), (-10, 10, 2, -2), (0, 0, 0, 0)])
def test_declared_rates_are_bounded(tmp_path: Path, rates: tuple[int, ...]) -> None:
    """Without F0 no tensor shows the rates, and those that are known need a posterior or a known sample rate."""
    content = save_voice(tmp_path / "a.pth", small_voice("v1", "40k", has_f0=False))
    for i in range(4):
        content["weight"][f"dec.ups.{i}.weight_v"] = torch.zeros(32 >> i, 16 >> i, 64, dtype=torch.float16)
    content["config"][12], content["config"][14] = list(rates), [64] * 4
    for sample_rate in (40_000, 100 * int(np.prod(rates, dtype=object))):
        content["config"][17] = sample_rate
        torch.save(content, tmp_path / "x.pth")
        with refused(tmp_path):
            open_voice(tmp_path / "x.pth")


# --- training states --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pair of checkpoints of a tiny training."""
    folder = tmp_path_factory.mktemp("pair")
    state = make_state(tiny_family("v2", "40k"), Accelerator(cpu=True))
    for network, optimizer in (
        (state.plain_generator, state.optimizer_g), (state.plain_discriminator, state.optimizer_d),
    ):  # fmt: skip
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    save_pair(state, folder / "G.pth", folder / "D.pth")
    return folder


@pytest.fixture(scope="module")
def state() -> TrainState:
    """A state that nothing resumes in; what a refusal leaves of it does not matter to the next."""
    return make_state(tiny_family("v2", "40k"), Accelerator(cpu=True))


def in_optimizer(**entries: Any) -> Change:
    return lambda content: content["optimizer"].update(entries)


def in_moments(**entries: Any) -> Change:
    return lambda content: content["optimizer"]["state"][0].update(entries)


def in_group(**entries: Any) -> Change:
    return lambda content: content["optimizer"]["param_groups"][0].update(entries)


def in_own(**entries: Any) -> Change:
    return lambda content: content["revoice"].update(entries)


def poisoned_moments(content: Content) -> None:
    content["optimizer"]["state"][0]["exp_avg"][:] = torch.nan


DAMAGED_STATES: list[tuple[Change, str]] = [
    (in_optimizer(state=[1]), "not from AdamW"), (in_optimizer(param_groups=None), "not from AdamW"),
    (in_optimizer(param_groups=[3]), "settings of the optimiser are incomplete"),
    (in_optimizer(param_groups=[{}]), "settings of the optimiser are incomplete"),
    (in_group(betas=[float("nan"), 0.9]), "out of range"), (in_group(eps=-1.0), "out of range"),
    (in_group(betas=3), "incomplete"), (in_group(lr="x"), "incomplete"),
    (in_moments(exp_avg=[1]), "is incomplete"), (in_moments(step="x"), "is incomplete"),
    (in_moments(step=float("inf")), "not finite"), (poisoned_moments, "not finite"),
    (lambda content: content["optimizer"]["state"].update({0: 3}), "is incomplete"),
    (lambda content: content["optimizer"]["state"].update({0: {}}), "is incomplete"),
    (lambda content: content.update(revoice=3), "the training progress is missing"),
    (lambda content: content.update(revoice={"step": 0}), "the training progress is missing"),
    (in_own(epoch="x"), "the training progress is missing"), (in_own(batch=-3), "the training progress is missing"),
    (in_own(seconds=float("nan")), "the training progress is missing"), (in_own(rng="x"), "damaged random state"),
    (in_own(rng=torch.zeros(3, dtype=torch.uint8)), "damaged random state"),
    (lambda content: content["model"]["emb_g.weight"].fill_(torch.inf), "not finite"),
    (lambda content: content["model"].update({"emb_g.weight": torch.zeros(1, 1)}), "different shape"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("change", "pattern"), DAMAGED_STATES)
def test_damaged_training_states_do_not_resume(
    pair: Path, state: TrainState, tmp_path: Path, change: Change, pattern: str
) -> None:
    content = torch.load(pair / "G.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "G.pth")
    shutil.copy(pair / "D.pth", tmp_path / "D.pth")
    with refused(tmp_path, pattern):
        resume_pair(state, tmp_path / "G.pth", tmp_path / "D.pth")
