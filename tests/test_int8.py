"""int8 residual blocks: close to float32, where the processor and the voice support them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from infer.options import ConvertOptions
from lib.config import SynthesizerConfig
from lib.content.lite import dequantized
from lib.devices import Precision, choose_precision, has_fast_int8
from lib.errors import CheckpointError, ConfigError
from lib.models.generator import ResidualBlock1, ResidualBlock2
from lib.models.int8 import Int8Conv, Quantized, batch_to_space, quantize, space_to_batch
from lib.models.synthesizer import Synthesizer, snr_db
from lib.voice.weights import load_weights, rvc_state_dict
from tests.helpers import ROOT, Floats
from tests.tiny_voice import tiny_converter, tiny_synthesizer, voice_like

CPU = torch.device("cpu")
PM = ConvertOptions(pitch_method="pm")


def reference_conv(
    values: Tensor, scale: float, zero: int, steps: Tensor, scales: Tensor, _zeros: Tensor, bias: Tensor | None,
    *about: Any,
) -> Tensor:  # fmt: skip
    """What oneDNN's int8 convolution computes, in float32."""
    weight = steps.float() * scales[:, None, None, None]
    made = F.conv2d((values.float() - zero) * scale, weight, bias, *about[:4])
    return made.contiguous(memory_format=torch.channels_last)


def reference_sum(*arguments: Any) -> None:
    """The same, added to a total."""
    values, scale, zero, steps, scales, zeros, total, bias, *about = arguments
    total += reference_conv(values, scale, zero, steps, scales, zeros, bias, *about)


@pytest.fixture(params=["processor", "reference"] if has_fast_int8(CPU) else ["reference"])
def int8(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The int8 operators that a test runs with: the processor's if it has them, and always a reference of them."""
    if request.param == "reference":
        monkeypatch.setattr("lib.devices.has_fast_int8", lambda device: device.type == "cpu")
        monkeypatch.setattr(torch.ops.onednn, "qconv_prepack", lambda steps, *_: steps, raising=False)
        monkeypatch.setattr(torch.ops.onednn, "qconv_pointwise", reference_conv, raising=False)
        binary = SimpleNamespace(binary=reference_sum)
        monkeypatch.setattr(torch.ops.onednn, "qconv2d_pointwise", binary, raising=False)


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def decibels(got: Tensor | Floats, want: Tensor | Floats) -> float:
    """How far the difference lies below what is wanted."""
    a, b = (np.asarray(x, np.float64) for x in (got, want))
    return float(10 * np.log10(np.square(b).sum() / np.square(a - b).sum()))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 2))
