"""Speed of training, stage by stage: python benchmarks/bench_train.py --family lite

Recordings to clips, F0 per method, content features, loading a batch, and the training step in each precision, every
step case in a process of its own on random clips (speed does not depend on what they contain). Times are the least of
several repeats. The baseline of the step is float32; of the stages before it, the length of the audio.

Prints one JSON line per case and a table: seconds, times real time or steps per second, peak memory, and the ratio to
the baseline of the same run.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

Precision = Literal["fp32", "bf16", "fp16"]
F0_METHODS = ("swift", "fcpe", "pm", "harvest", "dio")  # those that need no download and not minutes
RECORDINGS = ROOT / "pretrained" / "lite" / "demo" / "voice"


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    family: Literal["v1", "v2", "lite"] = "lite"  # which networks
    recordings: Path = RECORDINGS  # for the stages before training
    steps: int = 5  # of which the fastest counts
    threads: int = 0  # of torch; 0 = as it chooses
    batch_size: int = 0  # 0 = the family's
    device: str = "auto"
    precisions: tuple[Precision, ...] = ("fp32", "bf16")  # the first is the baseline


@dataclass(frozen=True)
class Result:
    """One case."""

    case: str
    seconds: float
    speed: float
    unit: str  # of speed
    ratio: float | None = None  # to the baseline
    peak_mb: float | None = None


def peak_megabytes() -> float | None:
    """Most memory this process has held so far, in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def timed(work: Callable[[], Any]) -> float:
    """Wall time in seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def stages(settings: Settings) -> Iterator[Result]:
    """Prepare and extract, on real recordings."""
    import numpy as np
    import torch

    from lib.audio import load_audio
    from lib.config import load_family
    from lib.content import load_content_encoder
    from lib.devices import choose_device
    from lib.pitch import load_pitch_extractor
    from train.options import PrepareOptions
    from train.preprocess import prepare

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device).device
    rate = load_family(settings.family).audio.sample_rate
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        length = prepare(settings.recordings, folder / "gt", folder / "16k", rate, PrepareOptions()).seconds
        yield Result("prepare", time.perf_counter() - begin, length / (time.perf_counter() - begin), "x real time")
        clips = [load_audio(path, 16_000) for path in sorted((folder / "16k").glob("*.wav"))]
    seconds = sum(map(len, clips)) / 16_000
    for method in F0_METHODS:
        extract = load_pitch_extractor(method, device)
        extract(clips[0])
        used = timed(lambda extract=extract: [extract(clip) for clip in clips])  # type: ignore[misc]
        yield Result(f"F0, {method}", used, seconds / used, "x real time")
    if settings.family == "lite":
        encoder = load_content_encoder("lite", device)
        encoder(clips[0])
        used = timed(lambda: np.concatenate([encoder(clip) for clip in clips]))
        yield Result("content, lite", used, seconds / used, "x real time")


def step(settings: Settings, precision: Precision) -> Result:
    """The training step in one precision."""
    import torch

    from lib.config import load_family
    from lib.devices import choose_device
    from lib.mel import linear_spectrogram
    from train.dataset import Batch
    from train.trainer import Trainer, make_accelerator

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device).device
    config = load_family(settings.family)
    frames, rows = min(config.max_frames, 400), settings.batch_size or config.train.batch_size
    audio = torch.randn(rows, frames * config.audio.hop_length).mul(0.1)
    batch = Batch(
        content=torch.randn(rows, frames, config.synthesizer.content_width),
        pitch_bins=torch.full((rows, frames), 80),
        f0=torch.full((rows, frames), 200.0),
        spec=linear_spectrogram(audio, config.audio.n_fft, config.audio.hop_length),
        audio=audio[:, None],
        lengths=torch.full((rows,), frames),
        speaker_id=torch.zeros(rows, dtype=torch.int64),
    ).to(device)
    trainer = Trainer(config, make_accelerator(precision, device))
    trainer.train_step(batch)
    seconds = min(timed(lambda: trainer.train_step(batch)) for _ in range(settings.steps))
    return Result(f"step, {precision}", seconds, 1 / seconds, "steps/s", peak_mb=peak_megabytes())


def run(settings: Settings) -> list[Result]:
    """Every case."""
    results = list(stages(settings))
    steps: list[Result] = []
    for precision in settings.precisions:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(step, settings, precision).result()
        ratio = steps[0].seconds / found.seconds if steps else 1.0
        steps.append(Result(**(asdict(found) | {"ratio": ratio})))
    return results + steps


def main() -> None:
    """Parse the command line, measure, print."""
    import torch
    import tyro

    settings = tyro.cli(Settings, description=__doc__)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    results = run(settings)
    for result in results:
        print(json.dumps({"machine": machine, "family": settings.family, **asdict(result)}))
    print(f"\n{settings.family} on {machine}; ratio: speed against {settings.precisions[0]}")
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:6.2f}"
        memory = "" if result.peak_mb is None else f"{result.peak_mb:7.0f} MB"
        print(f"{result.case:16} {result.seconds:8.3f} s {result.speed:9.2f} {result.unit:12}{ratio:>8}{memory:>12}")


if __name__ == "__main__":
    main()
