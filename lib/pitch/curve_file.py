"""F0 curves as text files: read those of users and other programs, write one that can be edited and read again.

A line has a time in seconds and a pitch in Hz, 0 where unvoiced; times count from the start of the recording. RVC's
form has nothing else; tables with a header, more columns, other separators and comments are read too.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lib.errors import ConfigError, MissingFileError
from lib.files import write_text
from lib.pitch.scale import FRAMES_PER_SECOND

CURVE_SUFFIXES = (".csv", ".txt")
MAX_BYTES = 100_000_000  # some ten hours
MAX_PITCH = 8000.0  # Hz; above it the columns are probably swapped
HEADER = "seconds,Hz"  # of CSV files
TIME_NAMES = ("seconds", "time", "timestamp", "timestamps", "times", "t", "s", "sec")
PITCH_NAMES = ("hz", "f0", "frequency", "pitch", "pitch_hz", "f0_hz", "frequency_hz", "hertz", "value")


class PitchCurve(NamedTuple):
    """Points of a curve, in the order of the file."""

    times: npt.NDArray[np.float64]  # (N,) seconds from the start of the recording
    values: npt.NDArray[np.float64]  # (N,) Hz, 0 = unvoiced


def read_curve(path: Path) -> PitchCurve:
    """Read a curve of at least one point. MissingFileError, or ConfigError that names the line."""
    points = []
    columns: tuple[int, int] | None = None
    for number, line in enumerate(_text(path).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        fields = _fields(text)
        if columns is None:
            columns = _header(fields) or (0, 1)
            if not _is_number(fields[0]):
                continue  # a header, known or not
        try:
            points.append((_number(fields[columns[0]]), _number(fields[columns[1]])))
        except (ValueError, IndexError):
            raise _wrong(path, number, text) from None
        seconds, hertz = points[-1]
        if not (0 <= seconds < math.inf and 0 <= hertz <= MAX_PITCH):
            raise _wrong(path, number, text)
    if not points:
        raise ConfigError("{path} holds no F0 curve; give lines of two numbers, seconds and Hz.", path=path)
    table = np.array(points, dtype=np.float64)
    return PitchCurve(table[:, 0], table[:, 1])


def write_curve(path: Path, f0: npt.NDArray[np.floating[Any]]) -> None:
    """Write (F,) Hz at 100 frames/s, one line per frame, so that reading returns the same numbers.

    `.csv` files get a header; others have RVC's form, which has none.
    """
    lines = [HEADER] if path.suffix.lower() == ".csv" else []
    lines += [
        f"{frame / FRAMES_PER_SECOND:.2f},{np.format_float_positional(hertz, unique=True, trim='0')}"
        for frame, hertz in enumerate(f0)
    ]
    write_text(path, "\n".join(lines) + "\n")


def _text(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError(path, "Give a file of lines with two numbers, seconds and Hz.")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            "{path} has {size} bytes; an F0 file may have {limit} at most.",
            path=path,
            size=path.stat().st_size,
            limit=MAX_BYTES,
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("{path} is not a text file; give lines of two numbers, seconds and Hz.", path=path) from error


def _fields(line: str) -> list[str]:
    """Cut a line at its separator: semicolon, tab, comma or blanks. Only beside the first two a comma is a point."""
    for separator in (";", "\t"):
        if separator in line:
            return [field.strip().replace(",", ".") for field in line.split(separator)]
    return [field.strip() for field in (line.split(",") if "," in line else line.split())]


def _header(fields: list[str]) -> tuple[int, int] | None:
    """Find the columns of time and pitch by their names, if the line has such names."""
    names = [re.sub(r"[^a-z0-9]+", "_", field.strip("\"'").lower()).strip("_") for field in fields]
    time = next((i for i, name in enumerate(names) if name in TIME_NAMES), None)
    pitch = next((i for i, name in enumerate(names) if name in PITCH_NAMES), None)
    return None if time is None or pitch is None else (time, pitch)


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
        "{path}, line {line}: {text!r} is not a point of an F0 curve; give seconds and Hz (0 to "
        "{highest:.0f}, 0 = unvoiced), such as 1.25,220.5.",
        path=path,
        line=number,
        text=text[:60],
        highest=MAX_PITCH,
    )
