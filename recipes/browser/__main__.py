"""Exports the ONNX graphs of docs/browser: python -m recipes.browser [--folder FOLDER]

They contain no weights: the web page reads the weights of the encoder and of voices from their own files. Export the
graphs again when the networks of the lite family change.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import swift_f0
import torch
import tyro
from torch import Tensor, nn

from lib.config import load_family
from lib.files import replacing
from lib.models.lite_encoder import LiteEncoder
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.onnx.export import write_graph
from lib.onnx.graphs import LiteEncoderGraph, LitePriorGraph, LiteVocoderGraph
from lib.paths import ROOT
from lib.run_main import run_main
from lib.voice.infer_config import build_network

FOLDER = ROOT / "docs" / "browser"
COMPUTED = "basis"  # a buffer that the page computes; all others are small and stored


def graphs() -> dict[str, Any]:
    """Return the ONNX graphs, keyed by file name."""
    voice = build_network(load_family("lite").synthesizer)
    assert isinstance(voice, LiteSynthesizer)
    made = {
        "lite_encoder.onnx": LiteEncoderGraph(LiteEncoder()), "lite_prior.onnx": LitePriorGraph(voice),
        "lite_vocoder.onnx": LiteVocoderGraph(voice.dec),
    }  # fmt: skip
    torch.manual_seed(0)
    for graph in made.values():
        for weight in graph.parameters():
            nn.init.normal_(weight, 0.0, 0.05)  # the exporter merges inputs with equal values, such as ones
        _store_buffers(graph)
    return made


def _store_buffers(graph: nn.Module) -> None:
    """Make buffers constants of the graph; parameters are its inputs."""
    for module in graph.modules():
        for name, value in list(module.named_buffers(recurse=False)):
            delattr(module, name)
            setattr(module, name, nn.Parameter(value, requires_grad=False) if name == COMPUTED else value)


def given(graph: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a graph without weights has as inputs, keyed by name."""
    return {name: value.detach() for name, value in graph.named_parameters()}


def main(folder: Path = FOLDER) -> None:
    """Write the ONNX graphs, and copy the network of the "swift" pitch method (MIT licence).

    That network is published as an ONNX file.
    """
    for name, graph in graphs().items():
        with replacing(folder / name) as temporary:
            write_graph(graph, temporary, with_weights=False)
    assert swift_f0.__file__ is not None
    shutil.copyfile(Path(swift_f0.__file__).with_name("model.onnx"), folder / "swift_f0.onnx")


if __name__ == "__main__":
    sys.exit(run_main(lambda: tyro.cli(main, prog="python -m recipes.browser")))
