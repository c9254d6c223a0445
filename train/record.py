"""Reads `revoice.json`, the record of an experiment's stages, and checks all values that the stages use."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lib.json_reader import read_json_table, unreadable_json


def _plain_name(name: str) -> str:
    if name != Path(name).name or "\\" in name:
        raise ValueError("a file name without a folder is needed")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]
Count = Annotated[int, Field(ge=0)]


class Stage(BaseModel, extra="allow"):
    """The fields of a stage's record that later stages use."""

    made_from: str | None = None
    clips: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    f0_range: list[float] | None = None  # Hz
    interpolate_unvoiced: bool | None = None
    content_encoder: str | None = None
    file: FileName = ""
    vectors: Count = 0
    checkpoints: list[Count] = []
    precision: str = "auto"
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    voice: str = ""


class Record(BaseModel, extra="allow"):
    """The stages of an experiment, and the folders that this program has created."""

    made: list[FileName] = []
    prepare: Stage = Stage()
    extract: Stage = Stage()
    index: Stage = Stage()
    fit: Stage = Stage()


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of an experiment as it was written; {} if there is none. Raises ConfigError if it is damaged."""
    if not path.is_file():
        return {}
    record = read_json_table(path)
    try:
        Record.model_validate(record)
    except ValidationError as error:
        raise unreadable_json(path, first_problem(error)) from error
    return record


def first_problem(error: ValidationError) -> str:
    """Return the location of the first invalid value, and why it is invalid."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
