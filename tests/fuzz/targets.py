"""The parsers to fuzz. A target gets bytes; it may refuse them with a typed error, and everything else is a finding."""

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from starlette.datastructures import Headers

from infer.speech.script import read_script, read_text_file
from lib.audio.decode import load_audio, stated_seconds
from lib.devices import gpu_numbers
from lib.effects.spec import parse_chain
from lib.errors import RevoiceError
from lib.index import FeatureIndex
from lib.index_check import check_structure
from lib.json_reader import MAX_DEPTH, parse_json
from lib.messages import Message
from lib.paths import check_name, given_path
from lib.pitch import split_method
from lib.pitch.curve_file import read_curve
from lib.voice.archive import import_voice
from lib.voice.library import rank_index, standard_experiment
from lib.voice.model_file import METADATA, read_voice_model
from tests.tiny_files import save_voice, small_voice
from train.checkpoint_index import read_index
from train.ckpt.tools import describe
from train.experiment import Experiment
from train.metrics import Events
from train.speakers import read_table
from web.i18n.messages import translated
from web.i18n.placeholders import BEGIN, END, NAME, VALUE, PageTexts, request_language, translate
from web.i18n.translator import LANGUAGES
from web.jobs.requests import REQUESTS, read_request
from web.limits import THIS_MACHINE
from web.presets import read_preset
from web.request_checks import LOOPBACK_NAMES, RequestChecks, host_name

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


def script(data: bytes, folder: Path) -> None:
    """A text to be said, or SRT subtitles: cues in order, none ends before it starts."""
    with _typed_errors():
        lines = read_script(read_text_file(_stored(folder, "x.srt", data)))
        starts = [line.start for line in lines if line.start is not None]
        assert lines and all(line.text for line in lines) and starts == sorted(starts)
        assert all(line.end is None or (line.start or 0) <= line.end for line in lines)


def preset(data: bytes, folder: Path) -> None:
    """A preset: what is read can be written and read again."""
    path = _stored(folder, "x.json", data)
    with _typed_errors():
        options = read_preset(path)
        path.write_text(options.model_dump_json(), encoding="utf-8")
        assert read_preset(path) == options


def experiment(data: bytes, folder: Path) -> None:
    """The JSON files of an experiment, and a request of a job."""
    for name in ("revoice.json", "config.json", "checkpoints.json", "recordings.json", "events.jsonl"):
        _stored(folder, name, data)
    found = Experiment(folder.name, folder.parent, folder)
    for read in (found.record, found.config, lambda: read_index(folder), lambda: read_table(found)):
        with _typed_errors():
            read()
    Events(folder / "events.jsonl").read("fit")
    with contextlib.suppress(ValueError):
        value = parse_json(data)
        for kind in REQUESTS:
            with _typed_errors():
                read_request(kind, value)


def options(data: bytes, folder: Path) -> None:
    """Texts of options and names: chain of effects, pitch method, GPUs, voice."""
    text = data.decode("utf-8", "replace")
    for read in (parse_chain, split_method, lambda text: check_name(text, "voice")):
        with _typed_errors():
            read(text)
    gpu_numbers(text)
    given_path(text)


def request(data: bytes, folder: Path) -> None:
    """Method, path and headers of a request, one a line: it is let through or refused with a status."""
    first, *lines = data.split(b"\n")
    method, _, path = first.decode("latin-1").partition(" ")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in lines)]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "app": None}
    refusal = RequestChecks(None, ["voices.example"])._refuse(scope, THIS_MACHINE)  # type: ignore[arg-type]
    host = Headers(scope=scope).get("host", "")
    assert refusal is not None or host_name(host) in {*LOOPBACK_NAMES, "voices.example"}
    assert request_language(Headers(scope=scope), None) in LANGUAGES


@functools.cache
def _voice() -> dict[str, Any]:
    """The content of a voice's file."""
    with TemporaryDirectory() as folder:
        return save_voice(Path(folder) / "x.pth", small_voice("lite", "24k", prior_blocks=1, vocoder_blocks=1))


def voice_texts(data: bytes, folder: Path) -> None:
    """The texts of a voice, as the page shows them: the file's entries are JSON."""
    with contextlib.suppress(ValueError):
        entries = parse_json(data, 100_000)
        path, content = folder / "x.safetensors", _voice()
        known = {key: value for key, value in content.items() if key != "weight"} | {"tensors": []}
        metadata = known | entries if isinstance(entries, dict) else entries
        save_file(content["weight"], path, {METADATA: json.dumps(metadata)})
        with _typed_errors():
            for name, fact in describe(path).items():
                translated(PageTexts(), f"{name}: {fact}")


def placeholders(data: bytes, folder: Path) -> None:
    """A text with placeholders in any order, translated inside JSON and HTML."""
    text = re.sub(rb"[\x01-\x04]", lambda match: DELIMITERS[match[0]].encode(), data).decode("utf-8", "surrogateescape")
    for in_html in (False, True):
        assert len(translate(text, in_html=in_html)) <= MAX_GROWTH * len(text) + SPARE


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "pth": pth, "safetensors": safetensors, "index": index, "archive": archive, "json": json_text, "curve": curve,
    "index_name": index_name, "audio": audio, "placeholders": placeholders, "script": script, "preset": preset,
    "experiment": experiment, "options": options, "request": request, "voice_texts": voice_texts,
}  # fmt: skip
