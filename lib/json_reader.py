"""Reads JSON with limits on size, depth and integers (64 bits). All JSON files
from users and other programs, and those written by this program, are read here.

Callers check the values with Pydantic models.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any

from lib.errors import ConfigError, MissingFileError
from lib.messages import Message

MAX_BYTES = 4 << 20
MAX_DEPTH = 40  # nested lists and tables
MAX_INTEGER = 2**63
MAX_DIGITS = 20  # of an integer


def parse_json(data: bytes | str, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> Any:
    """Parse JSON in UTF-8, with or without a byte order mark. Raises ValueError, with the reason, if it is invalid.

    `allow_nan` accepts NaN and Infinity, which this program writes into files that no other program reads.
    """
    if len(data) > max_bytes:
        raise ValueError(Message("it is larger than {max_bytes} bytes", max_bytes=max_bytes))
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        constant = float if allow_nan else _refuse_number
        value = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=constant)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(Message("it is not valid JSON ({detail})", detail=str(error))) from error
    except RecursionError as error:
        raise _too_deep() from error
    _check_depth(value)
    return value


def read_json(path: Path, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> Any:
    """Read a JSON file. Raises MissingFileError if it does not exist, and ConfigError if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or device might never end
            raise ValueError(Message("it is not a regular file"))
        with path.open("rb") as file:
            return parse_json(file.read(max_bytes + 1), max_bytes, allow_nan=allow_nan)
    except FileNotFoundError as error:
        raise MissingFileError(path, "Check the name and the folder.") from error
    except OSError as error:
        raise ConfigError(
            "{path} cannot be read: {reason}. Check the disk and the permissions.",
            path=path,
            reason=error.strerror or str(error),
        ) from error
    except ValueError as error:
        raise unreadable_json(path, error.args[0]) from error


def read_json_table(path: Path, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> dict[str, Any]:
    """Read a JSON file that must contain a JSON object.

    Raises the same errors as `read_json`, and ConfigError if it contains anything else.
    """
    value = read_json(path, max_bytes, allow_nan=allow_nan)
    if not isinstance(value, dict):
        raise unreadable_json(path, Message("it is not a JSON object"))
    return value


def unreadable_json(path: Path, problem: object) -> ConfigError:
    """Return the error for a JSON file; `problem` is inserted into its message."""
    return ConfigError("{path} cannot be used: {problem}. Delete or repair it.", path=path, problem=problem)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS or not -MAX_INTEGER <= int(digits) < MAX_INTEGER:
        _refuse_number(digits)
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refuse_number(digits)
    return value


def _refuse_number(digits: str) -> Any:
    raise ValueError(Message("the number {number} is out of range", number=digits[:MAX_DIGITS]))


def _too_deep() -> ValueError:
    return ValueError(Message("its values are nested more than {max_depth} levels deep", max_depth=MAX_DEPTH))


def _check_depth(value: Any) -> None:
    """Raise ValueError if arrays and objects are nested too deeply. Works level by level and needs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [item for items in inner for item in items]
    raise _too_deep()
