"""The recipe's training against noise: noise, its level, resumed training, and the encoder it writes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from lib.content.lite import code_sha256, dequantized
from lib.errors import MissingFileError
from lib.models.lite_encoder import Bottleneck, LiteEncoder
from recipes.pretrain_lite.export import write_encoder
from recipes.pretrain_lite.noise import NoiseTraining, coloured_noise, draw_noise, train_noise, with_noise
from recipes.pretrain_lite.options import NoiseOptions
from recipes.pretrain_lite.recordings import recorded_noises
from tests.test_pretrain_lite import CHANNELS, same, sound
from tests.test_pretrain_lite import data as data
from tests.test_pretrain_lite import made as made


@pytest.fixture
def options(data: Path, made: Path, tmp_path: Path) -> NoiseOptions:
    """Options with recordings, recorded noises and the encoder to train; the features lie in tmp_path/made."""
    shutil.copytree(made, tmp_path / "made")
    shutil.copytree(data, tmp_path / "data")
    for number in range(6):
        path = tmp_path / f"data/speech/esc10-noise/{('001-Rain', '002-Person_sneeze')[number % 2]}/{number}.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(16_000)
        soundfile.write(path, noise, 16_000, format="OGG", subtype="OPUS")
    torch.manual_seed(0)
    encoder = LiteEncoder(CHANNELS)
    write_encoder(tmp_path / "encoder.safetensors", encoder.state_dict())
    return NoiseOptions(data=tmp_path / "data", encoder=tmp_path / "encoder.safetensors", steps=6)


def test_noise_has_the_level_that_is_asked_for() -> None:
    audio, noise = sound(2.0, 150, 0, 16_000), np.random.default_rng(1).standard_normal(32_000).astype(np.float32)
    added = with_noise(audio, 7 * noise, 12.0) - audio
    assert 10 * np.log10(np.mean(audio**2) / np.mean(added**2)) == pytest.approx(12.0, abs=0.01)
    assert np.array_equal(with_noise(audio, 0 * noise, 12.0), audio)


def test_noise_is_of_several_kinds_and_exactly_as_long_as_the_clip(options: NoiseOptions) -> None:
    recorded, rng = recorded_noises(options.data), np.random.default_rng(0)
    assert recorded and all("Person" not in str(path) for path in recorded)
    drawn = [draw_noise(20_001, recorded, rng) for _ in range(12)]
    assert all(noise.shape == (20_001,) and noise.dtype == np.float32 and np.isfinite(noise).all() for noise in drawn)
    assert {round(float(noise.std()), 1) for noise in drawn} > {1.0, 0.1}, "white noise and recorded noise"
    power = np.abs(np.fft.rfft(coloured_noise(16_000, np.random.default_rng(3)))[:8000]) ** 2
    bands = power.reshape(8, 1000).mean(1)
    assert bands.max() > 2 * bands.min(), "coloured"


def test_missing_noises_are_named(data: Path) -> None:
    with pytest.raises(MissingFileError, match="esc10"):
        recorded_noises(data)


@pytest.mark.slow
def test_training_changes_the_bottleneck_alone_and_resumes(options: NoiseOptions, tmp_path: Path) -> None:
    folder, before, code = tmp_path / "made", load_file(options.encoder), code_sha256(options.encoder)
    train_noise(options.model_copy(update={"steps": 4}), folder)
    assert len(list((folder / "noisy").iterdir())) == len(list((folder / "features").iterdir()))
    after = load_file(options.encoder)
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.startswith("bottleneck.") for name in changed)
    train_noise(options.model_copy(update={"steps": 4}), folder)  # finished: from the kept teacher, to the same encoder
    assert same(after, load_file(options.encoder))
    assert code_sha256(options.encoder) == code, "voices of the old encoder work with the new one"


@pytest.mark.slow
def test_the_student_comes_nearer_to_the_clean_code(options: NoiseOptions, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    train_noise(options.model_copy(update={"steps": 1}), folder)
    weights = dequantized(load_file(folder / "teacher.safetensors"))
    teacher = Bottleneck(weights["bottleneck.first.weight"].shape[1])
    teacher.load_state_dict({n.removeprefix("bottleneck."): w for n, w in weights.items() if n.startswith("bottle")})
    training = NoiseTraining(options.model_copy(update={"steps": 40, "learning_rate": 2e-3}), folder, teacher)
    losses = [training.train_step() for _ in range(30)]
    assert losses[0].keys() == {"clean", "noisy", "augmented"}
    assert losses[0]["clean"] < losses[0]["noisy"], "dropout alone changes the code of a clean clip"
    early, late = (np.mean([step["noisy"] for step in part]) for part in (losses[:5], losses[-5:]))
    assert late < 0.85 * early
    training.save(tmp_path / "noise.pt")
    expected = training.train_step()
    resumed = NoiseTraining(options.model_copy(update={"steps": 40, "learning_rate": 2e-3}), folder, teacher)
    resumed.resume(tmp_path / "noise.pt")
    assert resumed.step == 30 and resumed.train_step() == expected
