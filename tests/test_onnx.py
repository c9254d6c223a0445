"""ONNX files compute what PyTorch computes, for every length."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.content import hubert
from lib.content.hubert_weights import HubertWeights
from lib.errors import ConfigError
from lib.models.rmvpe import Rmvpe
from lib.onnx import export
from lib.onnx.export import TOLERANCE, encoder_graph, export_graph, pitch_graph, voice_graph
from lib.pitch.rmvpe import decode
from tests.helpers import Floats
from tests.tiny_hubert import TINY, tensors_of
from tests.tiny_voice import lite_synthesizer, tiny_synthesizer
from train.__main__ import main

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-onnx.txt")
LENGTHS = (1, 33, 200)  # frames


def run(path: Path, graph: Any, inputs: tuple[torch.Tensor, ...], output: int = 0) -> Floats:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    made = session.run(None, dict(zip(graph.axes, (x.numpy() for x in inputs), strict=True)))[output]
    result: Floats = made
    return result


@pytest.mark.slow
def test_voices_compute_what_a_conversion_computes(tmp_path: Path) -> None:
    networks: dict[str, Any] = {
        "lite": lite_synthesizer(),
        "v2": tiny_synthesizer(),
        "no F0": tiny_synthesizer(has_f0=False),
    }
    for name, network in networks.items():
        graph, path = voice_graph(network.fold_weight_norm()), tmp_path / f"{name}.onnx"
        assert export_graph(graph, path, {"family": name}).difference <= TOLERANCE
        for frames in LENGTHS:
            inputs = graph.example(frames)
            with torch.no_grad():
                wanted = graph.exact(*inputs).numpy()
            made = run(path, graph, inputs)
            assert made.shape == wanted.shape and np.abs(made - wanted).max() <= TOLERANCE
            silent = run(path, graph, (*inputs[:-1], torch.zeros_like(inputs[-1])))
            assert np.abs(silent - wanted).max() > TOLERANCE  # the noise is an input, not a constant
        assert {entry.key: entry.value for entry in onnx.load(path).metadata_props} == {"family": name}


@pytest.mark.slow
def test_encoder_computes_the_same_features(tmp_path: Path) -> None:
    weights = HubertWeights(TINY, tensors_of(TINY))
    encoder = hubert.build(weights, "v2", torch.device("cpu"), "tiny", tmp_path)
    graph = encoder_graph(encoder)
    assert export_graph(graph, tmp_path / "encoder.onnx").difference <= TOLERANCE
    (audio,) = graph.example(77)
    made, wanted = run(tmp_path / "encoder.onnx", graph, (audio,)), encoder(audio[0].numpy())
    assert made.shape[1:] == wanted.shape and np.abs(made[0] - wanted).max() <= TOLERANCE


@pytest.mark.slow
def test_pitch_network_computes_the_same_f0(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Rmvpe(2, 4).eval()
    graph = pitch_graph(network)
    assert export_graph(graph, tmp_path / "f0.onnx").difference <= TOLERANCE
    inputs = graph.example(60)
    made, f0 = (run(tmp_path / "f0.onnx", graph, inputs, i) for i in range(2))
    assert np.abs(made - graph.exact(*inputs).numpy()).max() <= TOLERANCE
    assert np.allclose(f0[0], decode(torch.from_numpy(made[0])).numpy(), rtol=1e-6) and f0.shape == (1, len(made[0]))


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = voice_graph(lite_synthesizer())
    exact = graph.exact
    monkeypatch.setattr(graph, "exact", lambda *inputs: exact(*inputs) + 0.001, raising=False)
    with pytest.raises(ConfigError, match=r"differs from PyTorch by 1\.0e-03, more than 1e-04, and was not written"):
        export_graph(graph, tmp_path / "voice.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="require the onnx package"):
        export.check_packages()


@pytest.mark.slow
def test_the_command_writes_voice_and_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ckpt", "export", "ljspeech", "--onnx", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"ljspeech.onnx", "encoder.onnx"}
    assert printed.count("differs from PyTorch by at most") + printed.count("left out") == 3
    assert main(words) == 1
