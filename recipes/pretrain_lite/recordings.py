"""The demo recordings that are shipped, and the many speakers the base models are trained on."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from lib.errors import RevoiceError
from lib.files import replacing, write_text
from lib.paths import PRETRAINED
from lib.progress import Progress, no_progress
from recipes.pretrain_lite import speech
from recipes.pretrain_lite.corpus import FOLDER
from recipes.pretrain_lite.options import BaseCorpusOptions
from recipes.pretrain_lite.speech import Floats, Manner
from recipes.pretrain_lite.text import sentence
from recipes.pretrain_lite.utterance import Utterance
from recipes.pretrain_lite.voices import ESPEAK_VARIANTS, NATURAL_VOICES, PICO_VOICES, SyntheticVoice

# Readers of LibriSpeech dev-clean. The tune readers may guide choices; the test readers are reported once.
TUNE = frozenset({"422", "1988"})
TEST = frozenset({"1272", "1462", "2086", "2412"})
DEMO_FOLDER = PRETRAINED / "lite" / "demo"
DEMO_RATE = 24_000  # Hz, the rate of the lite family: more would only make the files larger
DEMO_VOICE = "cmu_us_slt_arctic_hts"
DEMO_SOURCE = "awb"
PEAK = 0.7
MUCH_NATURAL_SPEECH = ("awb", "rms", "slt", "cmu_us_slt_arctic_hts", "en-US", "en-GB")

# Written for this project and, like it, free to use; together they hold every English phone several times.
DEMO_TEXTS = (
    "Good morning, and thank you for joining our little experiment.",
    "The yellow bird sat on the garden fence and sang for almost an hour.",
    "Please measure the width of the bridge before you order the wood.",
    "Nobody thought that the young engineer would choose such a strange shape.",
    "When the ship left the harbour, a cold wind was blowing from the north.",
    "She bought five oranges, two fresh loaves, and a jar of thick honey.",
    "Could you tell me which of these roads goes to the old village?",
    "My father usually reads the evening paper under the kitchen lamp.",
    "The judge asked the witness to speak a little more slowly.",
    "Every voice is different, and that is exactly what makes it a pleasure.",
    "A loud noise from the garage woke both of the children at once.",
    "He put the broken watch into the drawer and never thought of it again.",
    "We shall need sugar, pure water, and enough patience to finish this job.",
    "Above the clouds, the view of the mountains was beyond all description.",
    "Those who enjoy music may join us at the theatre on Thursday.",
    "At the end of the day, the fisherman pulled his boat back to the shore.",
)
DEMO_SOURCE_TEXT = "Did you really hear that? The river is rising again, but the bridge will hold, I am sure of it!"


class Speaker(NamedTuple):
    """One speaker of the base corpus: a voice at its own height and pace."""

    name: str
    voice: SyntheticVoice
    variant: str  # of espeak-ng, else ""
    f0: float  # Hz
    stretch: float
    share: int = 1  # of the time, relative to the others


def at_peak(audio: Floats) -> Floats:
    """(T,) audio scaled so that its largest sample is PEAK; silence is an error of the synthesiser."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 0.01:
        raise RevoiceError("A synthesiser returned silence. Install its voice package again.")
    return audio * (PEAK / peak)


def write_flac(path: Path, audio: Floats, sample_rate: int) -> None:
    """Write (T,) float32 audio as 16-bit FLAC, atomically."""
    with replacing(path) as temporary:
        soundfile.write(temporary, audio, sample_rate, subtype="PCM_16", format="FLAC")


def voice_named(name: str) -> SyntheticVoice:
    """The natural voice of that name in voices.py."""
    return next(voice for voice in NATURAL_VOICES if voice.name == name)


def make_demo(folder: Path = DEMO_FOLDER) -> Path:
    """Write the shipped demo recordings: voice/*.flac of one speaker, source.flac of another, and their README."""
    rng = random.Random(3)
    manners = [Manner(rng.uniform(0.9, 1.12), 170.0, 20.0) for _ in DEMO_TEXTS]
    with tempfile.TemporaryDirectory() as name:
        clips = speech.speak_festival(voice_named(DEMO_VOICE), DEMO_TEXTS, manners, Path(name))
        lively = Manner(1.25, 135.0, 60.0)
        source = speech.speak_flite(voice_named(DEMO_SOURCE), DEMO_SOURCE_TEXT, lively, Path(name))
    if len(clips) != len(DEMO_TEXTS) or source is None:
        raise RevoiceError("Not every demo sentence could be spoken. Install festvox-us-slt-hts and flite.")
    for number, clip in enumerate(clips, 1):
        audio = at_peak(soxr.resample(clip.audio, clip.sample_rate, DEMO_RATE))
        write_flac(folder / "voice" / f"{number:02d}.flac", audio, DEMO_RATE)
    write_flac(folder / "source.flac", at_peak(source.audio), source.sample_rate)
    write_text(folder / "README.md", demo_readme(clips, source))
    return folder


