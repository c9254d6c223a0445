"""The recipe of pretrained/lite: the split of the recordings, features, both trainings, export; on tones and noise."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from lib.config import FamilyConfig, LiteConfig, load_family
from lib.content import content_frames
from lib.content.lite import load
from lib.errors import MissingFileError
from lib.models.lite_encoder import CODE, FIRST_LAYER, LiteEncoder, WhisperEncoder, WhisperLayer
from lib.models.lite_synthesizer import LiteSynthesizer, usable_bands
from lib.progress import no_progress
from lib.voice.infer_config import build_network
from recipes.pretrain_lite import __main__ as command
from recipes.pretrain_lite import acoustic, recordings, vocoder
from recipes.pretrain_lite.acoustic import AcousticTraining, F0Regressor, ReverseGradient, SpeakerCorpus, train_acoustic
from recipes.pretrain_lite.export import export
from recipes.pretrain_lite.features import Features, lite_config, make_features, read_features, whisper_weights
from recipes.pretrain_lite.options import (
    AcousticOptions,
    ExportOptions,
    FeatureOptions,
    VocoderOptions,
)
from recipes.pretrain_lite.predict import Predictor
from recipes.pretrain_lite.recordings import read_audio, training_recordings
from recipes.pretrain_lite.vocoder import VocoderTraining, train_vocoder
from tests.helpers import Floats
from train.base_models import find_base

CHANNELS = 16  # of the small Whisper encoder


def sound(seconds: float, f0: float, seed: int, rate: int = 24_000) -> Floats:
    """Half a second of silence, then a buzz with noise."""
    times = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * f0 * k * times) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).standard_normal(len(times))
    return ((0.15 * np.asarray(buzz) + 0.01 * noise) * (times > 0.5)).astype(np.float32)


def write_whisper(path: Path, channels: int) -> WhisperEncoder:
    """Random weights of Whisper's encoder under the names of CTranslate2; returns the same network."""
    torch.manual_seed(1)
    network = WhisperEncoder(channels).eval()
    arrays: dict[str, Any] = {}
    for number in (1, 2):
        conv = getattr(network, f"conv_{number}")
        arrays |= {f"conv{number}.weight": conv.weight, f"conv{number}.bias": conv.bias}
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, WhisperLayer)
        prefix = f"layer_{number}."
        for name, norm in (("self_attention.layer_norm", layer.norm_1), ("ffn.layer_norm", layer.norm_2)):
            arrays |= {f"{prefix}{name}.gamma": norm.weight, f"{prefix}{name}.beta": norm.bias}
        linears = {
            "self_attention.linear_0": layer.qkv, "self_attention.linear_1": layer.out, "ffn.linear_0": layer.up,
            "ffn.linear_1": layer.down,
        }  # fmt: skip
        for name, linear in linears.items():
            arrays |= {f"{prefix}{name}.weight": linear.weight, f"{prefix}{name}.bias": linear.bias}
    np.savez(path, **{name: value.detach().numpy() for name, value in arrays.items()})
    return network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings in the layout that the recipe reads."""
    folder = tmp_path_factory.mktemp("data")
    files = [f"voices/ljspeech/LJ001-{i:04d}.flac" for i in range(1, 6)]
    files += ["speech/librispeech-dev-clean-mp3/84/a.mp3", "speech/librispeech-dev-clean-mp3/84/b.mp3"]
    files += ["speech/librispeech-251/100-1.opus", "speech/emodb-de/x/0903.opus", "sources/librivox_0930.flac"]
    kinds = {".flac": ("FLAC", "PCM_16"), ".mp3": ("MP3", "MPEG_LAYER_III"), ".opus": ("OGG", "OPUS")}
    for number, name in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form, subtype = kinds[path.suffix]
        soundfile.write(path, sound(1.6, 120 + 15 * number, number), 24_000, format=form, subtype=subtype)
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the recipe after `features`, with a small encoder."""
    folder = tmp_path_factory.mktemp("made")
    write_whisper(folder / "whisper.npz", CHANNELS)
    make_features(FeatureOptions(data=data, whisper=folder / "whisper.npz"), folder)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def small_family() -> FamilyConfig:
    """The family with narrow networks."""
    family = load_family("lite")
    narrow = {"prior_channels": 16, "prior_blocks": 2, "vocoder_channels": 16, "vocoder_blocks": 2, "gin_channels": 4}
    judge = family.discriminator.model_copy(update={"resolutions": (256, 512), "channels": 8})
    network = family.synthesizer.model_copy(update=narrow)
    return family.model_copy(update={"synthesizer": network, "discriminator": judge})


