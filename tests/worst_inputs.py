"""Every parser of outside text, and a megabyte of its worst inputs; imported by tests/test_worst_inputs.py.

A parser may return or refuse with a typed error. All inputs of one run in a child process with a limit of processor
time, ten times what they usually take.
"""

import contextlib
import logging
import struct
import wave
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from fastapi import Request
from pydantic import ValidationError
from safetensors.torch import save_file

from infer.options import ConvertOptions
from infer.speech.script import read_script, read_text_file
from lib import bug_report, devices, machine
from lib.audio import decode, tags
from lib.config import read_config
from lib.errors import RevoiceError
from lib.installations import installations
from lib.json_reader import parse_json
from lib.messages import Message
from lib.paths import check_name, given_path
from lib.pitch.curve_file import read_curve
from lib.voice import archive_entries, intake, library
from lib.voice.archive import import_voice
from lib.voice.model_file import METADATA, checked_text, find_speaker, read_voice_model, speaker_names
from tests.tiny_files import save_voice, small_voice
from tests.work import processor_limit
from train.checkpoint_index import read_index
from train.experiment import Experiment
from train.metrics import Events
from train.record import read_record
from train.speakers import number_speakers, read_table
from web import presets, request_checks
from web.app import ROOT_PATH
from web.i18n import placeholders, translator
from web.jobs.registry import JobRegistry
from web.jobs.requests import REQUESTS, read_request
from web.validation import checked

SIZE = 1_000_000  # characters
MAX_TOLD = 3000  # characters of an error
UNITS = (
    "a",
    "a: ",
    "é",
    "[",
    '"',
    "\\",
    " ",
    "\n",
    ";",
    ",",
    "1",
    "/ ",
    "\0",
)  # of which all texts are made
FILE_NAME = 255  # bytes that a name in a folder has at most
SECONDS = 60  # of processor time for all inputs of a parser; ten times what the slowest takes
Parser = Callable[[str, Path], object]


class Case(NamedTuple):
    """A parser; the texts around the worst input, whose place is @; and units for this parser only."""

    parse: Parser
    frames: tuple[str, ...] = ("@",)
    units: tuple[str, ...] = ()


