"""The errors a user can cause or encounter, in one hierarchy.

    RevoiceError                the message is one clear sentence: what is wrong, the value, what to do
    ├── AudioError              a recording that cannot be read or decoded, or is empty
    ├── CheckpointError         a voice model, training state or index that is damaged, of an unknown kind or mismatched
    ├── ConfigError             an option, name or configuration value that is not allowed
    ├── LinkError               a URL or an online account that cannot be used
    ├── MissingFileError        a file or folder that is missing; the message says how to get it
    ├── MachineError            a system failure: out of memory, an unreadable disk, a lost GPU
    │   └── WriteError          a file cannot be written: a full disk, a read-only folder
    └── ProcessLostError        another process of the same run has exited, so this one cannot continue

They are raised where the problem is found and caught once, at the edge (command line, web UI, per file of a batch).
`lib.progress.Cancelled` is deliberately not among them: cancelling is not an error.

An error carries the template of its message and the values in it: str(error) is English; the web UI fills the template
in the user's language.
"""

import copyreg
from collections.abc import Mapping
from pathlib import Path

from lib.messages import Message, fill, from_json, to_json


class RevoiceError(Exception):
    """Base class of all errors meant for the user, as in RevoiceError("{path} is empty", path=path).

    str(error) is the English message. Without values, the template is used as it is, and braces in it are literal.
    """

    def __init__(self, template: str, /, **values: object) -> None:
        super().__init__(fill(template, values))
        self.template = template
        self.values = values

    @property
    def message(self) -> Message:
        """The message, with its template and values."""
        return Message(self.template, **self.values)

    def to_json(self) -> dict[str, object]:
        """Serialise the error, so that another process can raise it: {"type", "template", "values"}."""
        return {"type": type(self).__name__, "template": self.template, "values": to_json(self.values)}

    def __reduce__(self) -> tuple[object, ...]:
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class AudioError(RevoiceError):
    """A recording cannot be read, decoded, used or written."""


class CheckpointError(RevoiceError):
    """A model file, training state or index is damaged, unsafe, of the wrong kind, or incompatible."""


class ConfigError(RevoiceError):
    """A setting, name or configuration file has a value that is not allowed."""


class LinkError(RevoiceError):
    """A URL is not allowed, cannot be reached or does not lead to a file; or an online account refuses a request."""


class MissingFileError(RevoiceError):
    """A required file or folder does not exist; the message ends with how to get it.

    `remedy` is a template like the message, with its values as keyword arguments. The name `path` is reserved for the
    missing path.
    """

    def __init__(self, path: Path, remedy: str, /, **values: object) -> None:
        if not values:
            remedy = remedy.replace("{", "{{").replace("}", "}}")
        super().__init__(f"Not found: {{path}}. {remedy}", **{**values, "path": path})
        self.path = path
        self.remedy = fill(remedy, self.values)


class MachineError(RevoiceError):
    """The system has failed, not a file or a setting: out of memory, a disk that cannot be read, a lost GPU."""


class WriteError(MachineError):
    """A file cannot be written; the message says why."""


class ProcessLostError(RevoiceError):
    """Another process of the same run has exited, so this one cannot continue."""


def error_from_json(value: Mapping[str, object]) -> RevoiceError:
    """Restore an error that `RevoiceError.to_json` serialised; an unknown type becomes a RevoiceError."""
    message = from_json({"template": value["template"], "values": value["values"]})
    own = (AudioError, CheckpointError, ConfigError, LinkError, MachineError, WriteError, ProcessLostError)
    kinds = {kind.__name__: kind for kind in own}
    kind = kinds.get(str(value["type"]), RevoiceError)
    return kind(message.template, **message.values) if isinstance(message, Message) else kind(str(message))
