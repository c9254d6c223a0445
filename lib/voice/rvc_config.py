"""The config of RVC's synthesizer: from the names and shapes of its tensors, and as the positional list in files.

The list has 18 unnamed values, from the number of spectrogram bins to the sample rate. Declared values are used only
for what the tensors do not show: the dilations, and the upsampling rates if several networks have the same shapes.
"""

import functools
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from lib.config import FAMILIES, SynthesizerConfig, load_family
from lib.errors import CheckpointError
from lib.voice.weights import Weights

SEGMENT_FRAMES = 32  # in every voice model, whatever was used in training
POSTERIOR_PREFIX = "enc_q."
MIN_FRAME_RATE = 25  # frames per second; every known network has 100
MAX_LAYERS = 64  # per kind of layer
CONFIG_LENGTHS = (18, 19)  # 19: with the number of content features before the sample rate
_FIELDS = (
    "spec_channels", "segment_frames", "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers",
    "kernel_size", "p_dropout", "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates",
    "upsample_initial_channel", "upsample_kernel_sizes", "n_speakers", "gin_channels",
)  # fmt: skip
Declared = dict[str, Any]


def parse_config_list(raw: Any, where: str) -> Declared:
    """Map the values of a voice model's positional `config` list to field names.

    Raises CheckpointError if it is not such a list.
    """
    if not isinstance(raw, list | tuple) or len(raw) not in CONFIG_LENGTHS:
        raise CheckpointError(
            "{path}: the entry 'config' is not the usual list of 18 values. Get a new copy of the voice.", path=where
        )
    return dict(zip(_FIELDS, raw, strict=False)) | {"sample_rate": raw[-1]}


def config_list(config: SynthesizerConfig) -> list[Any]:
    """Return the positional list that a voice model stores as `config`."""
    values = config.model_dump(mode="json")
    dropout = 0 if config.p_dropout == 0 else config.p_dropout
    values |= {"segment_frames": SEGMENT_FRAMES, "p_dropout": dropout}
    return [*(values[name] for name in _FIELDS), config.sample_rate]


def derive(weights: Weights, declared: Declared, where: str) -> SynthesizerConfig:
    """Derive the config of a network from its weights, with or without posterior.

    Raises KeyError if a tensor is missing, ValidationError if values are impossible, IndexError, TypeError, ValueError
    or ZeroDivisionError if shapes are, and CheckpointError if several sample rates are possible.
    """
    found = _layers_without_tensors(declared) | _from_shapes(weights)
    found |= _dilations(found, declared) | _rates(found, declared, where)
    config = SynthesizerConfig.model_validate(
        {"segment_frames": declared.get("segment_frames", SEGMENT_FRAMES), "p_dropout": declared.get("p_dropout", 0.0)}
        | {name: value for name, value in found.items() if name not in _INTERMEDIATE}
    )
    _check_rates(config)
    return config


def _check_rates(config: SynthesizerConfig) -> None:
    """Raise ValueError if rates would expand a recording to gigabytes or exceed their kernels."""
    kernels = zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True)
    if config.hop_length > config.sample_rate // MIN_FRAME_RATE or any(kernel < rate for kernel, rate in kernels):
        raise ValueError


# --- from tensors ---------------------------------------------------------------------------------------------------

_INTERMEDIATE = ("strides", "n_dilations", "posterior_bins")  # no fields of the config


def _count(weights: Weights, pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
        if number > MAX_LAYERS:
            raise ValueError
    return number


def _layers_without_tensors(declared: Declared) -> Declared:
    """Fields that the tensors do not show if there is no transformer: as declared, or the default."""
    names = ("filter_channels", "kernel_size", "n_heads")
    return {name: declared.get(name, SynthesizerConfig.model_fields[name].default) for name in names}


def _transformer(weights: Weights, hidden: int) -> Declared:
    """The sizes of the prior's transformer; only `n_layers` if it has none."""
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


def _from_shapes(weights: Weights) -> Declared:
    """The fields that names and shapes alone determine."""
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
    """Return the networks of the bundled families that are Synthesizers."""
    networks = (load_family(family, rate).synthesizer for family, rates in FAMILIES.items() for rate in rates)
    return [network for network in networks if isinstance(network, SynthesizerConfig)]


def _dilations(found: Declared, declared: Declared) -> Declared:
    """The dilations: as declared if their number fits, else those of the known network of this shape."""
    for known in ({name: declared.get(name) for name in _FIELDS}, *(c.model_dump() for c in _known_networks())):
        dilations = known["resblock_dilation_sizes"]
        if not isinstance(dilations, list | tuple) or not all(isinstance(d, list | tuple) for d in dilations):
            continue
        same_kernels = tuple(known["resblock_kernel_sizes"] or ()) == found["resblock_kernel_sizes"]
        if same_kernels and tuple(map(len, dilations)) == found["n_dilations"]:
            return {"resblock_dilation_sizes": dilations}
    raise ValueError


def _rates(found: Declared, declared: Declared, where: str) -> Declared:
    """The upsampling rates, the sample rate, and the size of the spectrogram of that rate."""
    bins = found["posterior_bins"]
    declared_rate = declared.get("sample_rate")
    declared_config = _declared_rates(found, declared)
    if (
        declared_config is not None
        and 100 * declared_config.hop_length == declared_rate
        and bins in (None, declared_config.spec_channels)
    ):
        return _rates_of(declared_config)
    known = {}
    for network in _known_networks():
        same = network.upsample_kernel_sizes == found["upsample_kernel_sizes"]
        if same and _has_strides(network.upsample_rates, found["strides"]) and bins in (None, network.spec_channels):
            known[network.sample_rate] = network
    if declared_rate in known:
        return _rates_of(known[declared_rate])
    if len(known) == 1:
        return _rates_of(*known.values())
    if known:
        names = " / ".join(f"{rate // 1000}k" for rate in sorted(known))
        raise CheckpointError(
            "The sample rate of {path} could be any of {rates}: networks without F0 have identical tensors at these "
            "rates. Specify the correct one (ckpt extract: --sample-rate).",
            path=where,
            rates=names,
        )
    if declared_config is None:
        raise ValueError
    return _rates_of(declared_config) | ({} if bins is None else {"spec_channels": bins})


def _rates_of(network: SynthesizerConfig) -> Declared:
    return {name: getattr(network, name) for name in ("upsample_rates", "sample_rate", "spec_channels")}


def _declared_rates(found: Declared, declared: Declared) -> SynthesizerConfig | None:
    """A config with the declared rates; None if there are none or the tensors contradict them."""
    try:
        own = ("upsample_rates", "upsample_kernel_sizes", "sample_rate", "spec_channels")
        declared_config = SynthesizerConfig.model_validate(
            {"segment_frames": SEGMENT_FRAMES, "content_width": 1} | {name: declared[name] for name in own}
        )
    except (KeyError, ValidationError):
        return None
    fits = declared_config.upsample_kernel_sizes == found["upsample_kernel_sizes"]
    return declared_config if fits and _has_strides(declared_config.upsample_rates, found["strides"]) else None


def _has_strides(rates: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the excitation's convolutions (none without F0) have the strides of these rates."""
    want = [1]
    for rate in reversed(rates[1:]):
        want.append(want[-1] * rate)
    return not strides or tuple(reversed(want)) == tuple(strides)
