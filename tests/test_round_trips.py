"""Files survive a round trip: voices through both formats, our files in RVC, checkpoints of 2023 and 2026."""

import json
import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import FAMILIES, Family, SynthesizerConfig, load_family
from lib.models.synthesizer import Synthesizer
from lib.voice.model_file import VoiceModel, read_voice_model, write_voice_model
from lib.voice.training_state import read_training_state
from lib.voice.weights import Weights, rvc_key, rvc_state_dict
from tests.helpers import SPECIFICATION, vits_config
from tests.tiny_files import save_voice, small_voice, tiny_family
from train.checkpoints import resume_pair, save_pair
from train.ckpt.tools import extract
from train.dataset import Batch
from train.state import TrainState, begin_epoch, make_state
from train.step import train_step

LISTINGS = SPECIFICATION / "state_dict"
KINDS = [f"{v}_{rate}_{f0}" for v in ("v1", "v2") for rate in ("32k", "40k", "48k") for f0 in ("f0", "nof0")]
ORDER_2026 = ("dec", "enc_q", "flow", "emb_g", "enc_p")
WIDTHS = (2, 3, 4, 13, 15, 16)  # places of the config list that narrow networks change
PLAIN_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch HalfStorage"}


def listing(kind: str) -> dict[str, Any]:
    """The tensors of a network as the specification lists them."""
    path = LISTINGS / f"{kind}.json"
    if not path.is_file():
        pytest.skip(f"no listings of tensors at {LISTINGS}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def kind_parts(kind: str) -> tuple[Family, str, bool]:
    family, rate, f0 = kind.split("_")
    return ("v1" if family == "v1" else "v2"), rate, f0 == "f0"


def identical(one: Weights, other: Weights) -> bool:
    """Same names in the same order, same types, same bits."""
    return list(one) == list(other) and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.contiguous().view(torch.uint8).equal(other[name].contiguous().view(torch.uint8))
        for name, value in one.items()
        if value.ndim
    )


# --- voices -----------------------------------------------------------------------------------------------------------

# Every half but infinities and NaN, subnormal numbers and negative zero among them.
HALVES = torch.arange(1 << 16).to(torch.uint16).view(torch.float16)
HALVES = HALVES[HALVES.isfinite()]


@pytest.mark.slow
@settings(max_examples=4)
@given(family=st.sampled_from(["v1", "v2", "lite"]), has_f0=st.booleans(), start=st.integers(0, len(HALVES)))
def test_voice_to_safetensors_to_voice_is_bit_identical(
    tmp_path_factory: pytest.TempPathFactory, family: Family, has_f0: bool, start: int
) -> None:
    folder = tmp_path_factory.mktemp("voices")
    made = small_voice(family, FAMILIES[family][0], has_f0=has_f0 or family == "lite")
    weights = {}
    for name, value in made.weights.items():
        places = (torch.arange(value.numel()) + start) % len(HALVES)
        weights[name] = HALVES[places].reshape(value.shape)
        start += value.numel()
    voice = VoiceModel(family, made.config, weights, "7epoch", extra={"author": "me"})
    for name in ("a.pth", "b.safetensors", "c.pth", "d.safetensors"):
        write_voice_model(folder / name, voice)
        voice = read_voice_model(folder / name)
        assert identical(voice.weights, weights)
    assert (folder / "a.pth").read_bytes() == (folder / "c.pth").read_bytes()
    assert (folder / "b.safetensors").read_bytes() == (folder / "d.safetensors").read_bytes()


def types_of(value: Any) -> Any:
    return [types_of(item) for item in value] if type(value) is list else type(value)


