"""Errors and messages: English by str(), template and values kept, also through pickling."""

import copy
import pickle
from pathlib import Path

import pytest

from lib import errors
from lib.errors import AudioError, MissingFileError, RevoiceError
from lib.messages import Message

SUBCLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RevoiceError)]


@pytest.mark.parametrize("kind", [kind for kind in SUBCLASSES if kind is not MissingFileError])
def test_an_error_carries_its_template_and_values(kind: type[RevoiceError]) -> None:
    error = kind("{path} has {channels} channels; at most {most:.1f}.", path=Path("a.wav"), channels=3, most=2)
    assert str(error) == "a.wav has 3 channels; at most 2.0."
    assert error.template == "{path} has {channels} channels; at most {most:.1f}."
    assert error.values == {"path": Path("a.wav"), "channels": 3, "most": 2}


def test_a_text_without_values_is_used_as_it_is() -> None:
    error = AudioError("a{b}.wav is {empty")
    assert (str(error), error.template, error.values) == ("a{b}.wav is {empty", "a{b}.wav is {empty", {})
    assert Message("100 % {of}") == "100 % {of}"


def test_values_can_have_any_name() -> None:
    assert str(RevoiceError("{self} {template}", self=1, template=2)) == "1 2"
    assert Message("{cls} {template}", cls=1, template=2) == "1 2"


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        (MissingFileError(Path("{x}"), "Put {it} there."), "Not found: {x}. Put {it} there.", "Put {it} there."),
        (MissingFileError(Path("x"), "Get {name}.", name="{y}"), "Not found: x. Get {y}.", "Get {y}."),
    ],
)
def test_a_missing_file_has_a_path_and_a_remedy(error: MissingFileError, text: str, remedy: str) -> None:
    assert str(error) == text == error.template.format(**error.values)
    assert error.remedy == remedy
    assert error.path == error.values["path"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "error",
    [
        *(kind("{n} files", n=3) for kind in SUBCLASSES if kind is not MissingFileError),
        AudioError("plain {text}"),
        MissingFileError(Path("x"), "Get {name}.", name="y"),
        MissingFileError(Path("x"), "Get it."),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}",
)
def test_errors_survive_pickling(error: RevoiceError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_messages_survive_pickling_and_copying() -> None:
    message = Message("{stage}: {done} of {total}", stage=Message("Pitch {method}", method="rmvpe"), done=1, total=3)
    for again in [pickle.loads(pickle.dumps(message)), copy.deepcopy(message)]:  # noqa: S301 - our own bytes
        assert again == message == "Pitch rmvpe: 1 of 3"
        assert type(again) is Message
        assert again.template == message.template
        stage = again.values["stage"]
        assert isinstance(stage, Message)
        assert stage.template == "Pitch {method}"
        assert again.values == message.values
