"""The parsers to fuzz. A target gets bytes; it may refuse them with a typed error, and everything else is a finding."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.audio.decode import load_audio, stated_seconds
from lib.errors import RevoiceError
from lib.index import FeatureIndex
from lib.index_check import check_structure
from lib.json_reader import MAX_DEPTH, parse_json
from lib.messages import Message
from lib.pitch.curve_file import read_curve
from lib.voice.archive import import_voice
from lib.voice.library import rank_index, standard_experiment
from lib.voice.model_file import read_voice_model
from web.i18n.placeholders import BEGIN, END, NAME, VALUE, translate

CORPUS = Path(__file__).parent / "corpus"
MAX_TOLD = 3000  # characters of an error
MAX_GROWTH = 50  # of a text while it is translated, and ...
SPARE = 10_000  # ... characters besides
DELIMITERS = {b"\x01": BEGIN, b"\x02": NAME, b"\x03": VALUE, b"\x04": END}  # in the corpus, which has no random token


@contextlib.contextmanager
def _typed_errors() -> Iterator[None]:
    """Accept a RevoiceError of one sentence."""
    try:
        yield
    except RevoiceError as error:
        assert "\n" not in str(error) and len(str(error)) < MAX_TOLD, error


def _stored(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def pth(data: bytes, folder: Path) -> None:
    """A voice as a torch file: archive or legacy pickle."""
    with _typed_errors():
        read_voice_model(_stored(folder, "x.pth", data))


def safetensors(data: bytes, folder: Path) -> None:
    """A voice as a .safetensors file: header and metadata."""
    with _typed_errors():
        read_voice_model(_stored(folder, "x.safetensors", data))


def index(data: bytes, folder: Path) -> None:
    """An index: what the structure check accepts, faiss must be able to read."""
    path = _stored(folder, "x.index", data)
    with _typed_errors():
        check_structure(path, memoryview(data))
        assert len(FeatureIndex.load(path)) > 0


def archive(data: bytes, folder: Path) -> None:
    """A voice archive: nothing may be written outside of the folders of voices and experiments."""
    weights, logs = folder / "weights", folder / "logs"
    with _typed_errors():
        import_voice(_stored(folder, "x.zip", data), "x", overwrite=True, weights=weights, logs=logs)
    found = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    assert found <= {"x.zip", "weights", "logs"}, found
    for path in (weights, logs):
        shutil.rmtree(path, ignore_errors=True)


def json_text(data: bytes, folder: Path) -> None:
    """JSON: what is read is within the limits."""
    try:
        value = parse_json(data, 100_000)
    except ValueError as error:
        assert isinstance(error.args[0], Message) and len(str(error)) < MAX_TOLD, error
        return
    depth = 0
    level = [value]
    while level := [item for each in level if isinstance(each, list | dict)
                    for item in (each.values() if isinstance(each, dict) else each)]:  # fmt: skip
        depth += 1
    assert depth <= MAX_DEPTH


def curve(data: bytes, folder: Path) -> None:
    """An F0 curve as a text file."""
    with _typed_errors():
        read_curve(_stored(folder, "x.csv", data))


def index_name(data: bytes, folder: Path) -> None:
    """Names of indexes, voices and experiments, one after the other, as they lie in a folder."""
    names = [name or "a" for name in (*data.decode("utf-8", "replace").replace("/", "_").split("\0"), "", "")[:3]]
    stem, experiment, voice = names
    standard_experiment(Path(f"{stem}.index"))
    assert rank_index(stem, experiment, voice) in (None, 0, 1, 2, 3)


def audio(data: bytes, folder: Path) -> None:
    """A recording: its stated length, and its samples."""
    path = _stored(folder, "x.wav", data)
    with _typed_errors():
        stated_seconds(path)
    with _typed_errors():
        assert load_audio(path, 16_000).ndim == 1


def placeholders(data: bytes, folder: Path) -> None:
    """A text with placeholders in any order, translated inside JSON and HTML."""
    text = re.sub(rb"[\x01-\x04]", lambda match: DELIMITERS[match[0]].encode(), data).decode("utf-8", "surrogateescape")
    for in_html in (False, True):
        assert len(translate(text, in_html=in_html)) <= MAX_GROWTH * len(text) + SPARE


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "pth": pth, "safetensors": safetensors, "index": index, "archive": archive, "json": json_text, "curve": curve,
    "index_name": index_name, "audio": audio, "placeholders": placeholders,
}  # fmt: skip
