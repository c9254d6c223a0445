"""F0 estimation: one protocol, one module per method, one table. Methods are imported when they are loaded."""

import importlib
import importlib.util
import logging
import re
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar, runtime_checkable

from pydantic import AfterValidator, Field

from lib.errors import AudioError, ConfigError, MissingFileError
from lib.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from lib.typing import FloatArray

logger = logging.getLogger(__name__)
T = TypeVar("T")


class PitchExtractor(Protocol):
    """Estimates F0 of 16 kHz mono audio: (T,) float32 -> (T // 160,) float32 Hz, 0.0 where unvoiced."""

    def __call__(self, audio: "FloatArray") -> "FloatArray": ...


@runtime_checkable
class BatchPitchExtractor(Protocol):
    """A PitchExtractor that processes several clips faster as one batch, with the same F0."""

    def batch(self, clips: "Sequence[FloatArray]") -> "list[FloatArray]": ...


# Each module has a function load(method, device) that returns a PitchExtractor. It need not return the exact number of
# frames, nor support silence or clips shorter than MIN_SAMPLES: ExactExtractor does.
METHODS: dict[str, str] = {
    "rmvpe": "lib.pitch.rmvpe",
    "fcpe": "lib.pitch.fcpe",
    "swift": "lib.pitch.swift",
    "crepe": "lib.pitch.crepe",
    "crepe-tiny": "lib.pitch.crepe",
    "mangio-crepe": "lib.pitch.crepe",
    "mangio-crepe-tiny": "lib.pitch.crepe",
    "pm": "lib.pitch.praat",
    "harvest": "lib.pitch.world",
    "dio": "lib.pitch.world",
}
PACKAGES = {  # of modules: what they import, and the name under which it is installed
    "lib.pitch.fcpe": ("torchfcpe", "torchfcpe"),
    "lib.pitch.swift": ("swift_f0", "swift-f0"),
    "lib.pitch.crepe": ("torchcrepe", "torchcrepe"),
    "lib.pitch.praat": ("parselmouth", "praat-parselmouth"),
    "lib.pitch.world": ("pyworld", "pyworld-prebuilt"),
}
WITH_HOP_LENGTH = ("mangio-crepe", "mangio-crepe-tiny")  # their load() takes it as a third argument
WITH_DTYPE = ("rmvpe",)  # their load() takes a dtype as a third argument
PITCH_METHODS: tuple[str, ...] = ("auto", *METHODS)  # for choices; "auto" = the best one installed
AUTO_ORDER = ("rmvpe", "swift", "harvest")  # best first
HYBRID = re.compile(r"hybrid\[(.*)\]")
MAX_ECHOED = 60  # characters of an unknown name that an error repeats
CREPE_HOP_LENGTH = 120  # samples; RVC's default for conversions

MIN_SAMPLES = 4096  # at 16 kHz; shorter clips are padded with silence, because every method needs some periods of 50 Hz
SILENCE_PEAK = 1e-5  # below it (a third of a 16-bit step) audio counts as silence


def split_method(method: str) -> tuple[str, ...]:
    """Return the methods combined in a name such as "hybrid[pm+harvest]", or the method itself for any other name.

    Raises ConfigError if the name is not a method.
    """
    found = HYBRID.fullmatch(method)
    parts = tuple(part.strip() for part in found[1].split("+")) if found else (method,)
    for part in parts:
        if part not in (METHODS if found else PITCH_METHODS):
            raise _unknown_method(part[:MAX_ECHOED], inside_hybrid=found is not None)
    if len(set(parts)) < len(parts):
        raise ConfigError("{name!r} lists a pitch method twice; list each once.", name=method[:MAX_ECHOED])
    return parts


def _unknown_method(name: str, *, inside_hybrid: bool) -> ConfigError:
    if inside_hybrid:
        return ConfigError(
            "There is no pitch method {name!r}; choose one of {methods}.", name=name, methods=", ".join(METHODS)
        )
    return ConfigError(
        "There is no pitch method {name!r}; choose one of {methods}, or several as hybrid[pm+harvest].",
        name=name,
        methods=", ".join(PITCH_METHODS),
    )


def check_pitch_method(method: str) -> None:
    """Raise ConfigError or MissingFileError if a package or file of a pitch method is missing; loads nothing."""
    parts = split_method(method)
    if parts == ("auto",):
        _first_of_auto(check_pitch_method)
        return
    for part in parts:
        module = METHODS[part]
        if module in PACKAGES and importlib.util.find_spec(PACKAGES[module][0]) is None:
            raise missing_package(part, PACKAGES[module][1])
        if module == METHODS["rmvpe"]:
            importlib.import_module(module).find_weights()


