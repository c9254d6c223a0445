"""Formats the table of results as plain text, JSON, and an HTML page with audio players."""

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infer.report import draw
from lib.audio import ANALYSIS_RATE
from lib.audio.encode import save_audio
from lib.audio.filters import resample
from lib.errors import ConfigError
from lib.files import replacing, write_text
from lib.pitch import PitchExtractor
from lib.typing import FloatArray
from recipes.quality.figures import Interval, Line

MAX_BYTES = 5_000_000  # of the whole page
PICTURE_WIDTH, PICTURE_COLOURS = 760, 48
COLUMNS = {  # name of a figure: heading, decimals, width on the terminal
    "word_error_rate": ("word error rate", 3, 16),
    "to_voice": ("similarity: voice", 3, 17),
    "to_source": ("to the source", 3, 16),
    "f0_correlation": ("F0 correlation", 3, 16),
    "cents": ("F0 error, cents", 0, 15),
    "voicing": ("voicing", 3, 16),
    "pause_db": ("pauses, dB", 0, 13),
    "clipped": ("clipped", 1, 10),
    "dc": ("DC", 4, 19),
}
HEADINGS = ["set", "clips", "words", *(heading for heading, _, _ in COLUMNS.values())]
_WIDTHS = (38, 5, 5, *(width for _, _, width in COLUMNS.values()))
_EXPLANATION = (
    "Word errors are counted by Whisper. Similarity is the cosine of resemblyzer's speaker embeddings, to recordings "
    "of the voice held out from training and to the source. F0 correlation, median F0 error and voicing agreement "
    "compare the result with the transposed source. Pauses are measured relative to the speech. Clipped is the number "
    "of samples at full scale. Square brackets are 95 % confidence intervals over clips (bootstrap)."
)
_STYLE = (
    "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .6em;text-align:right;white-space:nowrap}"
    "th{white-space:normal}td:first-child,th:first-child{text-align:left}"
)


@dataclass(frozen=True)
class Example:
    """A clip before and after conversion, for the audio players; `name` is used in file names."""

    name: str
    title: str
    source: FloatArray  # (T,) at 16 kHz
    output: FloatArray  # (T,) at `sample_rate`
    sample_rate: int  # Hz


def format_interval(figure: Interval, decimals: int) -> str:
    """Format an interval as ".171 [.120 .224]"; "-" for NaN."""
    if math.isnan(figure.value):
        return "-"
    numbers = (f"{number:.{decimals}f}" for number in (figure.value, figure.low, figure.high))
    value, low, high = (re.sub(r"^(-?)0\.", r"\1.", number) for number in numbers)
    return f"{value} [{low} {high}]"


def cells(line: Line) -> list[str]:
    """Format the metrics of a row, in the order of HEADINGS."""
    intervals = line.intervals()
    shown = [format_interval(intervals[name], decimals) for name, (_, decimals, _) in COLUMNS.items()]
    return [line.name, str(len(line.clips)), str(line.words) if line.words else "-", *shown]


def text_row(values: Sequence[str]) -> str:
    """Format a row of the table for the terminal."""
    first, *others = zip(values, _WIDTHS, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{value:>{width}}" for value, width in others)])


def to_json(lines: Sequence[Line], settings: dict[str, Any]) -> str:
    """Convert the settings, and each row with its intervals and the metrics of its clips, to JSON; null for NaN."""
    rows = [
        {
            "name": line.name,
            "words": line.words,
            "figures": {name: asdict(interval) for name, interval in line.intervals().items()},
            "clips": [{"name": clip.name, "words": clip.words, **asdict(clip.figures)} for clip in line.clips],
        }
        for line in lines
    ]
    return json.dumps(_without_nan({"settings": settings, "lines": rows}), indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_page(
    folder: Path,
    title: str,
    lines: Sequence[Line],
    examples: Sequence[Example],
    settings: dict[str, Any],
    pitch: PitchExtractor | None = None,
) -> None:
    """Write index.html, figures.json and the audio files; with `pitch` also spectrograms with F0.

    Raises ConfigError if the files exceed 5 MB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [path for example in examples for path in _write_example(folder, example, pitch)]
    players = "".join(_player(example, picture=pitch is not None) for example in examples)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADINGS)
    rows = "\n".join(_table_row(line) for line in lines)
    notes = "".join(f"<li>{html.escape(f'{name}: {value}')}</li>" for name, value in settings.items())
    heading = html.escape(title)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{heading}</title><style>{_STYLE}</style>\n'
        f"<h1>{heading}</h1>\n<p>{html.escape(_EXPLANATION)}</p>\n<ul>{notes}</ul>\n"
        f"<table><tr>{head}</tr>\n{rows}\n</table>\n<h2>Examples</h2>\n{players}</html>\n"
    )
    for name, text in {"figures.json": to_json(lines, settings), "index.html": page}.items():
        write_text(folder / name, text)
        written.append(folder / name)
    size = sum(path.stat().st_size for path in written)
    if size > MAX_BYTES:
        raise ConfigError(
            "The page takes {size:.1f} MB, more than {limit:.0f}; leave out pictures or sets.",
            size=size / 1e6,
            limit=MAX_BYTES / 1e6,
        )


def _table_row(line: Line) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells(line))}</tr>"


def _write_example(folder: Path, example: Example, pitch: PitchExtractor | None) -> list[Path]:
    paths = [folder / f"{example.name}-{kind}.opus" for kind in ("source", "converted")]
    save_audio(paths[0], example.source, ANALYSIS_RATE)
    save_audio(paths[1], example.output, example.sample_rate)
    if pitch is not None:
        picture = folder / f"{example.name}.png"
        draw(picture, example.source, resample(example.output, example.sample_rate, ANALYSIS_RATE), pitch)
        _shrink(picture)
        paths.append(picture)
    return paths


def _shrink(picture: Path) -> None:
    """Reduce an image to the width of the page and to a few colours."""
    from PIL import Image

    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    with replacing(picture) as temporary:
        image.quantize(PICTURE_COLOURS).save(temporary, "PNG", optimize=True)


def _player(example: Example, *, picture: bool) -> str:
    name = html.escape(example.name)
    audio = "".join(
        f'{label} <audio controls preload="none" src="{name}-{kind}.opus"></audio> '
        for label, kind in (("source", "source"), ("result", "converted"))
    )
    image = (
        f'<br><img src="{name}.png" alt="spectrograms of source and result" width="{PICTURE_WIDTH}">' if picture else ""
    )
    return f"<h3>{html.escape(example.title)}</h3>\n<p>{audio}{image}</p>\n"
