"""Checks the tests: changes constants and formulas of the signal path a little; after each change a test must fail.

Run by hand after a change of the signal path or its tests, some minutes; the fast suite only checks that every text
below is still there:

    python tests/mutations.py [WORD ...]     only the mutations whose names contain a word

Each change is made in a copy of the program, in a temporary folder, and tested with the golden data of the repository.
For Linux and macOS.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "torchaudio", "safetensors.torch", "faiss", "soxr", "scipy.signal", "soundfile")
SOURCES = ("lib", "infer", "train", "configs")
COPIED = (*SOURCES, "web", "i18n", "pretrained/lite", "tests", "pyproject.toml", "infer-web.py")


class Mutation(NamedTuple):
    """One change: `old`, which the sources hold once in the file whose name ends so, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # name of a test module
    chosen: str = ""  # which of its tests, as in pytest -k


PITCH = "bins or quantisation or octave"
AUDIO = "pass or resampl"
MODELS = "golden_functions or sine"
PREPROCESS = "piece or normalis"
INDEX = "golden or weights"
MUTATIONS = [
    Mutation("slicer: threshold", "slicer.py", "threshold_db: float = -42.0", "threshold_db: float = -40.0", "slicer"),
    Mutation("slicer: shortest clip", "slicer.py", "min_length_ms: int = 1500", "min_length_ms: int = 1400", "slicer"),
    Mutation(
        "slicer: shortest pause", "slicer.py", "min_interval_ms: int = 400", "min_interval_ms: int = 370", "slicer"
    ),
    Mutation("slicer: hop", "slicer.py", "hop_ms: int = 15", "hop_ms: int = 16", "slicer"),
    Mutation("slicer: silence kept", "slicer.py", "max_silence_ms: int = 500", "max_silence_ms: int = 480", "slicer"),
    Mutation("slicer: window", "slicer.py", "min(round(interval), 4 * hop)", "min(round(interval), 3 * hop)", "slicer"),
    Mutation(
        "clips: overlap", "preprocess.py", "OVERLAP_SECONDS = 0.3", "OVERLAP_SECONDS = 0.25", "preprocess", PREPROCESS
    ),
    Mutation(
        "clips: level", "preprocess.py", "TARGET_PEAK = 0.9 * 0.75", "TARGET_PEAK = 0.9 * 0.7", "preprocess", PREPROCESS
    ),
    Mutation(
        "clips: own level", "preprocess.py", "ORIGINAL_SHARE = 0.25", "ORIGINAL_SHARE = 0.3", "preprocess", PREPROCESS
    ),
    Mutation("F0 bins: slope", "scale.py", "* (N_BINS - 2) /", "* (N_BINS - 1) /", "pitch", PITCH),
    Mutation("F0 bins: rounding", "scale.py", "np.rint(np.clip(", "np.floor(np.clip(", "pitch", PITCH),
    Mutation("F0 bins: highest", "scale.py", "F0_MAX = 1100.0", "F0_MAX = 1090.0", "pitch", PITCH),
    Mutation(
        "F0 bins: mel scale", "scale.py", "mel = 1127.0 * np.log1p(np", "mel = 1125.0 * np.log1p(np", "pitch", PITCH
    ),
    Mutation("F0: semitones", "scale.py", "2.0 ** (semitones / 12.0)", "2.0 ** (semitones / 12.1)", "pitch", PITCH),
    Mutation("mel: epsilon", "mel.py", "MAGNITUDE_EPSILON = 1e-6", "MAGNITUDE_EPSILON = 1e-7", "mel"),
    Mutation("mel: floor", "mel.py", "MEL_FLOOR = 1e-5", "MEL_FLOOR = 2e-6", "mel"),
    Mutation("mel: norm", "mel.py", 'norm="slaney"', "norm=None", "mel"),
    Mutation("mel: scale", "mel.py", 'mel_scale="slaney"', 'mel_scale="htk"', "mel"),
    Mutation("mel: padding", "mel.py", "padding = (n_fft - hop_length) // 2\n", "padding = n_fft // 2\n", "mel"),
    Mutation("protect: off", "features.py", "PROTECT_OFF = 0.5", "PROTECT_OFF = 0.45", "features"),
    Mutation("protect: unvoiced", "features.py", "UNVOICED_BELOW = 1.0", "UNVOICED_BELOW = 0.9", "features"),
    Mutation("index: weights", "index.py", "MIN_SCORE) ** 2", "MIN_SCORE)", "index", INDEX),
    Mutation("index: neighbours", "index.py", "NEIGHBOURS = 8", "NEIGHBOURS = 7", "index", INDEX),
    Mutation("loudness: exponent", "loudness.py", "** (1 - rms_mix_rate)", "** (0.95 - rms_mix_rate)", "loudness"),
    Mutation("loudness: rate", "loudness.py", "ENVELOPE_RATE = 2 ", "ENVELOPE_RATE = 4 ", "loudness"),
    Mutation("loudness: peak", "loudness.py", "PEAK_CEILING = 0.99", "PEAK_CEILING = 0.98", "loudness"),
    Mutation("chunks: padding", "chunking.py", "pad: float = 1.0", "pad: float = 0.9", "chunking"),
    Mutation("chunks: query", "chunking.py", "query: float = 6.0", "query: float = 5.0", "chunking"),
    Mutation("chunks: centre", "chunking.py", "center: float = 38.0", "center: float = 37.0", "chunking"),
    Mutation("chunks: longest", "chunking.py", "longest: float = 41.0", "longest: float = 42.0", "chunking"),
    Mutation("chunks: fade", "chunking.py", "FADE_FRAMES = 1 ", "FADE_FRAMES = 2 ", "chunking"),
    Mutation("high-pass: cutoff", "filters.py", "HIGHPASS_CUTOFF = 48.0", "HIGHPASS_CUTOFF = 49.0", "audio", AUDIO),
    Mutation("high-pass: order", "filters.py", "HIGHPASS_ORDER = 5", "HIGHPASS_ORDER = 4", "audio", AUDIO),
    Mutation("high-pass: ends", "filters.py", "EXTENSION = 18", "EXTENSION = 15", "audio", AUDIO),
    Mutation("resample: quality", "filters.py", 'quality="HQ"', 'quality="MQ"', "audio", AUDIO),
    Mutation(
        "resample: length",
        "filters.py",
        "-(-samples * to_rate // from_rate)",
        "samples * to_rate // from_rate",
        "audio",
        AUDIO,
    ),
    Mutation("prior: noise scale", "synthesizer.py", "NOISE_SCALE = 0.66666", "NOISE_SCALE = 0.66", "models", MODELS),
    Mutation("source: amplitude", "source.py", "SINE_AMPLITUDE = 0.1\n", "SINE_AMPLITUDE = 0.11\n", "models", MODELS),
    Mutation("source: voiced noise", "source.py", "VOICED_NOISE = 0.003", "VOICED_NOISE = 0.004", "models", MODELS),
    Mutation("source: unvoiced noise", "source.py", "SINE_AMPLITUDE / 3", "SINE_AMPLITUDE / 4", "models", MODELS),
    Mutation(
        "source: first sample", "source.py", "torch.arange(1, hop_length + 1,", "torch.arange(0, hop_length,", "models"
    ),
]