def missing_package(method: str, package: str) -> ConfigError:
    """Return the error for a pitch method whose package is not installed."""
    return ConfigError(
        "The {method!r} pitch method requires the {package} package. Install it (pip install {package}), or choose "
        "another method.",
        method=method,
        package=package,
    )


def _checked(method: str) -> str:
    try:
        split_method(method)
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return method


# The type of an option: one of PITCH_METHODS, which a form offers as choices, or hybrid[a+b+...].
PitchMethod = Annotated[str, AfterValidator(_checked), Field(examples=list(PITCH_METHODS))]


def load_pitch_extractor(
    method: str,
    device: "torch.device",
    crepe_hop_length: int = CREPE_HOP_LENGTH,
    dtype: "torch.dtype | None" = None,
) -> "ExactExtractor":
    """Load a pitch method: one of PITCH_METHODS, or hybrid[a+b+...] with several of METHODS.

    `crepe_hop_length` in samples at 16 kHz applies only to mangio-crepe; `dtype` (None means float32) applies only to
    rmvpe. "auto" uses the first method of AUTO_ORDER that loads, and logs it. Raises ConfigError if the method is
    unknown or its package is not installed, and MissingFileError if its weights are not installed.
    """
    parts = split_method(method)
    if len(parts) > 1:
        combine = importlib.import_module("lib.pitch.hybrid").combine
        extractors = [load_pitch_extractor(part, device, crepe_hop_length, dtype) for part in parts]
        cache_key = f"hybrid[{'+'.join(extractor.cache_key for extractor in extractors)}]"
        return ExactExtractor(f"hybrid[{'+'.join(parts)}]", combine(extractors), cache_key)
    if parts == ("auto",):
        return _load_best(device, dtype)
    name = parts[0]
    load = importlib.import_module(METHODS[name]).load
    if name in WITH_HOP_LENGTH:
        return ExactExtractor(name, load(name, device, crepe_hop_length), f"{name} every {crepe_hop_length} samples")
    if name in WITH_DTYPE and dtype is not None and dtype.itemsize < 4:
        return ExactExtractor(name, load(name, device, dtype), f"{name} in {dtype}")
    return ExactExtractor(name, load(name, device))


def _load_best(device: "torch.device", dtype: "torch.dtype | None") -> "ExactExtractor":
    extractor = _first_of_auto(lambda method: load_pitch_extractor(method, device, dtype=dtype))
    logger.info("pitch method: auto chose %s", extractor.method)
    return extractor


def _first_of_auto(use: "Callable[[str], T]") -> "T":
    """Return the result of `use` for the first installed method of AUTO_ORDER.

    Raises ConfigError, with the reasons, if none is installed.
    """
    reasons: Message | None = None
    for method in AUTO_ORDER:
        try:
            return use(method)
        except (ConfigError, MissingFileError) as error:
            reasons = Message("{first} {second}", first=reasons, second=error.message) if reasons else error.message
    raise ConfigError("No pitch method can be loaded. {reasons}", reasons=reasons)


class ExactExtractor:
    """Adapts any method to the protocol: exact length, float32, zeros for silence, clips of any length.

    `method` is the name of the method, resolved if it was "auto"; `cache_key` also includes the settings on which F0
    depends.
    """

    def __init__(self, method: str, extract: PitchExtractor, cache_key: str = "") -> None:
        self.method = method
        self.cache_key = cache_key or method
        self._extract = extract
        self.supports_batch = isinstance(extract, BatchPitchExtractor)  # also from several threads

    def __call__(self, audio: "FloatArray") -> "FloatArray":
        return self.batch([audio])[0]

    def batch(self, clips: "Sequence[FloatArray]") -> "list[FloatArray]":
        """Estimate the F0 of several clips, as one batch if the method supports it."""
        import numpy as np

        from lib.pitch.scale import HOP_LENGTH, fit_length

        found: list[FloatArray] = [np.zeros(len(audio) // HOP_LENGTH, np.float32) for audio in clips]
        padded = {}
        for i, audio in enumerate(clips):
            if audio.ndim != 1 or not np.isfinite(audio).all():
                raise AudioError(
                    "F0 estimation requires finite mono audio of shape (T,); got shape {shape}.", shape=audio.shape
                )
            if len(found[i]) and np.abs(audio).max() >= SILENCE_PEAK:
                padded[i] = np.pad(audio.astype(np.float32), (0, max(0, MIN_SAMPLES - len(audio))))
        extract = self._extract
        if isinstance(extract, BatchPitchExtractor):
            curves = extract.batch(list(padded.values()))
        else:
            curves = [extract(audio) for audio in padded.values()]
        for i, f0 in zip(padded, curves, strict=True):
            found[i] = fit_length(f0.astype(np.float32), len(found[i]))
        return found
