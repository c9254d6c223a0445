"""Speech with phone labels from many synthetic voices: logs/pretrain_lite/corpus/<phone set>/*.npz."""

import hashlib
import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from lib.errors import ConfigError, RevoiceError
from lib.files import replacing
from lib.messages import Message
from lib.paths import LOGS
from lib.progress import Progress, no_progress
from recipes.pretrain_lite import speech
from recipes.pretrain_lite.labels import common_phones, frame_count, frame_phones
from recipes.pretrain_lite.options import CorpusOptions
from recipes.pretrain_lite.speech import Manner
from recipes.pretrain_lite.text import sentence
from recipes.pretrain_lite.utterance import Utterance
from recipes.pretrain_lite.voices import ESPEAK_OTHERS, ESPEAK_VARIANTS, VOICES, SyntheticVoice, missing_packages

logger = logging.getLogger(__name__)

FOLDER = LOGS / "pretrain_lite"
SAMPLE_RATE = 16_000  # Hz
JOB_HOURS = 0.05
_LONGEST = 14.0  # seconds; a longer utterance is left out
_SENTENCE = 3.4  # seconds, to plan with


@dataclass(frozen=True)
class CorpusJob:
    """A few minutes of one voice; everything about it follows from its fields."""

    voice: SyntheticVoice
    number: int
    sentences: int
    seed: int

    @property
    def path(self) -> Path:
        """Where the job's speech goes, below the corpus folder."""
        name = self.voice.name.lower()
        return Path(self.voice.phone_set) / f"{self.voice.engine}-{name}-{self.number:03d}.npz"

    def rng(self) -> random.Random:
        """The job's own stream of chance, the same on every machine."""
        digest = hashlib.sha256(f"{self.seed}/{self.path.as_posix()}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))


def plan_jobs(options: CorpusOptions) -> list[CorpusJob]:
    """All jobs of a corpus, voices in turn, so that an early stop leaves a mixture."""
    scale = options.hours / sum(voice.hours for voice in VOICES)
    sentences = round(JOB_HOURS * 3600 / _SENTENCE)
    jobs = [
        CorpusJob(voice, number, sentences, options.seed)
        for voice in VOICES
        for number in range(max(1, round(voice.hours * scale / JOB_HOURS)))
    ]
    return sorted(jobs, key=lambda job: job.number)


def speak_job(job: CorpusJob, folder: Path) -> Iterator[Utterance]:
    """Say the sentences of one job; `folder` is for temporary files."""
    rng = job.rng()
    texts = [sentence(job.voice.language, rng) for _ in range(job.sentences)]
    manners = [Manner.draw(rng) for _ in texts]
    if job.voice.engine == "festival":
        yield from speech.speak_festival(job.voice, texts, manners, folder)
        return
    for text, manner in zip(texts, manners, strict=True):
        if job.voice.engine == "flite":
            utterance = speech.speak_flite(job.voice, text, manner, folder)
            if utterance:
                yield utterance
        elif job.voice.engine in ("pico", "rhvoice"):
            reference = _reference(job.voice, text, rng, folder)
            speak = speech.speak_pico if job.voice.engine == "pico" else speech.speak_rhvoice
            if reference:
                yield speak(job.voice, text, manner, reference, folder)
        else:
            variant = f"{job.voice.name}+{rng.choice(ESPEAK_VARIANTS)}"
            yield speech.espeak().say(variant, text, manner, rng.randint(20, 80))


def _reference(voice: SyntheticVoice, text: str, rng: random.Random, folder: Path) -> Utterance | None:
    """The same text by a voice that tells its phones: one of flite's for English, espeak-ng's for other languages."""
    plain = Manner(1.0, 170.0, 25.0)
    if voice.phone_set != "en":
        return speech.espeak().say(
            next(name for name, language in ESPEAK_OTHERS.items() if language == voice.language), text, plain, 50
        )
    return speech.speak_flite(rng.choice([voice for voice in VOICES if voice.engine == "flite"]), text, plain, folder)


def pack(utterances: Sequence[Utterance], phone_set: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays of one job: `audio` (T,) at 16 kHz, `lengths` (U,) in samples, `labels` (F,) into `names` (P,) str."""
    audio, lengths, names = [], [], []
    for utterance in utterances:
        if not 0.5 <= utterance.seconds <= _LONGEST:
            continue
        samples = soxr.resample(utterance.audio, utterance.sample_rate, SAMPLE_RATE)
        peak = float(np.abs(samples).max())
        if peak < 0.01:
            continue
        audio.append(np.round(samples * (0.7 / peak) * 32767).astype(np.int16))
        lengths.append(len(samples))
        names += frame_phones(common_phones(utterance.phones, phone_set), frame_count(len(samples)))
    if not audio:
        raise RevoiceError("A voice produced no sound. Try the synthesiser by hand.")
    inventory, labels = np.unique(np.array(names), return_inverse=True)
    return {
        "audio": np.concatenate(audio),
        "lengths": np.array(lengths, dtype=np.int64),
        "labels": labels.astype(np.int16),
        "names": inventory,
    }


def run_job(job: CorpusJob, folder: Path) -> float:
    """Make one file of the corpus below `folder`; returns its seconds of speech, 0.0 if it was there already."""
    target = folder / job.path
    if target.is_file():
        return 0.0
    with tempfile.TemporaryDirectory() as temporary:
        try:
            arrays = pack(list(speak_job(job, Path(temporary))), job.voice.phone_set)
        except RevoiceError as error:
            voice = job.voice
            raise RevoiceError(
                "{engine} voice {name} (package {package}): {reason}",
                engine=voice.engine,
                name=voice.name,
                package=voice.package,
                reason=Message(error.template, **error.values),
            ) from error
    with replacing(target) as path:
        np.savez(path, allow_pickle=False, **arrays)
    return float(len(arrays["audio"]) / SAMPLE_RATE)


def make_corpus(options: CorpusOptions, folder: Path = FOLDER / "corpus", progress: Progress = no_progress) -> Path:
    """Make what is missing of the corpus and return its folder. RevoiceError names what must be installed."""
    if missing := missing_packages():
        raise ConfigError("System packages are missing. Run: apt-get install {packages}", packages=" ".join(missing))
    jobs = plan_jobs(options)
    seconds = 0.0
    # Processes are spawned: espeak-ng keeps its state in the process, and a fork would share it.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_job, job, folder) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                seconds += future.result()
                progress(done, len(jobs), "speak")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    logger.info("corpus: %d files, %.2f h made now, in %s", len(jobs), seconds / 3600, folder)
    return folder
