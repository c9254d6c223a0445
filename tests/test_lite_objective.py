"""The objective of the lite family: phases, masks, noise, and resuming across the phase boundary."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lib.config import FamilyConfig, LiteConfig
from lib.models.discriminators import DiscriminatorOutput
from lib.models.lite_encoder import CODE
from lib.models.lite_synthesizer import LiteOutput, LiteSynthesizer, log_mel
from lib.voice.weights import rvc_state_dict
from tests.tiny_files import tiny_family
from train.checkpoints import load_base, resume_pair, save_pair
from train.dataset import Batch
from train.lite_objective import ADAPTATION_RATE, LAST_RATE, VOCODER_RATE, LiteObjective
from train.networks import make_objective
from train.state import TrainState, begin_epoch, make_state
from train.step import train_step

FRAMES = 40
PRIOR_STEPS = 3


def family(prior_steps: int = PRIOR_STEPS) -> FamilyConfig:
    """Real classes of small sizes; segments of 16 frames."""
    config = tiny_family("lite", "24k", segment_frames=16)
    assert config.lite is not None
    train = config.train.model_copy(update={"learning_rate": 2e-3})
    lite = config.lite.model_copy(update={"prior_steps": prior_steps})
    return config.model_copy(update={"lite": lite, "train": train})


def batch(seed: int) -> Batch:
    """Two clips, the second 10 frames shorter: a buzz whose level follows the first feature."""
    rng = torch.Generator().manual_seed(seed)
    content = torch.randn(2, FRAMES, CODE + 1, generator=rng)
    times = torch.arange(FRAMES * 240) / 24_000
    buzz = torch.stack([torch.sin(2 * np.pi * 200 * k * times) / k for k in range(1, 20)]).sum(0)
    levels = torch.sigmoid(content[..., 0]).repeat_interleave(240, 1)
    return Batch(
        content=content,
        pitch_bins=torch.full((2, FRAMES), 80),
        f0=torch.full((2, FRAMES), 200.0),
        spec=torch.zeros(2, 1, FRAMES),
        audio=(0.2 * buzz * levels)[:, None],
        lengths=torch.tensor([FRAMES, FRAMES - 10]),
        speaker_id=torch.tensor([0, 1]),
    )


def new_state(prior_steps: int = PRIOR_STEPS, seed: int = 1) -> TrainState:
    torch.manual_seed(seed)
    return make_state(family(prior_steps), Accelerator(cpu=True))


def lite(state: TrainState) -> LiteSynthesizer:
    assert isinstance(state.plain_generator, LiteSynthesizer)
    return state.plain_generator


def objective(prior_steps: int = PRIOR_STEPS) -> LiteObjective:
    made = make_objective(family(prior_steps))
    assert isinstance(made, LiteObjective)
    return made


def weights(state: TrainState, prefix: str) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in rvc_state_dict(lite(state)).items() if k.startswith(prefix)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_steps_train_the_prior_alone_and_the_others_the_vocoder_too() -> None:
    state = new_state()
    vocoder, prior = weights(state, "dec."), weights(state, "enc_p.")
    judge = {k: v.clone() for k, v in state.plain_discriminator.state_dict().items()}
    for step in range(PRIOR_STEPS):
        found = train_step(state, batch(step))
        assert {name for name in found if name.startswith("loss/g/")} == {"loss/g/total", "loss/g/mel"}
        assert not any(name.startswith("loss/d/") for name in found)
    assert same(vocoder, weights(state, "dec.")) and not same(prior, weights(state, "enc_p."))
    assert same(judge, state.plain_discriminator.state_dict())
    found = train_step(state, batch(PRIOR_STEPS))
    assert {"loss/g/spectral", "loss/g/gen", "loss/g/fm", "loss/g/mel", "loss/d/total"} <= found.keys()
    assert not same(vocoder, weights(state, "dec."))
    assert not same(judge, state.plain_discriminator.state_dict())
    assert all(np.isfinite(value) for value in found.values())


def test_the_losses_of_the_vocoder_do_not_reach_the_prior() -> None:
    state, given = new_state(prior_steps=0), batch(0)
    output = lite(state)(given.content, given.f0, given.lengths, given.speaker_id, torch.tensor([3, 5]))
    output.audio.square().sum().backward()
    assert all(p.grad is None for p in lite(state).enc_p.parameters())
    assert lite(state).emb_g.weight.grad is None
    assert all(p.grad is not None for p in lite(state).dec.blocks.parameters())


def test_frames_beyond_the_length_of_a_clip_do_not_count() -> None:
    config, given = family().synthesizer, batch(0)
    assert isinstance(config, LiteConfig)
    real, last = log_mel(given.audio[:, 0], config), int(given.lengths[1])
    mel = real.clone()
    mel[1, last:] += 7.0
    frames = given.lengths.sum().float()
    starts = torch.zeros(2, dtype=torch.int64)
    (loss,) = objective().generator_losses(None, given, LiteOutput(mel, None, starts), frames).values()
    assert loss == 0
    mel[1, last - 5 : last] += 2.0
    (loss,) = objective().generator_losses(None, given, LiteOutput(mel, None, starts), frames).values()
    torch.testing.assert_close(loss, 5 * 2.0 / frames)


def test_noise_is_added_to_the_code_but_not_to_the_level() -> None:
    seen: list[Tensor] = []
    state, given, made = new_state(), batch(0), objective()
    handle = lite(state).enc_p.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for temperature in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        made.forward(lite(state), given, None, temperature, step=0)
    handle.remove()
    assert torch.equal(seen[0], given.content)
    noise = seen[1] - given.content
    assert not noise[..., CODE:].any()
    assert made.settings.content_noise > 0
    assert float(noise[..., :CODE].std()) == pytest.approx(made.settings.content_noise, rel=0.05)
    torch.testing.assert_close(seen[2] - given.content, 2 * noise, atol=1e-5, rtol=0)


def test_the_compared_recordings_are_those_of_the_segments() -> None:
    given, received = batch(0), list[Tensor]()

    def discriminate(audio: Tensor) -> list[DiscriminatorOutput]:
        received.append(audio)
        return [DiscriminatorOutput(audio.mean(2), [audio])]

    output = LiteOutput(torch.zeros(2, FRAMES, 20), torch.zeros(2, 1, 16 * 240), torch.tensor([4, 9]))
    objective(0).discriminator_losses(discriminate, given, output)
    for row, start in enumerate((4, 9)):
        torch.testing.assert_close(received[0][row], given.audio[row, :, start * 240 : (start + 16) * 240])


@pytest.mark.slow
def test_saved_and_resumed_across_the_phase_boundary_equals_straight_through(tmp_path: Path) -> None:
    straight, again = new_state(), new_state()
    torch.manual_seed(50)
    for step in range(4):
        train_step(straight, batch(step))
    torch.manual_seed(50)
    for step in range(2):
        train_step(again, batch(step))
    save_pair(again, tmp_path / "G.pth", tmp_path / "D.pth")
    resumed = new_state(seed=9)
    resume_pair(resumed, tmp_path / "G.pth", tmp_path / "D.pth")
    assert resumed.progress.step == 2
    for step in (2, 3):
        train_step(resumed, batch(step))
    for a, b in (
        (straight.plain_generator, resumed.plain_generator),
        (straight.plain_discriminator, resumed.plain_discriminator),
        (straight.voice, resumed.voice),
    ):
        assert same(a.state_dict(), b.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("prior_steps", [0, 1000])
def test_losses_fall_on_one_batch(prior_steps: int) -> None:
    state, given = new_state(prior_steps), batch(0)
    found = [train_step(state, given) for _ in range(60)]
    for name in ("spectral",) if prior_steps == 0 else ("mel",):
        values = [losses[f"loss/g/{name}"] for losses in found]
        assert np.mean(values[-10:]) < 0.8 * np.mean(values[:5]), name


def test_after_the_regression_the_prior_stays_what_its_average_was() -> None:
    state, given = new_state(3), batch(0)
    for _ in range(3):
        train_step(state, given)
    assert state.averaged is not None
    kept = {name: value.clone() for name, value in state.plain_generator.enc_p.state_dict().items()}
    for name, value in state.averaged.enc_p.state_dict().items():
        assert torch.equal(kept[name], value)
    vocoder = {name: value.clone() for name, value in state.plain_generator.dec.state_dict().items()}
    for _ in range(2):
        train_step(state, given)
    assert all(torch.equal(kept[name], value) for name, value in state.plain_generator.enc_p.state_dict().items())
    assert any(not torch.equal(vocoder[name], value) for name, value in state.plain_generator.dec.state_dict().items())


@pytest.mark.slow
def test_from_a_base_only_the_speaker_embedding_is_adapted(tmp_path: Path) -> None:
    state = new_state()
    base = rvc_state_dict(lite(state))
    state = new_state(seed=2)
    load_base(state, base, None, "memory")
    for step in range(PRIOR_STEPS):
        if step == 1:  # also in a resumed run
            save_pair(state, tmp_path / "G_1.pth", tmp_path / "D_1.pth")
            state = new_state(seed=3)
            resume_pair(state, tmp_path / "G_1.pth", tmp_path / "D_1.pth")
        train_step(state, batch(step))
    changed = {name for name, value in rvc_state_dict(lite(state)).items() if not torch.equal(base[name], value)}
    assert changed == {"emb_g.weight"}
    train_step(state, batch(PRIOR_STEPS))
    changed = {name for name, value in rvc_state_dict(lite(state)).items() if not torch.equal(base[name], value)}
    assert not any(name.startswith("enc_p.") for name in changed) and "dec.first.weight" in changed


def test_the_learning_rate_of_the_adaptation_rises_falls_and_ends() -> None:
    made = objective(prior_steps=200)
    assert made.learning_rate_factor(10) == 1.0
    made.start_from_base(new_state().plain_generator)
    rates = [made.learning_rate_factor(step) for step in range(202)]
    assert rates[0] < rates[10] < rates[19] and all(a >= b for a, b in pairwise(rates[20:200]))
    assert max(rates) < ADAPTATION_RATE and min(rates[20:200]) == pytest.approx(LAST_RATE * ADAPTATION_RATE)
    assert rates[200:] == [VOCODER_RATE, VOCODER_RATE]
    state = new_state(prior_steps=200)
    state.start_from_base()
    state.progress.step = 10
    begin_epoch(state)
    train_step(state, batch(0))
    (group,) = state.optimizer_g.param_groups
    assert group["lr"] == pytest.approx(2e-3 * rates[10]) and state.optimizer_d.param_groups[0]["lr"] == 2e-3
