"""Assigns recordings to speakers (one for all, or one per sub-folder), and reads and writes the table of recordings.

The table, `recordings.json` in the folder of an experiment, lists the recordings in order: the names of a recording's
clips begin with its number in this list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lib.audio.decode import list_recordings
from lib.errors import AudioError, ConfigError, MissingFileError
from lib.files import write_json
from lib.json_reader import read_json
from lib.messages import Message
from train.experiment import Clip, Experiment

TABLE = "recordings.json"
MAX_TABLE_BYTES = 64 << 20
MAX_REPEAT = 10  # how often the clips of a speaker with little material are used per epoch
MAX_DIGITS = 4  # of a folder name that is taken as the number of a speaker
MAX_DETAIL = 200  # characters about a damaged table


@dataclass(frozen=True)
class Source:
    """A recording, and the clips cut from it."""

    file: str  # its path below the data, with slashes
    speaker: int
    clips: int = 0
    seconds: float = 0.0  # total length of the clips


_SOURCES = TypeAdapter(tuple[Source, ...])


@dataclass(frozen=True)
class Speaker:
    """One speaker of an experiment."""

    number: int  # row of the speaker embedding
    name: str
    recordings: int
    clips: int
    seconds: float  # total length of the clips
    repeat: int = 1  # how often each clip is used per epoch, so that all speakers are trained equally

    def __str__(self) -> str:
        return (
            f"speaker {self.number} {self.name}: {self.seconds / 60:.1f} min, {self.clips} clips from "
            f"{self.recordings} recordings, repeat {self.repeat}"
        )


@dataclass(frozen=True)
class Plan:
    """The recordings to prepare, grouped by speaker."""

    recordings: tuple[tuple[Path, int], ...]  # with the numbers of their speakers
    names: Mapping[int, str] = field(default_factory=dict)  # empty if all are of one speaker
    left_out: tuple[tuple[Path, Message], ...] = ()  # and why


@dataclass(frozen=True)
class Table:
    """The prepared recordings."""

    recordings: tuple[Source, ...]
    names: Mapping[int, str]  # of the speakers; empty if all recordings are of one

    def recording_of(self, clip: str) -> int:
        """Return the number of the recording from which a clip of this name was cut."""
        return int(clip.partition("_")[0])

    def with_speakers(self, clips: Iterable[Clip]) -> list[Clip]:
        """Return the clips with their speaker numbers, if there are several speakers."""
        if not self.names:
            return list(clips)
        return [replace(clip, speaker_id=self.recordings[self.recording_of(clip.name)].speaker) for clip in clips]

    def speakers(self) -> list[Speaker]:
        """Return the speakers that have clips, sorted by number; an empty list if there is only one speaker."""
        found = []
        recordings: dict[int, list[Source]] = {}
        for item in self.recordings:
            recordings.setdefault(item.speaker, []).append(item)
        for number, name in sorted(self.names.items()):
            own = [item for item in recordings.get(number, ()) if item.clips]
            if own:
                clips, seconds = sum(item.clips for item in own), sum(item.seconds for item in own)
                found.append(Speaker(number, name, len(own), clips, seconds))
        longest = max((speaker.seconds for speaker in found), default=0.0)
        return [replace(item, repeat=min(round(longest / item.seconds), MAX_REPEAT)) for item in found]

    def balanced(self, clips: Iterable[Clip]) -> list[Clip]:
        """Repeat the clips of speakers with less material, at most MAX_REPEAT times, to balance the speakers.

        If there is only one speaker, the clips are returned unchanged.
        """
        repeats = {speaker.number: speaker.repeat for speaker in self.speakers()}
        return [clip for clip in clips for _ in range(repeats.get(clip.speaker_id, 1) if self.names else 1)]


def plan_recordings(data: Path, speakers: str, results: Path | None = None) -> Plan:
    """List the recordings in `data`, a folder with its sub-folders or one file, with their speakers.

    `speakers` is the option: "one", or "folders" for one speaker per sub-folder, whose name is the speaker's name; a
    numeric name is the speaker number. The `results` folder is skipped. Raises MissingFileError, AudioError or
    ConfigError if there is nothing to prepare.
    """
    if speakers == "one":
        paths = list_recordings(data, results) if data.is_dir() or not data.exists() else [data]
        return Plan(tuple((path, 0) for path in paths))
    if not data.exists():
        raise MissingFileError(data, "Specify a folder of recordings.")
    folders = sorted(path for path in data.glob("*") if path.is_dir() and not path.name.startswith("."))
    found, left_out = {}, []
    for folder in folders if results is None else [path for path in folders if path.resolve() != results.resolve()]:
        try:
            found[folder] = list_recordings(folder, results)
        except AudioError as error:
            left_out.append((folder, error.message))
    if not found:
        raise ConfigError(
            "{folder} has no sub-folders with recordings. Put the recordings of each speaker into a sub-folder with "
            "the speaker's name.",
            folder=data,
        )
    left_out += _outside(data)
    numbers = number_speakers([folder.name for folder in found])
    pairs = [(path, numbers[folder.name]) for folder, paths in found.items() for path in paths]
    names = {number: name for name, number in numbers.items()}
    return Plan(tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0]))), names, tuple(left_out))


def _outside(data: Path) -> list[tuple[Path, Message]]:
    """Return a message about recordings that are not in a speaker's folder."""
    count = len([path for path in list_recordings(data) if path.parent == data])
    if not count:
        return []
    reason = Message(
        "{count} recordings in {folder} are in no speaker's sub-folder and were left out. Move them into one.",
        count=count, folder=data,
    )  # fmt: skip
    return [(data, reason)]


def number_speakers(names: Sequence[str]) -> dict[str, int]:
    """Assign a number to each speaker name.

    A numeric name is the number itself; the other names get the lowest unused numbers, in order. Raises ConfigError if
    two names stand for the same number.
    """
    taken: dict[int, str] = {}
    for name in names:
        is_number = name.isdecimal() and len(name) <= MAX_DIGITS
        if is_number and (other := taken.setdefault(int(name), name)) != name:
            raise ConfigError(
                "The folders {first} and {second} have the same speaker number. Rename one of them.",
                first=other, second=name,
            )  # fmt: skip
    numbers = {name: number for number, name in taken.items()}
    free = (number for number in range(len(names) + len(numbers)) if number not in taken)
    return numbers | dict(zip([name for name in names if name not in numbers], free, strict=False))


def write_table(experiment: Experiment, table: Table) -> None:
    """Write the table of an experiment."""
    value = {
        "speakers": {str(number): name for number, name in table.names.items()},
        "recordings": [asdict(item) for item in table.recordings],
    }
    write_json(experiment.folder / TABLE, value)


def read_table(experiment: Experiment) -> Table | None:
    """Read the table of an experiment; None if its clips were prepared without one.

    Raises ConfigError if it is damaged.
    """
    path = experiment.folder / TABLE
    if not path.is_file():
        return None
    value: Any = read_json(path, MAX_TABLE_BYTES)
    try:
        names = {int(number): str(name) for number, name in value["speakers"].items()}
        return Table(_SOURCES.validate_python(value["recordings"]), names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)[:MAX_DETAIL]
        raise ConfigError(
            "{path} is damaged ({detail}). Prepare the recordings again.", path=path, detail=detail
        ) from error
