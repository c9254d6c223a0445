"""Builds options models from values of a form or a job file, with one error that lists the invalid values."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lib.errors import ConfigError

Options = TypeVar("Options", bound=BaseModel)
MAX_PROBLEMS = 10
MAX_ECHOED = 100  # characters of an invalid value that a message repeats


def checked(model: type[Options], values: Mapping[str, object]) -> Options:
    """Build options from values keyed by field name; an empty string becomes None if the field allows it.

    Raises ConfigError, listing the invalid values, if there are any.
    """
    fields = model.model_fields
    empty = [name for name, value in values.items() if value == "" and name in fields and fields[name].default is None]
    try:
        return model.model_validate({**values, **dict.fromkeys(empty)})
    except ValidationError as error:
        problems = describe_problems(error)
        raise ConfigError("An option has a value that is not allowed: {problems}.", problems=problems) from error


def describe_problems(error: ValidationError) -> str:
    """Describe the first invalid values, with the names of their fields and the rules they break."""
    problems = []
    for problem in error.errors()[:MAX_PROBLEMS]:
        field, value = " ".join(map(str, problem["loc"])), str(problem["input"])
        problems.append(f"{field[:MAX_ECHOED]}: {problem['msg']} (it is {value[:MAX_ECHOED]!r})")
    return "; ".join(problems)
