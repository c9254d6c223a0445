"""Speed of conversion compared with a baseline: python benchmarks/run_all.py

The baseline runs this project's own networks the way voice conversion programs usually do: float32, weight norm not
folded, chunks of 38 s processed in one pass, all models read from disk for every file. The v2 voice has random weights,
because speed does not depend on them; HuBERT base, RMVPE and the index have realistic sizes.

Prints a Markdown table. Each case runs in its own process, so that its peak memory is measured separately. Use --only
to select cases; with --folder, results are kept and combined in one table.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from benchmarks.bench_convert import INDEX_VECTORS, peak_megabytes  # noqa: E402
from benchmarks.random_models import FAMILY, RATE, SHORT_FILES, prepare, use_random_networks  # noqa: E402
from lib.models.memory import PRIMITIVE_CACHE  # noqa: E402
from lib.run_main import run_main  # noqa: E402

BASELINE_FILES = 3  # of the short ones; the baseline takes so long for each that three suffice
GEMM_SIZE, GENERATOR_FRAMES = 2048, 1200
NUMBER_TYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
HUGE = 10**9  # frames: as one block

Measured = dict[str, float]


@dataclass(frozen=True)
class Place:
    """Folder of the generated files, and the clock, in seconds."""

    folder: Path
    now: Callable[[], float]

    def least(self, repeats: int, work: Callable[[], Any]) -> float:
        """Return the shortest time of several runs, without a warm-up."""
        times = []
        for _ in range(repeats):
            start = self.now()
            work()
            times.append(self.now() - start)
        return min(times)


def cpu_seconds() -> float:
    """Return the CPU time in seconds of this process and the child processes it has waited for."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    only: tuple[str, ...] = ()  # names of the cases to run (default: all)
    folder: Path | None = None  # folder in which to keep the generated files and results (default: a temporary folder)
    clock: Literal["wall", "cpu"] = (
        "wall"  # clock used for timing; cpu = CPU time of all threads, for shared machines (with --threads 1)
    )
    threads: int = 0  # number of PyTorch threads; 0 = PyTorch's default
    measure: str = ""  # measure this case in this process and print JSON; for internal use


def use_baseline() -> None:
    """Disable the optimisations in this process, so that it measures the baseline."""
    from lib.models import attention, generator, hubert
    from lib.models.synthesizer import Synthesizer

    def in_one_piece(self: Any, latent: Any, f0: Any, speaker: Any, rng: Any, temperature: float, keep: Any) -> Any:
        first, last = keep or (0, latent.shape[2])
        return self(latent, f0, speaker, rng, temperature)[..., first * self.hop_length : last * self.hop_length]

    attention.BLOCK_FRAMES = hubert.BLOCK_FRAMES = HUGE
    generator._channels_last = lambda x: x
    generator.Generator.in_blocks = in_one_piece  # type: ignore[method-assign, assignment]
    Synthesizer.fold_weight_norm = lambda self: self  # type: ignore[method-assign]


class V2:
    """The v2 voice with its index, HuBERT and RMVPE."""

    def __init__(self, folder: Path, precision: str) -> None:
        from infer.options import ConvertOptions

        use_random_networks(folder)
        self.folder = folder
        self.options = ConvertOptions.model_validate({"precision": precision, "pitch_method": "rmvpe"})

    def load(self) -> Any:
        """Load everything from disk. Analysis results are not cached, so each repeat recomputes them."""
        from infer.load import load_converter
        from infer.model_cache import ModelCache
        from lib.devices import choose_device

        cache, precision = ModelCache(analysis_bytes=0), self.options.precision
        voice, index = self.folder / "voice.pth", self.folder / "added.index"
        return load_converter(voice, index, choose_device("cpu"), cache=cache, precision=precision)

    def convert(self, converter: Any, *names: str) -> None:
        """Convert files of the folder one after another, as the command line does."""
        from infer.batch import Job, convert_files

        jobs = [Job(self.folder / name, self.folder / "out" / Path(name).name) for name in names]
        errors = [outcome.error for outcome in convert_files(converter, jobs, self.options) if outcome.error]
        assert not errors, errors

    def warm_up(self) -> Any:
        """Load everything and convert a short recording."""
        converter = self.load()
        self.convert(converter, "3.wav")
        return converter


