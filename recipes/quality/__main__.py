"""Objective measures of a voice: python -m recipes.quality --voice NAME --whisper FOLDER --held-out FILES ...

Prints a table of word errors, speaker similarity, F0 and artefacts, with one row per set of clips: sources, held-out
recordings of the voice (--held-out), other readers, noisy clips, and any further sets. Each clip is transposed by
whole semitones to the register of the voice and converted with several seeds. Needs requirements-quality.txt.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infer.load import load_converter
from infer.options import ConvertOptions
from lib.audio.decode import list_recordings
from lib.errors import ConfigError, RevoiceError
from lib.files import write_text
from lib.pitch import load_pitch_extractor
from lib.run_main import run_main
from lib.voice.library import find_voice
from lib.voice.model_file import read_voice_model
from recipes.quality.clips import SPLITS, Clip, noisy, read_files, read_folder, read_readers, read_sets
from recipes.quality.evaluation import Evaluator, measure_all, median_f0
from recipes.quality.page import HEADINGS, Example, cells, text_row, to_json, write_page
from recipes.quality.speech_models import Whisper, load_speaker_encoder
from recipes.quality.vocoder import load_vocoder


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--voice", required=True, help="name of a voice, or path to its file")
    parser.add_argument(
        "--whisper", type=Path, required=True, help="folder containing a Whisper model in CTranslate2 format"
    )
    own = "recordings of the voice, files or folders"
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help=f"{own}, not used in training")
    parser.add_argument("--trained", type=Path, nargs="+", default=[], help=f"{own}, used in training")
    parser.add_argument(
        "--data",
        type=Path,
        help="recordings of other speakers: a folder of recordings or, with --readers, LibriSpeech dev-clean laid out "
        "as READER/UTTERANCE.mp3 with transcripts.tsv",
    )
    parser.add_argument(
        "--readers",
        choices=sorted(SPLITS),
        help="which split of the readers in --data to use; use test only for final results",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=FOLDER[:LANGUAGE]",
        help="an additional set of recordings; if it has no transcripts.txt, Whisper's transcript of the source is "
        "used as the reference",
    )
    parser.add_argument(
        "--language", default="en", help="language of the clips in sets that do not specify one (default: en)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        choices=range(1, 10),
        default=3,
        metavar="N",
        help="conversions per clip, with different seeds (default: 3)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed for selecting the clips (default: 0)")
    parser.add_argument("--json", type=Path, help="write the metrics to this JSON file")
    parser.add_argument(
        "--output", type=Path, help="folder for an HTML report with audio players, and for the metrics as JSON"
    )
    parser.add_argument("--pictures", action="store_true", help="include spectrograms in the HTML page")
    return parser.parse_args(arguments)


def expand(paths: list[Path]) -> list[Path]:
    """Return the given files, and the recordings in the given folders."""
    return [file for path in paths for file in (list_recordings(path) if path.is_dir() else [path])]


def read_other_readers(options: argparse.Namespace) -> list[Clip]:
    """Return the clips selected by --data and --readers."""
    if options.data is None:
        if options.readers:
            raise ConfigError("--readers needs --data, the folder of LibriSpeech dev-clean.")
        return []
    if options.readers:
        return read_readers(options.data, options.readers, options.language, options.seed)
    return read_folder(options.data, options.language, options.seed)


def make_evaluator(options: argparse.Namespace) -> Evaluator:
    """Load the voice, Whisper, the speaker encoder and the pitch method."""
    voice, pitch = find_voice(options.voice), load_pitch_extractor("swift", torch.device("cpu"))
    references = read_files(expand(options.held_out), options.language, is_own=True)
    trained_on = read_voice_model(voice.path).extra.get("training_f0")  # low, median, high in Hz
    medians = [trained_on[1]] if trained_on else [median_f0(clip.clean(), pitch) for clip in references]
    return Evaluator(
        load_converter(voice.path, "auto"),
        Whisper(options.whisper),
        load_speaker_encoder(),
        pitch,
        references,
        voice_f0=float(np.median(medians)),
        repeats=options.repeats,
        vocoder=load_vocoder(voice.path, pitch),
    )


def make_examples(evaluator: Evaluator, sets: dict[str, list[Clip]]) -> list[Example]:
    """Convert the first clip of each reader of each set with the default options."""
    examples = []
    for name, clips in sets.items():
        first = dict[str, Clip]()
        for clip in clips:
            first.setdefault(clip.reader, clip)
        for clip in first.values():
            output, shift = evaluator.convert(clip, ConvertOptions(), seed=0)
            title = f"{clip.name} ({name}), transposed by {shift} semitones"
            file = f"{name.replace(' ', '-')}-{clip.name}"
            examples.append(Example(file, title, clip.audio(), output, evaluator.converter.sample_rate))
    return examples


def run(options: argparse.Namespace) -> None:
    """Measure the sets of the options, print the table and write the requested files."""
    readers, sets = read_other_readers(options), read_sets(options.set, options.language, options.seed)
    trained = read_files(expand(options.trained), options.language, is_own=True)
    evaluator = make_evaluator(options)
    settings: dict[str, Any] = {
        "voice": find_voice(options.voice).name,
        "split": options.readers,
        "speakers": ", ".join(sorted({clip.reader for clip in readers})),
        "conversions per clip": options.repeats,
        "seed of the choice of clips": options.seed,
        "default index rate": ConvertOptions().index_rate,
    }
    print(text_row(HEADINGS), flush=True)
    lines = []
    for line in measure_all(evaluator, readers, trained, sets):
        lines.append(line)
        print(text_row(cells(line)), flush=True)
    if options.json:
        write_text(options.json, to_json(lines, settings))
    if options.output:
        shown = {"other readers": readers, "noise": noisy(readers[:1]), "held out": list(evaluator.references), **sets}
        pitch = evaluator.pitch if options.pictures else None
        write_page(
            options.output, f"The voice {settings['voice']}", lines, make_examples(evaluator, shown), settings, pitch
        )


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        run(parse())
    except RevoiceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
