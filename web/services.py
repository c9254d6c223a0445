"""The backend interface of the web UI. `make_services()` builds the real one; tests inject fakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lib.config import LITE_INDEX_RATE
from lib.devices import choose_device
from lib.errors import ConfigError
from lib.paths import LOGS
from lib.voice.facts import SHIPPED, VoiceFacts, read_facts
from lib.voice.library import (
    Voice,
    delete_voice,
    find_index,
    find_voice,
    list_checkpoints,
    list_indexes,
    list_voices,
    restore_voice,
    voice_roots,
)
from web.jobs.registry import QUEUES, JobRegistry, Runner
from web.jobs.requests import Kind
from web.jobs.runners import make_runners, train
from web.jobs.worker import Worker
from web.presets import Presets

if TYPE_CHECKING:
    from infer.convert import VoiceConverter
    from infer.model_cache import ModelCache
    from lib.progress import Progress
    from lib.voice.intake import Inspected
    from lib.voice.publish import Publication

OWN_INDEX: dict[str, Literal["auto"] | None] = {"auto": "auto", "none": None}  # choices besides the indexes' names
JOBS, PRESETS = ".jobs", ".presets"  # below the folder of logs


@dataclass(frozen=True)
class VoiceCard:
    """An entry of the voice list, created without opening the voice's file."""

    name: str
    indexed: bool
    megabytes: float
    day: str  # 2026-12-31, when its file was written


@dataclass(frozen=True)
class Services:
    """The functions behind the web UI; voices are referred to by name.

    `inspect_files` lists the contents of files, unpacking archives below a temporary folder; `add_files` adds them, a
    single voice under a chosen name, and returns the names of the voices. `fetch_link` downloads the voice files that a
    link points to into a folder; if it is None, links are not allowed. `local` means that only the user of this machine
    can reach the web UI, and may use any of its folders.
    """

    device: str
    registry: JobRegistry
    list_voices: Callable[[], list[str]]
    voice_cards: Callable[[], list[VoiceCard]]
    inspect_files: Callable[[Sequence[Path], Path], "Inspected"]
    add_files: Callable[["Inspected", str | None], list[str]]
    delete_voice: Callable[[str], object]
    undo_delete: Callable[[], str]
    voice_range: Callable[[str], tuple[float, float, float] | None]  # F0 in Hz: low, median, high
    voice_family: Callable[[str], str]
    index_rate: Callable[[str], float]  # recommended by a voice
    speaker_names: Callable[[str], dict[int, str]]  # of a voice, those that its file contains
    presets: Presets
    list_checkpoints: Callable[[], dict[str, Path]]  # by "experiment/file name"
    list_indexes: Callable[[], dict[str, Path]]  # by "folder/name"
    folder: Path  # for files that the web UI writes and offers for download
    files: Path  # jobs and their results, which the web UI may show
    local: bool = True
    voice_facts: Callable[[bool], Mapping[str, VoiceFacts]] = lambda open_files: {}  # by the voices' names
    fetch_link: Callable[[str, Path, "Progress"], list[Path]] | None = None
    publish: Callable[[str, "Publication", str], str] | None = None  # voice, where and how, token -> address


def make_services(
    folder: Path,
    device: str = "auto",
    roots: Sequence[Path] | None = None,
    logs: Path = LOGS,
    *,
    local: bool = True,
    links: bool | None = None,
    runners: Mapping[Kind, Runner] | None = None,
) -> Services:
    """Connect the web UI to `infer` and `train`: voices from `roots`, jobs and their results in logs/.jobs.

    `roots` defaults to `lib.voice.library.voice_roots`. `links` specifies whether users may enter links to download; it
    defaults to `local`. Raises ConfigError if the device cannot be used.
    """
    home = (roots or voice_roots())[0]
    inspect, add, fetch_link = _intake(home, roots, logs, local=local)
    return Services(
        device=_usable(device),
        registry=JobRegistry(logs / JOBS, runners or converting_runners(roots)),
        list_voices=lambda: [voice.name for voice in list_voices(roots)],
        voice_cards=lambda: [_card(voice) for voice in list_voices(roots)],
        inspect_files=inspect,
        add_files=add,
        delete_voice=lambda name: delete_voice(name, home),
        undo_delete=lambda: restore_voice(home),
        voice_facts=lambda open_files: facts_of_voices(roots, open_files=open_files),
        voice_range=lambda name: voice_range(name, roots),
        voice_family=lambda name: family_of(name, roots),
        index_rate=lambda name: index_rate(name, roots),
        speaker_names=lambda name: names_of_speakers(name, roots),
        presets=Presets(logs / PRESETS),
        list_checkpoints=lambda: {f"{path.parent.name}/{path.name}": path for path in list_checkpoints(logs)},
        list_indexes=list_indexes,
        folder=folder,
        files=logs / JOBS,
        local=local,
        publish=lambda name, publication, token: publish(find_voice(name, roots).path, publication, token),
        fetch_link=fetch_link if (local if links is None else links) else None,
    )


