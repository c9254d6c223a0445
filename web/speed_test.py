"""Measures the speed of each stage on a device: seconds of audio per second, and training steps per second."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import torch

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.config import load_family
from lib.content import load_content_encoder
from lib.devices import choose_device
from lib.paths import PRETRAINED
from lib.pitch import load_pitch_extractor
from lib.voice.infer_config import build_network

RECORDING = PRETRAINED / "lite" / "demo" / "source.flac"
FAMILY: Literal["lite"] = "lite"
MIN_SECONDS = 1.0  # of every measurement, after one warm-up run


@dataclass(frozen=True)
class Speeds:
    """The speeds of one device."""

    device: str
    f0: float  # times real time, as the next two
    features: float
    synthesis: float
    step: float  # training steps per second


def measure_in_subprocess(device: str) -> Speeds:
    """Measure in a subprocess, so that a driver crash or running out of memory cannot bring down the server."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, device).result()


def measure(device: str) -> Speeds:
    """Measure in this process for a few seconds. Raises ConfigError if the device is not available."""
    where = choose_device(device).device
    audio = load_audio(RECORDING, ANALYSIS_RATE)
    seconds = len(audio) / ANALYSIS_RATE
    extract, encode = load_pitch_extractor("auto", where), load_content_encoder(FAMILY, where)
    return Speeds(
        device,
        f0=seconds * _per_second(lambda: extract(audio)),
        features=seconds * _per_second(lambda: encode(audio)),
        synthesis=_synthesis(where),
        step=_step(where),
    )


def _per_second(work: Callable[[], Any]) -> float:
    """Calls to `work` per second."""
    work()
    begin, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < MIN_SECONDS or not count:
        work()
        count += 1
    return count / passed


def _synthesis(where: torch.device) -> float:
    """Seconds of audio synthesised per second, with random weights, on which the speed does not depend."""
    config = load_family(FAMILY)
    network = build_network(config.synthesizer).to(where).eval()
    network.fold_weight_norm()
    count = 200  # frames of 10 ms
    content = torch.randn(1, count, config.synthesizer.content_width, device=where)
    bins, f0 = torch.full((1, count), 80, device=where), torch.full((1, count), 200.0, device=where)
    lengths, speaker = torch.tensor([count], device=where), torch.tensor([0], device=where)

    def make() -> Any:
        with torch.inference_mode():
            return network.infer(content, lengths, speaker, bins, f0).cpu()

    samples = count * config.audio.hop_length
    return samples / config.audio.sample_rate * _per_second(make)


def _step(where: torch.device) -> float:
    from train.dataset import Batch
    from train.state import make_accelerator, make_state
    from train.step import train_step

    config = load_family(FAMILY)
    batch = Batch.random(config, config.train.batch_size, config.max_frames).to(where)
    state = make_state(config, make_accelerator("auto", where))
    if config.lite:
        state.progress.step = config.lite.prior_steps  # most steps train the vocoder, too
    return _per_second(lambda: train_step(state, batch))
