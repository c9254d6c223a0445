"""Functions shared by the commands of `python -m infer`: parsing of arguments, errors, and loading of the voice."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

import tyro
from pydantic import BaseModel, Field
from tyro.conf import arg

from lib.audio import AUDIO_FORMATS, AudioFormat
from lib.errors import RevoiceError
from lib.machine import machine_errors
from lib.option_help import REGISTRY
from lib.paths import GivenPath, given_path
from lib.terminal import FAILED, INTERRUPTED, parse_arguments

if TYPE_CHECKING:
    from infer.convert import VoiceConverter

PROGRAM = "python -m infer"

Parsed = TypeVar("Parsed", bound=BaseModel)


class VoiceAndOutput(BaseModel, frozen=True):
    """Arguments shared by all conversion commands."""

    voice: str = Field(description="name of a voice in weights/, or path to a voice model")
    output: Annotated[GivenPath | None, arg(aliases=["-o"], metavar="PATH")] = Field(
        None, description="output file or folder (default: next to the input, with the voice's name appended)"
    )
    format: AudioFormat | None = Field(
        None,
        description=f"output format: {', '.join(AUDIO_FORMATS)} (default: from the extension of --output, otherwise "
        "wav)",
    )
    index: str = Field("auto", description="path to an index file; auto = the voice's own, none = no retrieval")


class WithIndex(Protocol):
    """Arguments that determine how a voice is loaded."""

    @property
    def index(self) -> str: ...

    @property
    def index_rate(self) -> float | None: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...


def report_errors(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; a RevoiceError or system error is printed as one sentence on stderr."""
    try:
        with machine_errors():
            return command()
    except KeyboardInterrupt:
        print("Stopped. Finished results are kept; no incomplete file is left.", file=sys.stderr)
        return INTERRUPTED
    except RevoiceError as error:
        print(error, file=sys.stderr)
        return FAILED


def parse_as(model: type[Parsed], args: Sequence[str], program: str) -> Parsed:
    """Parse and check the arguments of a command; report a usage error in one sentence, and exit."""
    return parse_arguments(lambda: tyro.cli(model, prog=program, args=args, registry=REGISTRY), program)


def load_voice(arguments: WithIndex, path: Path) -> "VoiceConverter":
    """Load the voice and the index given in the arguments."""
    from infer.load import load_converter
    from lib.devices import choose_device

    index: Path | Literal["auto"] | None = None
    if arguments.index != "none" and arguments.index_rate != 0:
        index = "auto" if arguments.index == "auto" else given_path(arguments.index)
    return load_converter(path, index, choose_device(arguments.device), precision=arguments.precision)
