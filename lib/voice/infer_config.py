"""What the tensors of a synthesizer tell about it: widths, layers, F0, sample rate, family.

Files claim these things too (`config`, `sr`, `f0`, `version`), and are often wrong: the classical extraction writes
whatever the user chose in a form. Spec: file-formats, "The config list"; checkpoint-tools, "Extract small model".
Claims decide only what no tensor shows: the dilations, and the rates where several networks have the same shapes.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from lib.config import FAMILIES, Family, SynthesizerConfig, load_family
from lib.errors import CheckpointError
from lib.models.synthesizer import Synthesizer
from lib.voice.weights import Shapes, Weights, check_finite, check_shapes, meta_device, shapes_of

logger = logging.getLogger(__name__)

SEGMENT_FRAMES = 32  # always written as 32 in voice models, whatever training used
POSTERIOR_PREFIX = "enc_q."
SLOWEST_FRAMES = 25  # per second; every known network has 100
MOST_LAYERS = 64  # more of anything is no network of this kind
CONFIG_LENGTHS = (18, 19)  # 19: with the number of content features before the sample rate
_FIELDS = (
    "spec_channels", "segment_frames", "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers",
    "kernel_size", "p_dropout", "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates",
    "upsample_initial_channel", "upsample_kernel_sizes", "n_speakers", "gin_channels",
)  # fmt: skip
Claims = dict[str, Any]


class Kind(NamedTuple):
    """What must agree between networks that are used together."""

    family: Family
    sample_rate: int  # Hz
    has_f0: bool

    def __str__(self) -> str:
        return f"{self.family} at {self.sample_rate // 1000}k {'with' if self.has_f0 else 'without'} F0"


def parse_config_list(raw: Any, where: str) -> Claims:
    """Name the values of a file's positional `config` list. CheckpointError if it is no such list."""
    if not isinstance(raw, list | tuple) or len(raw) not in CONFIG_LENGTHS:
        raise CheckpointError(f"{where}: the entry 'config' is not the usual list of 18 values.")
    return dict(zip(_FIELDS, raw, strict=False)) | {"sample_rate": raw[-1]}


def config_list(config: SynthesizerConfig) -> list[Any]:
    """The positional list of a config, as voice models have it."""
    values = config.model_dump(mode="json")
    dropout = 0 if config.p_dropout == 0 else config.p_dropout
    values |= {"segment_frames": SEGMENT_FRAMES, "p_dropout": dropout}
    return [*(values[name] for name in _FIELDS), config.sample_rate]


def derive_config(weights: Weights, claims: Claims, where: str) -> SynthesizerConfig:
    """The config of the network that `weights` are of; `claims` (perhaps empty) fill in what no tensor shows.

    The weights may or may not include the posterior. Raises CheckpointError if they are of no such network.
    """
    try:
        seen = _unseen(claims) | _seen(weights)
        seen |= _dilations(seen, claims) | _rates(seen, claims, where)
        config = SynthesizerConfig.model_validate(
            {"segment_frames": claims.get("segment_frames", SEGMENT_FRAMES), "p_dropout": claims.get("p_dropout", 0.0)}
            | {name: value for name, value in seen.items() if name not in _INTERNAL}
        )
        _check_rates(config)
    except KeyError as error:
        raise CheckpointError(f"{where} lacks the tensor {error} that every voice model has.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        told = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        raise CheckpointError(
            f"{where}: its tensors and its entry 'config' make no network ({told}). Get it again."
        ) from error
    except (IndexError, ValueError, ZeroDivisionError, TypeError) as error:
        raise CheckpointError(f"{where} has tensors of unusual shapes: it belongs to another kind of model.") from error
    _log_differences(claims, config, where)
    return config


def _check_rates(config: SynthesizerConfig) -> None:
    """ValueError for rates that would turn a recording into gigabytes, or that their kernels cannot do."""
    kernels = zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True)
    if config.hop_length > config.sample_rate // SLOWEST_FRAMES or any(kernel < rate for kernel, rate in kernels):
        raise ValueError


def check_network(weights: Weights, config: SynthesizerConfig, where: str, *, posterior: bool = False) -> None:
    """CheckpointError unless the weights are exactly those of this network, and finite."""
    try:
        shapes = _shapes(config, posterior)
    except (RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError) as error:
        raise CheckpointError(f"{where} has tensors of unusual shapes: it belongs to another kind of model.") from error
    check_shapes(shapes, weights, where)
    check_finite(weights, where)


