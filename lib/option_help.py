"""Generates tyro's help texts from options models.

A default of None, "" or () is not shown, because the description explains it.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel
from tyro.conf import DisallowNone, Positional, arg
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

REGISTRY = ConstructorRegistry()  # for the argument `registry` of tyro's functions
DESCRIBED = (None, "", ())  # defaults that a description explains
EXPLANATION = re.compile(r"(.*) (\([^()]*\))")  # a description that ends with "(default: next to the input)"


@REGISTRY.struct_rule
def _read_options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The fields of an options model for tyro; the model's HELP replaces descriptions of inherited options."""
    model: Any = info.type
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    own: Mapping[str, str] = getattr(model, "HELP", {})
    hints = get_type_hints(model, include_extras=True)
    fields = []
    for name, field in model.model_fields.items():
        kind, text = hints[name], own.get(name, field.description or "")
        default = MISSING_NONPROP if field.is_required() else field.get_default()
        if field.is_required():
            hint = "(required)"  # for several words, tyro shows "(default: )"
        elif default in DESCRIBED:
            found = EXPLANATION.fullmatch(text)
            text, hint = found.groups() if found else (text, "(optional)")
        else:
            hint = None
        if hint is not None:
            metavar = _metavar(kind)
            if Positional in field.metadata:
                several, word = "..." in metavar, name.upper()
                metavar = f"{word.removesuffix('S')} [...]" if several else word if field.is_required() else f"[{word}]"
            kind = Annotated[kind, arg(metavar=metavar, help_behavior_hint=hint)]
        fields.append(StructFieldSpec(name, kind, default, text))
    return StructConstructorSpec(model, tuple(fields))


def _metavar(kind: Any) -> str:
    """The name of a type in help, without None."""
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, {DisallowNone}))
    return spec.metavar if isinstance(spec, PrimitiveConstructorSpec) else "VALUE"
