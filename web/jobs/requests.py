"""Typed job requests: passed from the web UI to a runner and stored in job files, validated in both cases.

Job files of earlier versions are upgraded when they are read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field

from infer.options import ConvertOptions
from infer.song.options import CoverOptions
from infer.speech.options import SpeechOptions
from lib.audio import AudioFormat
from lib.config import Family
from lib.paths import check_name
from train.options import RunOptions
from web.validation import checked

Kind = Literal["convert", "batch", "compare", "cover", "say", "train"]
Stage = Literal["run", "prepare", "extract", "index", "fit"]  # all stages of training, or one
VOICE_SETTINGS = ("family", "sample_rate", "pitch")  # fixed when training of a voice starts


IndexRate = Annotated[float, Field(ge=0, le=1)]


class JobRequest(BaseModel, frozen=True, extra="forbid"):
    """Base class of all requests."""

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with every uploaded file replaced by `copy(file)`."""
        return self


class ConversionRequest(JobRequest, frozen=True):
    """A conversion with a listed voice; `index` is the name of a listed index, "auto" or "none"."""

    voice: str
    options: ConvertOptions = ConvertOptions()
    index: str = "auto"


class ConvertRequest(ConversionRequest, frozen=True):
    """Convert one recording, with the F0 of `f0_file` if given; `f0_curve` also writes the target F0."""

    recording: Path
    f0_file: Path | None = None
    f0_curve: bool = False
    format: AudioFormat = "wav"

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with recording and F0 file replaced by `copy(file)`."""
        f0_file = copy(self.f0_file) if self.f0_file else None
        return self.model_copy(update={"recording": copy(self.recording), "f0_file": f0_file})


class CompareRequest(ConversionRequest, frozen=True):
    """Convert one recording with several index rates."""

    recording: Path
    index_rates: tuple[IndexRate, ...]

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with the recording replaced by `copy(recording)`."""
        return self.model_copy(update={"recording": copy(self.recording)})


class BatchRequest(ConversionRequest, frozen=True):
    """Convert uploaded recordings, and recordings given by their paths on this machine (`inputs`)."""

    uploads: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    format: AudioFormat = "wav"

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with every upload replaced by `copy(upload)`."""
        return self.model_copy(update={"uploads": tuple(copy(path) for path in self.uploads)})


class CoverRequest(ConversionRequest, frozen=True):
    """Create a cover from a song, from the song and one stem, or from both stems."""

    options: CoverOptions = CoverOptions()
    song: Path | None = None
    vocals: Path | None = None
    instrumental: Path | None = None
    format: AudioFormat = "wav"

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with song and stems replaced by `copy(file)`."""
        files = {"song": self.song, "vocals": self.vocals, "instrumental": self.instrumental}
        return self.model_copy(update={name: copy(path) for name, path in files.items() if path})


class SayRequest(ConversionRequest, frozen=True):
    """Synthesise a text, or a file with text or subtitles."""

    options: SpeechOptions = SpeechOptions()
    text: str = ""
    file: Path | None = None
    format: AudioFormat = "wav"

    def with_uploads(self, copy: Callable[[Path], Path]) -> Self:
        """Return the request with the file replaced by `copy(file)`."""
        return self.model_copy(update={"file": copy(self.file)}) if self.file else self


class TrainRequest(JobRequest, frozen=True):
    """Train a voice, or run one stage of its training; if `data` is None, the existing clips are used.

    Other fields that are None have the default of the command line.
    """

    name: Annotated[str, AfterValidator(lambda name: check_name(name, "voice", is_argument=True))]
    stage: Stage = "run"
    data: Path | None = None
    family: Family | None = None
    sample_rate: str | None = None
    pitch: bool | None = None
    options: RunOptions = RunOptions()


Request = ConvertRequest | CompareRequest | BatchRequest | CoverRequest | SayRequest | TrainRequest
REQUESTS: dict[Kind, type[Request]] = {
    "convert": ConvertRequest, "compare": CompareRequest, "batch": BatchRequest, "cover": CoverRequest,
    "say": SayRequest, "train": TrainRequest,
}  # fmt: skip


def kind_of(request: Request) -> Kind:
    """Return the job kind of a request."""
    return next(kind for kind, model in REQUESTS.items() if type(request) is model)


def read_request(kind: Kind, values: object) -> Request:
    """Read the request of a job file or of a message to the worker. Raises ConfigError if a value is not allowed."""
    if not isinstance(values, Mapping):
        values = {"request": values}
    request: Request = checked(REQUESTS[kind], _upgraded(kind, values))
    return request


def _upgraded(kind: Kind, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return values by their current names.

    Older job files have all uploads in the list "files", the F0 file second.
    """
    files = values.get("files")
    if not isinstance(files, list):
        return values
    upgraded = {name: value for name, value in values.items() if name != "files"}
    if kind == "train" and isinstance(values.get("options"), Mapping):
        options = dict(values["options"])
        return upgraded | {name: options.pop(name, None) for name in VOICE_SETTINGS} | {"options": options}
    if kind == "batch":
        return upgraded | {"uploads": files}
    if kind == "convert" and len(files) > 1:
        upgraded["f0_file"] = files[1]
    return upgraded | {"recording": next(iter(files), None)} if kind != "train" else upgraded