def clip_baseline(place: Place) -> Measured:
    """Baseline: load the models and convert 60 s."""
    use_baseline()
    v2 = V2(place.folder, "fp32")
    start = place.now()
    v2.convert(v2.load(), "60.wav")
    return {"seconds": place.now() - start}


def clip(precision: str, repeats: int = 1) -> Callable[[Place], Measured]:
    """Convert 60 s with models that are already loaded."""

    def measure(place: Place) -> Measured:
        v2 = V2(place.folder, precision)
        converter = v2.warm_up()
        return {"seconds": place.least(repeats, lambda: v2.convert(converter, "60.wav"))}

    return measure


def ten_minutes(place: Place) -> Measured:
    """Load the models and convert ten minutes, to measure peak memory."""
    v2 = V2(place.folder, "auto")
    start = place.now()
    v2.convert(v2.load(), "600.wav")
    return {"seconds": place.now() - start}


def shorts_baseline(place: Place) -> Measured:
    """Baseline: convert files of 5 s, loading the models for each; the time is scaled to all twelve."""
    use_baseline()
    v2 = V2(place.folder, "fp32")
    start = place.now()
    for i in range(BASELINE_FILES):
        v2.convert(v2.load(), f"short/{i}.wav")
    return {"seconds": (place.now() - start) / BASELINE_FILES * SHORT_FILES}


def shorts(place: Place) -> Measured:
    """Load the models once and convert twelve files of 5 s."""
    v2 = V2(place.folder, "auto")
    start = place.now()
    v2.convert(v2.load(), *(f"short/{i}.wav" for i in range(SHORT_FILES)))
    return {"seconds": place.now() - start}


def generator_alone(place: Place) -> Measured:
    """Measure the generator's real-time factor and GFLOP/s, and GFLOP/s of a matrix product in the same precision."""
    import torch

    from lib.config import SynthesizerConfig, load_family
    from lib.devices import has_fast_int8
    from lib.models.synthesizer import Synthesizer

    config = load_family(FAMILY, RATE).synthesizer
    assert isinstance(config, SynthesizerConfig)
    network = Synthesizer(config).eval().fold_weight_norm()
    seconds = GENERATOR_FRAMES / 100
    work = generator_flops(network.dec, config)
    found: Measured = {}
    with torch.inference_mode():
        latent, f0 = torch.randn(1, config.inter_channels, GENERATOR_FRAMES), torch.full((1, GENERATOR_FRAMES), 200.0)
        speaker = network.speaker(torch.tensor([0]))
        for name, dtype in NUMBER_TYPES.items():
            if dtype == "int8" and not has_fast_int8(torch.device("cpu")):
                continue
            generator = network.dec.cast(getattr(torch, dtype))
            args = (latent.to(generator.conv_pre.weight.dtype), f0, speaker.to(generator.conv_pre.weight.dtype))
            found[f"{name} factor"] = place.least(3, partial(generator.in_blocks, *args)) / seconds
            a, b = ((10 * torch.randn(GEMM_SIZE, GEMM_SIZE)).to(getattr(torch, dtype)) for _ in range(2))
            multiply = torch._int_mm if dtype == "int8" else torch.matmul
            found[f"{name} GEMM"] = 2 * GEMM_SIZE**3 / place.least(8, partial(multiply, a, b)) / 1e9
            found[f"{name} rate"] = work / found[f"{name} factor"] / 1e9
    return found


