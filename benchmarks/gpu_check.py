"""Checks and measures everything that runs on a GPU, in a few minutes: python benchmarks/gpu_check.py

The networks have random weights, so nothing has to be downloaded. Prints one table: SNR in dB of the output on the
device against the CPU, training of both families with a stop and a resume, training steps by batch size and precision,
the generator by block length, the stages of converting 60 s, and extraction. Exits with status 1 if a check fails.
--tiny makes everything so small that it takes seconds on a CPU; its times are then meaningless.
"""

import contextlib
import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from benchmarks.bench_convert import synthetic_recording  # noqa: E402 - found only from here on
from lib.run_main import run_main  # noqa: E402

if TYPE_CHECKING:
    import torch

    from lib.config import FamilyConfig
    from train.dataset import Batch
    from train.experiment import Experiment

FAMILIES: tuple[Literal["lite", "v2"], ...] = ("lite", "v2")
MIN_SNR = {"fp32": 60.0, "bf16": 10.0, "fp16": 30.0}  # dB against float32 on the CPU
WARM_UPS, REPEATS = 3, 10
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Settings:
    """Options of the check."""

    device: str = "auto"  # device to run on: auto, cpu, cuda, cuda:1, mps
    tiny: bool = False  # use small networks, short recordings and few repeats
    only: tuple[str, ...] = ()  # names of the checks to run (default: all)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    check: str
    case: str
    result: str
    passed: bool = True


