"""What the page can do, as an object of functions: a test passes others; make_services() is the real ones."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infer.batch import Job, convert_file
from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from lib.checkpoint import read_voice_model
from lib.devices import choose_device
from lib.errors import ConfigError
from lib.library import VOICE_ROOTS, Voice, find_index, list_voices
from lib.progress import Progress
from lib.voice_archive import import_voice

RESULT_SECONDS = 3600  # results older than this are deleted before the next conversion
NAME_PART = 28  # characters of recording and of voice in a result's name: together below 255 bytes in any script


@dataclass(frozen=True)
class Conversion:
    """A finished conversion and what there is to tell about it."""

    path: Path
    audio_seconds: float  # length of the recording
    elapsed_seconds: float  # time it took, decoding and writing included
    sample_rate: int  # Hz, of the result
    pitch_method: str | None  # None for a voice that uses no F0
    index: str | None  # file name; None if no index was used
    device: str


@dataclass(frozen=True)
class Services:
    """The functions behind the page. `convert` takes recording, name of a listed voice, options and progress.

    `import_voice` takes a voice archive (NAME.zip) and returns the name of the voice that was in it.
    """

    device: str
    list_voices: Callable[[], list[str]]
    convert: Callable[[Path, str, ConvertOptions, Progress], Conversion]
    import_voice: Callable[[Path], str]


def make_services(folder: Path, device: str = "auto", roots: Sequence[Path] = VOICE_ROOTS) -> Services:
    """Connect the page to `infer`: voices from `roots`, results under `folder`. ConfigError for an unusable device."""
    choose_device(device)
    kept = _KeptConverter(device)

    def convert(path: Path, chosen: str, options: ConvertOptions, progress: Progress) -> Conversion:
        # Only what is listed may be opened: the page must not become a way to read other files of this machine.
        voice = next((voice for voice in list_voices(roots) if voice.name == chosen), None)
        if voice is None:
            raise ConfigError(f"There is no voice {chosen!r} any more. Choose one from the list.")
        progress(0, 1, "loading the voice")
        converter, index = kept.get(voice)
        name = f"{path.stem[:NAME_PART]}_{voice.name[:NAME_PART]}.wav"
        output = _fresh_folder(folder / "results") / name
        done = convert_file(converter, Job(path, output), options, progress)
        return Conversion(
            done.output,
            done.audio_seconds,
            done.elapsed_seconds,
            done.sample_rate,
            done.pitch_method,
            index.name if index and options.index_rate > 0 else None,
            f"{converter.device.device} ({converter.device.reason})",
        )

    def import_archive(archive: Path) -> str:
        return import_voice(archive, weights=roots[0]).name

    return Services(device, lambda: [voice.name for voice in list_voices(roots)], convert, import_archive)


def _fresh_folder(results: Path) -> Path:
    """Make a folder for one result, and delete old ones: the page has its own copies."""
    results.mkdir(exist_ok=True)
    for old in results.iterdir():
        if time.time() - old.stat().st_mtime > RESULT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=results))


class _KeptConverter:
    """Keeps the voice that was used last, so that converting again with it loads nothing; one at a time, for memory."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._key: tuple[object, ...] = ()
        self._converter: VoiceConverter | None = None
        self._index: Path | None = None

    def get(self, voice: Voice) -> tuple[VoiceConverter, Path | None]:
        """Return the converter of a voice and the index it uses; loads again if one of the files has changed."""
        index = find_index(voice.path)
        key = (voice.path, voice.path.stat().st_mtime_ns, index, index.stat().st_mtime_ns if index else 0)
        with self._lock:
            if self._converter is None or key != self._key:
                self._converter = None  # frees the old one before the new one is loaded
                model = read_voice_model(voice.path)
                self._index = find_index(voice.path, model.family)
                device = choose_device(self._device)
                self._converter = VoiceConverter.from_voice(model, self._index, device, where=voice.name)
                self._key = key
            return self._converter, self._index
