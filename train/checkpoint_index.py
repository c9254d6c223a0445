"""`checkpoints.json` of an experiment: which G_*.pth and D_*.pth are intact and belong together.

It is written after both files of a pair, with their sizes and checksums, and a checksum of its own. If a file is
damaged, the disk is full or the process is killed, this is detected, and the previous pair is used. Pairs that it does
not list are from RVC or earlier versions and are found by their names and contents.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import CheckpointError, ConfigError
from lib.files import sha256_of, sync_folder, write_json
from lib.json_reader import read_json_table
from train.record import Count, Record, first_problem

logger = logging.getLogger(__name__)

INDEX_NAME = "checkpoints.json"
FORMAT = 1
Number = Annotated[str, Field(pattern="^[0-9]{1,20}$")]  # of a pair, as in the names of its files


class FileFacts(NamedTuple):
    """Size and SHA-256 that a checkpoint file must have."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Pair:
    """The generator and discriminator checkpoints of one save."""

    generator: Path
    discriminator: Path
    epoch: int  # finished
    step: int
    facts: tuple[FileFacts, FileFacts] | None = None  # None: not in the index

    @property
    def files(self) -> tuple[Path, Path]:
        """Both files."""
        return self.generator, self.discriminator

    @property
    def number(self) -> str:
        """The number in the names of both files."""
        return self.generator.stem[2:]

    def verify(self) -> None:
        """Raise CheckpointError if a file differs from the saved one, or if the files are from different saves."""
        from lib.voice.training_state import generator_of

        if self.facts is None:
            claimed = generator_of(self.discriminator)
            if claimed is not None and claimed != sha256_of(self.generator):
                raise CheckpointError(
                    "{path} differs from the file that was saved. It is damaged.", path=self.generator
                )
            return
        for path, facts in zip(self.files, self.facts, strict=True):
            if path.stat().st_size != facts.size or sha256_of(path) != facts.sha256:
                raise CheckpointError("{path} differs from the file that was saved. It is damaged.", path=path)


@dataclass
class CheckpointIndex:
    """The content of `checkpoints.json`. Only the main process changes it, while the experiment is locked."""

    folder: Path
    pairs: dict[str, Pair] = field(default_factory=dict)  # by number
    writing: str | None = None  # the number of the pair that is being written
    deleting: list[str] = field(default_factory=list)  # numbers of pairs that are being deleted
    exported: int | None = None  # the step of the voice in weights/
    record: dict[str, Any] = field(default_factory=dict)  # the stages' record at the last save

    def files_of(self, number: str) -> tuple[Path, Path]:
        """Return the paths of a pair's files."""
        return self.folder / f"G_{number}.pth", self.folder / f"D_{number}.pth"

    def write(self) -> None:
        """Write the file atomically, after flushing the checkpoints' directory entries to disk.

        Raises WriteError if it cannot be written.
        """
        sync_folder(self.folder)
        content: dict[str, Any] = {
            "format": FORMAT,
            "pairs": {
                number: {"epoch": pair.epoch, "step": pair.step, "files": pair.facts}
                for number, pair in self.pairs.items()
            },
            "writing": self.writing, "deleting": self.deleting, "exported": self.exported, "record": self.record,
        }  # fmt: skip
        write_json(self.folder / INDEX_NAME, content | {"checksum": _checksum(content)})

    def begin(self, number: str) -> None:
        """Record which pair is about to be written."""
        self.pairs.pop(number, None)
        self.writing = number
        self.write()

    def add(self, number: str, epoch: int, step: int, *, delete: list[str], record: Mapping[str, Any]) -> None:
        """List a pair whose files have been written, and record which older pairs are going to be deleted."""
        generator, discriminator = self.files_of(number)
        facts = tuple(FileFacts(path.stat().st_size, sha256_of(path)) for path in (generator, discriminator))
        self.pairs[number] = Pair(generator, discriminator, epoch, step, facts)  # type: ignore[arg-type]
        self.writing, self.record = None, dict(record)
        self.deleting = delete
        for old in delete:
            self.pairs.pop(old, None)
        self.write()

    def abandon(self) -> None:
        """Delete the partly written files of the pair recorded by `begin`."""
        if self.writing is not None:
            for path in self.files_of(self.writing):
                path.unlink(missing_ok=True)
            self.writing = None
            self.write()

    def finish(self, exported: int) -> None:
        """Delete the older pairs recorded by `add`. Call it when the voice of the newest pair is in weights/."""
        for number in self.deleting:
            for path in self.files_of(number):
                path.unlink(missing_ok=True)
        self.deleting, self.exported = [], exported
        self.write()

    def recover(self) -> None:
        """Complete or undo a save that was interrupted when the process was killed.

        A completely written pair is listed; the files of a partly written one are deleted.
        """
        if self.writing is None and not self.deleting:
            return
        from lib.voice.training_state import generator_of, peek_progress

        for deleted in self.deleting:
            for path in self.files_of(deleted):
                path.unlink(missing_ok=True)
        self.deleting = []
        if (number := self.writing) is not None:
            generator, discriminator = self.files_of(number)
            try:
                written = generator.is_file() and discriminator.is_file()
                if written and generator_of(discriminator) == sha256_of(generator):
                    epoch, step = peek_progress(generator)
                    self.add(number, epoch, step, delete=[], record=self.record)
                    return
            except CheckpointError:
                pass
            logger.info("removing the remains of an interrupted save of the checkpoints %s", number)
            self.abandon()
            return
        self.write()