@functools.lru_cache(maxsize=8)
def _shapes(config: SynthesizerConfig, posterior: bool) -> Shapes:
    with meta_device():
        return shapes_of(Synthesizer(config, posterior=posterior))


def derive_family(config: SynthesizerConfig, claimed: Any, where: str) -> Family:
    """The model family; `claimed` is the file's entry `version`, None if it has none."""
    if claimed == "lite":
        return "lite"
    family: Family | None = {256: "v1", 768: "v2"}.get(config.content_width)  # type: ignore[assignment]
    if claimed == "voras_beta":
        raise CheckpointError(f"{where} is a VoRAS beta model, another architecture, which cannot be used here.")
    if family is None or claimed not in ("v1", "v2", None):
        raise CheckpointError(
            f"{where} is of the kind {claimed!r:.60} with {config.content_width} content features; known are v1 (256), "
            "v2 (768) and lite."
        )
    if claimed is None and family == "v1" and config.resblock == "2":
        return "lite"
    if claimed not in (family, None):
        logger.warning("%s says it is %s, but its tensors are of %s", where, claimed, family)
    return family


# --- what the tensors show --------------------------------------------------------------------------------------------

_INTERNAL = ("strides", "n_dilations", "posterior_bins")  # seen, but no values of a config


def _count(weights: Weights, pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
        if number > MOST_LAYERS:
            raise ValueError
    return number


def _unseen(claims: Claims) -> Claims:
    """What no tensor shows where there is no transformer: as claimed, or as usual."""
    names = ("filter_channels", "kernel_size", "n_heads")
    return {name: claims.get(name, SynthesizerConfig.model_fields[name].default) for name in names}


def _transformer(weights: Weights, hidden: int) -> Claims:
    """The shape of the prior's transformer; only its number of layers if it has none."""
    prefix = "enc_p.encoder."
    if not any(key.startswith(prefix) for key in weights):
        return {"n_layers": 0}
    wide, _, kernel = weights[prefix + "ffn_layers.0.conv_1.weight"].shape
    return {
        "n_layers": _count(weights, prefix + "attn_layers.{}.emb_rel_k"),
        "n_heads": hidden // weights[prefix + "attn_layers.0.emb_rel_k"].shape[2],
        "filter_channels": wide,
        "kernel_size": kernel,
    }


def _seen(weights: Weights) -> Claims:
    """Everything that follows from names and shapes alone."""
    hidden, width = weights["enc_p.emb_phone.weight"].shape
    speakers, gin = weights["emb_g.weight"].shape
    has_f0 = "enc_p.emb_pitch.weight" in weights
    n_stages = _count(weights, "dec.ups.{}.weight_v")
    kind = "1" if "dec.resblocks.0.convs1.0.weight_v" in weights else "2"
    convs = "convs1" if kind == "1" else "convs"
    n_blocks = _count(weights, "dec.resblocks.{}." + convs + ".0.weight_v") // n_stages
    bins = weights.get(POSTERIOR_PREFIX + "pre.weight")
    noise = [weights[f"dec.noise_convs.{i}.weight"].shape[2] for i in range(n_stages)] if has_f0 else []
    return {
        "content_width": width,
        "hidden_channels": hidden,
        **_transformer(weights, hidden),
        "n_speakers": speakers,
        "gin_channels": gin,
        "n_flows": len({key.split(".")[2] for key in weights if key.startswith("flow.flows.")}),
        "inter_channels": weights["enc_p.proj.weight"].shape[0] // 2,
        "upsample_initial_channel": weights["dec.conv_pre.weight"].shape[0],
        "upsample_kernel_sizes": tuple(weights[f"dec.ups.{i}.weight_v"].shape[2] for i in range(n_stages)),
        "resblock": kind,
        "resblock_kernel_sizes": tuple(
            weights[f"dec.resblocks.{i}.{convs}.0.weight_v"].shape[2] for i in range(n_blocks)
        ),
        "n_dilations": tuple(
            _count(weights, f"dec.resblocks.{i}.{convs}." + "{}.weight_v") for i in range(n_blocks)
        ),
        "has_f0": has_f0,
        "strides": tuple(1 if size == 1 else size // 2 for size in noise),  # from each stage's rate to the output's
        "posterior_bins": None if bins is None else bins.shape[1],
    }  # fmt: skip


@functools.cache
def _known_networks() -> list[SynthesizerConfig]:
    """The networks of the shipped families; the classical 24k network has the rates of lite."""
    return [load_family(family, rate).synthesizer for family, rates in FAMILIES.items() for rate in rates]


def _dilations(seen: Claims, claims: Claims) -> Claims:
    """The dilations: as claimed if that many exist, else those of the known network of this shape."""
    for known in ({name: claims.get(name) for name in _FIELDS}, *(c.model_dump() for c in _known_networks())):
        dilations = known["resblock_dilation_sizes"]
        if not isinstance(dilations, list | tuple) or not all(isinstance(d, list | tuple) for d in dilations):
            continue
        same_kernels = tuple(known["resblock_kernel_sizes"] or ()) == seen["resblock_kernel_sizes"]
        if same_kernels and tuple(map(len, dilations)) == seen["n_dilations"]:
            return {"resblock_dilation_sizes": dilations}
    raise ValueError


def _rates(seen: Claims, claims: Claims, where: str) -> Claims:
    """The upsampling rates, the sample rate, and the size of the spectrogram that goes with them."""
    bins = seen["posterior_bins"]
    claimed_rate = claims.get("sample_rate")
    claimed = _claimed_rates(seen, claims)
    if claimed is not None and 100 * claimed.hop_length == claimed_rate and bins in (None, claimed.spec_channels):
        return _rates_of(claimed)
    known = {}
    for network in _known_networks():
        same = network.upsample_kernel_sizes == seen["upsample_kernel_sizes"]
        if same and _has_strides(network.upsample_rates, seen["strides"]) and bins in (None, network.spec_channels):
            known[network.sample_rate] = network
    if claimed_rate in known:
        return _rates_of(known[claimed_rate])
    if len(known) == 1:
        return _rates_of(*known.values())
    if known:
        names = " or ".join(f"{rate // 1000}k" for rate in sorted(known))
        raise CheckpointError(
            f"{where} may be of {names}: networks without F0 have the same tensors at these rates. Say which it is "
            "(ckpt extract: --sample-rate)."
        )
    if claimed is None:
        raise ValueError
    return _rates_of(claimed) | ({} if bins is None else {"spec_channels": bins})


def _rates_of(network: SynthesizerConfig) -> Claims:
    return {name: getattr(network, name) for name in ("upsample_rates", "sample_rate", "spec_channels")}


def _claimed_rates(seen: Claims, claims: Claims) -> SynthesizerConfig | None:
    """The claimed rates as part of a config, or None if there are none or the tensors contradict them."""
    try:
        own = ("upsample_rates", "upsample_kernel_sizes", "sample_rate", "spec_channels")
        claimed = SynthesizerConfig.model_validate(
            {"segment_frames": SEGMENT_FRAMES, "content_width": 1} | {name: claims[name] for name in own}
        )
    except (KeyError, ValidationError):
        return None
    fits = claimed.upsample_kernel_sizes == seen["upsample_kernel_sizes"]
    return claimed if fits and _has_strides(claimed.upsample_rates, seen["strides"]) else None


def _has_strides(rates: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the strides of the excitation's convolutions (none without F0) are those of these rates."""
    want = [1]
    for rate in reversed(rates[1:]):
        want.append(want[-1] * rate)
    return not strides or tuple(reversed(want)) == tuple(strides)


def _log_differences(claims: Claims, config: SynthesizerConfig, where: str) -> None:
    """Tell what a file says of itself that is not so. Its number of speakers is nearly always the base model's."""
    if not claims:
        return
    ours = parse_config_list(config_list(config), where)
    skipped = ("n_speakers", "segment_frames", "spec_channels")
    wrong = [name for name, value in ours.items() if name not in skipped and str(claims.get(name)) != str(value)]
    if wrong:
        logger.warning("%s claims another %s than its tensors have; the tensors count", where, ", ".join(wrong))


def kind_of(weights: Weights, where: str) -> Kind:
    """The kind of a generator, from its tensors alone. CheckpointError if they are of no such network."""
    config = derive_config(weights, {}, where)
    return Kind(derive_family(config, None, where), config.sample_rate, config.has_f0)
