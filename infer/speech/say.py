"""Synthesises a script with an engine: sentences one after another, cues at their times."""

import logging
from collections.abc import Sequence

import numpy as np

from infer.convert import VoiceConverter
from infer.song.convert import SUBTYPES, Sound, convert_sound
from infer.speech.engines import Engine
from infer.speech.options import MAX_SPEED, SpeechOptions
from infer.speech.script import Line
from lib.errors import ConfigError
from lib.messages import Message
from lib.progress import Progress, no_progress
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

PAUSE = 0.25  # s between sentences
FASTEST = 1.4  # by which speech is sped up to fit between its start and the next cue
MAX_SECONDS = 3 * 3600.0


def say(lines: Sequence[Line], engine: Engine, speed: float = 1.0, progress: Progress = no_progress) -> FloatArray:
    """Synthesise all lines: (T,) at the engine's rate.

    A line with a start time begins there. It is spoken faster if the time before the next line is too short, and begins
    later if the previous line has not ended. Raises ConfigError if the speech exceeds three hours.
    """
    rate, parts = engine.sample_rate, list[tuple[int, FloatArray]]()
    position, late = 0, 0
    for i, line in enumerate(lines):
        progress(i, len(lines), Message("synthesising speech"))
        speech = engine(line.text, speed)
        start = position
        if line.start is not None:
            following = next((after.start for after in lines[i + 1 :] if after.start is not None), None)
            start = max(round(line.start * rate), position)
            late += start > round(line.start * rate)
            room = (following - line.start) * rate if following is not None else np.inf
            if len(speech) > room > 0:
                speech = engine(line.text, min(speed * min(len(speech) / room, FASTEST), MAX_SPEED))
        parts.append((start, speech))
        position = start + len(speech) + (round(PAUSE * rate) if line.start is None else 0)
        if position > MAX_SECONDS * rate:
            raise ConfigError("The speech would be longer than {hours} hours. Split the text.",
                              hours=round(MAX_SECONDS / 3600))  # fmt: skip
    if late:
        logger.warning(
            "%d of %d lines begin late, because the previous line takes longer than its slot", late, len(lines)
        )
    audio = np.zeros(max(start + len(speech) for start, speech in parts), np.float32)
    for start, speech in parts:
        audio[start : start + len(speech)] += speech
    progress(len(lines), len(lines), Message("synthesising speech"))
    return audio


def speak(
    converter: VoiceConverter,
    engine: Engine,
    lines: Sequence[Line],
    options: SpeechOptions,
    progress: Progress = no_progress,
) -> Sound:
    """Synthesise lines and convert the speech; in a preview, only its beginning."""
    audio = say(lines, engine, options.speed, progress)
    if options.preview:
        audio = audio[: round(options.preview * engine.sample_rate)]
    source = Sound(audio[None], engine.sample_rate, SUBTYPES[options.bit_depth])
    return convert_sound(converter, source, options, progress).sound
