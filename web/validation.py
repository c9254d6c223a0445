"""Builds options models from values of a form or a job file, with one error that names every wrong value."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lib.errors import ConfigError

Options = TypeVar("Options", bound=BaseModel)
MAX_ECHOED = 100  # characters of a wrong value that a message repeats


def checked(model: type[Options], values: Mapping[str, object]) -> Options:
    """Build options from values by name; an empty text is None where None is allowed. Raises ConfigError."""
    fields = model.model_fields
    empty = [name for name, value in values.items() if value == "" and name in fields and fields[name].default is None]
    try:
        return model.model_validate({**values, **dict.fromkeys(empty)})
    except ValidationError as error:
        problems = describe_problems(error)
        raise ConfigError("An option has a value that is not allowed: {problems}.", problems=problems) from error


def describe_problems(error: ValidationError) -> str:
    """Every wrong value by the name of its field, with the rule it breaks."""
    return "; ".join(
        f"{' '.join(map(str, problem['loc']))}: {problem['msg']} (it is {str(problem['input'])[:MAX_ECHOED]!r})"
        for problem in error.errors()
    )