def generator_flops(generator: Any, config: Any) -> float:
    """Return the floating-point operations of the convolutions per second of audio."""
    rates = [100]  # frames per second at each stage
    for rate in config.upsample_rates:
        rates.append(rates[-1] * rate)
    total: float = (
        2.0 * rates[0] * generator.conv_pre.weight.numel() + 2.0 * rates[-1] * generator.conv_post.weight.numel()
    )
    for stage, (upsample, noise) in enumerate(zip(generator.ups, generator.noise_convs, strict=True)):
        total += 2.0 * rates[stage] * upsample.weight.numel() + 2.0 * rates[stage + 1] * noise.weight.numel()
        blocks = generator.resblocks[stage * generator.n_kernels : (stage + 1) * generator.n_kernels]
        weights = sum(p.numel() for block in blocks for p in block.parameters() if p.dim() == 3)
        total += 2.0 * rates[stage + 1] * weights
    return total


def lite_cold(place: Place) -> Measured:
    """Convert 60 s with the bundled lite voice in a new process, start-up included."""
    clip, result = place.folder / "60.wav", place.folder / "out/lite.wav"
    command = ["-m", "infer", str(clip), "--voice", "ljspeech", "-o", str(result)]
    return {"seconds": place.least(3, lambda: python(*command))}


def lite_memory(seconds: int) -> Callable[[Place], Measured]:
    """Convert with the bundled lite voice, to measure peak memory."""

    def measure(place: Place) -> Measured:
        from infer.batch import Job, convert_file
        from infer.load import load_converter
        from infer.options import ConvertOptions
        from lib.devices import choose_device
        from lib.voice.library import find_voice

        start = place.now()
        job = Job(place.folder / f"{seconds}.wav", place.folder / "out/lite.wav")
        converter = load_converter(find_voice("ljspeech").path, "auto", choose_device("cpu"))
        outcome = convert_file(converter, job, ConvertOptions())
        assert outcome.error is None, outcome.error
        return {"seconds": place.now() - start}

    return measure


def starts(place: Place) -> Measured:
    """Measure how long the command line and the imports take to start, in new processes."""
    cases = {
        "help": ["-m", "infer", "--help"],
        "torch": ["-c", "import torch"],
        "import": ["-c", "import infer.convert"],
    }
    return {name: place.least(5, partial(python, *words)) for name, words in cases.items()}


def python(*words: str) -> None:
    """Run this Python interpreter with the given arguments, discarding stdout.

    Bytecode is cached, as after installing.
    """
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=settings)


CASES: dict[str, Callable[[Place], Measured]] = {
    "clip, baseline": clip_baseline,
    "clip, fp32": clip("fp32"),
    "clip, auto": clip("auto", 2),
    "shorts, baseline": shorts_baseline,
    "shorts": shorts,
    "generator": generator_alone,
    "lite cold": lite_cold,
    "lite 60 s": lite_memory(60),
    "lite 10 min": lite_memory(600),
    "starts": starts,
    "v2 10 min": ten_minutes,
}


def _times(old: Measured, new: Measured) -> str:
    return f"{new['seconds']:.1f} s, {old['seconds'] / new['seconds']:.1f} times as fast"


def _generator(g: Measured) -> str:
    parts = [
        f"{g[f'{name} factor']:.2f} of real time in {dtype} ({g[f'{name} rate']:.0f} of {g[f'{name} GEMM']:.0f})"
        for name, dtype in NUMBER_TYPES.items()
        if f"{name} rate" in g
    ]
    return f"{', '.join(parts)}; in brackets its GFLOP/s, and those that a matrix product of {GEMM_SIZE} reaches"