def small_config() -> LiteConfig:
    config = small_family().synthesizer
    assert isinstance(config, LiteConfig)
    return config


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- recordings -------------------------------------------------------------------------------------------------------


def test_no_speaker_of_the_test_or_validation_split_is_in_train(tmp_path: Path) -> None:
    held_out = recordings.TEST | recordings.VALIDATION
    assert not recordings.TEST & recordings.VALIDATION
    files = [f"voices/ljspeech/LJ001-{i:04d}.flac" for i in range(1, 33)]
    files += [f"speech/librispeech-dev-clean-mp3/{speaker}/{i}.mp3" for speaker in [*held_out, "84"] for i in range(4)]
    files += [f"speech/librispeech-251/{speaker}-1.opus" for speaker in ("100", *held_out)]
    files += [f"speech/emodb-de/{number:02d}a.opus" for number in (3, 8, 9, 10, 11, 13)]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = training_recordings(tmp_path)
    assert {item.speaker for item in found} == {"lj", "84", "100", "emodb09", "emodb11"}
    assert [item.path.stem for item in found if item.speaker == "lj"] == [f"LJ001-{i:04d}" for i in range(1, 29)]
    assert [item.path.stem for item in found if item.speaker == "84"] == ["0", "1", "2"]
    assert len({item.name for item in found}) == len(found)
    assert {item.speaker: item.cutoff for item in found}["84"] == 6000


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="ljspeech"):
        training_recordings(tmp_path)


def test_audio_is_mono_at_the_wanted_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(sound(1.0, 200, 0)[:, None], (1, 2)) * [1.0, 0.0], 24_000)
    audio = read_audio(tmp_path / "a.wav", 16_000)
    assert audio.shape == (16_000,) and audio.dtype == np.float32
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", 24_000), 0.5 * sound(1.0, 200, 0), atol=1e-4)


# --- features ---------------------------------------------------------------------------------------------------------


def test_weights_of_whisper_go_where_they_belong(tmp_path: Path) -> None:
    network = write_whisper(tmp_path / "w.npz", CHANNELS)
    assert same(whisper_weights(tmp_path / "w.npz"), dict(network.state_dict()))


def test_a_feature_file_holds_what_training_needs(made: Path, data: Path) -> None:
    names = {path.name for path in (made / "features").iterdir()}
    lj = {f"lj__LJ001-{i:04d}.npz" for i in range(1, 6)}
    assert names == lj | {"84__a.npz", "84__b.npz", "100__100-1.npz", "emodb09__0903.npz"}
    features, frames = read_features(made / "features" / "lj__LJ001-0002.npz"), content_frames(25_600)
    assert len(features.layers) == 1 + 4, "the clip and its augmented versions"
    width = (6 - FIRST_LAYER + 1) * CHANNELS
    for layers in features.layers:
        assert layers.shape == (frames, width) and layers.dtype == np.float16
        assert np.abs(layers.astype(np.float32).mean(0)).max() < 0.01, "normalised over the clip"
    assert not np.array_equal(features.layers[0], features.layers[1])
    assert features.level.shape == (frames,)
    assert features.level[5:20].mean() < features.level[40:60].mean() - 1, "it begins with silence"
    assert features.mel.shape == (160, lite_config().n_mels) and features.cutoff == 12_000
    voiced = features.f0[70:140]
    assert len(features.f0) == pytest.approx(160, abs=1) and not features.f0[5:40].any()
    np.testing.assert_allclose(voiced[voiced > 0], 135, rtol=0.02)
    assert (voiced > 0).mean() > 0.8


def test_finished_features_are_kept(copied: Path, data: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in (copied / "features").iterdir()}
    gone = copied / "features" / "84__a.npz"
    gone.unlink()
    make_features(FeatureOptions(data=data, whisper=copied / "whisper.npz"), copied)
    assert gone.is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in written.items() if path != gone)


@pytest.mark.slow
def test_several_processes_share_the_clips(copied: Path, data: Path) -> None:
    shutil.rmtree(copied / "features")
    for part in (0, 1):
        make_features(FeatureOptions(data=data, whisper=copied / "whisper.npz", part=part, parts=2), copied)
        assert len(list((copied / "features").iterdir())) == (5, 9)[part]


# --- bottleneck and prior ---------------------------------------------------------------------------------------------


