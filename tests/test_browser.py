"""The page in docs/browser: its graphs compute what Python computes, and a browser converts with them."""

import functools
import math
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.browser.__main__ import FOLDER, given, graphs
from tests.page_server import CHROMIUM, ROOT, open_browser

RUNTIME = FOLDER / "ort" / "ort-wasm-simd-threaded.wasm"
PATIENCE = 300_000  # milliseconds
MIN_SNR = 40.0  # dB, of the browser's result against Python's


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite_encoder.onnx", "lite_prior.onnx", "lite_vocoder.onnx"])
def test_the_graphs_compute_what_the_networks_compute(name: str) -> None:
    import onnxruntime

    torch.manual_seed(0)
    graph = graphs()[name]
    session = onnxruntime.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()} - {*graph.axes}
    weights = {key: value.numpy() for key, value in given(graph).items() if key in names}
    assert names == {*weights} and len(names) > 20
    for frames in (3, 61):
        inputs = graph.example(frames)
        with torch.no_grad():
            wanted = (graph.exact if hasattr(graph, "exact") else graph)(*inputs).numpy()
        named = dict(zip(graph.axes, (x.numpy() for x in inputs), strict=True))
        (made,) = session.run(None, named | weights)
        assert made.shape == wanted.shape and np.abs(made - wanted).max() < 1e-4


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """The project's folder, served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/docs/browser/"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not RUNTIME.is_file(), reason="ONNX Runtime Web is not there: docs/browser/README.md")
def test_a_browser_converts_as_python_does(tmp_path: Path, address: str) -> None:
    from infer.load import load_converter
    from infer.options import ConvertOptions
    from lib.audio.decode import load_audio
    from lib.devices import choose_device
    from lib.voice.archive import export_voice
    from lib.voice.library import find_voice

    pytest.importorskip("playwright", reason="playwright is not installed")
    voice, recording = find_voice("ljspeech").path, ROOT / "pretrained" / "lite" / "demo" / "source.flac"
    archive = export_voice(voice, None, tmp_path / "ljspeech.zip")
    with open_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto(address)
        page.set_input_files("#voice", str(ROOT / "README.md"))
        page.set_input_files("#recording", str(recording))
        page.click("#convert")
        page.wait_for_selector("#status.error")
        assert page.inner_text("#status") == "This is not a ZIP archive."
        page.set_input_files("#voice", str(archive))
        page.fill("#shift", "3")
        page.click("#convert")
        page.wait_for_selector("#result:not([hidden]), #status.error")
        assert page.query_selector(".error") is None, (page.inner_text("#status"), messages)
        assert "transposed by 3 semitones" in page.inner_text("#status")
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "result.wav")
    made, rate = soundfile.read(tmp_path / "result.wav")
    converter = load_converter(voice, None, choose_device("cpu"))
    wanted = converter.convert(
        load_audio(recording, 16_000),
        ConvertOptions.model_validate({"pitch_shift": 3, "pitch_method": "swift", "precision": "fp32"}),
    )
    assert rate == 24_000 and made.shape == wanted.shape
    snr = 10 * math.log10(np.square(wanted).sum() / np.square(made - wanted).sum())
    assert snr >= MIN_SNR
