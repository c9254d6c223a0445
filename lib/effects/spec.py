"""Parses a chain of effects, such as "highpass=80, compressor=-20:3, reverb=0.2", or the name of a preset."""

from typing import NamedTuple

from lib.errors import ConfigError


class Parameter(NamedTuple):
    """A numeric parameter of an effect."""

    name: str
    default: float
    low: float
    high: float


EFFECTS: dict[str, tuple[Parameter, ...]] = {
    "highpass": (Parameter("Hz", 80, 20, 2000),),
    "lowpass": (Parameter("Hz", 12_000, 500, 20_000),),
    "eq": (Parameter("Hz", 3000, 20, 20_000), Parameter("dB", 3, -24, 24), Parameter("Q", 1, 0.1, 10)),
    "lowshelf": (Parameter("Hz", 200, 20, 2000), Parameter("dB", 3, -24, 24)),
    "highshelf": (Parameter("Hz", 8000, 500, 20_000), Parameter("dB", 3, -24, 24)),
    "compressor": (
        Parameter("threshold dB", -20, -60, 0), Parameter("ratio", 3, 1, 20), Parameter("attack ms", 5, 0.1, 200),
        Parameter("release ms", 80, 1, 2000), Parameter("gain dB", 0, -24, 24),
    ),
    "limiter": (Parameter("ceiling dB", -1, -24, 0),),
    "denoise": (Parameter("strength", 0.8, 0, 1),),
    "reverb": (Parameter("level", 0.2, 0, 1), Parameter("seconds", 1.2, 0.1, 10), Parameter("delay ms", 15, 0, 200)),
    "delay": (Parameter("ms", 250, 1, 2000), Parameter("feedback", 0.3, 0, 0.9), Parameter("level", 0.25, 0, 1)),
    "chorus": (Parameter("depth ms", 3, 0.1, 15), Parameter("Hz", 0.8, 0.05, 10), Parameter("level", 0.4, 0, 1)),
}  # fmt: skip
PRESETS: dict[str, str] = {
    "vocal": "highpass=80, compressor=-22:3:5:90:3, eq=3500:2:1, highshelf=10000:2, limiter=-1",
    "warm": "highpass=60, lowshelf=220:3, eq=4000:-2:1, compressor=-20:2, limiter=-1",
    "bright": "highpass=100, eq=3000:2:1, highshelf=8000:4, limiter=-1",
    "radio": "highpass=300, lowpass=3400, compressor=-28:6:2:60:8, limiter=-1",
    "room": "highpass=80, reverb=0.15:0.5:5",
    "hall": "highpass=100, reverb=0.3:2.5:30",
    "echo": "delay=320:0.35:0.3, reverb=0.1:1.0",
    "double": "chorus=4:0.6:0.5",
}
MAX_EFFECTS = 32
MAX_ECHOED = 60  # characters of an unknown word that an error repeats

Chain = tuple[tuple[str, tuple[float, ...]], ...]  # effects by name with all their numbers


def parse_chain(text: str) -> Chain:
    """Parse the effects of a chain, in order; it may contain presets. Raises ConfigError if an effect is unknown."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    _check_count(len(words))
    chain = [
        effect for word in words for effect in (parse_chain(PRESETS[word]) if word in PRESETS else [_effect(word)])
    ]
    _check_count(len(chain))
    return tuple(chain)


def _check_count(count: int) -> None:
    if count > MAX_EFFECTS:
        raise ConfigError("A chain can have at most {limit} effects; this one has {count}.", limit=MAX_EFFECTS,
                          count=count)  # fmt: skip


def _effect(word: str) -> tuple[str, tuple[float, ...]]:
    name, _, numbers = word.partition("=")
    name = name.strip()
    if name not in EFFECTS:
        raise ConfigError(
            "There is no effect {name!r}; choose from {effects}, or a preset: {presets}.",
            name=name[:MAX_ECHOED],
            effects=", ".join(EFFECTS),
            presets=", ".join(PRESETS),
        )
    given = [part.strip() for part in numbers.split(":")] if numbers.strip() else []
    if len(given) > len(EFFECTS[name]):
        raise ConfigError("The {name} effect takes {count} numbers: {form}.", name=name, count=len(EFFECTS[name]),
                          form=":".join(parameter.name for parameter in EFFECTS[name]))  # fmt: skip
    given += [""] * (len(EFFECTS[name]) - len(given))
    return name, tuple(_number(name, parameter, part) for parameter, part in zip(EFFECTS[name], given, strict=True))


def _number(effect: str, parameter: Parameter, text: str) -> float:
    try:
        value = float(text) if text else parameter.default
    except ValueError:
        value = float("nan")
    if not parameter.low <= value <= parameter.high:
        raise ConfigError(
            "{text!r} cannot be the {parameter} of the {effect} effect; use a number from {low} to {high}.",
            text=text[:MAX_ECHOED], parameter=parameter.name, effect=effect, low=parameter.low, high=parameter.high,
        )  # fmt: skip
    return value