class Bench:
    """Device, sizes and folder that the checks share."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        import torch

        from lib.devices import choose_device

        self.tiny, self.folder = settings.tiny, folder
        self.device = choose_device(settings.device)
        self.where = self.device.device
        self.precisions: tuple[Precision, ...] = ("fp32", "bf16", *(("fp16",) if self.where.type == "cuda" else ()))
        self.repeats = 1 if self.tiny else REPEATS
        torch.manual_seed(0)

    def config(self, family: Literal["lite", "v2"]) -> "FamilyConfig":
        """Return the configuration of a family; with --tiny, that of small networks."""
        from lib.config import load_family

        config = load_family(family)
        if not self.tiny:
            return config
        small: dict[str, Any]
        if family == "lite":
            small = {"prior_channels": 16, "prior_blocks": 1, "vocoder_channels": 16, "vocoder_blocks": 1}
            judge: dict[str, Any] = {"channels": 4}
        else:
            small = {"inter_channels": 8, "hidden_channels": 8, "filter_channels": 8, "n_layers": 1, "gin_channels": 8}
            small |= {"upsample_initial_channel": 32}
            judge = {"scale_channels": (4, 4, 8, 8, 8, 8), "period_channels": (2, 4, 4, 4, 4)}
        changes: dict[str, Any] = {
            "synthesizer": config.synthesizer.model_copy(update=small),
            "discriminator": config.discriminator.model_copy(update=judge),
        }
        if config.lite is not None:
            changes["lite"] = config.lite.model_copy(update={"prior_steps": 1})
        return config.model_copy(update=changes)

    def sync(self) -> None:
        """Wait until the device has finished."""
        import torch

        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)

    def median(self, work: Callable[[], Any]) -> float:
        """Return the median time in seconds of a call, after warm-up."""
        for _ in range(0 if self.tiny else WARM_UPS):
            work()
        times = []
        for _ in range(self.repeats):
            self.sync()
            begin = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - begin)
        return sorted(times)[len(times) // 2]

    def inputs(self, config: "FamilyConfig", frames: int, where: "torch.device") -> tuple[Any, ...]:
        """Return content, lengths, speaker, pitch bins and F0 of a gliding tone with random content."""
        import torch

        rng = torch.Generator().manual_seed(1)
        content = torch.randn(1, frames, config.synthesizer.content_width, generator=rng)
        f0 = 220 * 2 ** (0.5 * torch.sin(torch.arange(frames) / 30))[None]
        bins = torch.full((1, frames), 90)
        return tuple(x.to(where) for x in (content, torch.tensor([frames]), torch.tensor([0]), bins, f0))

    def batch(self, config: "FamilyConfig", rows: int) -> "Batch":
        """Return a batch of noise clips of 400 frames on the device."""
        from train.dataset import Batch

        return Batch.random(config, rows, 60 if self.tiny else 400).to(self.where)


def agreement(bench: Bench) -> Iterator[Row]:
    """Compare output on the device with that on the CPU for the same seed: SNR in dB."""
    import torch

    from lib.devices import choose_precision
    from lib.voice.infer_config import build_network

    for family in FAMILIES:
        config = bench.config(family)
        network = build_network(config.synthesizer).eval().fold_weight_norm()
        frames = 60 if bench.tiny else 1000
        with torch.inference_mode():
            exact = _infer(network, bench.inputs(config, frames, torch.device("cpu"))).double()
            for name in bench.precisions:
                precision = choose_precision(name, bench.where)
                other = copy.deepcopy(network).cast(precision.generator, precision.analysis).to(bench.where)
                made = _infer(other, bench.inputs(config, frames, bench.where)).cpu().double()
                noise = float((made - exact).square().sum())
                snr = 10 * math.log10(float(exact.square().sum()) / noise) if noise else math.inf
                yield Row("agreement with the CPU", f"{family}, {name}", f"{snr:.0f} dB", snr >= MIN_SNR[name])


def _infer(network: Any, inputs: tuple[Any, ...]) -> Any:
    """Return the samples of a conversion with seed 7."""
    import torch

    return network.infer(*inputs, torch.Generator().manual_seed(7))


def steps(bench: Bench) -> Iterator[Row]:
    """Measure training steps: time, number of kernel launches, GPU utilisation, memory."""
    import torch

    from train.state import make_accelerator, make_state
    from train.step import train_step

    for family in FAMILIES:
        config = bench.config(family)
        for precision in bench.precisions:
            state = make_state(config, make_accelerator(precision, bench.where))
            state.progress.step = config.lite.prior_steps if config.lite else 0
            for rows in (2,) if bench.tiny else (4, 8, 16):
                work = partial(train_step, state, bench.batch(config, rows))
                if bench.where.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(bench.where)
                facts = [f"{1000 * bench.median(work):.0f} ms", _launches(bench, work)]
                if bench.where.type == "cuda":
                    facts.append(f"{torch.cuda.max_memory_allocated(bench.where) / 1e9:.1f} GB")
                yield Row("training step", f"{family}, {precision}, batch {rows}", ", ".join(facts))


def _launches(bench: Bench, work: Callable[[], Any]) -> str:
    """Count the kernels of one call and their share of its time; on a CPU, the operators."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    on_gpu = bench.where.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    begin = time.perf_counter()
    with profile(activities=activities, acc_events=True) as profiler:
        work()
        bench.sync()
    used = time.perf_counter() - begin
    if not on_gpu:
        return f"{sum(event.name.startswith('aten::') for event in profiler.events() or ())} operators"
    kernels = [event for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    busy = sum(event.device_time for event in kernels) / 1e6
    return f"{len(kernels)} kernels, device busy {busy:.3f} s of {used:.3f} s while profiled"


def generator(bench: Bench) -> Iterator[Row]:
    """Measure the v2 generator by block length."""
    import torch

    from lib.voice.infer_config import build_network

    config = bench.config("v2")
    network: Any = build_network(config.synthesizer).eval().fold_weight_norm().to(bench.where)
    frames = 60 if bench.tiny else 6000
    dtypes = [torch.float32, *([torch.bfloat16, torch.float16] if bench.where.type == "cuda" else [])]
    with torch.inference_mode():
        speaker = network.speaker(torch.tensor([0], device=bench.where))
        latent = torch.randn(1, network.config.inter_channels, frames).to(bench.where)
        f0 = torch.full((1, frames), 220.0, device=bench.where)
        for dtype in dtypes:
            dec = network.dec.cast(dtype)
            for block in (25, 170, 500, 1500, frames, None):
                args = latent.to(dec.dtype), f0, speaker.to(dec.dtype)
                seconds = bench.median(partial(dec.in_blocks, *args, block_frames=block))
                case = f"v2, {str(dtype)[6:]}, blocks of {block or 'as many as fit'} frames"
                yield Row("generator", case, f"{seconds:.3f} s for {frames / 100:.0f} s")


def training(bench: Bench) -> Iterator[Row]:
    """Prepare, extract and train both families; stop, resume and train to the end."""
    from infer.load import load_converter
    from infer.options import ConvertOptions
    from lib.progress import Cancelled
    from train.loop import fit
    from train.options import FitOptions

    for family in FAMILIES:
        experiment = _prepared(bench, family, f"check_{family}", clips=3 if bench.tiny else 20)
        for precision in bench.precisions[:1] if bench.tiny else bench.precisions[1:]:
            begin = time.perf_counter()
            wanted = {"epochs": 2, "batch_size": 2 if bench.tiny else 4, "precision": precision, "base": False}
            options = FitOptions.model_validate(wanted | {"device": str(bench.where), "workers": 0})
            calls = iter(range(1000))

            def stop(done: int, total: int, what: str, calls: Iterator[int] = calls) -> None:
                if next(calls) == 2:
                    raise Cancelled

            with contextlib.suppress(Cancelled):
                fit(experiment, options, stop)
            stopped = experiment.newest_pair() is not None
            report = fit(experiment, options)
            seconds = time.perf_counter() - begin
            converter = load_converter(report.voice, None, bench.device) if not bench.tiny else None
            method = ConvertOptions.model_validate({"pitch_method": "auto" if family == "lite" else "rmvpe"})
            made = converter.convert(synthetic_recording(2.0), method) if converter else None
            passed = stopped and report.finished and (made is None or bool(abs(made).max() > 0))
            result = f"stopped, resumed, {report.steps} steps, {seconds:.1f} s"
            yield Row("training run", f"{family}, {precision}", result, passed)
            for path in (report.voice, *experiment.folder.glob("[GD]_*.pth")):
                path.unlink()


def extraction(bench: Bench) -> Iterator[Row]:
    """Measure the extraction of features from many clips."""
    for family in FAMILIES:
        clips = 3 if bench.tiny else 200
        begin = time.perf_counter()
        _prepared(bench, family, f"many_{family}", clips)
        seconds = time.perf_counter() - begin
        yield Row("extraction", family, f"{clips} clips in {seconds:.1f} s, models loaded once")


def conversion(bench: Bench) -> Iterator[Row]:
    """Measure each stage of converting a 60 s recording."""
    import torch

    from lib.config import SynthesizerConfig
    from lib.content import load_content_encoder
    from lib.pitch import load_pitch_extractor
    from lib.voice.infer_config import build_network

    seconds = 2.0 if bench.tiny else 60.0
    audio = synthetic_recording(seconds)
    for family in FAMILIES:
        config = bench.config(family)
        is_v2 = isinstance(config.synthesizer, SynthesizerConfig)
        if is_v2:
            _use_random_networks(bench)
        encoder = load_content_encoder(family, bench.where)
        pitch = load_pitch_extractor("rmvpe" if is_v2 and not bench.tiny else "auto", bench.where)
        network = build_network(config.synthesizer).eval().fold_weight_norm().to(bench.where)
        inputs = bench.inputs(config, round(100 * seconds), bench.where)
        with torch.inference_mode():
            stages: dict[str, Callable[[], Any]] = {
                f"F0 by {pitch.method}": partial(pitch, audio),
                "content": partial(encoder, audio),
                "synthesis": partial(_infer, network, inputs),
            }
            for name, work in stages.items():
                yield Row("conversion", f"{family}, {seconds:.0f} s, {name}", f"{bench.median(work):.3f} s")


def _use_random_networks(bench: Bench) -> None:
    """Make this process load a HuBERT and an RMVPE with random weights."""
    from benchmarks.random_models import use_random_networks, write_analysis_networks

    folder = bench.folder / "networks"
    if not folder.is_dir():
        folder.mkdir()
        write_analysis_networks(folder, tiny=bench.tiny)
    use_random_networks(folder)


def _prepared(bench: Bench, family: Literal["lite", "v2"], name: str, clips: int) -> "Experiment":
    """Return an experiment with clips of synthetic recordings and their features."""
    import numpy as np
    import soundfile

    from train.experiment import Experiment
    from train.extract import extract
    from train.options import ExtractOptions, PrepareOptions
    from train.preprocess import prepare_stage

    if family == "v2":
        _use_random_networks(bench)
    experiment, config = Experiment(name, bench.folder / "logs", bench.folder / "weights"), bench.config(family)
    data = bench.folder / name
    data.mkdir()
    for i in range(clips):
        samples = synthetic_recording(1.0 if bench.tiny else float(np.linspace(1.5, 3.5, clips)[i]), i)
        soundfile.write(data / f"{i:03d}.wav", samples, 16_000)
    prepare_stage(experiment, data, config, PrepareOptions())
    method = "rmvpe" if family == "v2" and not bench.tiny else "auto"
    extract(experiment, ExtractOptions.model_validate({"device": str(bench.where), "pitch_method": method}))
    return experiment


CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "agreement": agreement, "steps": steps, "generator": generator, "training": training, "extraction": extraction,
    "conversion": conversion,
}  # fmt: skip


def check(settings: Settings) -> list[Row]:
    """Run the checks and print each row as it becomes available."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(settings, Path(name))
        for key in settings.only or CHECKS:
            for row in CHECKS[key](bench):
                rows.append(row)
                print(f"{'' if row.passed else 'FAILED '}{row.check}: {row.case}: {row.result}", flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [f"| {row.check} | {row.case} | {row.result}{'' if row.passed else ' **FAILED**'} |" for row in rows]
    return "\n".join(["| check | case | result |", "|---|---|---|", *lines])


def main(settings: Settings) -> int:
    """Run the checks, print the table and return the exit status."""
    import torch

    rows = check(settings)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"\n{card}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n\n{table(rows)}")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    import tyro

    sys.exit(run_main(lambda: main(tyro.cli(Settings, prog="python benchmarks/gpu_check.py", description=__doc__))))
