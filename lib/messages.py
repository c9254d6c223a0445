"""Messages for the user that keep their template and values, so that the web UI can translate them."""

from collections.abc import Mapping
from pathlib import Path

MAX_VALUE = 700  # characters of a string among the values; a longer one is cut off


def fill(template: str, values: Mapping[str, object]) -> str:
    """Fill in the {placeholders} of a template; without values it is returned as it is, braces included.

    Strings among the values, which may come from a file or a request, are cut off at MAX_VALUE characters.
    """
    return template.format(**{name: _cut(value) for name, value in values.items()}) if values else template


def _cut(value: object) -> object:
    if isinstance(value, Message) or not isinstance(value, str) or len(value) <= MAX_VALUE:
        return value
    return f"{value[:MAX_VALUE]}…"


class Message(str):
    """An English message with its template and values, as in Message("File {number} of {total}", number=1, total=3).

    A Message is a str and can be used wherever a string is expected. Values can be Messages themselves.
    """

    template: str
    values: dict[str, object]

    def __new__(cls, template: str, /, **values: object) -> "Message":
        message = super().__new__(cls, fill(template, values))
        message.template = template
        message.values = values
        return message

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, object]]:
        return (self.template,), self.values


def without_folder(text: str, path: Path) -> Message:
    """Return a message with the name of a file in place of its path, for folders that mean nothing to the user."""
    if not isinstance(text, Message) or not text.values:
        return Message(text.replace(str(path), path.name))
    values: dict[str, object] = {}
    for name, value in text.values.items():
        if isinstance(value, Message):
            values[name] = without_folder(value, path)
        else:
            values[name] = path.name if str(value) == str(path) else value
    return Message(text.template, **values)


def to_json(value: object) -> object:
    """Convert a value to JSON; messages keep their template and values: {"template": ..., "values": {...}}."""
    if isinstance(value, Message):
        return {"template": value.template, "values": to_json(value.values)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    item = getattr(value, "item", None)  # of a NumPy number
    return item() if callable(item) and not isinstance(value, Path) else str(value)


def from_json(value: object) -> object:
    """Restore a value from `to_json`; tuples become lists, and paths become strings."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    values = {key: from_json(item) for key, item in value.items()}
    template, fields = values.get("template"), values.get("values")
    if values.keys() == {"template", "values"} and isinstance(template, str) and isinstance(fields, dict):
        try:
            return Message.__new__(Message, template, **fields)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):  # not written by `to_json`
            return template
    return values
