"""Speed and memory of conversion, stage by stage: python benchmarks/bench_convert.py --family lite

Each case runs in its own process, with random weights (speed does not depend on them) and a synthetic recording, or
with --voice and --recording. Times are the minimum of several repeats, because other processes can only slow a run
down. The baseline is the same code without its optimisations: everything is read from disk for every recording, weight
norm is not folded, and long audio is converted as one chunk.

Prints one JSON line per case and a table: seconds, real-time factor (time / length of the audio; lower is better), peak
memory of the process, and the ratio baseline / this.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from lib.audio import ANALYSIS_RATE  # noqa: E402 - found only from here on
from lib.run_main import run_main  # noqa: E402
from lib.typing import FloatArray  # noqa: E402

INDEX_VECTORS = 30_000  # content frames of ten minutes of recordings
ONE_CHUNK_SECONDS = 1e6  # audio up to this length is not cut


@dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    family: Literal["v1", "v2", "lite"] = "lite"  # model family to benchmark
    seconds: float = 10.0  # length of the synthetic recording in seconds
    repeats: int = 3  # number of repeats per measurement; the shortest time is reported
    threads: int = 0  # number of PyTorch threads; 0 = PyTorch's default
    pitch_method: str = "auto"  # pitch extraction method
    device: str = "auto"  # device to run on: auto, cpu, cuda, cuda:1, mps
    recording: Path | None = None  # convert this instead of a synthetic recording
    voice: Path | None = None  # use this voice model instead of random weights
    stages_only: bool = False  # skip the baseline, which reloads everything for every repeat


@dataclass(frozen=True)
class Result:
    """Measurements of one case."""

    case: str
    seconds: float
    audio_seconds: float
    peak_mb: float | None = None
    ratio: float | None = None  # baseline / this

    @property
    def factor(self) -> float:
        """Real-time factor: wall time divided by the length of the audio."""
        return self.seconds / self.audio_seconds


def shortest(repeats: int, work: Callable[[], Any]) -> float:
    """Return the shortest wall time in seconds of several runs, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_megabytes() -> float | None:
    """Peak memory of this process in MB; None where the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # getrusage may report the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def synthetic_recording(seconds: float, seed: int = 0) -> FloatArray:
    """Synthesise a pulse-like tone with glides and pauses as in speech, plus noise: (T,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    time_axis = np.arange(round(seconds * ANALYSIS_RATE)) / ANALYSIS_RATE
    f0 = 150 * 2 ** (0.4 * np.sin(2 * np.pi * 0.7 * time_axis))
    phase = 2 * np.pi * np.cumsum(f0) / ANALYSIS_RATE
    buzz = sum((np.sin(k * phase) / k for k in range(1, 20)), np.zeros_like(phase))
    loudness = np.clip(2 * np.sin(2 * np.pi * 0.9 * time_axis) + 1, 0, 1)
    return (0.2 * loudness * buzz + 0.01 * rng.standard_normal(len(phase))).astype(np.float32)


class RandomHubert:
    """HuBERT base with random weights, to measure the speed of the v1 and v2 content encoder without a download."""

    name = "random"
    sha256 = ""

    def __init__(self, width: int, device: Any) -> None:
        import torch
        from transformers import HubertConfig, HubertModel

        self.width = width
        torch.manual_seed(0)
        self.network = HubertModel(HubertConfig()).eval().to(device)
        self.device = device

    def __call__(self, audio: FloatArray) -> FloatArray:
        import torch

        with torch.inference_mode():
            content = self.network(torch.from_numpy(audio).to(self.device)[None]).last_hidden_state[0]
        result: FloatArray = content[:, : self.width].cpu().numpy()
        return result


def prepare(settings: Settings, folder: Path) -> Settings:
    """Write the voice, its index and the recording into the folder; return settings that point to them."""
    import torch

    from lib.audio.encode import save_audio
    from lib.config import load_family
    from lib.index import FeatureIndex
    from lib.voice.infer_config import build_network
    from lib.voice.model_file import extract_voice_model, write_voice_model

    torch.manual_seed(0)
    config = load_family(settings.family).synthesizer
    voice, recording = settings.voice or folder / "voice.pth", settings.recording or folder / "recording.flac"
    if not settings.voice:
        write_voice_model(voice, extract_voice_model(build_network(config), settings.family, "random weights"))
    if not settings.recording:
        save_audio(recording, synthetic_recording(settings.seconds), ANALYSIS_RATE)
    vectors = np.random.default_rng(0).standard_normal((INDEX_VECTORS, config.content_width)).astype(np.float32)
    FeatureIndex.build([vectors]).save(folder / "added.index")
    return replace(settings, voice=voice, recording=recording)


class Bench:
    """All models of a conversion, loaded once as in normal use."""

    def __init__(self, settings: Settings, folder: Path, *, baseline: bool = False) -> None:
        import torch

        from infer.chunking import ChunkLimits
        from infer.convert import VoiceConverter, VoiceParts
        from infer.model_cache import ModelCache
        from infer.options import ConvertOptions
        from lib.content import load_content_encoder
        from lib.devices import choose_device
        from lib.index import FeatureIndex
        from lib.pitch import load_pitch_extractor
        from lib.voice.model_file import load_synthesizer, read_voice_model

        if settings.threads:
            torch.set_num_threads(settings.threads)
        assert settings.voice is not None
        self.folder = folder
        self.device = choose_device(settings.device)
        self.options = ConvertOptions.model_validate({"pitch_method": settings.pitch_method})
        voice = read_voice_model(settings.voice)
        self.synthesizer = load_synthesizer(voice)
        if not baseline:
            self.synthesizer.fold_weight_norm()
        self.encoder: Any = (
            load_content_encoder("lite", self.device.device)
            if voice.family == "lite"
            else RandomHubert(voice.config.content_width, self.device.device)
        )
        self.index = FeatureIndex.load(folder / "added.index")
        self.extract = load_pitch_extractor(settings.pitch_method, self.device.device)
        limits = ChunkLimits(longest=ONE_CHUNK_SECONDS) if baseline else ChunkLimits()
        parts = VoiceParts(self.synthesizer, self.encoder, self.index)
        self.converter = VoiceConverter(
            parts, self.device, ModelCache(analysis_bytes=0), limits=limits
        )  # no cached analyses: every repeat computes them

    def whole(self, recording: Path) -> None:
        """Convert one recording from file to file."""
        from infer.batch import Job, convert_file

        convert_file(self.converter, Job(recording, self.folder / "result.wav"), self.options)

    def stages(self, recording: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield each stage of a conversion: its name, and a function that runs it on the results of earlier stages."""
        import torch

        from infer.features import to_pitch_rate
        from lib.audio.decode import load_audio
        from lib.pitch.scale import hz_to_bins

        yield "decode", lambda: load_audio(recording, ANALYSIS_RATE)
        audio = load_audio(recording, ANALYSIS_RATE)
        yield "F0", lambda: self.extract(audio)
        f0 = self.extract(audio)
        yield "content", lambda: self.encoder(audio)
        content = self.encoder(audio)
        yield "retrieval", lambda: self.index.search(content)
        frames = to_pitch_rate(content, len(f0))
        device = self.device.device
        f0 = f0[: len(frames)]
        inputs = [torch.from_numpy(x).to(device)[None] for x in (frames, hz_to_bins(f0), f0)]
        lengths, speaker = torch.tensor([len(frames)], device=device), torch.tensor([0], device=device)

        @torch.inference_mode()
        def synthesize() -> FloatArray:
            audio = self.synthesizer.infer(inputs[0], lengths, speaker, inputs[1], inputs[2])
            result: FloatArray = audio.cpu().numpy()
            return result

        yield "synthesis", synthesize


def measure(settings: Settings, folder: Path, case: str) -> Result:
    """Measure one case in this process."""
    from lib.audio.decode import load_audio_native

    assert settings.recording is not None
    recording = settings.recording
    audio, rate = load_audio_native(recording)
    if case == "whole, baseline":
        seconds = shortest(settings.repeats, lambda: Bench(settings, folder, baseline=True).whole(recording))
    elif case == "synthesis, baseline":
        stages = dict(Bench(settings, folder, baseline=True).stages(recording))
        seconds = shortest(settings.repeats, stages["synthesis"])
    elif case == "whole":
        bench = Bench(settings, folder)
        seconds = shortest(settings.repeats, lambda: bench.whole(recording))
    else:
        seconds = shortest(settings.repeats, dict(Bench(settings, folder).stages(recording))[case])
    return Result(case, seconds, len(audio) / rate, peak_megabytes())


def run(settings: Settings) -> list[Result]:
    """Measure all cases, each in a fresh process so that its peak memory is its own."""
    cases = ["decode", "F0", "content", "retrieval", "synthesis", "whole"]
    if not settings.stages_only:
        cases += ["synthesis, baseline", "whole, baseline"]
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        settings = prepare(settings, Path(name))
        for case in cases:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                results[case] = pool.submit(measure, settings, Path(name), case).result()
    for case in ("synthesis", "whole"):
        if f"{case}, baseline" in results:
            ratio = results[f"{case}, baseline"].seconds / results[case].seconds
            results[case] = replace(results[case], ratio=ratio)
    return list(results.values())


def describe_machine(settings: Settings) -> dict[str, Any]:
    """Describe the machine on which the times were measured."""
    import torch

    from lib.devices import choose_device

    return {
        "machine": platform.processor() or platform.machine(),
        "threads": settings.threads or torch.get_num_threads(),
        "device": str(choose_device(settings.device).device),
        "torch": torch.__version__,
    }


def main(settings: Settings) -> None:
    """Run the benchmark and print the results."""
    machine = describe_machine(settings)
    results = run(settings)
    for r in results:
        line: dict[str, Any] = {"bench": "convert", "family": settings.family, "case": r.case}
        line |= {"seconds": round(r.seconds, 4), "audio_seconds": round(r.audio_seconds, 2)}
        line |= {"real_time_factor": round(r.factor, 4)}
        line |= {"peak_mb": r.peak_mb and round(r.peak_mb), "ratio": r.ratio and round(r.ratio, 2)}
        print(json.dumps(line | machine))
    print(f"\n{settings.family}, {results[0].audio_seconds:.1f} s of audio, {machine}")
    print(f"{'case':<22}{'seconds':>9}{'x real time':>13}{'peak MB':>9}{'baseline / this':>17}")
    for r in results:
        peak = "-" if r.peak_mb is None else f"{r.peak_mb:.0f}"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        print(f"{r.case:<22}{r.seconds:>9.3f}{r.factor:>13.3f}{peak:>9}{ratio:>17}")


if __name__ == "__main__":
    import tyro

    options: Any = Annotated[Settings, tyro.conf.arg(name="")]
    program = "python benchmarks/bench_convert.py"
    sys.exit(run_main(lambda: main(tyro.cli(options, prog=program, description=__doc__))))
