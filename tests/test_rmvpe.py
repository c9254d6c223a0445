"""RMVPE: keys, front end, network and decoding against the spec and golden data; files, windows and places."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib.errors import CheckpointError, MissingFileError
from lib.models.rmvpe import Rmvpe
from lib.pitch import load_pitch_extractor, rmvpe
from tests.helpers import Floats, closed_form, error, read_golden

CPU = torch.device("cpu")
Places = Callable[..., None]


@pytest.fixture(scope="module")
def tiny() -> Rmvpe:
    torch.manual_seed(0)
    return Rmvpe(channels=2, hidden=4).eval()


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    """A function that sets where weights are looked for."""
    return lambda *paths: monkeypatch.setattr(rmvpe, "PLACES", paths)


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method builds a network of tiny width."""
    monkeypatch.setattr(rmvpe, "Rmvpe", lambda: Rmvpe(channels=2, hidden=4))


def centred_mel(audio: Tensor) -> Tensor:
    """The front end over (T,) reflected at both ends: [128, T // 160 + 1]."""
    return rmvpe.log_mel(torch.nn.functional.pad(audio[None], (512, 512), mode="reflect")[0])


@pytest.mark.slow
def test_clips_in_a_batch_equal_single_clips(places: Places, tiny: Rmvpe, tmp_path: Path, tiny_network: None) -> None:
    save_file(tiny.state_dict(), tmp_path / "rmvpe.safetensors")
    places(tmp_path / "rmvpe.safetensors")
    extractor = load_pitch_extractor("rmvpe", CPU)
    rng = np.random.default_rng(0)
    seconds = (1.0, 1.1, 0.001, 0.2, 1.05, 3.7, 3.7)
    clips = [(0.1 * rng.standard_normal(round(16000 * s))).astype(np.float32) for s in seconds]
    clips += [np.zeros(16000, np.float32)]
    together = extractor.batch(clips)
    for clip, f0 in zip(clips, together, strict=True):
        alone = extractor(clip)
        assert f0.shape == (len(clip) // 160,) and np.array_equal(f0 > 0, alone > 0)
        assert np.allclose(f0, alone, rtol=1e-4)
    assert sum(f0.any() for f0 in together) >= 5 and not together[-1].any() and extractor.batch([]) == []


@pytest.mark.slow
def test_in_bfloat16_pitches_stay_and_fp16_weights_are_freed(
    places: Places, tiny: Rmvpe, tmp_path: Path, tiny_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in tiny.state_dict().items()}, tmp_path / "r.safetensors"
    )
    places(tmp_path / "r.safetensors")
    networks: list[Rmvpe] = []
    monkeypatch.setattr(rmvpe, "RmvpePitch", lambda network, device: networks.append(network))
    exact, narrow = (load_pitch_extractor("rmvpe", CPU, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact.cache_key == "rmvpe" and narrow.cache_key == "rmvpe in torch.bfloat16" and narrow.method == "rmvpe"
    mel = torch.randn(1, 128, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want, got = (network(mel) for network in networks)
    assert got.dtype == torch.float32 and 0 < float((got - want).abs().max()) < 0.02
    convolutions = [m for m in networks[1].modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert all(p.dtype == torch.bfloat16 for conv in convolutions for p in conv.parameters())
    assert all(p.dtype == torch.float32 for p in networks[1].fc.parameters())


def test_golden_keys_and_shapes(golden: Path) -> None:
    rows = json.loads((golden / "rmvpe/rmvpe.fill.json").read_text())["tensors"]
    with torch.device("meta"):
        state = Rmvpe().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {row[0]: row[1] for row in rows}


def test_golden_front_end(golden: Path) -> None:
    data = read_golden(golden / "rmvpe/rmvpe_2s.safetensors")
    mel = centred_mel(data["in.wav_int16"].float() / 32768)
    assert float((mel - data["out.mel"][0]).abs().max()) < 2e-3
    other = np.load(golden / "functions/07_rmvpe.npz")
    mel = centred_mel(torch.from_numpy(other["audio16k"].astype(np.float32)))
    assert float((mel - torch.from_numpy(other["logmel"][0])).abs().max()) < 2e-3


def test_golden_decoding(golden: Path) -> None:
    data = read_golden(golden / "rmvpe/decode.safetensors")
    exactly = 0
    for name in (name for name in data if name.startswith("out.f0_thred_")):
        threshold = float(name.rsplit("_", 1)[1])
        f0, peaks = rmvpe.decode(data["in.salience"], threshold), data["in.salience"].amax(dim=1)
        assert error(f0, data[name]) < 1e-5
        assert not f0[(peaks <= threshold).numpy()].any()
        exactly += int((peaks == threshold).sum())
    assert exactly  # a peak exactly at the threshold is unvoiced
    other = np.load(golden / "functions/07_rmvpe.npz")
    assert error(rmvpe.decode(torch.from_numpy(other["salience"]).float()), other["f0"].astype(np.float32)) < 1e-5


@pytest.mark.slow
@torch.inference_mode()
def test_golden_network_at_full_size(golden: Path) -> None:
    table = json.loads((golden / "rmvpe/rmvpe.fill.json").read_text())
    weights = {
        name: torch.zeros(shape, dtype=torch.int64) if fill == ["int64 zero"] else _filled(name, shape, fill, table)
        for name, shape, *fill in table["tensors"]
    }
    network = Rmvpe().eval()
    network.load_state_dict(weights)
    data = read_golden(golden / "rmvpe/rmvpe_2s.safetensors")
    frames = data["out.mel"].shape[-1]
    mel = torch.nn.functional.pad(data["out.mel"], (0, -frames % 32))
    salience = network(mel)[0, :frames]
    assert float((salience - data["out.hidden"].reshape(frames, 360)).abs().max()) < 1e-4
    clear = data["out.argmax_gap"] > 1e-4
    assert error(rmvpe.decode(salience)[clear], data["out.f0"][clear]) < 1e-4


def _filled(name: str, shape: list[int], fill: list[float], table: dict[str, str]) -> Tensor:
    return closed_form(name, shape, fill[0], fill[1], table["salt"])


@pytest.mark.parametrize("samples", [4096, 160 * 32, 160 * 32 + 1, 16000])
def test_every_length_gives_its_frames(tiny: Rmvpe, samples: int) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(samples).astype(np.float32))
    assert rmvpe.salience(tiny, noise).shape == (samples // 160, 360)


def test_the_mel_is_that_of_the_audio_followed_by_silence(tiny: Rmvpe) -> None:
    audio = torch.from_numpy(np.random.default_rng(0).standard_normal(160 * 70).astype(np.float32))
    silent = torch.cat([audio, torch.zeros(160 * 40)])
    with torch.inference_mode():
        want = tiny(centred_mel(silent)[None, :, :96])[0, :70]
    assert float((rmvpe.salience(tiny, audio) - want).abs().max()) < 1e-5


@pytest.mark.slow
def test_levels_in_bands_are_the_whole(tiny: Rmvpe, monkeypatch: pytest.MonkeyPatch) -> None:
    mel = torch.randn(2, 128, 160, generator=torch.Generator().manual_seed(0))
    whole = tiny(mel)
    monkeypatch.setattr("lib.models.rmvpe.BAND_FRAMES", 32)  # 160 frames are five bands, 80 two and a half
    assert (tiny(mel) - whole).abs().max() <= 1e-6


@pytest.mark.slow
def test_long_audio_is_analysed_in_windows(tiny: Rmvpe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows differ from the whole by distant context only, which hardly matters in the middle."""
    audio = torch.from_numpy(np.random.default_rng(0).standard_normal(160 * 1000).astype(np.float32))
    whole = rmvpe.salience(tiny, audio)
    lengths: list[int] = []
    hook = tiny.register_forward_hook(lambda _module, args, _out: lengths.append(args[0].shape[-1]))
    monkeypatch.setattr(rmvpe, "CORE_FRAMES", 256)
    monkeypatch.setattr(rmvpe, "MARGIN_FRAMES", 64)
    parts = rmvpe.salience(tiny, audio)
    hook.remove()
    assert max(lengths) <= 256 + 2 * 64
    assert all(frames % 32 == 0 for frames in lengths)
    assert parts.shape == whole.shape
    assert float((parts - whole).abs().median()) < 1e-3
    assert float((parts - whole).abs().max()) < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize("name", ["rmvpe.pt", "rmvpe.safetensors"])
def test_weights_of_both_formats_in_half_precision(tiny: Rmvpe, places: Places, tmp_path: Path, name: str) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in tiny.state_dict().items()}
    if name.endswith(".pt"):
        torch.save(half, tmp_path / name)
    else:
        save_file(half, tmp_path / name)
    places(tmp_path / "absent.pt", tmp_path / name)
    extractor = load_pitch_extractor("rmvpe", CPU)
    sound: Floats = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    assert extractor.method == "rmvpe"
    assert extractor(sound).shape == (31,)
    assert not extractor(np.zeros(5000, np.float32)).any()
    save_file({k: v.float() if v.is_floating_point() else v for k, v in half.items()}, tmp_path / "wide.safetensors")
    places(tmp_path / "wide.safetensors")
    np.testing.assert_array_equal(extractor(sound), load_pitch_extractor("rmvpe", CPU)(sound))


def test_missing_weights_are_named_with_folder_and_command(places: Places) -> None:
    places()
    with pytest.raises(MissingFileError, match=r"pretrained.rmvpe\.pt.*python -m lib\.assets download rmvpe"):
        load_pitch_extractor("rmvpe", CPU)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rmvpe.pt", {"unet.encoder.bn.weight": torch.ones(1)}, "does not match"),
        ("rmvpe.pt", {"model": {"a": torch.ones(1)}}, "no state dict"),
        ("rmvpe.pt", b"\x00\x01 not a model", "damaged"),
        ("rmvpe.safetensors", b"\xff" * 100, "damaged"),
        ("rmvpe.safetensors", b"", "damaged"),
    ],
)
def test_unusable_weights_are_refused(
    places: Places, tmp_path: Path, name: str, content: dict[str, Tensor] | bytes, sentence: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    places(path)
    with pytest.raises(CheckpointError, match=sentence):
        load_pitch_extractor("rmvpe", CPU)


@pytest.mark.usefixtures("tiny_network")
def test_weights_that_are_not_finite_are_refused(tiny: Rmvpe, places: Places, tmp_path: Path) -> None:
    damaged = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    damaged["fc.0.gru.bias_hh_l0"][1] = torch.nan
    torch.save(damaged, tmp_path / "rmvpe.pt")
    places(tmp_path / "rmvpe.pt")
    with pytest.raises(CheckpointError, match="not finite"):
        load_pitch_extractor("rmvpe", CPU)


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_weights_with_code_in_them_are_refused_and_not_run(places: Places, tmp_path: Path) -> None:
    torch.save({"a": Touch(tmp_path / "ran")}, tmp_path / "rmvpe.pt")
    places(tmp_path / "rmvpe.pt")
    with pytest.raises(CheckpointError):
        load_pitch_extractor("rmvpe", CPU)
    assert not (tmp_path / "ran").exists()
