"""Texts for the user that keep their template and values, so that the page can translate them."""

from collections.abc import Mapping


def fill(template: str, values: Mapping[str, object]) -> str:
    """The template with its {placeholders} filled in; without values the text as it is, braces included."""
    return template.format(**values) if values else template


class Message(str):
    """An English text with its template and values, as Message("File {number} of {total}", number=1, total=3).

    A Message is a str and can be used wherever a text is expected. Values can be Messages themselves.
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