def test_the_gradient_is_reversed() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y: Tensor = ReverseGradient.apply(x)  # type: ignore[no-untyped-call]
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.tolist() == [-3.0, -4.0]


def test_information_on_f0_is_removed_from_the_code() -> None:
    torch.manual_seed(0)
    regressor, f0 = F0Regressor(), torch.tensor([[100.0, 200.0, 0.0, 400.0]])
    code = torch.randn(1, 4, CODE, requires_grad=True)
    error = regressor(code, f0)
    error.backward()
    assert code.grad is not None and not code.grad[0, 2].any()  # an unvoiced frame
    assert code.grad[0, 0].any()
    with torch.no_grad():
        assert regressor(code - 0.1 * code.grad, f0) > error  # a step of descent makes the prediction worse


def test_crops_hide_what_was_not_recorded(made: Path) -> None:
    import random

    corpus = SpeakerCorpus(made, small_config())
    assert corpus.speakers == ["lj", "100", "84", "emodb09"]
    crops = corpus.draw(random.Random(0), torch.Generator().manual_seed(0))
    assert (crops.speaker[: acoustic.BATCH // 2] == 0).all(), "half of the crops are of speakers with many clips"
    for row, speaker in enumerate(crops.speaker.tolist()):
        known = usable_bands(small_config(), 0.97 * {0: 12_000, 2: 6000}.get(speaker, 8000))
        assert set(crops.weight[row].sum(1).tolist()) == {0.0, known}
        frames = int(crops.weight[row, :, 0].sum())
        assert 150 <= frames <= 160 and not crops.weight[row, frames:].any() and not crops.f0[row, frames:].any()


@pytest.mark.slow
def test_resumed_acoustic_training_takes_the_same_next_step(made: Path, tmp_path: Path) -> None:
    corpus, options = SpeakerCorpus(made, small_config()), AcousticOptions(steps=20)
    straight = AcousticTraining(options, corpus)
    for _ in range(2):
        straight.train_step()
    straight.save(tmp_path / "acoustic.pt")
    losses = straight.train_step()
    assert losses.keys() == {"mel", "invariance", "reader", "f0"}
    resumed = AcousticTraining(options.model_copy(update={"seed": 5}), corpus)
    resumed.resume(tmp_path / "acoustic.pt")
    assert resumed.step == 2
    assert resumed.train_step() == losses
    assert same(dict(resumed.networks.state_dict()), dict(straight.networks.state_dict()))
    fresh = AcousticTraining(options, corpus)
    fresh.resume(tmp_path / "none.pt")
    assert fresh.step == 0


@pytest.mark.slow
def test_acoustic_training_lowers_the_distance_of_the_spectra(made: Path) -> None:
    training = AcousticTraining(AcousticOptions(steps=80), SpeakerCorpus(made, small_config()))
    found = [training.train_step()["mel"] for _ in range(60)]
    assert np.mean(found[-10:]) < 0.7 * np.mean(found[:5])


# --- vocoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resumed_vocoder_training_continues(made: Path, data: Path, tmp_path: Path) -> None:
    training = VocoderTraining(VocoderOptions(data=data), made, small_family())
    regression = training.train_step(1e-3)
    assert regression.keys() == {"spectral"}
    training.step = vocoder.REGRESSION_STEPS
    before = {name: value.clone() for name, value in training.discriminator.state_dict().items()}
    adversarial = training.train_step(1e-3)
    assert adversarial.keys() == {"spectral", "discriminator", "generator", "matching"}
    assert all(np.isfinite(value) for value in adversarial.values())
    assert not same(before, dict(training.discriminator.state_dict()))
    training.save(tmp_path / "vocoder.pt")
    following = []
    for _ in range(2):
        resumed = VocoderTraining(VocoderOptions(data=data), made, small_family())
        resumed.resume(tmp_path / "vocoder.pt")
        assert resumed.step == vocoder.REGRESSION_STEPS + 1
        assert same(dict(resumed.vocoder.state_dict()), dict(training.vocoder.state_dict()))
        assert same(dict(resumed.discriminator.state_dict()), dict(training.discriminator.state_dict()))
        following.append((resumed.train_step(1e-3), resumed.vocoder.state_dict()))
    assert following[0][0] == following[1][0] and same(dict(following[0][1]), dict(following[1][1]))


@pytest.mark.slow
def test_the_vocoder_also_learns_on_predicted_spectra(copied: Path, data: Path) -> None:
    training = AcousticTraining(AcousticOptions(steps=2), SpeakerCorpus(copied, small_config()))
    training.save(copied / "acoustic.pt")
    predictor = Predictor(copied, small_config())
    clip = read_features(copied / "features" / "lj__LJ001-0001.npz")
    mel = predictor("lj", clip)
    assert mel.shape == (min(2 * len(clip.level), len(clip.f0)), 100) and np.isfinite(mel).all()
    options = VocoderOptions(data=data, predicted=1.0)
    drawn = VocoderTraining(options, copied, small_family())
    expected = drawn.clips["lj"][0].predicted
    assert expected is not None
    np.testing.assert_allclose(expected.astype(np.float32), mel, atol=0.02)
    assert drawn.train_step(1e-3)["spectral"] > 0


# --- export and demo --------------------------------------------------------------------------------------------------


def write_full_features(folder: Path, data: Path) -> None:
    """Features of random layers as wide as Whisper base's, for the recordings of `data`."""
    (folder / "features").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for recording in training_recordings(data):
        own = Features(
            [rng.standard_normal((79, 2048)).astype(np.float16) for _ in range(2)],
            rng.standard_normal(79).astype(np.float32),
            np.full(160, 150, np.float32),
            rng.standard_normal((160, 100)).astype(np.float16),
            recording.cutoff,
        )
        np.savez(
            folder / "features" / f"{recording.name}.npz", layers=np.stack(own.layers), level=own.level, f0=own.f0,
            mel=own.mel, cutoff=np.array(own.cutoff),
        )  # fmt: skip


@pytest.mark.slow
def test_exported_models_can_be_loaded(data: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "made", tmp_path / "pretrained" / "lite"
    write_full_features(folder, data)
    whisper = write_whisper(tmp_path / "whisper.npz", 512)
    train_acoustic(AcousticOptions(steps=1), folder)
    train_vocoder(VocoderOptions(data=data, max_minutes=1e-4), folder)
    assert (folder / "acoustic.jsonl").is_file() and (folder / "vocoder.jsonl").is_file()
    target.mkdir(parents=True)
    export(ExportOptions(whisper=tmp_path / "whisper.npz"), folder, target)
    encoder, trained = load("lite", torch.device("cpu"), target / "encoder.safetensors"), Predictor(folder)
    assert isinstance(encoder.network, LiteEncoder)
    for got, want in (
        (encoder.network.whisper.layers[2], whisper.layers[2]),
        (encoder.network.bottleneck, trained.bottleneck),
    ):
        for name, value in want.state_dict().items():
            difference = (got.state_dict()[name] - value).abs().max()
            assert difference <= 0.005 * value.abs().max() + 1e-6, name
    base = find_base(load_family("lite"), tmp_path)
    assert base is not None
    network = build_network(load_family("lite").synthesizer)
    assert isinstance(network, LiteSynthesizer)
    network.load_state_dict(base.generator)
    vectors = trained.weights["speakers"]["weight"]
    assert vectors.shape == (4, 64)
    torch.testing.assert_close(network.emb_g.weight, vectors.mean(0).expand(64, -1), atol=1e-3, rtol=1e-2)
    again = AcousticTraining(AcousticOptions(base=target, seed=5), SpeakerCorpus(folder, lite_config()))
    torch.testing.assert_close(again.prior.state_dict(), network.enc_p.state_dict())
    torch.testing.assert_close(again.bottleneck.state_dict(), encoder.network.bottleneck.state_dict())
    assert 0.2 < (again.speakers.weight - network.emb_g.weight[:1]).std() < 0.4
    stored = torch.load(folder / "vocoder.pt", weights_only=True)
    torch.testing.assert_close(network.dec.last.weight, stored["vocoder"]["last.weight"], atol=1e-3, rtol=1e-2)


# --- command line -----------------------------------------------------------------------------------------------------


def test_missing_recordings_end_the_command_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_whisper(tmp_path / "w.npz", CHANNELS)
    words = ["features", "--data", str(tmp_path), "--whisper", str(tmp_path / "w.npz")]
    monkeypatch.setattr("sys.argv", ["pretrain_lite", *words])
    assert command.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and "ljspeech" in error and len(error.splitlines()) == 1


def test_a_command_prints_what_it_made(
    monkeypatch: pytest.MonkeyPatch, made: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_features, "__defaults__", (made, no_progress))
    words = ["features", "--data", str(data), "--whisper", str(made / "whisper.npz")]
    monkeypatch.setattr("sys.argv", ["pretrain_lite", *words])
    assert command.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(made / "features")
