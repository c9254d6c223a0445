"""Exports a voice, its content encoder and the pitch network to ONNX.

Each file is checked against PyTorch before it is kept.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lib.audio import ANALYSIS_RATE
from lib.content import HOP_LENGTH as CONTENT_HOP
from lib.content import load_content_encoder
from lib.content.hubert import HubertContentEncoder
from lib.content.lite import LiteContentEncoder
from lib.errors import ConfigError, MissingFileError, RevoiceError
from lib.files import replacing
from lib.models import VoiceSynthesizer
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.models.rmvpe import Rmvpe
from lib.models.synthesizer import Synthesizer
from lib.onnx.graphs import (
    HubertGraph,
    LiteEncoderGraph,
    LiteVoiceGraph,
    RmvpeGraph,
    VoiceGraph,
    VoiceWithoutF0Graph,
)
from lib.pitch.rmvpe import load as load_rmvpe
from lib.pitch.scale import HOP_LENGTH
from lib.voice.model_file import load_synthesizer, read_voice_model

OPSET = 17
TOLERANCE = 1e-4  # largest difference from PyTorch, relative to the largest value or 1
TRACED_FRAMES = 50  # length of the example that an export records
CHECKED_FRAMES = (7, 130)  # other lengths, at which the file is compared


class Exported(NamedTuple):
    """An exported file, and its largest difference from PyTorch."""

    path: Path
    difference: float  # the largest difference from PyTorch


def voice_graph(network: VoiceSynthesizer) -> Any:
    """Return the graph of a voice, with weight norm folded."""
    if isinstance(network, LiteSynthesizer):
        return LiteVoiceGraph(network)
    assert isinstance(network, Synthesizer)
    return VoiceGraph(network) if network.config.has_f0 else VoiceWithoutF0Graph(network)


def encoder_graph(encoder: object) -> Any:
    """Return the graph of a content encoder."""
    if isinstance(encoder, LiteContentEncoder):
        return LiteEncoderGraph(encoder.network)
    assert isinstance(encoder, HubertContentEncoder)
    return HubertGraph(encoder.network)


def pitch_graph(network: Rmvpe) -> RmvpeGraph:
    """Return the graph of RMVPE."""
    return RmvpeGraph(network)


def export_graph(graph: Any, path: Path, about: Mapping[str, object] | None = None) -> Exported:
    """Export a graph with its weights in float32 to `path`, with `about` as metadata, and check it against PyTorch.

    Raises ConfigError if the onnx package is not installed, or if the results differ from PyTorch's by more than 1e-4;
    the file is then not written.
    """
    check_packages()
    import onnx

    with replacing(path) as temporary:
        write_graph(graph, temporary)
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, {key: str(value) for key, value in (about or {}).items()})
        onnx.save(model, temporary)
        del model
        difference = max(_differences(graph, temporary))
        if difference > TOLERANCE:
            raise ConfigError(
                "{path} differs from PyTorch by {difference:.1e}, more than {allowed:.0e}, and was not written. Try "
                "another version of onnxruntime.",
                path=path,
                difference=difference,
                allowed=TOLERANCE,
            )
    return Exported(path, difference)


def write_graph(graph: Any, path: Path, *, with_weights: bool = True) -> None:
    """Trace a graph and write it with dynamic axes.

    Without weights, the parameters become graph inputs named after them.
    """
    torch.manual_seed(0)
    names = list(graph.axes)
    dynamic = {name: {axis: f"{name}_length"} for name, axis in graph.axes.items() if axis is not None}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer about branches, which the comparison covers; of its successor
        torch.onnx.export(
            graph.eval(), graph.example(TRACED_FRAMES), str(path), input_names=names, output_names=list(graph.outputs),
            dynamic_axes=dynamic, opset_version=OPSET, dynamo=False, export_params=with_weights,
            do_constant_folding=with_weights,
        )  # fmt: skip


def _differences(graph: Any, path: Path) -> Iterator[float]:
    """The differences between the file and PyTorch for several lengths."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for frames in CHECKED_FRAMES:
        inputs = graph.example(frames)
        with torch.no_grad():
            wanted = graph.exact(*inputs).numpy()
        made = session.run(None, dict(zip(graph.axes, (x.numpy() for x in inputs), strict=True)))[0]
        if made.shape != wanted.shape:
            yield np.inf
        else:
            yield float(np.abs(made - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def check_packages() -> None:
    """Raise ConfigError if a package required for an export is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "ONNX files require the {package} package. Install it: pip install -r requirements-onnx.txt",
            package=error.name or "onnx",
        ) from error


def export_voice(voice: Path, folder: Path) -> Iterator[Exported | RevoiceError]:
    """Export NAME.onnx, encoder.onnx and, for a voice with F0, f0.onnx (RMVPE) into the folder, one after the other.

    If a network is not installed, its MissingFileError is yielded in place of its file, and the files after it are not
    exported. Raises ConfigError as
    `export_graph` does, and CheckpointError if the voice cannot be read.
    """
    check_packages()
    model = read_voice_model(voice)
    config = model.config
    about = {
        "family": model.family, "sample_rate": config.sample_rate, "hop_length": config.hop_length,
        "speakers": config.n_speakers,
    }  # fmt: skip
    network = load_synthesizer(model, str(voice)).fold_weight_norm()
    folder.mkdir(parents=True, exist_ok=True)
    yield export_graph(voice_graph(network), folder / f"{voice.stem}.onnx", about)
    del network
    device, rate = torch.device("cpu"), {"sample_rate": ANALYSIS_RATE}
    named = model.content_encoder.name if model.content_encoder else None
    try:
        encoder = load_content_encoder(model.family, device, named)
        yield export_graph(encoder_graph(encoder), folder / "encoder.onnx", rate | {"hop_length": CONTENT_HOP})
        if config.has_f0:
            pitch = load_rmvpe("rmvpe", device)
            yield export_graph(pitch_graph(pitch.network), folder / "f0.onnx", rate | {"hop_length": HOP_LENGTH})
    except MissingFileError as error:
        yield error
