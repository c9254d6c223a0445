"""F0 curves as text files: read those of users and other programs, and write files that can be edited and read again.

A row contains a time in seconds and a pitch in Hz, 0 where unvoiced; times count from the start of the recording. RVC's
format has nothing else; tables with a header, more columns, other separators and comments are supported, too. The units
of a table are those in its header, such as `time_ms` and `midi`. Ambiguous files are rejected: an unclear header, more
columns than the header has (or more than two without a header), or pitches too low for a voice.
"""

import codecs
import contextlib
import csv
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lib.errors import ConfigError, MissingFileError
from lib.files import write_text
from lib.pitch.scale import FRAMES_PER_SECOND

CURVE_SUFFIXES = (".csv", ".txt")
MAX_BYTES = 100_000_000  # some ten hours
MAX_LINE = 4000  # characters; longer ones are no points and no header
MIN_PITCH = 20.0  # Hz; a curve below it contains other values: a logarithm, the ends of intervals, halves of numbers
MAX_PITCH = 8000.0  # Hz; above it the columns are probably swapped
MAX_MIDI = 127.0  # the highest note
HEADER = "seconds,Hz"  # of CSV files
UNVOICED = frozenset({"", "-", "--", "--undefined--", "undefined", "none", "null", "na", "n/a", "nan", "unvoiced"})

Converter = Callable[[float], float]


def _scaled(factor: float) -> Converter:
    return lambda value: value * factor


def _midi_to_hz(note: float) -> float:
    if note > MAX_MIDI:
        raise ValueError(note)
    return 440.0 * 2.0 ** ((note - 69.0) / 12.0) if note > 0 else 0.0


# Words in the names of columns: the quantity, its unit, and units whose size the name does not state (the rate of
# frames, the reference of cents).
TIME_WORDS = frozenset({
    "time", "times", "timestamp", "timestamps", "t", "in", "start", "onset", "position",
    "zeit", "temps", "tiempo", "tempo", "zaman",
})  # fmt: skip
TIME_UNITS: dict[str, Converter] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒", "초", "сек"), _scaled(1.0)),
    **dict.fromkeys(
        ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds", "ミリ秒", "毫秒", "밀리초", "мс"),
        _scaled(1e-3),
    ),
    **dict.fromkeys(("us", "usec", "microsecond", "microseconds"), _scaled(1e-6)),
}
OPEN_TIMES = frozenset({"frame", "frames", "sample", "samples", "hop", "hops", "tick", "ticks", "beat", "beats"})
PITCH_WORDS = frozenset({
    "f0", "f", "frequency", "freq", "fundamental", "in", "pitch", "value", "values",
    "frequenz", "grundfrequenz", "frequence", "frecuencia", "frequenza", "frequencia", "frekans",
})  # fmt: skip
PITCH_UNITS: dict[str, Converter] = {
    **dict.fromkeys(("hz", "hertz", "гц"), _scaled(1.0)),
    **dict.fromkeys(("midi", "midinote", "midinotes", "midipitch"), _midi_to_hz),
}
OPEN_PITCHES = frozenset({"cent", "cents", "semitone", "semitones", "st", "bin", "bins", "octave", "octaves", "log"})
ANY_SCALE = frozenset({"pitch", "value", "values", "in"})  # alone, values of at most MAX_MIDI may be Hz or notes
NOTE_WORDS = frozenset({"note", "notes", "number", "nr", "no"})  # redundant beside a unit


class _Columns(NamedTuple):
    """Columns of times and pitches, and their conversion to seconds and Hz; None if the unit is ambiguous."""

    time: int = 0
    pitch: int = 1
    to_seconds: Converter | None = _scaled(1.0)
    to_hertz: Converter | None = _scaled(1.0)
    any_scale: str = ""  # name of the column of pitches, if it does not exclude notes
    width: int = 2  # columns of the table


class PitchCurve(NamedTuple):
    """Points of a curve, in the order of the file."""

    times: npt.NDArray[np.float64]  # (N,) seconds from the start of the recording
    values: npt.NDArray[np.float64]  # (N,) Hz, 0 = unvoiced


