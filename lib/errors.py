"""The errors a user can cause or meet, in one tree.

    RevoiceError                the message is one clear sentence: what is wrong, the value, what to do
    ├── AudioError              a recording that cannot be read, is empty, or cannot be written
    ├── CheckpointError         a voice model, training state or index that is damaged, foreign or mismatched
    ├── ConfigError             an option, name or configuration value that is not allowed
    ├── MissingFileError        a file or folder that should be there; says how to get it
    └── ProcessLostError        another process of the same run has ended, so this one cannot go on

They are raised where the problem is found and caught once, at the edge (command line, page, per file of a batch).
`lib.progress.Cancelled` is deliberately not among them: cancelling is not an error.
"""

from pathlib import Path


class RevoiceError(Exception):
    """Base of all errors meant for the user; str(error) is the sentence to show."""


class AudioError(RevoiceError):
    """A recording cannot be read, decoded, used or written."""


class CheckpointError(RevoiceError):
    """A model file, training state or index is damaged, unsafe, of the wrong kind, or does not fit."""


class ConfigError(RevoiceError):
    """A setting, name or configuration file has a value that is not allowed."""


class MissingFileError(RevoiceError):
    """Something expected on disk is not there; the message ends with how to get it."""

    def __init__(self, path: Path, remedy: str) -> None:
        super().__init__(f"Not found: {path}. {remedy}")
        self.path = path
        self.remedy = remedy


class ProcessLostError(RevoiceError):
    """Another process of the same run has ended, so this one cannot go on."""