def test_rows_are_every_nth_sample_and_come_back(samples: int, count: int, batch: int) -> None:
    values = torch.randint(0, 255, (batch, 3, 1, samples), dtype=torch.uint8)
    x = Quantized(values.contiguous(memory_format=torch.channels_last), 0.5, 7)
    rows = space_to_batch(x, count).values
    assert rows.shape[2] == count and torch.equal(rows[0, :, 0], values[0, :, 0, ::count])
    assert rows.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch_to_space(rows, samples), values)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_rounding_is_within_half_a_step_and_keeps_zero(shift: float) -> None:
    x = channels_last(2, 4, 1, 50) + shift
    x[0, 0, 0, 0] = 0.0
    values, scale, zero = quantize(x)
    back = (values.float() - zero) * scale
    assert (back - x).abs().max() <= scale / 2 * 1.001 and back[0, 0, 0, 0] == 0.0
    assert scale <= (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 254


def test_silence_stays_silence() -> None:
    values, scale, zero = quantize(torch.zeros(1, 4, 1, 9).contiguous(memory_format=torch.channels_last))
    assert scale > 0 and bool((values == zero).all())


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize("samples", [1, 61, 300])
@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("kernel_size", [3, 11])
@torch.inference_mode()
def test_an_int8_convolution_is_close_to_the_float32_one(kernel_size: int, dilation: int, samples: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(32, 32, kernel_size, dilation=dilation, padding=dilation * (kernel_size // 2))
    x, short = channels_last(2, 32, 1, samples), Int8Conv(conv)
    made = batch_to_space(short(space_to_batch(quantize(x), dilation)), samples)
    wanted = conv(x.squeeze(2)).unsqueeze(2)
    assert decibels(made, wanted) > 36
    if dilation == 1:
        total = channels_last(2, 32, 1, samples)
        before = total.clone()
        short.add(quantize(x), total)
        torch.testing.assert_close(total, before + made)


@pytest.mark.skipif(
    not has_fast_int8(CPU), reason="no fast int8 instructions (VNNI) here: the int8 path is tested by its reference"
)
@pytest.mark.parametrize("kernel_size", [3, 11])
@torch.inference_mode()
def test_the_operators_of_the_processor_compute_what_the_reference_does(kernel_size: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(32, 32, kernel_size, padding=kernel_size // 2)
    x, short, total = quantize(channels_last(2, 32, 1, 300)), Int8Conv(conv), channels_last(2, 32, 1, 300)
    steps = torch.round(conv.weight.unsqueeze(2) / short.scales[:, None, None, None]).to(torch.int8)
    reference = reference_conv(*x, steps, short.scales, short.zeros, short.bias, *short.geometry)
    torch.testing.assert_close(short(x), reference, atol=1e-5, rtol=1e-5)
    want = total + reference
    short.add(x, total)
    torch.testing.assert_close(total, want, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize("kind", [ResidualBlock1, ResidualBlock2])
@torch.inference_mode()
def test_an_int8_block_leaves_its_input_as_it_was(kind: type[ResidualBlock1 | ResidualBlock2]) -> None:
    torch.manual_seed(0)
    exact = kind(32, 7, (1, 3, 5)).eval()
    for name, weight in exact.named_parameters():
        if name.endswith("original0"):
            torch.nn.init.ones_(weight)
    x = channels_last(1, 32, 1, 200)
    before = x.clone()
    made = exact.quantize()(x)
    assert torch.equal(x, before) and decibels(made, exact(x)) > 36


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_an_int8_generator_sounds_the_same_in_blocks(resblock: str) -> None:
    exact = tiny_synthesizer(resblock=resblock).fold_weight_norm()
    short = exact.cast(torch.int8, torch.bfloat16)
    assert short.dec.dtype == torch.int8 and exact.dec.dtype == torch.float32 and short.n_bytes < exact.n_bytes
    latent, f0 = torch.randn(1, 8, 60), torch.full((1, 60), 200.0)
    with torch.inference_mode():
        speaker = exact.speaker(torch.tensor([0]))
        wanted = exact.dec(latent, f0, speaker, None, 0.0)
        made = short.dec.in_blocks(latent, f0, speaker, None, 0.0, block_frames=20)
    assert 30 < decibels(made, wanted) < 100 and snr_db(exact, short) > 30


def capable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


def test_auto_takes_the_dtypes_that_the_processor_reports_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for names in ((), ("avx512_bf16",), ("avx_vnni",), ("avx512_vnni", "avx512_bf16")):
        capable(monkeypatch, *names)
        chosen[names] = [choose_precision("auto", CPU, supports_int8=supports) for supports in (True, False)]
    exact, half = Precision(*[torch.float32] * 3), Precision(*[torch.bfloat16] * 3)
    assert list(chosen.values()) == [
        [exact, exact], [half, half], [replace(exact, generator=torch.int8), exact],
        [replace(half, generator=torch.int8), half],
    ]  # fmt: skip


def test_each_precision_has_its_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    capable(monkeypatch, "avx512_vnni", "avx512_bf16")
    exact, half = torch.float32, torch.bfloat16
    assert choose_precision("fp32", CPU, supports_int8=True) == Precision(exact, exact, exact)
    assert choose_precision("bf16", CPU, casts_encoder=False) == Precision(half, half, exact)
    assert choose_precision("int8", CPU) == Precision(torch.int8, half, half)
    assert choose_precision("fp16", torch.device("cuda")) == Precision(torch.float16, exact, exact)


def test_int8_is_refused_where_it_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    capable(monkeypatch, "avx2")
    with pytest.raises(ConfigError, match=r"no fast int8 instructions .*Choose bf16, fp32 or auto precision\."):
        tiny_converter().convert(voice_like(0.5), PM.model_copy(update={"precision": "int8"}))


def with_a_loud_channel(synthesizer: Synthesizer) -> Synthesizer:
    """The same sound, but one channel within a block is so loud that int8 has no steps left for the others."""
    for block in synthesizer.fold_weight_norm().dec.resblocks:
        assert isinstance(block, ResidualBlock1)
        for first, second in zip(block.convs1, block.convs2, strict=True):
            assert isinstance(first, nn.Conv1d) and isinstance(second, nn.Conv1d) and first.bias is not None
            with torch.no_grad():
                first.weight[0] *= 1e4
                first.bias[0] *= 1e4
                second.weight[:, 0] /= 1e4
    return synthesizer


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize("loud", [False, True])
def test_a_voice_that_int8_distorts_is_not_computed_in_int8(loud: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.casting.INT8_CHANNELS", 16)
    capable(monkeypatch, "avx512_vnni")  # so that the other choice is float32
    synthesizer = tiny_synthesizer().fold_weight_norm()
    for block in synthesizer.dec.resblocks:
        for weight in block.parameters():
            torch.nn.init.normal_(weight, 0, weight[0].numel() ** -0.5)
    converter = tiny_converter(synthesizer=with_a_loud_channel(synthesizer) if loud else synthesizer)
    exact, chosen = (
        converter.convert(voice_like(0.5), PM.model_copy(update={"precision": name})) for name in ("fp32", "auto")
    )
    assert np.array_equal(exact, chosen) == loud
    again = converter.convert(voice_like(0.5), PM)
    np.testing.assert_array_equal(again, chosen)


@pytest.mark.usefixtures("int8")
def test_samples_that_are_not_finite_are_found_in_int8_too() -> None:
    synthesizer = tiny_synthesizer().fold_weight_norm()
    with torch.no_grad():
        synthesizer.dec.conv_pre.weight[:] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        tiny_converter(synthesizer=synthesizer).convert(voice_like(0.5), PM.model_copy(update={"precision": "int8"}))


def trained_generator() -> tuple[Synthesizer, tuple[Tensor, Tensor, Tensor]]:
    """A generator trained on speech, and the latents, F0 and speaker of 2.5 s of a conversion with it."""
    path = ROOT / "tests" / "data" / "lite_generator.safetensors"
    with safe_open(path, "pt") as file:
        config = SynthesizerConfig.model_validate_json(file.metadata()["config"])
        stored = dequantized({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - it is no dict
    inputs = (stored.pop("latent"), stored.pop("f0"), stored.pop("speaker"))
    synthesizer = Synthesizer(config)
    load_weights(synthesizer, rvc_state_dict(synthesizer) | stored, path.name)
    return synthesizer.eval().fold_weight_norm(), inputs


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
@torch.inference_mode()
def test_a_trained_generator_sounds_the_same_in_int8() -> None:
    exact, inputs = trained_generator()
    wanted = exact.dec.in_blocks(*inputs, None, 0.0)
    int8, half = (exact.cast(dtype, torch.float32).dec for dtype in (torch.int8, torch.bfloat16))
    assert decibels(int8.in_blocks(*inputs, None, 0.0).float(), wanted) > 38
    short = [value.bfloat16() for value in (inputs[0], inputs[2])]
    assert decibels(half.in_blocks(short[0], inputs[1], short[1], None, 0.0).float(), wanted) > 36