def demo_readme(clips: Sequence[Utterance], source: Utterance) -> str:
    """What the demo recordings are, who speaks, under which terms."""
    seconds = sum(clip.seconds for clip in clips)
    return f"""# Demo recordings

Synthesised speech, made by `python -m recipes.pretrain_lite demo`; no recording of a person is in this folder.

| file | what | length |
|---|---|---|
| `voice/01.flac` … `{len(clips)}.flac` | a voice to learn: {DEMO_VOICE} (female), {DEMO_RATE} Hz | {seconds:.1f} s |
| `source.flac` | a clip to convert: {DEMO_SOURCE} (male), {source.sample_rate} Hz | {source.seconds:.1f} s |

- Voices: packages `festvox-us-slt-hts` (festival) and `flite` of Debian, (c) Carnegie Mellon University, built from the
  CMU ARCTIC recordings. Both may be used, copied, modified, distributed and sold without fee; the notice in the
  packages' copyright files must stay with the voices themselves.
- Texts: written for this project. The recordings may be used like the rest of the project.

## What is said

{chr(10).join(f"{number}. {text}" for number, text in enumerate(DEMO_TEXTS, 1))}

Source: {DEMO_SOURCE_TEXT}
"""


def base_speakers(count: int) -> list[Speaker]:
    """`count` speakers: each natural voice at its own F0, then espeak-ng's variants in several accents.

    The English ones made from much natural speech speak three times as long as the others.
    """
    own_f0 = {
        "slt": 175,
        "cmu_us_slt_arctic_hts": 170,
        "awb": 125,
        "rms": 95,
        "czech_dita": 200,
        "suo_fi_lj_diphone": 190,
    }
    own_f0 |= {"lp_diphone": 190, "upc_ca_ona_hts": 190, "czech_krb": 230}
    natural = [
        Speaker(
            f"{voice.engine}-{voice.name.lower()}",
            voice,
            "",
            float(own_f0.get(voice.name, 115)),
            1.0,
            3 if voice.name in MUCH_NATURAL_SPEECH else 1,
        )
        for voice in NATURAL_VOICES + PICO_VOICES
    ]
    accents = ("en-us", "en", "en-gb-scotland", "en-029", "de", "it", "fr", "pl")
    others = [
        Speaker(
            f"espeak-{accents[place % len(accents)]}-{variant.lower()}",
            SyntheticVoice("espeak", accents[place % len(accents)], accents[place % len(accents)][:2], "", 0, "", ""),
            variant,
            0.0,
            0.9 + 0.05 * (place % 6),
        )
        for place, variant in enumerate(ESPEAK_VARIANTS[:: max(1, len(ESPEAK_VARIANTS) // 46)])
    ]
    return (natural + others)[:count]


def speak_for_base(speaker: Speaker, count: int, rng: random.Random) -> list[Utterance]:
    """`count` sentences of one speaker, near its own F0, now slower and now faster."""
    texts = [sentence(speaker.voice.language, rng) for _ in range(count)]
    f0 = [speaker.f0 * rng.uniform(0.9, 1.12) for _ in texts]
    manners = [Manner(speaker.stretch * rng.uniform(0.88, 1.15), hz, hz * rng.uniform(0.12, 0.22)) for hz in f0]
    with tempfile.TemporaryDirectory() as name:
        if speaker.voice.engine == "festival":
            return speech.speak_festival(speaker.voice, texts, manners, Path(name))
        if speaker.voice.engine == "flite":
            said = [speech.speak_flite(speaker.voice, t, m, Path(name)) for t, m in zip(texts, manners, strict=True)]
            return [utterance for utterance in said if utterance]
        if speaker.voice.engine == "pico":
            plain = [Manner(manner.stretch, speech.USUAL_F0 * rng.uniform(0.9, 1.12), 20.0) for manner in manners]
            pairs = zip(texts, plain, strict=True)
            return [Utterance(*speech.say_pico(speaker.voice, t, m, Path(name)), []) for t, m in pairs]
        voice = f"{speaker.voice.name}+{speaker.variant}"
        plain = [Manner(manner.stretch, 100.0, 15.0) for manner in manners]
        return [
            speech.espeak().say(voice, text, manner, rng.randint(40, 60))
            for text, manner in zip(texts, plain, strict=True)
        ]


def make_base_corpus(
    options: BaseCorpusOptions, folder: Path = FOLDER / "base", progress: Progress = no_progress
) -> Path:
    """Write folder/<speaker>/NNN.flac, each at the voice's own sample rate; speakers already there are kept."""
    speakers = base_speakers(options.speakers)
    second = 60 * options.minutes / sum(speaker.share for speaker in speakers)  # of a speaker with one share
    for done, speaker in enumerate(speakers):
        progress(done, len(speakers), "speak")
        finished = folder / speaker.name / "finished"
        if finished.is_file():
            continue
        rng = random.Random(f"{options.seed}/{speaker.name}")
        seconds, number = 0.0, 0
        while seconds < second * speaker.share:
            for clip in speak_for_base(speaker, 12, rng):
                write_flac(folder / speaker.name / f"{number:03d}.flac", at_peak(clip.audio), clip.sample_rate)
                seconds, number = seconds + clip.seconds, number + 1
        write_text(finished, f"{seconds:.1f} s\n")
    progress(len(speakers), len(speakers), "speak")
    return folder
