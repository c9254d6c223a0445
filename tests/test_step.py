"""A step whose memory runs out is computed in micro-batches with equal results; fp16 updates its scaler once."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lib.errors import ConfigError
from lib.models.synthesizer import TrainOutput
from lib.voice.weights import rvc_state_dict
from tests.test_state import new_state, tiny_batch, tiny_family
from train.checkpoints import resume_pair, save_pair
from train.dataset import Batch
from train.objective import Discriminate, Losses, VitsObjective
from train.state import TrainState, make_state
from train.step import train_step

STARTS = torch.tensor([3, 1, 0, 2])


def four_clips() -> Batch:
    """Clips of four lengths, so that the mean over frames differs from the mean over clips."""
    halves = [tiny_batch(0), tiny_batch(1)._replace(lengths=torch.tensor([20, 17]))]
    return Batch(*(torch.cat(tensors) for tensors in zip(*halves, strict=True)))


def short_of_memory(monkeypatch: pytest.MonkeyPatch, network: nn.Module, call: int) -> None:
    """Let the `call`-th forward of a network find no memory."""
    forward, calls = network.forward, [0]

    def failing(*values: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*values)

    monkeypatch.setattr(network, "forward", failing)


def gradients(state: TrainState) -> dict[str, Tensor]:
    """The gradients of both networks by name."""
    networks = (state.plain_generator, state.plain_discriminator)
    named = [(f"{i}.{name}", p.grad) for i, net in enumerate(networks) for name, p in net.named_parameters()]
    return {name: gradient for name, gradient in named if gradient is not None}


# The generator's forward runs once for a whole batch; the discriminator's once in its own half, twice in the other.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "call"),
    [("plain_generator", 1), ("plain_discriminator", 1), ("plain_discriminator", 2), ("plain_discriminator", 3)],
)
def test_out_of_memory_halves_the_batch_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, network: str, call: int
) -> None:
    whole, short = new_state(), new_state()
    short_of_memory(monkeypatch, getattr(short, network), call)
    with caplog.at_level(logging.WARNING):
        want = train_step(whole, four_clips(), STARTS, temperature=0.0)
        got = train_step(short, four_clips(), STARTS, temperature=0.0)
    assert short.micro_batch == 2 and short.progress.step == 1
    assert [record.message for record in caplog.records] == [
        "out of memory on cpu: from now on, the batch of 4 clips is computed in micro-batches of 2, with equal results"
    ]
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name
    expected, found = gradients(whole), gradients(short)
    assert expected.keys() == found.keys() and len(expected) > 100
    for name, gradient in expected.items():
        if "conv_k.bias" not in name:  # its true gradient is zero
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name
    assert all(p.requires_grad for p in short.plain_discriminator.parameters())


@pytest.mark.slow
def test_further_steps_stay_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    whole, parts = new_state(), new_state()
    parts.micro_batch = 3  # 3 clips and 1
    want, got = ([train_step(t, four_clips(), STARTS, 0.0) for _ in range(2)] for t in (whole, parts))
    assert not caplog.records
    for name, value in want[0].items():
        assert got[0][name] == pytest.approx(value, rel=1e-4, abs=1e-7), name
    assert got[1]["loss/g/mel"] == pytest.approx(want[1]["loss/g/mel"], rel=1e-3)


@pytest.mark.slow
def test_both_updates_of_a_step_in_parts_use_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()
    state.micro_batch = 2
    forward, made = state.plain_generator.forward, []

    def listening(*values: Any) -> Any:
        out = forward(*values)
        assert out.audio is not None
        made.append((out.audio.detach(), out.starts, out.audio.requires_grad))
        return out

    monkeypatch.setattr(state.plain_generator, "forward", listening)
    train_step(state, four_clips())
    assert [with_graph for *_, with_graph in made] == [False, False, True, True]
    for first, second in ((0, 2), (1, 3)):
        assert torch.equal(made[first][1], made[second][1])
        assert torch.allclose(
            made[first][0], made[second][0], atol=1e-5
        )  # without a graph convolutions round otherwise
    assert not torch.allclose(made[0][0], made[1][0], atol=1e-3)


@pytest.mark.slow
def test_single_clips_that_do_not_fit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()

    def failing(*values: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(state.plain_discriminator, "forward", failing)
    with pytest.raises(ConfigError, match="Not even one clip at a time fits into the memory of cpu"):
        train_step(state, four_clips())
    assert state.micro_batch == 1 and state.progress.step == 0


def test_several_processes_report_the_batch_size_to_continue_with(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()
    short_of_memory(monkeypatch, state.plain_generator, 1)
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    with pytest.raises(ConfigError, match=r"process 1 of 2\)\. Continue with --batch-size 2\."):
        train_step(state, four_clips())


@pytest.mark.slow
def test_the_scaler_of_fp16_is_updated_once_per_step() -> None:
    state = new_state()
    plain = new_state()
    state.accelerator.scaler = GradScaler("cpu", init_scale=2.0, growth_interval=1)
    try:
        for step in range(1, 4):
            got = train_step(state, four_clips(), STARTS, 0.0)
            assert state.accelerator.scaler.get_scale() == 2.0 * 2.0**step
            state.accelerator.scaler, scaler = None, state.accelerator.scaler
            want = train_step(plain, four_clips(), STARTS, 0.0)
            state.accelerator.scaler = scaler
            assert got["grad_norm_g"] == pytest.approx(want["grad_norm_g"], rel=1e-2)
            assert got["loss/g/mel"] == pytest.approx(want["loss/g/mel"], rel=1e-3)
    finally:
        state.accelerator.scaler = None


@pytest.mark.slow
def test_an_overflow_in_fp16_skips_the_update_and_lowers_the_scale() -> None:
    state = new_state()
    scaler = state.accelerator.scaler = GradScaler("cpu", init_scale=2.0**127)
    before = {name: value.clone() for name, value in state.plain_generator.state_dict().items()}
    train_step(state, four_clips(), STARTS, 0.0)
    assert scaler.get_scale() == 2.0**126
    assert all(torch.equal(before[name], value) for name, value in state.plain_generator.state_dict().items())


class GeneratorFirst(VitsObjective):
    """Trains the generator without discriminator in the first step."""

    def uses_discriminator(self, step: int) -> bool:
        return step > 0

    def generator_losses(
        self, discriminate: Discriminate | None, batch: Batch, output: TrainOutput, frames: Tensor
    ) -> Losses:
        if discriminate is None:
            return {"level": output.audio.square().mean()}
        return super().generator_losses(discriminate, batch, output, frames)


@pytest.mark.slow
def test_an_objective_can_begin_without_discriminator(tmp_path: Path) -> None:
    torch.manual_seed(1)
    family = tiny_family()
    state = make_state(family, Accelerator(cpu=True), objective=GeneratorFirst(family))
    before = {key: value.clone() for key, value in rvc_state_dict(state.plain_discriminator).items()}
    first = train_step(state, four_clips(), STARTS, temperature=0.0)
    assert list(first) == ["loss/g/total", "loss/g/level", "grad_norm_g"]
    assert all(torch.equal(value, before[key]) for key, value in rvc_state_dict(state.plain_discriminator).items())
    files = tmp_path / "G_1.pth", tmp_path / "D_1.pth"
    save_pair(state, *files)
    resume_pair(state, *files)
    second = train_step(state, four_clips(), STARTS, temperature=0.0)
    assert {"loss/d/total", "loss/g/gen", "loss/g/mel"} <= second.keys()
    assert any(not torch.equal(value, before[key]) for key, value in rvc_state_dict(state.plain_discriminator).items())
