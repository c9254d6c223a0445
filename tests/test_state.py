"""The training step against the golden steps, and what saving and resuming must keep."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lib.config import AudioConfig, DiscriminatorConfig, FamilyConfig, TrainConfig, load_family
from lib.errors import CheckpointError
from lib.models.discriminators import DiscriminatorOutput
from lib.voice.training_state import read_training_state
from lib.voice.weights import rvc_state_dict
from tests.helpers import closed_form, error, golden_training_model, read_golden, tiny_config
from train import losses
from train.checkpoints import load_base, resume_pair, save_pair
from train.dataset import Batch
from train.objective import SpectrumConstants, VitsObjective
from train.state import TrainState, make_state
from train.step import train_step

GOLDEN_SPECTRUM = SpectrumConstants(epsilon=2e-7, floor=2e-6)  # the golden steps were made by the 2026 reference


def tiny_family() -> FamilyConfig:
    """A family of a few thousand parameters at 8 kHz."""
    network = tiny_config(
        sample_rate=8000, spec_channels=129, segment_frames=16, upsample_rates=(10, 8), upsample_kernel_sizes=(20, 16)
    )
    return FamilyConfig(
        family="v2",
        audio=AudioConfig(sample_rate=8000, n_fft=256, hop_length=80, n_mels=20),
        synthesizer=network,
        discriminator=DiscriminatorConfig(periods=(2, 3), scale_channels=(4,) * 6, period_channels=(4,) * 5),
        train=TrainConfig(segment_size=1280, learning_rate=1e-3),
    )


def tiny_batch(seed: int, frames: int = 30) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        content=torch.randn(2, frames, 12, generator=rng),
        pitch_bins=torch.full((2, frames), 80),
        f0=torch.full((2, frames), 200.0),
        spec=torch.rand(2, 129, frames, generator=rng),
        audio=torch.randn(2, 1, frames * 80, generator=rng).tanh(),
        lengths=torch.tensor([frames, frames - 5]),
        speaker_id=torch.tensor([0, 1]),
    )


def new_state(seed: int = 1, average: float = 0.0) -> TrainState:
    torch.manual_seed(seed)
    family = tiny_family().model_copy(update={"average": average})
    return make_state(family, Accelerator(cpu=True))


@pytest.mark.slow
def test_golden_three_training_steps(golden: Path) -> None:
    steps = json.loads((golden / "training" / "steps.json").read_text())
    data = read_golden(golden / "synth" / "G_v2_40k_f0.forward.safetensors")
    spec = json.loads((golden / "disc" / "mpd_v2.fill.json").read_text())
    weights = {key: closed_form(key, shape, rest[0], rest[1], spec["salt"]) for key, shape, *rest in spec["tensors"]}
    model = golden_training_model(golden, "G_v2_40k_f0")
    config = load_family("v2", "40k").model_copy(update={"synthesizer": model.config})
    state = make_state(config, Accelerator(cpu=True), objective=VitsObjective(config, GOLDEN_SPECTRUM))
    load_base(state, rvc_state_dict(model), weights, "the golden data")
    before = {key: value.clone() for key, value in rvc_state_dict(state.plain_generator).items()}
    batch = Batch(
        data["in.phone"], data["in.pitch"], data["in.nsff0"], data["in.spec"], data["in.wave"],
        data["in.spec_lengths"], data["in.sid"],
    )  # fmt: skip
    for want in steps["steps"]:
        got = train_step(state, batch, starts=data["in.ids_slice"], temperature=0.0)
        named = {"disc": "loss/d/total", "gen": "loss/g/gen", "fm": "loss/g/fm"}
        named |= {"mel": "loss/g/mel", "kl": "loss/g/kl", "gen_all": "loss/g/total"}
        for key, name in named.items():
            assert got[name] == pytest.approx(want[key], rel=5e-4), key
        for i, (real, made) in enumerate(zip(want["disc_real_each"], want["disc_gen_each"], strict=True)):
            assert got[f"loss/d_r/{i}"] == pytest.approx(real, rel=5e-4, abs=1e-6)
            assert got[f"loss/d_g/{i}"] == pytest.approx(made, rel=5e-4, abs=1e-6)
        norms = {key: value for key, value in want.items() if "norm" in key}
        assert len(norms) == 2
        for key, value in norms.items():
            assert got["grad_norm_d" if "d" in key.replace("grad", "").replace("norm", "") else "grad_norm_g"] == (
                pytest.approx(value, rel=5e-3)
            )
    after = rvc_state_dict(state.plain_generator)
    for name, (_, norm, _, change) in steps["generator_after_3_steps"].items():
        if "conv_k.bias" not in name:  # their true gradient is zero, so AdamW turns rounding into whole steps
            assert float(after[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-7), name
            assert float((after[name] - before[name]).norm()) == pytest.approx(change, rel=0.03, abs=1e-7), name
    discriminator = rvc_state_dict(state.plain_discriminator)
    for name, (_, norm, _, change) in steps["discriminator_after_3_steps"].items():
        assert float(discriminator[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-7), name
        assert float((discriminator[name] - weights[name]).norm()) == pytest.approx(change, rel=0.03, abs=1e-7), name
    final = read_golden(golden / "training" / "after3.safetensors")
    for name, value in final.items():
        if name != "out.audio":
            corner = tuple(slice(size) for size in value.shape)  # of large tensors only a corner is stored
            assert error(after[name.removeprefix("out.")][corner], value) <= 1e-4, name
    with torch.inference_mode():
        audio = state.plain_generator.infer(
            data["in.phone"][:1], data["in.phone_lengths"][:1], data["in.sid"][:1], data["in.pitch"][:1],
            data["in.nsff0"][:1], temperature=0.0,
        )  # fmt: skip
    assert error(audio[..., : final["out.audio"].shape[-1]], final["out.audio"]) <= 2e-3


def outputs_of(scores: list[torch.Tensor], features: list[list[torch.Tensor]]) -> list[DiscriminatorOutput]:
    return [DiscriminatorOutput(score, maps) for score, maps in zip(scores, features, strict=True)]


def test_golden_losses(golden: Path) -> None:
    data = read_golden(golden / "loss_mel" / "losses.safetensors")
    count = len([key for key in data if key.startswith("in.real.")])
    none: list[list[torch.Tensor]] = [[] for _ in range(count)]
    real = outputs_of([data[f"in.real.{i}"] for i in range(count)], none)
    made = outputs_of([data[f"in.gen.{i}"] for i in range(count)], none)
    parts_real, parts_made = losses.discriminator_parts(real, made)
    assert error(torch.stack(parts_real), data["out.disc_real_each"]) <= 1e-5
    assert error(torch.stack(parts_made), data["out.disc_gen_each"]) <= 1e-5
    assert error(torch.stack([*parts_real, *parts_made]).sum().reshape(1), data["out.disc_total"]) <= 1e-5
    assert error(losses.generator_loss(made).reshape(1), data["out.gen_total"]) <= 1e-5
    pairs = {tuple(key.split(".")[2:]) for key in data if key.startswith("in.fmap_real.")}
    maps = [[[data[f"in.fmap_{kind}.{i}.{j}"]] for i, j in sorted(pairs)] for kind in ("real", "gen")]
    zero = [torch.zeros(1)] * len(pairs)
    got = losses.feature_loss(outputs_of(zero, maps[0]), outputs_of(zero, maps[1]))
    assert error(got.reshape(1), data["out.feature"]) <= 1e-5
    kl = losses.kl_loss(*(data[f"in.{key}"] for key in ("z_p", "logs_q", "m_p", "logs_p", "z_mask")))
    assert error(kl.reshape(1), data["out.kl"]) <= 1e-5


def test_golden_functions_11_losses(golden: Path) -> None:
    data = {key: torch.from_numpy(value) for key, value in np.load(golden / "functions" / "11_losses.npz").items()}
    real = outputs_of([data["dr0"], data["dr1"]], [[data["fr00"], data["fr01"]], [data["fr10"]]])
    made = outputs_of([data["dg0"], data["dg1"]], [[data["fg00"], data["fg01"]], [data["fg10"]]])
    kl = losses.kl_loss(data["z_p"], data["logs_q"], data["m_p"], data["logs_p"], data["z_mask"])
    assert float(kl) == pytest.approx(float(data["kl"]), rel=1e-5)
    parts_real, parts_made = losses.discriminator_parts(real, made)
    assert float(torch.stack([*parts_real, *parts_made]).sum()) == pytest.approx(float(data["disc"]), rel=1e-5)
    assert float(losses.generator_loss(made)) == pytest.approx(float(data["gen"]), rel=1e-5)
    assert float(losses.feature_loss(real, made)) == pytest.approx(float(data["fm"]), rel=1e-5)


@pytest.mark.slow
def test_four_steps_equal_two_saved_and_resumed(tmp_path: Path) -> None:
    straight = new_state()
    for seed in range(4):
        train_step(straight, tiny_batch(seed))
    first = new_state()
    for seed in range(2):
        train_step(first, tiny_batch(seed))
    save_pair(first, tmp_path / "G_2.pth", tmp_path / "D_2.pth")
    second = new_state(seed=99)
    resume_pair(second, tmp_path / "G_2.pth", tmp_path / "D_2.pth")
    for seed in range(2, 4):
        train_step(second, tiny_batch(seed))
    assert second.progress.step == 4
    for a, b in (
        (straight.plain_generator, second.plain_generator),
        (straight.plain_discriminator, second.plain_discriminator),
    ):
        want, got = rvc_state_dict(a), rvc_state_dict(b)
        assert all(torch.equal(want[key], got[key]) for key in want)


@pytest.mark.slow
def test_averaged_weights_are_the_voice_and_are_saved(tmp_path: Path) -> None:
    state = new_state(average=0.3)
    mean: dict[str, torch.Tensor] = {}
    for seed, share in enumerate((1.0, 0.8, 0.7, 0.7)):  # 4/4, 4/5, 4/6 and less would be slower than 1 - 0.3
        train_step(state, tiny_batch(seed))
        now = rvc_state_dict(state.plain_generator)
        mean = {key: mean.get(key, new) + share * (new - mean.get(key, new)) for key, new in now.items()}
    files = tmp_path / "G_4.pth", tmp_path / "D_4.pth"
    save_pair(state, *files)
    resumed = new_state(seed=99, average=0.3)
    resume_pair(resumed, *files)
    voice, read, last = map(rvc_state_dict, (state.voice, resumed.voice, resumed.plain_generator))
    for key, want in mean.items():
        torch.testing.assert_close(voice[key], want)
        torch.testing.assert_close(read[key], voice[key])
    assert any(not torch.equal(last[key], want) for key, want in mean.items())


@pytest.mark.slow
def test_without_averaging_the_voice_has_the_last_weights(tmp_path: Path) -> None:
    state = new_state()
    assert state.voice is state.plain_generator
    train_step(state, tiny_batch(0))
    save_pair(state, tmp_path / "G_1.pth", tmp_path / "D_1.pth")
    assert read_training_state(tmp_path / "G_1.pth").average is None
    later = new_state(average=0.9)
    resume_pair(later, tmp_path / "G_1.pth", tmp_path / "D_1.pth")  # saved before averaging was introduced
    for a, b in zip(later.voice.parameters(), later.plain_generator.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_resume_refuses_a_pair_of_different_steps(tmp_path: Path) -> None:
    state = new_state()
    save_pair(state, tmp_path / "G_0.pth", tmp_path / "D_0.pth")
    train_step(state, tiny_batch(0))
    save_pair(state, tmp_path / "G_1.pth", tmp_path / "D_1.pth")
    with pytest.raises(CheckpointError, match="different training steps"):
        resume_pair(new_state(), tmp_path / "G_1.pth", tmp_path / "D_0.pth")


@pytest.mark.slow
def test_training_lowers_the_mel_loss() -> None:
    state = new_state()
    batch = tiny_batch(0)
    found = [train_step(state, batch)["loss/g/mel"] for _ in range(60)]
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])
