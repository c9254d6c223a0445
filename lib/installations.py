"""Folders of other programs (RVC, Applio and their forks) whose voices, indexes and weights are used in place.

The list is a text file next to the user's voices, one folder per line. The folders are only read. A copy of such a
folder inside this program's own folder counts as well: assets/weights, for example.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lib.errors import ConfigError, MissingFileError
from lib.files import write_text
from lib.paths import ROOT, WEIGHTS, given_path

LIST = WEIGHTS / "folders.txt"
MAX_FOLDERS = 20
HEADER = "# Folders of RVC, Applio or their forks, one per line. They are read in place and never changed.\n"
VOICE_FOLDERS = ("weights", "assets/weights", "logs/weights")
INDEX_FOLDERS = ("logs", "assets/indices", "indices")
EXPERIMENTS = "logs"  # where Applio keeps voices, each in the folder of its training
WEIGHT_FOLDERS = (  # below an installation: those of RVC, its forks, and Applio
    "", "assets/rmvpe", "assets/hubert", "assets", "pretrained", "pretrained_v2", "assets/pretrained",
    "assets/pretrained_v2", "rvc/models/predictors", "rvc/models/embedders", "rvc/models/pretraineds",
    "rvc/models/pretraineds/hifi-gan",
)  # fmt: skip


def installations(listed: Path = LIST) -> list[Path]:
    """Return the listed folders that exist, at most MAX_FOLDERS."""
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    paths = (Path(line.strip()) for line in lines if line.strip() and not line.startswith("#"))
    return [path for path in paths if path.is_absolute() and _is_folder(path)][:MAX_FOLDERS]


def _is_folder(path: Path) -> bool:
    """Whether a line is the path of a folder; False also for what cannot be a path."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def add_installation(text: str, listed: Path = LIST) -> Path:
    """Add a folder that the user has typed or pasted, and return it.

    Raises MissingFileError if it does not exist, and ConfigError if it contains neither voices nor indexes nor weights,
    or if MAX_FOLDERS folders are listed already.
    """
    folder = given_path(text).absolute()
    if not folder.is_dir():
        raise MissingFileError(folder, "Specify the path of the folder in which the other program is installed.")
    known = installations(listed)
    if folder in known:
        return folder
    if not _is_useful(folder):
        raise ConfigError(
            "{path} contains no voices and no weights that can be used: no .pth file in it, in weights, assets/weights "
            "or logs. Specify the folder in which RVC or Applio is installed.",
            path=folder,
        )
    if len(known) >= MAX_FOLDERS:
        raise ConfigError("There are {count} folders already. Remove one first.", count=len(known))
    _write([*known, folder], listed)
    return folder


def remove_installation(folder: Path, listed: Path = LIST) -> None:
    """Remove a folder from the list; its files stay."""
    _write([path for path in installations(listed) if path != folder], listed)


def _write(folders: Sequence[Path], listed: Path) -> None:
    write_text(listed, HEADER + "".join(f"{folder}\n" for folder in folders))


def _is_useful(folder: Path) -> bool:
    return any(any(place.glob("*.pth")) for place in voice_folders([folder])) or any(
        next(place.glob("*.pt"), None) or next(place.glob("*.pth"), None)
        for place in weight_folders([folder])
        if place.is_dir()
    )


def voice_folders(folders: Sequence[Path] | None = None) -> list[Path]:
    """Return the folders in which the given installations keep voices.

    `folders` defaults to all listed installations, plus the copies inside this program's folder.
    """
    found = [ROOT / "assets/weights"] if folders is None else []
    for folder in installations() if folders is None else folders:
        found += [folder, *(folder / name for name in VOICE_FOLDERS)]
        found += sorted(path for path in (folder / EXPERIMENTS).glob("*") if path.is_dir())
    return [path for path in found if path.is_dir()]


def index_folders() -> list[Path]:
    """Return the folders in which installations keep indexes, including those of their training runs."""
    found = [ROOT / "assets/indices"]
    for folder in installations():
        found += [folder, *(folder / name for name in INDEX_FOLDERS)]
    return [path for path in found if path.is_dir()]


def weight_folders(folders: Sequence[Path] | None = None) -> Iterator[Path]:
    """Return the folders in which installations may keep weights of F0 methods, content encoders and base models."""
    for folder in installations() if folders is None else folders:
        yield from (folder / name for name in WEIGHT_FOLDERS)
