"""Runs cover and speech jobs in the process that has loaded the voices."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import AudioError, ConfigError, RevoiceError
from lib.messages import Message, without_folder
from web.jobs.registry import JobContext
from web.jobs.requests import CoverRequest, SayRequest

if TYPE_CHECKING:
    from infer.convert import VoiceConverter


def make_cover(voice: "VoiceConverter", request: CoverRequest, name: str, context: JobContext) -> Sequence[Path]:
    """Create a cover called `name` in the job's folder; return it and its stems."""
    from infer.song.cover import CoverMaker, Sources

    files = (request.song, request.vocals, request.instrumental)
    try:
        output = context.folder / f"{name}.{request.format}"
        cover = CoverMaker(voice).make(Sources(*files), output, request.options, context.progress)
    except RevoiceError as error:
        message: Message = error.message
        for path in filter(None, files):
            message = without_folder(message, path)
        raise AudioError(message.template, **message.values) from error
    context.publish(
        cover={
            "seconds": cover.seconds,
            "elapsed": cover.elapsed_seconds,
            "rate": cover.sample_rate,
            "shift": cover.instrumental_shift,
        }
    )
    return [cover.path, *cover.stems]


def say_text(voice: "VoiceConverter", request: SayRequest, name: str, context: JobContext) -> Sequence[Path]:
    """Synthesise the text or the subtitles of a request; return the recording."""
    from infer.speech.engines import load_engine
    from infer.speech.say import speak
    from infer.speech.script import read_script, read_text_file

    if (request.file is None) == (not request.text.strip()):
        raise ConfigError("Enter text or choose a file, not both.")
    lines = read_script(request.text if request.file is None else read_text_file(request.file))
    output = context.folder / f"{name}.{request.format}"
    sound = speak(voice, load_engine(request.options), lines, request.options, context.progress)
    sound.save(output, context.progress)
    return [output]
