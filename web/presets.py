"""Named presets of conversion options, stored as JSON files on the server."""

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
        """Return the names of all presets, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json") if not path.name.startswith("."))

    def path(self, name: str) -> Path:
        """Return the file of a preset, whether or not it exists."""
        return inside(self._folder, f"{check_name(name, 'preset')}.json", "preset")

    def save(self, name: str, options: ConvertOptions) -> None:
        """Save options under a name, replacing any preset of that name."""
        write_json(self.path(name), options.model_dump(mode="json", exclude={"device"}))

    def load(self, name: str) -> ConvertOptions:
        """Load the options of a preset.

        Raises MissingFileError if it does not exist, and ConfigError if it is invalid.
        """
        path = self.path(name)
        if not path.is_file():
            raise MissingFileError(path, "Choose a preset from the list.")
        return read_preset(path)

    def import_file(self, path: Path) -> str:
        """Import an external preset file under its own name, which must be unused; return the name."""
        options = read_preset(path)
        if self.path(path.stem).exists():
            raise ConfigError("A preset named {name} already exists. Rename the file.", name=path.stem)
        self.save(path.stem, options)
        return path.stem

    def remembered(self, voice: str) -> ConvertOptions | None:
        """Return the options last used with a voice, as saved by an earlier version; None if there are no valid ones.

        They are now kept in the browser (web/tabs/remembered.py).
        """
        try:
            path = inside(self._folder / LAST, f"{check_name(voice, 'voice')}.json", "preset")
            return read_preset(path) if path.is_file() else None
        except ConfigError:
            return None


def read_preset(path: Path) -> ConvertOptions:
    """Read a preset; options that it does not contain have their defaults. Raises ConfigError if it is not a preset."""
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError("{file} is too large for a preset. Choose another file.", file=path.name)
    try:
        values = read_json_table(path, MAX_BYTES)
        if values.keys() <= ConvertOptions.model_fields.keys():
            return ConvertOptions.model_validate(values)
    except (ConfigError, ValidationError) as error:
        raise ConfigError("{file} is not a preset. Choose another file.", file=path.name) from error
    raise ConfigError("{file} is not a preset. Choose another file.", file=path.name)
