"""Speed of training, stage by stage: python benchmarks/bench_train.py --family lite

Measures the prepare stage, F0 with each method, content features, and the training step in each precision. Each case of
the training step runs in its own process on random clips (speed does not depend on their content). Step times are the
minimum of several repeats; the other stages are measured once. The baseline is the plain step: float32, real and
generated audio in separate passes through the discriminator, whose gradients are also computed for the generator's
losses, and one optimiser operation per tensor. The losses of all cases are printed; they agree. The baseline of the
other stages is the length of the audio.

Prints one JSON line per case and a table: seconds, multiple of real time or steps per second, peak memory, and the
ratio to the baseline of the same run.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from benchmarks.bench_convert import peak_megabytes  # noqa: E402 - found only from here on
from lib.run_main import run_main  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from train.dataset import Batch
    from train.state import TrainState

Precision = Literal["fp32", "bf16", "fp16"]
Clock = Literal["wall", "cpu"]
F0_METHODS = ("swift", "fcpe", "pm", "harvest", "dio")  # those that need no download and not minutes
RECORDINGS = ROOT / "pretrained" / "lite" / "demo" / "voice"


@dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    family: Literal["v1", "v2", "lite"] = "lite"  # model family to benchmark
    recordings: Path = RECORDINGS  # recordings used for the stages before training
    steps: int = 5  # number of steps to time; the fastest is reported
    threads: int = 0  # number of PyTorch threads; 0 = PyTorch's default
    batch_size: int = 0  # clips per step; 0 = the family's default
    device: str = "auto"  # device to run on: auto, cpu, cuda, cuda:1, mps
    precisions: tuple[Precision, ...] = ("fp32", "bf16")  # precisions to benchmark besides the fp32 baseline step
    clock: Clock = "wall"  # clock used to time the steps; cpu = CPU time, for shared machines (with --threads 1)
    steps_only: bool = False  # skip the stages before training


@dataclass(frozen=True)
class Result:
    """Measurements of one case."""

    case: str
    seconds: float
    speed: float
    unit: str  # of speed
    ratio: float | None = None  # to the baseline
    losses: str = ""  # of the first step
    peak_mb: float | None = None


def timed(work: Callable[[], Any], clock: Clock = "wall") -> float:
    """Return the seconds that one call takes."""
    now = time.perf_counter if clock == "wall" else time.process_time
    begin = now()
    work()
    return now() - begin


def stages(settings: Settings) -> Iterator[Result]:
    """Measure the prepare stage, each F0 method and the lite content encoder on real recordings."""
    import numpy as np
    import torch

    from lib.audio.decode import load_audio
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


def random_batch(settings: Settings) -> "Batch":
    """Return a batch of noise clips of typical size and length."""
    import torch

    from lib.config import load_family
    from train.dataset import Batch

    torch.manual_seed(0)
    config = load_family(settings.family)
    frames, rows = min(config.max_frames, 400), settings.batch_size or config.train.batch_size
    return Batch.random(config, rows, frames)


def deterministic(batch: "Batch") -> "tuple[Tensor, float]":
    """Return segment starts and a noise temperature of zero, which make losses in different precisions comparable."""
    import torch

    return torch.zeros(len(batch.lengths), dtype=torch.int64), 0.0


def raise_level(state: "TrainState", batch: "Batch") -> None:
    """Scale the output of the untrained generator, which is nearly silent, to the level of speech.

    The mel loss compares logarithms; near silence it would compare rounding errors.
    """
    import torch

    from lib.models.synthesizer import Synthesizer

    generator = state.plain_generator
    if not isinstance(generator, Synthesizer):  # the untrained vocoder of lite keeps the level
        return
    with torch.no_grad():
        bins, f0 = (batch.pitch_bins, batch.f0) if state.config.synthesizer.has_f0 else (None, None)
        audio = generator.infer(batch.content, batch.lengths, batch.speaker_id, bins, f0, temperature=0.0)
        generator.dec.conv_post.weight.mul_(0.1 / float(audio.std()))


def plain_optimizers(state: "TrainState") -> "tuple[Optimizer, Optimizer]":
    """Return AdamW optimisers of the generator and the discriminator that update one tensor at a time."""
    import torch

    networks, train = (state.plain_generator, state.plain_discriminator), state.config.train
    generator, discriminator = (
        torch.optim.AdamW(net.parameters(), train.learning_rate, train.betas, train.eps, foreach=False)
        for net in networks
    )
    return generator, discriminator


def plain_step(state: "TrainState", batch: "Batch", optimizers: "tuple[Optimizer, Optimizer]") -> dict[str, float]:
    """Run one training step without our optimisations, as the baseline; return its losses."""
    import torch

    from lib.audio import mel
    from lib.models.synthesizer import slice_frames
    from train import losses

    config, discriminate, (optimizer_g, optimizer_d) = state.config, state.plain_discriminator, optimizers
    pitch = (batch.pitch_bins, batch.f0) if config.synthesizer.has_f0 else (None, None)
    out = state.plain_generator(
        batch.content, *pitch, batch.lengths, batch.spec, batch.speaker_id, *deterministic(batch)
    )
    hop, frames = config.audio.hop_length, config.synthesizer.segment_frames
    real = slice_frames(batch.audio, out.starts, frames, hop)
    parts = losses.discriminator_parts(discriminate(real), discriminate(out.audio.detach()))
    found = {"loss/d/total": torch.stack([*parts[0], *parts[1]]).sum()}
    optimizer_d.zero_grad()
    torch.autograd.backward(found["loss/d/total"])
    optimizer_d.step()

    of_real, of_generated = discriminate(real), discriminate(out.audio)
    made = mel.linear_spectrogram(out.audio.squeeze(1), config.audio.n_fft, hop)
    true = slice_frames(batch.spec, out.starts, frames)
    distance = mel.mel_from_linear(true, config.audio) - mel.mel_from_linear(made, config.audio)
    found["loss/g/mel"] = config.train.c_mel * distance.abs().mean()
    total = found["loss/g/mel"] + losses.generator_loss(of_generated) + losses.feature_loss(of_real, of_generated)
    if (z := out.latents) is not None:
        kl = losses.kl_loss(z.latent_prior, z.log_scale_posterior, z.mean_prior, z.log_scale_prior, z.mask)
        total = total + config.train.c_kl * kl
    optimizer_g.zero_grad()
    torch.autograd.backward(total)
    optimizer_g.step()
    found["loss/g/total"] = total
    return {name: float(value.detach()) for name, value in found.items()}


def step(settings: Settings, precision: Precision, *, plain: bool = False) -> Result:
    """Measure the training step in one precision."""
    import torch

    from lib.config import load_family
    from lib.devices import choose_device
    from train.state import make_accelerator, make_state
    from train.step import train_step

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device).device
    batch = random_batch(settings).to(device)
    torch.manual_seed(0)
    state = make_state(load_family(settings.family), make_accelerator(precision, device))
    if state.config.lite:
        state.progress.step = state.config.lite.prior_steps  # most steps train the vocoder, too
    raise_level(state, batch)
    optimizers = plain_optimizers(state)

    def once() -> dict[str, float]:
        return plain_step(state, batch, optimizers) if plain else train_step(state, batch, *deterministic(batch))

    first = once()
    seconds = min(timed(once, settings.clock) for _ in range(settings.steps))
    shown = ", ".join(f"{name.removeprefix('loss/')} {first[name]:.3f}" for name in ("loss/d/total", "loss/g/total"))
    name = "step, plain fp32" if plain else f"step, {precision}"
    return Result(name, seconds, 1 / seconds, "steps/s", peak_mb=peak_megabytes(), losses=shown)


def run(settings: Settings) -> list[Result]:
    """Measure all cases."""
    results = [] if settings.steps_only else list(stages(settings))
    baseline: Result | None = None
    cases = [(precision, False) for precision in settings.precisions]
    if settings.family != "lite":
        cases.insert(0, ("fp32", True))
    for precision, plain in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(step, settings, precision, plain=plain).result()
        baseline = baseline or found
        results.append(replace(found, ratio=baseline.seconds / found.seconds))
    return results


def main() -> None:
    """Parse the command line, run the benchmark and print the results."""
    import torch
    import tyro

    settings = tyro.cli(Settings, prog="python benchmarks/bench_train.py", description=__doc__)
    machine = f"{platform.machine()}, {settings.threads or torch.get_num_threads()} threads, torch {torch.__version__}"
    results = run(settings)
    for result in results:
        print(json.dumps({"machine": machine, "family": settings.family, **asdict(result)}))
    print(f"\n{settings.family} on {machine}; ratio: speed against the plain step")
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:6.2f}"
        memory = "" if result.peak_mb is None else f"{result.peak_mb:7.0f} MB"
        speed = f"{result.seconds:8.3f} s {result.speed:9.2f} {result.unit:12}"
        print(f"{result.case:16} {speed}{ratio:>8}{memory:>12}  {result.losses}")


if __name__ == "__main__":
    sys.exit(run_main(main))