def stored(folder: Path, name: str, text: str | bytes) -> Path:
    """A file with this content."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def curve(text: str, folder: Path) -> object:
    return read_curve(stored(folder, "x.csv", text))


def json_file(text: str, folder: Path) -> object:
    return parse_json(text)


def preset(text: str, folder: Path) -> object:
    return presets.Presets(folder / "presets").import_file(stored(folder, "x.json", text))


def record(text: str, folder: Path) -> object:
    return read_record(stored(folder, "revoice.json", text))


def table(text: str, folder: Path) -> object:
    experiment = Experiment("x", folder, folder)
    stored(folder, "x/recordings.json", text)
    found = read_table(experiment)
    return found and found.speakers()


def config(text: str, folder: Path) -> object:
    return read_config(stored(folder, "config.json", text))


def checkpoints(text: str, folder: Path) -> object:
    stored(folder, "checkpoints.json", text)
    return read_index(folder)


def job(text: str, folder: Path) -> object:
    name = "0123456789abcdef"
    stored(folder, f"jobs/{name}/job.json", text)
    registry = JobRegistry(folder / "jobs", {})
    registry.close()
    return registry


def events(text: str, folder: Path) -> object:
    return Events(stored(folder, "events.jsonl", text)).read("fit")


def script(text: str, folder: Path) -> object:
    return read_script(read_text_file(stored(folder, "x.srt", text)))


def short_script(text: str, folder: Path) -> object:
    """As long as a text may be."""
    return read_script(text[:200_000])


def folders(text: str, folder: Path) -> object:
    return installations(stored(folder, "folders.txt", text))


def voice_texts(text: str, folder: Path) -> object:
    """A voice whose texts and names are that long."""
    content = save_voice(folder / "a.pth", small_voice())
    for entry in ("info", "sr", "version", "author", "speaker_names"):
        torch.save(content | {entry: text if entry != "speaker_names" else {"0": text, text: "a"}}, folder / "x.pth")
        with contextlib.suppress(RevoiceError):
            voice = read_voice_model(folder / "x.pth")
            speaker_names(voice)
    return None


def safetensors_metadata(text: str, folder: Path) -> object:
    save_file(small_voice().weights, folder / "x.safetensors", {METADATA: text})
    return read_voice_model(folder / "x.safetensors")


def archive_card(text: str, folder: Path) -> object:
    save_voice(folder / "a.pth", small_voice())
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.write(folder / "a.pth", "a.pth")
        archive.writestr("card.json", text)
    return import_voice(folder / "x.zip", None, overwrite=True, weights=folder / "weights", logs=folder / "logs")


def archive_names(text: str, folder: Path) -> object:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for i in range(15):
            info = zipfile.ZipInfo("a")
            info.filename = f"{i}{text.encode()[:60_000].decode(errors='ignore')}.pth"
            archive.writestr(info, b"")
    with zipfile.ZipFile(folder / "x.zip") as archive:
        return archive_entries.checked_entries(archive, folder / "x.zip")


def audio_tags(text: str, folder: Path) -> object:
    """A WAV file with a long title and many cue points."""
    with wave.open(str(folder / "x.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    data = (folder / "x.wav").read_bytes()
    title = text.encode()
    title += b"\0" * (2 - len(title) % 2)
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    cues = struct.pack("<I", 40_000) + b"".join(struct.pack("<II4sIII", i, 0, b"data", 0, 0, i) for i in range(40_000))
    data += b"LIST" + struct.pack("<I", len(info)) + info + b"cue " + struct.pack("<I", len(cues)) + cues
    path = stored(folder, "x.wav", data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return tags.read_tags(path), decode.stated_seconds(path), decode.load_audio(path, 16_000)


# --- texts of options, names and requests -----------------------------------------------------------------------------


def option(name: str) -> Parser:
    """One option of a conversion, as page and API read it."""
    return lambda text, _: checked(ConvertOptions, {name: text})


def many_options(text: str, folder: Path) -> object:
    return ConvertOptions.model_validate({text: text, "key": text, "scale": text, "effects": text})


def names(text: str, folder: Path) -> object:
    for place in ("voice", "experiment", "preset"):
        with contextlib.suppress(RevoiceError):
            check_name(text, place)
    given_path(text)
    return intake.free_name(text, [text])


def voice_name(text: str, folder: Path) -> object:
    stored(folder, f"voices/{'a' * 90}.pth", "")
    return library.find_voice(text, [folder / "voices"])


def index_name(text: str, folder: Path) -> object:
    text = text[:FILE_NAME]
    half = text[: len(text) // 2]
    library.standard_experiment(Path(f"{text}.index"))
    library.experiment_of(text)
    for words in ((text, "a", "b"), (half, half, half), (half, half + "x", text), ("a", text, text)):
        intake._rank(words[0], words[2])
        library.rank_index(*words)
    return None


def speaker(text: str, folder: Path) -> object:
    return find_speaker(small_voice(), text)


def edit_fields(text: str, folder: Path) -> object:
    from train.ckpt.tools import edit

    voice = small_voice()
    for field in ("info", "author", "licence", "speakers"):
        with contextlib.suppress(RevoiceError):
            edit(voice, **{field: text})
    return checked_text("info", text)


def speaker_folders(text: str, folder: Path) -> object:
    return number_speakers([text[:9] + str(i) for i in range(20_000)] + [str(i) for i in range(9_000)])


def requests(text: str, folder: Path) -> object:
    for kind in REQUESTS:
        with contextlib.suppress(RevoiceError):
            read_request(
                kind, {name: text for name in ("voice", "name", "recording", "index", "format", "text", "stage")}
            )
    return None


def headers(text: str, folder: Path) -> object:
    """What is read of a request before its body."""
    for path in ("/", "/gradio_api/cancel", "/login"):
        raw = [
            (name.encode(), text.encode("latin-1", "replace"))
            for name in (
                "host",
                "origin",
                "cookie",
                "accept-language",
                "sec-fetch-site",
                "content-length",
                "content-type",
            )
        ]
        scope: Any = {"type": "http", "method": "POST", "path": path, "headers": raw, "app": None}
        request = Request(scope)
        request_checks.host_name(text)
        request_checks._from_this_page(scope, path, request.headers)
        request_checks.RequestChecks(None, [])._refuse(scope, "")  # type: ignore[arg-type]
        placeholders.request_language(request.headers, None)
        translator.cookie_language(text)
        translator.choose_language(text, text, None)
    request_checks.route_path({"path": text, "root_path": text[:1000]})
    ROOT_PATH.fullmatch(text)
    return None


def translated(text: str, folder: Path) -> object:
    return placeholders.translate(text), placeholders.PageTexts().bounded(text)


def report_texts(text: str, folder: Path) -> object:
    return bug_report.without_private_parts(text)


def messages_of_libraries(text: str, folder: Path) -> object:
    return [machine.machine_error(kind(text)) for kind in (OSError, RuntimeError, MemoryError)]


def device(text: str, folder: Path) -> object:
    return devices.choose_device(text)


JSON = ('{"a": "@"}', '["@"]', "[@]", "[[@]]", '{"@": 1}')
CUE = "00:00:00,000 --> 00:00:01,000\n"
PARSERS: dict[str, Case] = {
    "F0 curve": Case(curve, ("@", "time,hz\n@", "a@b", "0,@\n", "time@;f0\n"), ("1,2\n", "\t", "a b", "(s) ", "\r\n")),
    "JSON": Case(json_file, ("@", *JSON), ("1,", '"",', "[]", '{"a":')),
    "preset": Case(preset),
    "record": Case(record, ("@", '{"made": ["@"]}', '{"fit": {"checkpoints": [@1]}}'), ("1,", '"",')),
    "table of recordings": Case(table, ("@", '{"speakers": {"0": "@"}, "recordings": []}')),
    "config": Case(config, ("@", '{"model": {"@": 1}}')),
    "checkpoints": Case(checkpoints),
    "job": Case(job, ("@", '{"title": "@"}')),
    "events": Case(events, ("@", '{"stage": "@", "done": 1}'), ("{}\n",)),
    "script": Case(script, units=(". ", ".'", "。", CUE)),
    "longest script": Case(short_script, ("@", f"{CUE}@"), (". ", ".'", "。", "<b>", "<", "{\\", "\n \n", CUE)),
    "folders": Case(folders, units=("/\n",)),
    "texts of a voice": Case(voice_texts),
    "metadata of safetensors": Case(safetensors_metadata, ("@", '{"tensors": [], "config": ["@"]}')),
    "card of an archive": Case(archive_card, ("@", '{"name": "@"}')),
    "names in an archive": Case(archive_names),
    "tags and cue points": Case(audio_tags),
    "effects": Case(option("effects"), ("@", "eq=@", "vocal,@"), ("vocal,", "eq=1:1:1,", "1:")),
    "pitch method": Case(option("pitch_method"), ("@", "hybrid[@]"), ("hybrid[", "pm+", "+")),
    "key": Case(option("key")),
    "options": Case(many_options),
    "names": Case(names, units=("file:/", "~", "%41", ".")),
    "name of a voice": Case(voice_name, units=("../", "file:/", "~")),
    "name of an index": Case(
        index_name,
        ("@", "added_IVF1_Flat@_v2", "added_IVF@_Flat_nprobe_1_a_v2"),
        ("_", "_e1_s1", "_1e_1s", "_nprobe_1", "a_", "-"),
    ),
    "name of a speaker": Case(speaker),
    "fields of an edit": Case(edit_fields),
    "folders of speakers": Case(speaker_folders),
    "requests": Case(requests),
    "headers": Case(headers, ("@", "en;q=@", "http://@"), ("; q=", "a=b;", "en;q=0.1,", "a.")),
    "translated text": Case(translated),
    "bug report": Case(report_texts, units=("/a", "C:\\", "C:\\a ", " /a b")),
    "messages of libraries": Case(messages_of_libraries, units=("CUDA ", "I/O error: ")),
    "device": Case(device, ("@", "cuda:@"), ("0-",)),
}


def inputs(case: Case) -> Iterator[str]:
    """The worst inputs of a parser, of SIZE characters."""
    for frame in case.frames:
        for unit in (*UNITS, *case.units):
            yield frame.replace("@", unit * ((SIZE - len(frame)) // len(unit)))


def feed(name: str, results: Connection) -> None:
    """In a process of its own: feed a parser with all its worst inputs, within the limit; send each before its use."""
    logging.disable()
    with TemporaryDirectory() as folder, processor_limit(SECONDS):
        for text in inputs(PARSERS[name]):
            results.send(f"{text[:40]!r} of {len(text)} characters")
            try:
                PARSERS[name].parse(text, Path(folder))
            except RevoiceError as error:
                assert len(str(error)) < MAX_TOLD, f"an error of {len(str(error))} characters: {str(error)[:200]}"
            except ValueError as error:
                assert isinstance(error, ValidationError) or isinstance(error.args[0], Message), error