ROWS: list[tuple[str, tuple[str, ...], Callable[..., str]]] = [  # what, the cases it needs, its text
    (
        f"`v2` 40k with HuBERT, RMVPE, index of {INDEX_VECTORS}: 60 s, models warm",
        ("clip, baseline", "clip, auto"),
        lambda old, new: f"{old['seconds']:.0f} s baseline; {_times(old, new)}",
    ),
    ("the same in float32", ("clip, baseline", "clip, fp32"), _times),
    (
        f"{SHORT_FILES} files of 5 s, models read once instead of for each",
        ("shorts, baseline", "shorts"),
        lambda old, new: f"{old['seconds']:.0f} s baseline; {_times(old, new)}",
    ),
    ("generator of `v2` 40k alone", ("generator",), _generator),
    ("`lite`: 60 s, from the start of the process to its end", ("lite cold",), lambda c: f"{c['seconds']:.1f} s"),
    (
        "most memory of `v2` 40k",
        ("clip, baseline", "clip, auto", "v2 10 min"),
        lambda old, a, b: (
            f"{old['peak']:.0f} MB baseline for 60 s; {a['peak']:.0f} MB for 60 s, {b['peak']:.0f} MB for 10 minutes"
        ),
    ),
    (
        "most memory of `lite`",
        ("lite 60 s", "lite 10 min"),
        lambda a, b: f"{a['peak']:.0f} MB for 60 s, {b['peak']:.0f} MB for 10 minutes",
    ),
    (
        "`python -m infer --help`; `import infer.convert`",
        ("starts",),
        lambda s: f"{s['help']:.2f} s; {s['import']:.2f} s, of which `import torch` {s['torch']:.2f} s",
    ),
]


def table(results: dict[str, Measured]) -> str:
    """Format the results as a Markdown table, omitting rows whose cases were not run."""
    rows = [
        f"| {what} | {text(*(results[case] for case in cases))} |"
        for what, cases, text in ROWS
        if all(case in results for case in cases)
    ]
    return "\n".join(["| conversion on a CPU | measured |", "|---|---|", *rows])


def limit_threads(threads: int) -> None:
    """Limit the threads of torch, faiss and child processes."""
    import faiss
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def describe_machine(settings: Settings) -> str:
    """Describe the CPU, instruction sets, threads and clock behind the results."""
    import torch

    found = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in found.read_text().splitlines() if line.startswith("model name")]
    known = torch.cpu.get_capabilities()
    names = [name for name in ("avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8") if known.get(name)]
    able = " and ".join(names) or "no bfloat16"
    clock = "CPU time" if settings.clock == "cpu" else "wall time"
    threads = f"{settings.threads or torch.get_num_threads()} threads"
    return f"{f'{len(models)} cores of {models[0]}' if models else platform.processor()}, {able}, {threads}, {clock}"


def run(settings: Settings, folder: Path) -> None:
    """Measure each selected case in its own process and print the table."""
    subprocess.run([sys.executable, __file__, "--measure", "prepare", "--folder", str(folder)], check=True)
    kept = folder / "results.json"
    results: dict[str, Measured] = json.loads(kept.read_text()) if kept.is_file() else {}
    for case in settings.only or CASES:
        command = [sys.executable, __file__, "--measure", case, "--folder", str(folder), "--clock", settings.clock]
        command += ["--threads", str(settings.threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
        results[case] = json.loads(output.splitlines()[-1])
        print(json.dumps({"case": case} | results[case]), flush=True)
        kept.write_text(json.dumps(results, indent=1))
    print(f"\n{describe_machine(settings)}, {time.strftime('%Y-%m-%d')}\n\n{table(results)}")


def main(settings: Settings) -> None:
    """Measure one case, or all cases in their own processes."""
    os.environ.setdefault(*PRIMITIVE_CACHE)
    if settings.measure:
        assert settings.folder is not None
        if settings.measure == "prepare":  # in a process of its own, so that this one stays small
            prepare(settings.folder)
            return
        if settings.threads:
            limit_threads(settings.threads)
        now = cpu_seconds if settings.clock == "cpu" else time.perf_counter
        measured = CASES[settings.measure](Place(settings.folder, now))
        print(json.dumps(measured | {"peak": peak_megabytes() or 0.0}))
    elif settings.folder is not None:
        settings.folder.mkdir(parents=True, exist_ok=True)
        run(settings, settings.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            run(settings, Path(name))


if __name__ == "__main__":
    import tyro

    sys.exit(run_main(lambda: main(tyro.cli(Settings, prog="python benchmarks/run_all.py", description=__doc__))))
