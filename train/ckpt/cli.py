"""The commands of `python -m train ckpt`: their options and their output.

Importing this module does not import torch, so that --help is fast. Options without a default are positional.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from tyro.conf import Positional, arg

from lib.paths import GivenPath, given_path

if TYPE_CHECKING:
    from lib.voice.model_file import VoiceModel

GivenText = Annotated[str, BeforeValidator(str)]  # a path or a link, which a Path would damage
RATES = {"24k": 24_000, "32k": 32_000, "40k": 40_000, "48k": 48_000}  # Hz


class _New(BaseModel, frozen=True):
    """Options of commands that create a voice in weights/."""

    name: str | None = Field(None, description="name of the new voice (default: derived from its sources)")
    info: str | None = Field(None, description="description to store (default: generated automatically)")
    overwrite: bool = Field(False, description="replace an existing voice of that name")


class Info(BaseModel, frozen=True):
    """Show details of a voice model or training checkpoint."""

    file: Positional[str] = Field(description="name of a voice, or path to a .pth or .safetensors file")


class Extract(_New, frozen=True):
    """Extract a voice from a training checkpoint."""

    checkpoint: Positional[GivenPath] = Field(
        description="a G_….pth file, or the folder of a training run, to use its latest checkpoint"
    )
    sample_rate: Literal["24k", "32k", "40k", "48k"] | None = Field(
        None,
        description="sample rate; needed only if it is not stored in the checkpoint and cannot be inferred from the "
        "tensor shapes (default: inferred)",
    )


class Merge(_New, frozen=True):
    """Merge two voices (same family and sample rate, both with or both without F0) into a new one."""

    first: Positional[str] = Field(description="first voice: name or path")
    second: Positional[str] = Field(description="second voice: name or path")
    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the first voice; 1 = only the first, 0 = only the second"
    )


class Edit(BaseModel, frozen=True):
    """Edit the metadata of a voice."""

    voice: Positional[str] = Field(description="name of a voice, or path to its file")
    info: str | None = Field(None, description="description (default: unchanged)")
    author: str | None = Field(None, description="author of the voice (default: unchanged)")
    licence: str | None = Field(None, description="licence or terms of use (default: unchanged)")
    speakers: str | None = Field(
        None, description="speaker names, separated by commas, starting with speaker 0 (default: unchanged)"
    )
    display_name: str | None = Field(None, description="name shown in the web UI (default: unchanged)")
    language: str | None = Field(None, description="language of the recordings, such as en or pt (default: unchanged)")
    reader: Annotated[str | None, arg(name="speaker-description", aliases=["--reader"])] = Field(
        None, description="description of the speaker: woman, man, child or any text (default: unchanged)"
    )
    output: GivenPath | None = Field(
        None, description="output file (default: edit in place; for included voices, a copy in weights/)"
    )


class Convert(BaseModel, frozen=True):
    """Convert a voice between .pth and .safetensors."""

    voice: Positional[str] = Field(description="name of a voice, or path to its file")
    output: GivenPath | None = Field(None, description="output file (default: next to the voice)")
    overwrite: bool = Field(False, description="replace an existing output file")


class Export(BaseModel, frozen=True):
    """Export a voice, its index and a model card as a ZIP archive, or its networks as ONNX files."""

    voice: Positional[str] = Field(description="name of a voice, or path to its file")
    index: GivenPath | None = Field(None, description="path to the index file (default: found automatically)")
    output: GivenPath | None = Field(
        None,
        description="output archive, or output folder for the ONNX files (default: NAME.zip or NAME-onnx in the "
        "current folder)",
    )
    overwrite: bool = Field(False, description="replace an existing archive or existing ONNX files")
    onnx: bool = Field(
        False, description="write ONNX files of the voice, its content encoder and RMVPE instead of an archive"
    )


class Import(BaseModel, frozen=True):
    """Import voices and indexes from any RVC-compatible program: .zip, .pth, .safetensors or .index files, or links."""

    files: Positional[tuple[GivenText, ...]] = Field(
        description="files, or https links to files or Hugging Face repositories; each index is matched to its voice "
        "by name or feature dimension"
    )
    name: str | None = Field(
        None, description="name of the voice (default: the name stored in the archive, otherwise the file name)"
    )
    overwrite: bool = Field(False, description="replace an existing voice of that name")


class Publish(BaseModel, frozen=True):
    """Upload a voice, its index and a model card to your Hugging Face account.

    Uses the token from `hf auth login` or HF_TOKEN, or prompts for one, which is not stored.
    """

    voice: Positional[str] = Field(description="name of a voice, or path to its file")
    repository: Positional[str] = Field(description="name of the new repository, or owner/name")
    licence: Positional[str] = Field(
        description="licence of the voice: an identifier such as cc-by-4.0, or its full name"
    )
    consent: bool = Field(
        False, description="confirm that the speaker has consented to publication; without it, nothing is uploaded"
    )
    public: bool = Field(False, description="make the repository public; otherwise only your account can see it")
    f0_method: str = Field("rmvpe", description="pitch method to recommend for conversions")
    notes: str = Field("", description="more about the voice, in Markdown")
    index: GivenPath | None = Field(None, description="path to the index file (default: found automatically)")


class Folders(BaseModel, frozen=True):
    """List, add or remove RVC and Applio installation folders whose voices and weights are used in place."""

    add: GivenPath | None = Field(None, description="add the installation folder of RVC, Applio or a fork")
    remove: GivenPath | None = Field(None, description="stop using this folder; its files are kept")


Tool = Info | Extract | Merge | Edit | Convert | Export | Import | Publish | Folders
TOOLS: dict[str, Any] = {
    "info": Info, "extract": Extract, "merge": Merge, "edit": Edit, "convert": Convert, "export": Export,
    "import": Import, "publish": Publish, "folders": Folders,
}  # fmt: skip


def use(tool: Tool) -> Iterator[str]:
    """Run a command; yield the lines to print. Raises RevoiceError if it fails."""
    if isinstance(tool, Info):
        yield from _info(tool)
    elif isinstance(tool, Extract):
        yield _extract(tool)
    elif isinstance(tool, Merge):
        yield _merge(tool)
    elif isinstance(tool, Edit):
        yield _edit(tool)
    elif isinstance(tool, Convert):
        yield _convert(tool)
    elif isinstance(tool, Export):
        yield from _export_onnx(tool) if tool.onnx else [_export(tool)]
    elif isinstance(tool, Publish):
        yield f"uploaded to {_publish(tool)}"
    elif isinstance(tool, Folders):
        yield from _folders(tool)
    else:
        yield from _import(tool)


def _info(tool: Info) -> Iterator[str]:
    from train.ckpt.tools import describe, voice_path

    path = voice_path(tool.file)
    facts = describe(path)
    yield f"{path}:"
    for label, value in facts.items():
        yield f"  {label}: {value}"


def _extract(tool: Extract) -> str:
    from train.ckpt.tools import extract, new_voice, newest_generator

    checkpoint = newest_generator(tool.checkpoint) if tool.checkpoint.is_dir() else tool.checkpoint
    path = new_voice(tool.name or checkpoint.resolve().parent.name, overwrite=tool.overwrite)
    rate = None if tool.sample_rate is None else RATES[tool.sample_rate]
    return _written(path, extract(checkpoint, tool.info, rate))


def _merge(tool: Merge) -> str:
    from lib.voice.model_file import read_voice_model
    from train.ckpt.tools import merge, new_voice, voice_path

    files = [voice_path(name) for name in (tool.first, tool.second)]
    path = new_voice(tool.name or "-".join(file.stem for file in files), overwrite=tool.overwrite)
    first, second = (read_voice_model(file) for file in files)
    info = tool.info
    if info is None:
        info = f"Merged: {tool.alpha:g} of {files[0].stem}, {1 - tool.alpha:g} of {files[1].stem}."
    return _written(path, merge(first, second, tool.alpha, info))


def _edit(tool: Edit) -> str:
    from lib.errors import ConfigError
    from lib.voice.edit_file import edit_voice_file
    from lib.voice.facts import ENTRIES
    from lib.voice.model_file import read_voice_model
    from train.ckpt.tools import edit_target, edited_entries, voice_path

    texts = (tool.info, tool.author, tool.licence, tool.speakers)
    facts = {name: getattr(tool, name) for name in ENTRIES}
    if all(text is None for text in (*texts, *facts.values())):
        raise ConfigError(
            "Nothing to change: specify --info, --author, --licence, --speakers, --display-name, --language or "
            "--speaker-description."
        )
    path = voice_path(tool.voice)
    target, voice = edit_target(path, tool.output), read_voice_model(path)
    edit_voice_file(path, target, edited_entries(voice, *texts, facts=facts))
    return _report(target, voice)


def _convert(tool: Convert) -> str:
    from train.ckpt.tools import convert, voice_path

    return f"wrote {convert(voice_path(tool.voice), tool.output, overwrite=tool.overwrite)}"


def _export(tool: Export) -> str:
    from lib.voice.archive import export_voice
    from lib.voice.library import explain_no_index, find_index
    from train.ckpt.tools import check_output, voice_path

    voice = voice_path(tool.voice)
    output = tool.output or Path(f"{voice.stem}.zip")
    check_output(output, overwrite=tool.overwrite)
    index = tool.index or find_index(voice)
    export_voice(voice, index, output)
    return (
        f"wrote {output} ({f'without an index: {explain_no_index(voice)}' if index is None else f'with {index.name}'})"
    )


def _export_onnx(tool: Export) -> Iterator[str]:
    from lib.onnx.export import Exported, export_voice
    from train.ckpt.tools import check_output, voice_path

    voice = voice_path(tool.voice)
    output = tool.output or Path(f"{voice.stem}-onnx")
    check_output(output, overwrite=tool.overwrite)
    for made in export_voice(voice, output):
        if isinstance(made, Exported):
            yield f"wrote {made.path}: differs from PyTorch by at most {made.difference:.0e}"
        else:
            yield f"left out: {made}"


def _import(tool: Import) -> Iterator[str]:
    import tempfile

    from lib.errors import ConfigError
    from lib.fetch import is_link
    from lib.voice.archive import import_voice
    from lib.voice.intake import ARCHIVE_SUFFIX

    with tempfile.TemporaryDirectory(prefix="revoice-import-") as folder:
        files: list[Path] = []
        for number, given in enumerate(tool.files):
            place = Path(folder) / f"link-{number}"
            files += _fetched(given, place) if is_link(given) else [given_path(given)]
        if len(files) != 1 or files[0].suffix.lower() != ARCHIVE_SUFFIX:
            if tool.overwrite:
                raise ConfigError(
                    "--overwrite works only with a single ZIP archive. Delete the voice first, or choose another name."
                )
            yield from _import_loose(files, tool.name, Path(folder))
            return
        imported = import_voice(files[0], tool.name, overwrite=tool.overwrite)
    yield f"imported the voice {imported.name!r}: {imported.voice}"
    yield "it has no index" if imported.index is None else f"its index: {imported.index}"
    if imported.skipped:
        yield f"skipped training checkpoints, which are no voices: {', '.join(imported.skipped)}"


def _fetched(link: str, folder: Path) -> list[Path]:
    """Download the voice files of a link into a new folder, with progress on the terminal."""
    from lib.messages import Message
    from lib.terminal import terminal
    from lib.voice.links import fetch_voices

    folder.mkdir()
    with terminal(Message("downloading {file}", file=link), whole_steps=False) as progress:
        return fetch_voices(link, folder, progress)


def _import_loose(files: list[Path], name: str | None, folder: Path) -> Iterator[str]:
    """Import files other than a single archive; `name` names the new voice, if there is exactly one.

    `folder` is temporary.
    """
    from lib.errors import CheckpointError, MissingFileError
    from lib.voice.intake import inspect_files, install

    for file in files:
        if not file.is_file():
            raise MissingFileError(file, "Specify the path of a .pth, .safetensors, .index or .zip file.")
    found = inspect_files(files, folder)
    if len(files) == 1 and found.unused:
        label, reason = found.unused[0]
        raise CheckpointError("{path} {reason}.", path=label, reason=reason)
    install(found, name)
    for voice in found.voices:
        index = f"with the index {voice.index.part.label}" if voice.index else "without an index"
        added = name or voice.name
        yield f"{voice.installed!r} is here already" if voice.installed else f"imported the voice {added!r} {index}"
    for index_file in found.indexes:
        yield f"imported the index {index_file.part.label} of the voice {index_file.voice and index_file.voice.name!r}"
    for label, reason in found.unused:
        yield f"not imported: {label} {reason}"


def _publish(tool: Publish) -> str:
    import getpass
    import sys

    import huggingface_hub

    from lib.messages import Message
    from lib.terminal import terminal
    from lib.voice.library import find_index
    from lib.voice.publish import Publication, publish_voice
    from train.ckpt.tools import voice_path

    path = voice_path(tool.voice)
    token = huggingface_hub.get_token()
    if token is None and sys.stdin.isatty():
        token = getpass.getpass("Token of your Hugging Face account (not shown, not stored): ")
    publication = Publication(
        tool.repository, tool.licence, consent=tool.consent, private=not tool.public, f0_method=tool.f0_method,
        notes=tool.notes,
    )  # fmt: skip
    with terminal(Message("uploading {file}", file=path.name)) as progress:
        return publish_voice(path, tool.index or find_index(path), publication, token or "", progress)


def _folders(tool: Folders) -> Iterator[str]:
    from lib.installations import add_installation, installations, remove_installation
    from lib.voice.library import list_voices

    if tool.add is not None:
        add_installation(str(tool.add))
    if tool.remove is not None:
        remove_installation(tool.remove.absolute())
    folders = installations()
    for folder in folders:
        voices = sum(voice.path.is_relative_to(folder) for voice in list_voices())
        yield f"{folder} (voices: {voices})"
    if not folders:
        yield "no folders of other programs are used"


def _written(path: Path, voice: "VoiceModel") -> str:
    from lib.voice.model_file import write_voice_model

    write_voice_model(path, voice)
    return _report(path, voice)


def _report(path: Path, voice: "VoiceModel") -> str:
    f0 = "with" if voice.config.has_f0 else "without"
    return f"wrote {path}: {voice.family} at {voice.rate_name} {f0} F0, {voice.config.n_speakers} speakers"