def named_in_pickle(path: Path) -> set[str]:
    """Every class and function that the pickle of a torch file names."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    assert data[:2] == b"\x80\x02"  # protocol 2, which every version of torch reads
    return {str(argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_written_voice_has_rvcs_format_in_every_detail(tmp_path: Path, kind: str) -> None:
    spec, (family, rate, has_f0) = listing(kind), kind_parts(kind)
    write_voice_model(tmp_path / "a.pth", small_voice(family, rate, has_f0=has_f0, n_layers=6))
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(content) == ["weight", "config", "info", "sr", "f0", "version"]
    assert list(content["weight"]) == [
        name for name in spec["parameter_order_2023"] if spec["tensors"][name]["in_small_model"]
    ]
    assert len(content["weight"]) == spec["meta"]["n_tensors_small"]
    for tensor in content["weight"].values():
        assert type(tensor) is torch.Tensor and tensor.dtype == torch.float16 and tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == 2 * tensor.numel() and not tensor.requires_grad
    want = spec["meta"]["small_model_config_list"]
    assert types_of(content["config"]) == types_of(want)
    assert all(content["config"][i] == value for i, value in enumerate(want) if i not in WIDTHS)
    metadata = {name: content[name] for name in ("sr", "f0", "version")}
    assert metadata == {"sr": rate, "f0": int(has_f0), "version": family}
    assert (type(metadata["f0"]), type(content["info"])) == (int, str)
    assert named_in_pickle(tmp_path / "a.pth") <= PLAIN_NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", [{"n_layers": layers, "n_flows": flows} for layers, flows in ((0, 0), (1, 0), (0, 4), (3, 4))]
)
def test_networks_without_transformer_or_flow_come_back_as_they_were(tmp_path: Path, parts: dict[str, int]) -> None:
    voice = small_voice("v1", "40k", **parts)
    write_voice_model(tmp_path / "a.pth", voice)
    read = read_voice_model(tmp_path / "a.pth")
    assert isinstance(read.config, SynthesizerConfig)
    assert (read.config.n_layers, read.config.n_flows) == (parts["n_layers"], parts["n_flows"])
    assert all(torch.equal(value.half(), read.weights[name].half()) for name, value in voice.weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_full_networks_have_exactly_the_listed_tensors(kind: str) -> None:
    spec, (family, rate, has_f0) = listing(kind), kind_parts(kind)
    with torch.device("meta"):
        network = Synthesizer(vits_config(load_family(family, rate, has_f0=has_f0)), posterior=True)
    shapes = {name: list(value.shape) for name, value in rvc_state_dict(network).items()}
    assert list(shapes) == spec["parameter_order_2023"] == [rvc_key(n) for n, _ in network.named_parameters()]
    assert shapes == {name: facts["shape"] for name, facts in spec["tensors"].items()}


# --- training checkpoints ---------------------------------------------------------------------------------------------


def batch_of(seed: int, frames: int = 36) -> Batch:
    """Two clips of noise for networks of v2 at 40k."""
    noise = torch.Generator().manual_seed(seed)
    return Batch(
        content=torch.randn(2, frames, 768, generator=noise),
        pitch_bins=torch.full((2, frames), 80),
        f0=torch.full((2, frames), 200.0),
        spec=torch.rand(2, 1025, frames, generator=noise),
        audio=torch.randn(2, 1, frames * 400, generator=noise).tanh(),
        lengths=torch.tensor([frames, frames - 2]),
        speaker_id=torch.tensor([0, 1]),
    )


def new_state(seed: int) -> TrainState:
    torch.manual_seed(seed)
    return make_state(tiny_family("v2", "40k"), Accelerator(cpu=True))


def next_step(state: TrainState) -> tuple[Weights, Weights]:
    """Both networks after one step with noise that does not depend on what happened before."""
    torch.manual_seed(5)
    begin_epoch(state)
    train_step(state, batch_of(3))
    return tuple(  # type: ignore[return-value]
        {name: value.clone() for name, value in rvc_state_dict(network).items()}
        for network in (state.plain_generator, state.plain_discriminator)
    )


def rewrite(source: Path, target: Path, order: Sequence[str]) -> None:
    """The checkpoint as written by a program that registers its parameters in this order, without our entries."""
    content = torch.load(source, weights_only=True)
    names, state = list(content["model"]), content["optimizer"]["state"]
    content["optimizer"]["state"] = {i: state[names.index(name)] for i, name in enumerate(order)}
    content["model"] = {name: content["model"][name] for name in order}
    del content["revoice"]
    torch.save(content, target)


@pytest.mark.slow
def test_checkpoints_of_2023_and_2026_resume_to_the_same_next_step(tmp_path: Path) -> None:
    state = new_state(1)
    begin_epoch(state)
    for seed in range(2):
        train_step(state, batch_of(seed))
    state.progress.epoch = 2
    save_pair(state, tmp_path / "G.pth", tmp_path / "D.pth")
    wanted = next_step(state)

    order_2023 = list(read_training_state(tmp_path / "G.pth").weights)
    order_2026 = sorted(order_2023, key=lambda name: ORDER_2026.index(name.split(".")[0]))
    order_d = list(read_training_state(tmp_path / "D.pth").weights)
    assert order_2026 != order_2023
    for seed, order, reverse_d in ((7, order_2023, False), (8, order_2026, True)):
        rewrite(tmp_path / "G.pth", tmp_path / "G_x.pth", order)
        rewrite(tmp_path / "D.pth", tmp_path / "D_x.pth", order_d[::-1] if reverse_d else order_d)
        resumed = new_state(seed)
        resume_pair(resumed, tmp_path / "G_x.pth", tmp_path / "D_x.pth")
        assert resumed.progress.epoch == 2
        for got, want in zip(next_step(resumed), wanted, strict=True):
            assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.slow
def test_an_optimiser_mapped_by_position_would_take_another_step(tmp_path: Path) -> None:
    """The trap that the mapping by name avoids: two biases of one shape change places unnoticed."""
    state = new_state(1)
    begin_epoch(state)
    train_step(state, batch_of(0))
    save_pair(state, tmp_path / "G.pth", tmp_path / "D.pth")
    wanted = next_step(state)[0]
    names = list(wanted)
    first, second = (names.index(f"enc_p.encoder.norm_layers_{i}.0.beta") for i in (1, 2))
    content = torch.load(tmp_path / "G.pth", weights_only=True)
    state = content["optimizer"]["state"]
    state[first], state[second] = state[second], state[first]
    torch.save(content, tmp_path / "G.pth")
    resumed = new_state(2)
    resume_pair(resumed, tmp_path / "G.pth", tmp_path / "D.pth")
    got = next_step(resumed)[0]
    assert {name for name in names if not torch.equal(got[name], wanted[name])} == {names[first], names[second]}


@pytest.mark.slow
def test_our_checkpoints_are_what_the_references_resume(tmp_path: Path) -> None:
    state = new_state(1)
    begin_epoch(state)
    train_step(state, batch_of(0))
    save_pair(state, tmp_path / "G.pth", tmp_path / "D.pth")
    spec = listing("v2_40k_f0")
    for name, network in (("G.pth", state.plain_generator), ("D.pth", state.plain_discriminator)):
        content = torch.load(tmp_path / name, weights_only=True)
        assert list(content)[:4] == ["model", "iteration", "optimizer", "learning_rate"]
        assert (type(content["iteration"]), type(content["learning_rate"])) == (int, float)
        weights = content["model"]
        assert all(value.dtype == torch.float32 and not key.startswith("module.") for key, value in weights.items())
        group = content["optimizer"]["param_groups"][0]
        assert group["params"] == list(range(len(weights))) and {"lr", "betas", "eps", "weight_decay"} <= group.keys()
        plain = torch.optim.AdamW([torch.zeros_like(value).requires_grad_() for value in weights.values()])
        plain.load_state_dict(content["optimizer"])  # by position, as the references do
        for parameter, moments in plain.state.items():
            assert moments["exp_avg"].shape == parameter.shape
        assert list(weights) == [rvc_key(key) for key, _ in network.named_parameters()]
    # Narrow networks of one layer have the tensors of the full ones in the same order, but fewer.
    ours = list(torch.load(tmp_path / "G.pth", weights_only=True)["model"])
    assert [key for key in spec["parameter_order_2023"] if key in set(ours)] == ours
    assert extract(tmp_path / "G.pth").family == "v2"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["v2", "lite"])
def test_both_spellings_of_weight_norm_are_read(tmp_path: Path, family: Family) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice(family, "40k" if family == "v2" else "24k"))
    newer = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    renamed = {key: value for key, value in content["weight"].items()}
    for old, new in newer.items():
        renamed = {key.replace(old, new): value for key, value in renamed.items()}
    torch.save(content | {"weight": renamed}, tmp_path / "b.pth")
    old_voice, new_voice = (read_voice_model(tmp_path / f"{name}.pth") for name in "ab")
    assert (family == "lite") == (renamed.keys() == content["weight"].keys())
    assert list(old_voice.weights) == list(new_voice.weights)
    assert all(torch.equal(old_voice.weights[key], value) for key, value in new_voice.weights.items())