def read_curve(path: Path) -> PitchCurve:
    """Read a curve of at least one point.

    Raises MissingFileError if the file does not exist, and ConfigError, with the line number, if it is invalid.
    """
    points: list[tuple[float, float]] = []
    columns: _Columns | None = None
    header = (0, "")  # number and text of the header line
    comment = (0, "")
    for number, line in enumerate(_text(path).splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        if text.startswith("#"):
            comment = comment if points or len(text) > MAX_LINE else (number, text.lstrip("# "))
            continue
        if len(line) > MAX_LINE:
            raise _wrong(path, number, text)
        fields = _fields(line)
        if columns is None:
            is_header = not _is_number(fields[0])
            header = (number, text) if is_header else comment
            columns = _columns(path, *header, None if is_header else len(fields))
            if is_header:
                continue
        points.append(_point(path, number, fields, columns, text))
    if not points or columns is None:
        raise ConfigError("{path} contains no F0 curve; use lines of two numbers, seconds and Hz.", path=path)
    table = np.array(points, dtype=np.float64)
    if 0 < (highest := table[:, 1].max()) < MIN_PITCH:
        raise ConfigError(
            "{path}: no pitch is above {highest:.1f} Hz, too low for a voice. Name the columns in the first line: "
            "time_s or time_ms, and f0_hz or midi.", path=path, highest=highest,
        )  # fmt: skip
    if columns.any_scale and 0 < table[:, 1].max() <= MAX_MIDI:
        raise _open_unit(path, header[0], columns.any_scale)
    return PitchCurve(table[:, 0], table[:, 1])


def _point(path: Path, number: int, fields: list[str], columns: _Columns, text: str) -> tuple[float, float]:
    """Return seconds and Hz of one row. Raises ConfigError if it has none."""
    assert columns.to_seconds is not None and columns.to_hertz is not None
    if (count := _count(fields)) > columns.width:
        raise ConfigError(
            "{path}, line {line}: {text!r} has {count} columns instead of {wanted}. Name all columns in the first line "
            "(time_s, f0_hz), and write numbers with a decimal point.",
            path=path, line=number, text=text[:60], count=count, wanted=columns.width,
        )  # fmt: skip
    try:
        seconds = columns.to_seconds(_number(fields[columns.time]))
        hertz = columns.to_hertz(_pitch(fields[columns.pitch]))
    except (ValueError, IndexError):
        raise _wrong(path, number, text) from None
    if not (0 <= seconds < math.inf and 0 <= hertz <= MAX_PITCH):
        raise _wrong(path, number, text)
    return seconds, hertz


def write_curve(path: Path, f0: npt.NDArray[np.floating[Any]]) -> None:
    """Write (F,) Hz at 100 frames/s, one row per frame, so that reading the file back returns the same values.

    `.csv` files get a header; others have RVC's format, which has none.
    """
    lines = [HEADER] if path.suffix.lower() == ".csv" else []
    lines += [
        f"{frame / FRAMES_PER_SECOND:.2f},{np.format_float_positional(hertz, unique=True, trim='0')}"
        for frame, hertz in enumerate(f0)
    ]
    write_text(path, "\n".join(lines) + "\n")


def _text(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError(path, "Use a file with two numbers, seconds and Hz, on each line.")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            "{path} has {size} bytes; an F0 file may have at most {limit}.",
            path=path,
            size=path.stat().st_size,
            limit=MAX_BYTES,
        )
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as some editors save "Unicode"
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("{path} is not a text file; use lines of two numbers, seconds and Hz.", path=path) from error


def _fields(line: str) -> list[str]:
    """Split a row at its separator: semicolon, tab, comma or blanks.

    With the first two, and in quoted fields, a comma is a decimal point.
    """
    for separator in (";", "\t"):
        if separator in line:
            return [field.strip().replace(",", ".") for field in line.split(separator)]
    if '"' in line and "," in line:
        with contextlib.suppress(csv.Error):
            return [field.strip().replace(",", ".") for field in next(csv.reader([line], skipinitialspace=True))]
    return [field.strip() for field in (line.split(",") if "," in line else line.split())]


def _count(fields: list[str]) -> int:
    """The number of columns up to the last that is not empty."""
    return max((number for number, field in enumerate(fields, start=1) if field), default=0)


def _columns(path: Path, number: int, header: str, width: int | None) -> _Columns:
    """Return the columns named in a header.

    `width` is the number of columns if the header is a comment, which may also be a plain remark. Raises ConfigError if
    it has no column of times or of pitches, or a unit is ambiguous.
    """
    fields = _fields(re.sub(r"(?<!\s)\s+(?=[(\[])", "", header)) if header else []  # "Time (s)" is one name
    if width is not None and len(fields) != width:
        return _Columns()
    times = [_named(field, TIME_WORDS, TIME_UNITS, OPEN_TIMES) for field in fields]
    pitches = [_named(field, PITCH_WORDS, PITCH_UNITS, OPEN_PITCHES) for field in fields]
    time, pitch = (
        min(range(len(fields)), key=lambda i: (ranks[i][0], ranks[i][1] is _midi_to_hz, i), default=0)
        for ranks in (times, pitches)
    )
    if not fields or NOT_NAMED in (times[time][0], pitches[pitch][0]):
        if width is not None:
            return _Columns()
        raise ConfigError(
            "{path}, line {line}: the header {text!r} does not name a column of times and one of pitches. Call them "
            "time_s or time_ms, and f0_hz or midi.",
            path=path,
            line=number,
            text=header[:60],
        )
    for column, (_, convert) in ((time, times[time]), (pitch, pitches[pitch])):
        if convert is None:
            raise _open_unit(path, number, fields[column])
    any_scale = fields[pitch] if _words(fields[pitch]) <= ANY_SCALE else ""
    return _Columns(time, pitch, times[time][1], pitches[pitch][1], any_scale, _count(fields))


STATED, USUAL, OPEN, NOT_NAMED = range(4)  # whether the name of a column states its unit


def _named(
    field: str, plain: frozenset[str], units: Mapping[str, Converter], open_units: frozenset[str]
) -> tuple[int, Converter | None]:
    """Whether the name of a column has a unit of this kind, and the conversion; None if the unit is ambiguous."""
    words = _words(field)
    found = {units[word] for word in words if word in units}
    ignored = NOTE_WORDS if found else frozenset[str]()
    # Words of other languages beside a unit are the name of the quantity.
    rest = {word for word in words - plain - units.keys() - open_units - ignored if word.isascii() or not found}
    if rest or not words:
        return NOT_NAMED, None
    if words & open_units or len(found) > 1:
        return OPEN, None
    return (STATED, found.pop()) if found else (USUAL, _scaled(1.0))


def _words(name: str) -> set[str]:
    """The words of a column's name: "Time (ms)", "time_ms" and "timeMs" have the same."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub("[µμ]", "u", name.strip("\"'")))
    return {word for word in re.split(r"[\W_]+", apart.lower()) if word}


def _pitch(field: str) -> float:
    """The number in a column of pitches; 0 (unvoiced) for negative numbers, NaN and words such as "undefined"."""
    text = field.strip("\"'").lower()
    value = 0.0 if text.strip() in UNVOICED else float(text)
    return 0.0 if math.isnan(value) else max(value, 0.0)


def _number(field: str) -> float:
    return float(field.strip("\"'"))


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True


def _wrong(path: Path, number: int, text: str) -> ConfigError:
    return ConfigError(
        "{path}, line {line}: {text!r} is not a point of an F0 curve; use seconds and Hz (0 to "
        "{highest:.0f}, 0 = unvoiced), such as 1.25,220.5.",
        path=path,
        line=number,
        text=text[:60],
        highest=MAX_PITCH,
    )


def _open_unit(path: Path, number: int, column: str) -> ConfigError:
    return ConfigError(
        "{path}, line {line}: the name of the column {column!r} does not state its unit. Use times in s or ms "
        "(time_s, time_ms) and pitches in Hz or MIDI notes (f0_hz, midi).",
        path=path,
        line=number,
        column=column[:60],
    )
