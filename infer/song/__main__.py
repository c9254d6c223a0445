"""Song covers and speech: python -m infer cover SONG --voice alice, python -m infer say TEXT --voice alice."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from tyro.conf import Positional, arg

from infer.cli import PROGRAM, VoiceAndOutput, load_voice, parse_as, report_errors
from infer.song.options import CoverOptions
from infer.speech.options import SpeechOptions
from infer.speech.script import read_script, read_text_file
from lib.audio import AUDIO_FORMATS
from lib.effects.spec import PRESETS
from lib.errors import ConfigError
from lib.messages import Message
from lib.paths import GivenPath
from lib.run_main import run_main
from lib.terminal import terminal

if TYPE_CHECKING:
    from infer.song.cover import Cover

LONGEST_NAME = 40  # characters of a spoken text in the name of its file
INDEX_RATE = (CoverOptions.model_fields["index_rate"].description or "").replace("the input's", "the {}")


class CoverArguments(CoverOptions, VoiceAndOutput, frozen=True):
    """Make a cover: separate a song into stems, convert the vocals and mix them back with the instrumental."""

    HELP: ClassVar[Mapping[str, str]] = {
        "output": "output file or folder (default: next to the song, named after it and the voice)",
        "channel": "no effect; a cover uses both channels of the song",
        "pitch_shift": "semitones to add to the vocals' pitch; 12 = one octave up",
        "auto_pitch": "in addition to --pitch-shift, transpose the vocals so that their median pitch matches the "
        "voice's, by whole semitones, or by whole octaves, which keeps the key of the song",
        "index_rate": INDEX_RATE.format("vocals'"),
        "rms_mix_rate": "loudness envelope of the converted vocals; 0 = the original vocals', 1 = the model output's",
        "resample_rate": "no effect; a cover has the sample rate of the song",
        "keep_format": "write the cover with the song's bit depth",
        "noise_reduction": "strength of noise reduction on the vocals; 0 = off, 1 = maximum",
        "effects": f"effects on the converted vocals: presets ({', '.join(PRESETS)}) or a chain such as "
        '"highpass=80, compressor=-20:3, reverb=0.2" (default: none)',
    }

    song: Positional[GivenPath | None] = Field(
        default=None, description="the song (required unless --vocals and --instrumental are both given)"
    )
    vocals: GivenPath | None = Field(None, description="vocal stem of the song")
    instrumental: GivenPath | None = Field(None, description="instrumental stem of the song")


class SayArguments(SpeechOptions, VoiceAndOutput, frozen=True):
    """Synthesise speech from text in a given voice."""

    HELP: ClassVar[Mapping[str, str]] = {
        "channel": "no effect; synthesised speech is mono",
        "pitch_shift": "semitones to add to the synthesised speech's pitch; 12 = one octave up",
        "auto_pitch": "in addition to --pitch-shift, transpose the synthesised speech so that its median pitch matches "
        "the voice's, by whole semitones, or by whole octaves",
        "index_rate": INDEX_RATE.format("synthesised speech's"),
        "rms_mix_rate": "loudness envelope of the result; 0 = the synthesised speech's, 1 = the model output's",
        "keep_format": "write the result at the sample rate of the speech engine",
        "noise_reduction": "strength of noise reduction on the synthesised speech; 0 = off, 1 = maximum",
    }

    text: Positional[str] = Field(default="", description="the text (required unless --file is given)")
    file: GivenPath | None = Field(None, description="a text file, or an SRT subtitle file, whose timing is preserved")
    output: Annotated[GivenPath | None, arg(aliases=["-o"], metavar="PATH")] = Field(
        None,
        description="output file or folder (default: next to the file given by --file, named after it and the voice; "
        "otherwise in the current folder, named after the beginning of the text and the voice)",
    )


def main(args: Sequence[str]) -> int:
    """Run the `cover` or `say` command and return the exit status."""
    command, *words = args
    if command == "cover":
        return report_errors(lambda: _cover(parse_as(CoverArguments, words, f"{PROGRAM} cover")))
    return report_errors(lambda: _say(parse_as(SayArguments, words, f"{PROGRAM} say")))


def _cover(arguments: CoverArguments) -> int:
    from lib.voice.library import find_voice

    found = find_voice(arguments.voice)

    from infer.song.cover import CoverMaker, Sources

    sources = Sources(arguments.song, arguments.vocals, arguments.instrumental)
    main_file = sources.main
    output = _output(arguments, main_file.with_name(f"{main_file.stem}_{found.name}_cover"))
    with terminal(Message("loading the voice"), whole_steps=False) as progress:
        converter = load_voice(arguments, found.path)
        cover = CoverMaker(converter).make(sources, output, arguments, progress)
    _print_cover(cover)
    return 0


def _print_cover(cover: "Cover") -> None:
    print(
        f"{cover.path}  {cover.seconds:.2f} s at {cover.sample_rate} Hz, made in {cover.elapsed_seconds:.2f} s; "
        f"instrumental {cover.instrumental_shift:+d} semitones"
    )
    for path in cover.stems:
        print(f"  {path}")
    if cover.reused:
        print(f"unchanged since an earlier run: {', '.join(cover.reused)}")


def _say(arguments: SayArguments) -> int:
    from lib.voice.library import find_voice

    found = find_voice(arguments.voice)
    lines = read_script(_text(arguments))

    from infer.speech.engines import load_engine
    from infer.speech.say import speak

    if arguments.file is not None:
        name = arguments.file.with_name(f"{arguments.file.stem}_{found.name}")
    else:
        words = "".join(letter if letter.isalnum() else " " for letter in lines[0].text)
        name = Path(f"{'_'.join(words.split())[:LONGEST_NAME]}_{found.name}")
    output = _output(arguments, name)
    with terminal(Message("loading the voice"), whole_steps=False) as progress:
        engine = load_engine(arguments)
        sound = speak(load_voice(arguments, found.path), engine, lines, arguments, progress)
        sound.save(output, progress)
    print(f"{output}  {sound.seconds:.2f} s at {sound.sample_rate} Hz")
    return 0


def _text(arguments: SayArguments) -> str:
    if (arguments.file is None) == (not arguments.text):
        raise ConfigError("Enter text or choose a file, not both.")
    return arguments.text if arguments.file is None else read_text_file(arguments.file)


def _output(arguments: VoiceAndOutput, default: Path) -> Path:
    """Return the file to write. Raises ConfigError if OUTPUT and format contradict each other."""
    output, chosen = arguments.output, arguments.format
    if output is None or output.is_dir() or output.suffix.lower().removeprefix(".") not in AUDIO_FORMATS:
        folder = default.parent if output is None else output
        return folder / f"{default.name}.{chosen or 'wav'}"
    if chosen and output.suffix.lower() != f".{chosen}":
        raise ConfigError(
            "{path} does not end in .{format}. Omit the format, or change the name.", path=output, format=chosen
        )
    return output


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:])))
