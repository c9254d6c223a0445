"""Speed of the extract stage on many clips: python benchmarks/bench_extract.py --family lite

Clips of different lengths are cut from recordings. Each case runs in its own process, and its time includes writing the
files:

- models loaded per file: the models are loaded anew for each clip, as by programs that start one script per file
- one file at a time: the models are loaded once, and the clips are processed one after another
- this program: the extract stage of training

v1 and v2 use HuBERT base and RMVPE at full size with random weights; speed does not depend on the weights. Use
--baseline-clips to measure the two baselines on a subset of the clips and scale their times to all clips; the first
baseline is measured on a quarter of the subset. Prints one JSON line per case and a table with the ratio to each
baseline.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from benchmarks.bench_convert import peak_megabytes  # noqa: E402 - found only from here on
from benchmarks.random_models import use_random_networks, write_analysis_networks  # noqa: E402
from lib.audio import ANALYSIS_RATE  # noqa: E402
from lib.run_main import run_main  # noqa: E402

RECORDINGS = ROOT / "pretrained" / "lite" / "demo" / "voice"


@dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    family: Literal["v1", "v2", "lite"] = "lite"  # model family to benchmark
    clips: int = 200  # number of clips
    seconds: tuple[float, float] = (1.0, 3.7)  # shortest and longest clip; lengths are evenly spaced in between
    baseline_clips: int = 40  # number of clips used to measure the baselines
    recordings: Path = RECORDINGS  # recordings from which the clips are cut
    threads: int = 0  # number of PyTorch threads; 0 = PyTorch's default
    device: str = "auto"  # device to run on: auto, cpu, cuda, cuda:1, mps


@dataclass(frozen=True)
class Result:
    """Measurements of one case."""

    case: str
    clips: int
    seconds: float  # wall time
    audio_seconds: float
    peak_mb: float | None

    @property
    def factor(self) -> float:
        """Speed as a multiple of real time."""
        return self.audio_seconds / self.seconds


def write_clips(settings: Settings, folder: Path) -> None:
    """Cut clips from the recordings and write them to 0000.wav, 0001.wav and so on."""
    from lib.audio.decode import list_recordings, load_audio

    audio = np.concatenate([load_audio(path, ANALYSIS_RATE) for path in list_recordings(settings.recordings)])
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i, seconds in enumerate(rng.permutation(np.linspace(*settings.seconds, settings.clips))):
        start = int(rng.integers(len(audio) - round(seconds * ANALYSIS_RATE)))
        clip = audio[start : start + round(seconds * ANALYSIS_RATE)]
        soundfile.write(folder / f"{i:04d}.wav", clip, ANALYSIS_RATE, "FLOAT")


def one_at_a_time(settings: Settings, folder: Path, clips: Sequence[Path], *, load_each: bool) -> None:
    """Extract F0 and content of one clip after another, as a plain script does; pitch bins are not computed."""
    from lib.audio.decode import load_audio
    from lib.content import load_content_encoder
    from lib.devices import choose_device
    from lib.pitch import load_pitch_extractor

    device = choose_device(settings.device).device
    models: tuple[Any, Any] | None = None
    for clip in clips:
        if models is None or load_each:
            models = (load_content_encoder(settings.family, device), load_pitch_extractor("auto", device))
        encoder, pitch = models
        audio = load_audio(clip, ANALYSIS_RATE)
        np.save(folder / f"{clip.stem}.f0.npy", pitch(audio))
        np.save(folder / f"{clip.stem}.npy", encoder(audio))


def stage(settings: Settings, folder: Path) -> None:
    """Run the extract stage of an experiment with these clips."""
    from lib.config import load_family
    from train.experiment import Experiment
    from train.extract import extract
    from train.options import ExtractOptions

    experiment = Experiment("benchmark", folder / "logs", folder / "weights")
    experiment.create(load_family(settings.family))
    (folder / "clips").rename(experiment.wavs_16k)
    report = extract(experiment, ExtractOptions(device=settings.device))
    assert report.clips == settings.clips


def measure(settings: Settings, folder: Path, case: str) -> Result:
    """Measure one case in this process."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.family != "lite":
        use_random_networks(folder)
    clips = sorted((folder / "clips").glob("*.wav"))
    every = max(1, len(clips) // settings.baseline_clips)
    chosen = {"this program": clips, "one file at a time": clips[::every]}.get(case, clips[:: 4 * every])
    audio_seconds = sum(soundfile.info(clip).duration for clip in clips)
    out = folder / case
    out.mkdir()
    one_at_a_time(settings, out, clips[:1], load_each=True)  # imports and compilation are not compared
    begin = time.perf_counter()
    if case == "this program":
        stage(settings, folder)
    else:
        one_at_a_time(settings, out, chosen, load_each=case == "models loaded per file")
    used = (time.perf_counter() - begin) * len(clips) / len(chosen)
    return Result(case, len(chosen), used, audio_seconds, peak_megabytes())


def main() -> None:
    """Parse the command line, run the benchmark and print the results."""
    import torch
    import tyro

    settings = tyro.cli(Settings, prog="python benchmarks/bench_extract.py", description=__doc__)
    machine = f"{platform.machine()}, {settings.threads or torch.get_num_threads()} threads, torch {torch.__version__}"
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(settings, folder / "clips")
        if settings.family != "lite":
            write_analysis_networks(folder)
        for case in ("models loaded per file", "one file at a time", "this program"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                results.append(pool.submit(measure, settings, folder, case).result())
    print(f"\n{settings.family}, {settings.clips} clips, on {machine}")
    print(f"{'':22}{'measured':>11}{'all clips':>13}{'real time':>13}{'per file':>11}{'at a time':>11}{'memory':>11}")
    for result in results:
        ratios = [results[i].seconds / result.seconds for i in range(2)]
        print(json.dumps({"machine": machine, "family": settings.family, **asdict(result), "ratios": ratios}))
        print(
            f"{result.case:22}{result.clips:>6} clips{result.seconds:>10.1f} s{result.factor:>10.1f} x"
            f"{ratios[0]:>9.2f} x{ratios[1]:>9.2f} x{result.peak_mb or 0:>7.0f} MB"
        )


if __name__ == "__main__":
    sys.exit(run_main(main))
