"""One spoken sentence with its phone times, and how the five synthesisers are asked for it."""

import ctypes
import math
import random
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from lib.errors import MissingFileError, RevoiceError
from lib.messages import Message
from recipes.pretrain_lite.align import moved_times
from recipes.pretrain_lite.utterance import SILENCE, Utterance
from recipes.pretrain_lite.voices import SyntheticVoice

Floats = npt.NDArray[np.float32]

USUAL_F0 = 143.0  # Hz, the middle of what Manner draws: synthesisers that only raise and lower speak as they do


@dataclass(frozen=True)
class Manner:
    """How a sentence is said: duration factor (1 = the voice's own), F0 mean in Hz and its deviation in Hz."""

    stretch: float
    f0: float
    f0_deviation: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Manner":
        """A manner between hurried and slow, low and high, flat and lively."""
        f0 = math.exp(rng.uniform(math.log(85.0), math.log(240.0)))
        return cls(rng.uniform(0.78, 1.3), f0, f0 * rng.uniform(0.06, 0.24))


def run_program(command: Sequence[str], package: str, timeout: float = 900.0) -> str:
    """Run a synthesiser and return what it printed; MissingFileError names the system package it comes from."""
    try:
        run = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise MissingFileError(
            Path(command[0]), "Install the system package {package} (apt-get install).", package=package
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RevoiceError(
            "{program} did not finish within {seconds:.0f} s. Start the recipe again.",
            program=command[0],
            seconds=timeout,
        ) from error
    return run.stdout.decode("utf-8", "replace")


def read_wave(path: Path) -> tuple[Floats, int]:
    """(T,) float32 audio and sample rate of a mono file written by a synthesiser."""
    audio, sample_rate = soundfile.read(path, dtype="float32", always_2d=False)
    return np.asarray(audio, dtype=np.float32), int(sample_rate)


def said_by(command: Sequence[str], package: str, wave: Path) -> tuple[Floats, int]:
    """Run a synthesiser that writes `wave`: audio (T,) and its sample rate. RevoiceError if it wrote nothing.

    What an earlier sentence left there is removed first, or a failure would give that sentence another's phones.
    """
    wave.unlink(missing_ok=True)
    printed = run_program(command, package)
    if not wave.is_file():
        raise RevoiceError(
            "{program} ({package}) wrote no sound: {output}. Try it by hand.",
            program=command[0],
            package=package,
            output=printed.strip() or Message("it printed nothing"),
        )
    return read_wave(wave)


# --- flite ------------------------------------------------------------------------------------------------------------


def speak_flite(voice: SyntheticVoice, text: str, manner: Manner, folder: Path) -> Utterance | None:
    """Have flite say one sentence; None if it printed no phones. `folder` is for temporary files."""
    wave = folder / "flite.wav"
    settings = {
        "int_f0_target_mean": manner.f0,
        "int_f0_target_stddev": manner.f0_deviation,
        "duration_stretch": manner.stretch,
    }
    flags = [part for key, value in settings.items() for part in ("--setf", f"{key}={value:.3f}")]
    command = ["flite", "-voice", voice.name, *flags, "-psdur", "-t", text, "-o", str(wave)]
    phones = parse_flite(run_program(command, "flite"))
    return Utterance(*read_wave(wave), phones) if phones else None


def parse_flite(printed: str) -> list[tuple[str, float]]:
    """Phones and end times from the text of `flite -psdur`, such as `pau:0.161 hh:0.234`."""
    return [(name, float(end)) for name, end in re.findall(r"([a-z@]+):(\d+\.\d+)", printed)]


# --- festival ---------------------------------------------------------------------------------------------------------


def festival_script(voice: SyntheticVoice, texts: Sequence[str], manners: Sequence[Manner], folder: Path) -> str:
    """The Scheme program that says every sentence into folder/<number>.wav with phones in folder/<number>.seg."""
    lines = [f"(voice_{voice.name})", "(set! plain_hts (if (symbol-bound? 'hts_engine_params) hts_engine_params nil))"]
    for number, (text, manner) in enumerate(zip(texts, manners, strict=True)):
        safe = re.sub(r'["\\]', " ", text)
        f0 = f"(target_f0_mean {manner.f0:.1f}) (target_f0_std {manner.f0_deviation:.1f})"
        lines += [
            f"(Parameter.set 'Duration_Stretch {manner.stretch:.3f})",
            f"(set! int_lr_params '({f0} (model_f0_mean 170) (model_f0_std 34)))",
            f'(set! hts_engine_params (append plain_hts \'(("-r" {1 / manner.stretch:.3f}))))',
            # One sentence that a voice cannot say must not end the batch.
            f'(unwind-protect (let ((u (Utterance Text "{safe}"))) (utt.synth u)'
            f' (utt.save.wave u "{folder}/{number}.wav" \'riff) (utt.save.segs u "{folder}/{number}.seg"))'
            f' (format t "skipped"))',
        ]
    return "\n".join(lines) + "\n"


def parse_segments(text: str) -> list[tuple[str, float]]:
    """Phones and end times from a festival segment file: lines of `end colour name` after a line with `#`."""
    rows = (line.split() for line in text.splitlines())
    return [(row[2], float(row[0])) for row in rows if len(row) == 3 and row[0][0].isdigit()]


def speak_festival(
    voice: SyntheticVoice, texts: Sequence[str], manners: Sequence[Manner], folder: Path
) -> list[Utterance]:
    """Have festival say sentences in one run; those it fails on are left out."""
    script = folder / "say.scm"
    script.write_bytes(festival_script(voice, texts, manners, folder).encode(voice.encoding, "replace"))
    run_program(["festival", "--batch", str(script)], "festival")
    spoken = []
    for number in range(len(texts)):
        wave, segments = folder / f"{number}.wav", folder / f"{number}.seg"
        if wave.is_file() and segments.is_file():
            phones = parse_segments(segments.read_text(encoding="utf-8", errors="replace"))
            spoken.append(Utterance(*read_wave(wave), phones))
    return spoken


# --- SVOX Pico --------------------------------------------------------------------------------------------------------


def speak_pico(voice: SyntheticVoice, text: str, manner: Manner, reference: Utterance, folder: Path) -> Utterance:
    """Have Pico say one sentence. It prints no phones: their times come from `reference`, the same text elsewhere."""
    audio, sample_rate = say_pico(voice, text, manner, folder)
    return Utterance(audio, sample_rate, moved_times(reference, audio, sample_rate))


def say_pico(voice: SyntheticVoice, text: str, manner: Manner, folder: Path) -> tuple[Floats, int]:
    """What Pico makes of one sentence: audio (T,) and its sample rate."""
    wave = folder / "pico.wav"
    speed, pitch = round(100 / manner.stretch), round(100 * (manner.f0 / USUAL_F0) ** 0.5)
    plain = re.sub(r"[<>&]", " ", text)
    said = f'<speed level="{speed}"><pitch level="{max(60, min(150, pitch))}">{plain}</pitch></speed>'
    return said_by(["pico2wave", "-l", voice.name, "-w", str(wave), said], "libttspico-utils", wave)


# --- RHVoice ----------------------------------------------------------------------------------------------------------


def speak_rhvoice(voice: SyntheticVoice, text: str, manner: Manner, reference: Utterance, folder: Path) -> Utterance:
    """Have RHVoice say one sentence; phone times come from `reference`, as with Pico."""
    wave, words = folder / "rhvoice.wav", folder / "rhvoice.txt"
    words.write_text(text, encoding="utf-8")
    speed, pitch = round(100 / manner.stretch), round(100 * (manner.f0 / USUAL_F0) ** 0.3)
    settings = ("-r", f"{speed}", "-t", f"{pitch}", "-R", "24000", "-i", str(words), "-o", str(wave))
    audio, sample_rate = said_by(["RHVoice-test", "-p", voice.name, *settings], voice.package, wave)
    return Utterance(audio, sample_rate, moved_times(reference, audio, sample_rate))


# --- espeak-ng --------------------------------------------------------------------------------------------------------

_PHONEME_EVENT = 7
_PHONEME_EVENTS_AS_IPA = 3
_SYNCHRONOUS = 2
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_NORMAL_RATE = 175  # words per minute


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The espeak-ng library in this process: its command line prints no phone times, the library reports them."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise MissingFileError(Path("libespeak-ng.so.1"), "Install the system package espeak-ng.") from error
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_AS_IPA))
        self._sound: list[bytes] = []
        self._starts: list[tuple[str, float]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count:
            self._sound.append(ctypes.string_at(wave, 2 * count))
        place = 0
        while events[place].type:
            if events[place].type == _PHONEME_EVENT:
                name = bytes(events[place].id.string).split(b"\0")[0].decode("utf-8", "ignore")
                self._starts.append((name, events[place].audio_position / 1000))
            place += 1
        return 0

    def say(self, voice: str, text: str, manner: Manner, pitch: int) -> Utterance:
        """Say a sentence with a voice such as "en-us+f2"; `pitch` is 0 to 99 around the variant's own (50)."""
        self._sound.clear()
        self._starts.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RevoiceError(
                "espeak-ng has no voice {voice!r}. Check the installed package espeak-ng-data.", voice=voice
            )
        spread = max(10, min(99, round(350 * manner.f0_deviation / manner.f0)))
        for parameter, value in ((_RATE, round(_NORMAL_RATE / manner.stretch)), (_PITCH, pitch), (_RANGE, spread)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        audio = np.frombuffer(b"".join(self._sound), dtype=np.int16).astype(np.float32) / np.float32(32768)
        return Utterance(audio, self.sample_rate, ends_from_starts(self._starts, len(audio) / self.sample_rate))


def ends_from_starts(starts: Sequence[tuple[str, float]], duration: float) -> list[tuple[str, float]]:
    """Phones with end times from (name, start) events; markers of a language switch such as "(en)" are dropped."""
    kept = [(name, start) for name, start in starts if not name.startswith("(")]
    if not kept:
        return []
    ends = [start for _, start in kept[1:]] + [duration]
    phones = [(name or SILENCE, end) for (name, _), end in zip(kept, ends, strict=True)]
    return [(SILENCE, kept[0][1]), *phones] if kept[0][1] > 0 else phones


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The library of this process; initialised on the first call."""
    return Espeak()