def _usable(device: str) -> str:
    """Return the device.

    Neither "auto" nor "cpu", which can always be used, is checked, because that would import torch too early. Raises
    ConfigError if the device cannot be used.
    """
    if device not in ("auto", "cpu"):
        choose_device(device)
    return device


def _intake(
    home: Path, roots: Sequence[Path] | None, logs: Path, *, local: bool
) -> tuple[
    Callable[[Sequence[Path], Path], "Inspected"],
    Callable[["Inspected", str | None], list[str]],
    Callable[[str, Path, "Progress"], list[Path]],
]:
    """`inspect_files`, `add_files` and `fetch_link` of Services, for voices in `home`."""

    def inspect(files: Sequence[Path], folder: Path) -> "Inspected":
        from lib.voice.intake import inspect_files

        return inspect_files(files, folder, logs=logs, roots=roots)

    def add(found: "Inspected", name: str | None) -> list[str]:
        from lib.voice.intake import install

        return install(found, name, weights=home, logs=logs)

    def fetch_link(link: str, folder: Path, progress: "Progress") -> list[Path]:
        from lib.voice.links import fetch_voices

        return fetch_voices(link, folder, progress, own=local)

    return inspect, add, fetch_link


def converting_runners(roots: Sequence[Path] | None = None) -> dict[Kind, Runner]:
    """Return the runners of all job kinds, for the voices of `roots`; loaded voices stay in memory."""
    voices = _VoiceCache()

    def load(chosen: str, index: str, device: str) -> "VoiceConverter":
        # Only listed voices may be opened: the web UI must not give access to other files of this machine.
        voice = next((voice for voice in list_voices(roots) if voice.name == chosen), None)
        if voice is None:
            raise ConfigError("There is no voice {voice}. Select one from the list.", voice=chosen)
        if index in OWN_INDEX:
            return voices.get(voice, OWN_INDEX[index], device)
        indexes = list_indexes()
        if index not in indexes:
            raise ConfigError("There is no index {index}. Select one from the list, or auto.", index=index)
        return voices.get(voice, indexes[index], device)

    return make_runners(load)


def in_subprocess(worker: Worker) -> dict[Kind, Runner]:
    """Return runners that convert in the worker process; every training job starts its own processes."""
    return {"train": train, **{kind: worker.runner(kind) for kind in QUEUES[0]}}


def _card(voice: Voice) -> VoiceCard:
    about = voice.path.stat()
    day = datetime.fromtimestamp(about.st_mtime).date().isoformat()
    return VoiceCard(voice.name, find_index(voice.path) is not None, about.st_size / 1e6, day)


def publish(voice: Path, publication: "Publication", token: str) -> str:
    """Upload a voice and its index to the account that the token belongs to; return the URL."""
    from lib.voice.publish import publish_voice

    return publish_voice(voice, find_index(voice), publication, token)


def facts_of_voices(roots: Sequence[Path] | None = None, *, open_files: bool = False) -> dict[str, VoiceFacts]:
    """Return the metadata of every voice, keyed by its name; `open_files` reads voice files, too."""
    return {voice.name: read_facts(voice.path, open_file=open_files) for voice in list_voices(roots)}


def voice_range(name: str, roots: Sequence[Path] | None = None) -> tuple[float, float, float] | None:
    """Return the 5th, 50th and 95th percentiles in Hz of the F0 that a voice was trained on; None if not recorded."""
    from lib.voice.model_file import read_voice_model, training_range

    return training_range(read_voice_model(find_voice(name, roots).path))


def family_of(name: str, roots: Sequence[Path] | None = None) -> str:
    """Return the family of a voice."""
    from lib.voice.model_file import read_voice_model

    return read_voice_model(find_voice(name, roots).path).family


def index_rate(name: str, roots: Sequence[Path] | None = None) -> float:
    """Return the recommended index rate of a voice, or the default of its family."""
    path = find_voice(name, roots).path
    if path.parent == SHIPPED.parent:
        return LITE_INDEX_RATE  # at once: reading a file takes seconds until torch is imported
    from lib.voice.model_file import read_voice_model, recommended_index_rate

    return recommended_index_rate(read_voice_model(path))


def names_of_speakers(name: str, roots: Sequence[Path] | None = None) -> dict[int, str]:
    """Return the speaker names that a voice's file contains, keyed by speaker number."""
    from lib.voice.model_file import read_voice_model, speaker_names

    return speaker_names(read_voice_model(find_voice(name, roots).path))


class _VoiceCache:
    """Voices, networks and features of recordings in memory; created at the first use, because it imports torch."""

    def __init__(self) -> None:
        self._cache: ModelCache | None = None

    def get(self, voice: Voice, index: Path | Literal["auto"] | None, device: str) -> "VoiceConverter":
        """Return the converter of a voice; the index "auto" is the one that belongs to it."""
        from infer.load import load_converter
        from infer.model_cache import ModelCache

        self._cache = self._cache or ModelCache()
        return load_converter(voice.path, index, choose_device(device), cache=self._cache, label=voice.name)
