"""Infers the config, family and kind of a synthesizer from its tensors.

Files also declare these values (`config`, `sr`, `f0`, `version`), often incorrectly: in RVC the user fills in a form
when a voice is extracted. The tensors take precedence; declared values are used only for what cannot be inferred from
the tensors.

ARCHITECTURES lists the networks that a voice can have. Each entry consists of functions that test tensor names, derive
the config from tensors, build the network from a config, and convert the `config` list in both directions.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationError

from lib.config import Family, LiteConfig, NetworkConfig, SynthesizerConfig
from lib.errors import CheckpointError
from lib.messages import Message
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.models.synthesizer import Synthesizer
from lib.voice import lite_config, rvc_config
from lib.voice.weights import Shapes, Weights, check_finite, check_shapes, meta_device, shapes_of

logger = logging.getLogger(__name__)

POSTERIOR_PREFIX = rvc_config.POSTERIOR_PREFIX
VERSIONS: dict[str, Family | None] = {"v1": "v1", "v2": "v2", "lite": "lite", "": None}
Network = Synthesizer | LiteSynthesizer
Declared = dict[str, Any]  # values of a file's metadata, by the names of the config's fields


class Kind(NamedTuple):
    """The properties that networks used together must share."""

    family: Family
    sample_rate: int  # Hz
    has_f0: bool

    @property
    def message(self) -> Message:
        """Description of the kind, such as "v2 at 40k with F0"."""
        if self.has_f0:
            return Message("{family} at {rate}k with F0", family=self.family, rate=self.sample_rate // 1000)
        return Message("{family} at {rate}k without F0", family=self.family, rate=self.sample_rate // 1000)


class Architecture(NamedTuple):
    """One kind of network that a voice can have."""

    config_class: type[NetworkConfig]
    matches: Callable[[Weights], bool]  # by the names of the tensors
    derive: Callable[[Weights, Declared, str], Any]  # a config; may raise what derive_config catches
    build: Callable[..., Network]  # (config, posterior=False)
    parse_list: Callable[[Any, str], Declared]  # the entry `config` of a voice model to names and values
    to_list: Callable[[Any], list[Any]]  # of a config, and back


ARCHITECTURES = (
    Architecture(
        LiteConfig,
        lite_config.matches,
        lite_config.derive,
        lambda config, posterior=False: LiteSynthesizer(config),
        lite_config.parse_config_list,
        lite_config.config_list,
    ),
    Architecture(
        SynthesizerConfig,
        lambda weights: True,  # last, because its messages name the missing tensor
        rvc_config.derive,
        Synthesizer,
        rvc_config.parse_config_list,
        rvc_config.config_list,
    ),
)


def architecture_of(weights: Weights) -> Architecture:
    """Return the architecture to which these tensors belong."""
    return next(architecture for architecture in ARCHITECTURES if architecture.matches(weights))


def _architecture_for(config: NetworkConfig) -> Architecture:
    return next(architecture for architecture in ARCHITECTURES if architecture.config_class is type(config))


def build_network(config: NetworkConfig, *, posterior: bool = False) -> Network:
    """Build a randomly initialised network from a config, in float32."""
    return _architecture_for(config).build(config, posterior=posterior)


def config_list(config: NetworkConfig) -> list[Any]:
    """Return the positional list that a voice model stores as `config`."""
    return _architecture_for(config).to_list(config)


def derive_config(weights: Weights, declared: Declared, where: str) -> NetworkConfig:
    """Derive the config of a network from its weights, with or without posterior.

    `declared` (possibly empty) supplies what the tensors do not show. Raises CheckpointError if the weights match no
    known network.
    """
    architecture = architecture_of(weights)
    try:
        config: NetworkConfig = architecture.derive(weights, declared, where)
    except KeyError as error:
        raise CheckpointError(
            "{path} lacks the tensor {tensor} that every voice model has. It is not a voice model.",
            path=where,
            tensor=str(error),
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise CheckpointError(
            "{path}: its tensors and its entry 'config' do not define a valid network ({field}: {detail}). Get a "
            "new copy.",
            path=where,
            field=".".join(map(str, problem["loc"])),
            detail=problem["msg"],
        ) from error
    except (IndexError, ValueError, ZeroDivisionError, TypeError) as error:
        raise _unusual_shapes(where) from error
    _log_differences(declared, config, where)
    return config


def _unusual_shapes(where: str) -> CheckpointError:
    return CheckpointError("{path} has tensors with unusual shapes: it belongs to another kind of model.", path=where)


def check_network(weights: Weights, config: NetworkConfig, where: str, *, posterior: bool = False) -> None:
    """Raise CheckpointError unless the weights are exactly those of this network, and finite."""
    try:
        shapes = _shapes(config, posterior)
    except (RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError) as error:
        raise _unusual_shapes(where) from error
    check_shapes(shapes, weights, where)
    check_finite(weights, where)


@functools.lru_cache(maxsize=8)
def _shapes(config: NetworkConfig, posterior: bool) -> Shapes:
    with meta_device():
        return shapes_of(build_network(config, posterior=posterior))


def _version_name(version: Any) -> str:
    """Return the name of a version, which programs write in many ways; "" if the entry contains none."""
    if isinstance(version, bytes):
        version = version.decode(errors="replace")
    if isinstance(version, bool) or not isinstance(version, str | int | float):
        return ""
    text = unicodedata.normalize("NFKC", str(version)).strip().lower()
    match = re.fullmatch(r"(?:rvc)?[ _-]*(?:version|v)?[ _.-]*([12])(?:\.0+)?", text)
    return f"v{match[1]}" if match else text


def derive_family(config: NetworkConfig, version: Any, where: str) -> Family:
    """Return the model family. `version` is the entry of that name in the file, or None; "V2" and 2 mean "v2".

    The tensors take precedence: a `version` that contradicts them is logged and ignored, and one that is neither a
    string nor a number is ignored. Raises CheckpointError if `version` is unknown or names an architecture that is not
    supported, or if no family has this feature dimension.
    """
    if version == "voras_beta":
        raise CheckpointError(
            "{path} is a VoRAS beta model, which has a different architecture and cannot be used here.", path=where
        )
    name = _version_name(version)
    declared = VERSIONS.get(name)
    if declared == "lite":
        return "lite"
    if isinstance(config, LiteConfig):
        return "lite"
    family: Family | None = {256: "v1", 768: "v2"}.get(config.content_width)  # type: ignore[assignment]
    if family is None or name not in VERSIONS:
        raise CheckpointError(
            "{path} declares the version {version!r:.60} and has {width}-dimensional content features; supported are "
            "v1 (256), v2 (768) and lite.",
            path=where,
            version=version,
            width=config.content_width,
        )
    if declared is None and family == "v1" and config.resblock == "2":
        return "lite"
    if declared not in (family, None):
        logger.warning("%s declares the version %s, but its tensors are of %s", where, name, family)
    return family


def _log_differences(declared: Declared, config: NetworkConfig, where: str) -> None:
    """Log metadata that contradicts the tensors. The speaker count is ignored: it is usually the base model's."""
    if not declared:
        return
    architecture = _architecture_for(config)
    own = architecture.parse_list(architecture.to_list(config), where)
    skipped = ("n_speakers", "segment_frames", "spec_channels")
    wrong = [name for name, value in own.items() if name not in skipped and str(declared.get(name)) != str(value)]
    if wrong:
        logger.warning(
            "%s declares values that differ from its tensors; the tensors take precedence: %s", where, ", ".join(wrong)
        )


def kind_of(weights: Weights, where: str) -> Kind:
    """Return the kind of a generator, from its tensors alone. Raises CheckpointError if they match no known network."""
    config = derive_config(weights, {}, where)
    return Kind(derive_family(config, None, where), config.sample_rate, config.has_f0)