def find(mutation: Mutation, root: Path = ROOT) -> Path:
    """The one source file that holds the text of a mutation. SystemExit if there is none, or several."""
    paths = (path for folder in SOURCES for path in (root / folder).rglob(f"*{mutation.file}"))
    found = [path for path in paths if path.read_text(encoding="utf-8").count(mutation.old) == 1]
    if len(found) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.old!r} is in {len(found)} files named {mutation.file}, not in one."
        )
    return found[0]


def run_tests(root: Path, name: str, chosen: str) -> tuple[bool, str]:
    """Whether the tests of a copy pass, and the first line about one that fails.

    They run in a fork of this process, which has imported the libraries, but nothing of the program.
    """
    log = root / "tests.log"
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with log.open("w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(root)
            sys.path[0] = str(root)
            os.environ["GOLDEN_DIR"] = str(root / "tests" / "data" / "golden")
            words = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider"]
            status = int(pytest.main([*words, f"tests/test_{name}.py", "-k", chosen]))
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    output = log.read_text(encoding="utf-8")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return status == 0, failed[0] if failed else output[-500:]


def main(words: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    survived = []
    sys.dont_write_bytecode = True  # a changed file of the same size and second would be taken for the old one
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "revoice"
        for name in COPIED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(ROOT / name, root / name)
        for tests in sorted({mutation[-2:] for mutation in chosen}):
            passed, output = run_tests(root, *tests)
            if not passed:
                raise SystemExit(f"Tests of {tests} fail without any change: {output}")
        for mutation in chosen:
            path = find(mutation, root)
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
            passed, output = run_tests(root, mutation.tests, mutation.chosen)
            path.write_text(text, encoding="utf-8")
            survived += [mutation.name] if passed else []
            print(
                f"{'SURVIVED' if passed else 'caught':9}{mutation.name:24}{'' if passed else output[:110]}", flush=True
            )
    print(
        f"{len(chosen) - len(survived)} of {len(chosen)} changes were caught."
        + "".join(f"\nnot: {s}" for s in survived)
    )
    return len(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
