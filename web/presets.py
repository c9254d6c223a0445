"""Named presets of conversion options, as JSON files on the server."""

from pathlib import Path

from pydantic import ValidationError

from infer.options import ConvertOptions
from lib.errors import ConfigError, MissingFileError
from lib.files import write_json
from lib.json_reader import read_json_table
from lib.paths import check_name, inside

LAST = ".last"  # folder of the options used last, one file per voice; written by earlier versions only
MAX_BYTES = 20_000  # of an imported preset


class Presets:
    """The presets in a folder. Names are checked like those of voices."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """All presets by name."""
        return sorted(path.stem for path in self._folder.glob("*.json") if not path.name.startswith("."))

    def path(self, name: str) -> Path:
        """The file of a preset, which may not exist."""
        return inside(self._folder, f"{check_name(name, 'preset')}.json", "preset")

    def save(self, name: str, options: ConvertOptions) -> None:
        """Save options under a name; an older preset of that name is replaced."""
        write_json(self.path(name), options.model_dump(mode="json", exclude={"device"}))

    def load(self, name: str) -> ConvertOptions:
        """The options of a preset. Raises MissingFileError or ConfigError."""
        path = self.path(name)
        if not path.is_file():
            raise MissingFileError(path, "Choose a preset from the list.")
        return read_preset(path)

    def import_file(self, path: Path) -> str:
        """Add a preset file from outside under its own name, which must be free; returns the name."""
        options = read_preset(path)
        if self.path(path.stem).exists():
            raise ConfigError("A preset named {name} already exists. Rename the file.", name=path.stem)
        self.save(path.stem, options)
        return path.stem

    def remembered(self, voice: str) -> ConvertOptions | None:
        """The options that an earlier version saved as used last with a voice; None if there are none to be read.

        They are now kept in the browser (web/tabs/remembered.py).
        """
        try:
            path = inside(self._folder / LAST, f"{check_name(voice, 'voice')}.json", "preset")
            return read_preset(path) if path.is_file() else None
        except ConfigError:
            return None


def read_preset(path: Path) -> ConvertOptions:
    """Read a preset; raises ConfigError if it is not one. Options it does not name have their defaults."""
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError("{file} is too large for a preset. Choose another file.", file=path.name)
    try:
        values = read_json_table(path, MAX_BYTES)
        if values.keys() <= ConvertOptions.model_fields.keys():
            return ConvertOptions.model_validate(values)
    except (ConfigError, ValidationError) as error:
        raise ConfigError("{file} is not a preset. Choose another file.", file=path.name) from error
    raise ConfigError("{file} is not a preset. Choose another file.", file=path.name)