_StoredFacts = tuple[Count, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


class _ListedPair(BaseModel):
    """An entry of "pairs" as it is stored."""

    model_config = ConfigDict(strict=True, extra="forbid")
    epoch: Count
    step: Count
    files: tuple[_StoredFacts, _StoredFacts]


class _StoredIndex(BaseModel):
    """The stored values. The numbers become names of files that are deleted, so they must be numbers."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal[1]
    pairs: dict[Number, _ListedPair]
    writing: Number | None
    deleting: list[Number]
    exported: Count | None
    record: dict[str, Any]


def read_index(folder: Path) -> CheckpointIndex:
    """Read the index in an experiment's folder.

    It is empty if there is none, or if it cannot be used, which is logged as a warning.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return CheckpointIndex(folder)
    try:
        content = read_json_table(path)
        if content.pop("checksum", None) != _checksum(content):
            raise ValueError("its checksum is wrong")
        stored = _StoredIndex.model_validate_json(json.dumps(content))
        Record.model_validate(stored.record)
    except (ConfigError, ValueError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        logger.warning("%s cannot be used (%s); the checkpoints are found by their names", path, reason)
        return CheckpointIndex(folder)
    index = CheckpointIndex(folder, {}, stored.writing, stored.deleting, stored.exported, stored.record)
    for number, pair in stored.pairs.items():
        generator, discriminator = (FileFacts(*values) for values in pair.files)
        index.pairs[number] = Pair(*index.files_of(number), pair.epoch, pair.step, (generator, discriminator))
    return index


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_pairs(index: CheckpointIndex) -> tuple[list[Pair], list[CheckpointError]]:
    """Return all pairs that seem intact, those with the most progress first, and the problems of the other files.

    Sizes are compared with the index, but not checksums: `Pair.verify` does that. Files that are being written or
    deleted are ignored.
    """
    from lib.voice.training_state import peek_progress

    pairs: list[Pair] = []
    problems: list[CheckpointError] = []
    passing = {index.writing, *index.deleting} - index.pairs.keys()
    numbers = sorted({path.stem[2:] for letter in "GD" for path in index.folder.glob(f"{letter}_*.pth")} - passing)
    for number in numbers:
        generator, discriminator = index.files_of(number)
        if not (generator.is_file() and discriminator.is_file()):
            lone = generator if generator.is_file() else discriminator
            problems.append(
                CheckpointError(
                    "The counterpart of {path} is missing (G_*.pth and D_*.pth of one number belong together). Restore "
                    "it, or move {name} away to start again.",
                    path=lone, name=lone.name,
                )
            )  # fmt: skip
            continue
        listed = index.pairs.get(number)
        if listed and listed.facts and [path.stat().st_size for path in listed.files] == [f.size for f in listed.facts]:
            pairs.append(listed)
            continue
        try:
            pairs.append(Pair(generator, discriminator, *peek_progress(generator)))
        except CheckpointError as error:
            problems.append(error)
    pairs.sort(key=lambda pair: (pair.epoch, pair.step), reverse=True)
    return pairs, problems
