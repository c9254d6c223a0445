"""Residual blocks of eight bits: near what float32 makes, where the processor has them and the voice bears them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from lib.audio.decode import load_audio
from lib.devices import analysis_dtype, generator_dtype, has_fast_int8
from lib.errors import CheckpointError, ConfigError
from lib.models.eight_bit import EightBitConv, Rounded, from_rows, rounded, to_rows
from lib.models.generator import ResidualBlock1, ResidualBlock2
from lib.models.synthesizer import Synthesizer, agreement_in_db
from lib.paths import PRETRAINED
from tests.helpers import Floats
from tests.tiny_voice import tiny_converter, tiny_synthesizer, voice_like

CPU = torch.device("cpu")
PM = ConvertOptions(pitch_method="pm")
needs_int8 = pytest.mark.skipif(not has_fast_int8(CPU), reason="the processor has no instructions for eight bits")


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def decibels(got: Tensor | Floats, want: Tensor | Floats) -> float:
    """How far the difference lies below what is wanted."""
    a, b = (np.asarray(x, np.float64) for x in (got, want))
    return float(10 * np.log10(np.square(b).sum() / np.square(a - b).sum()))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 2))
def test_rows_are_every_nth_sample_and_come_back(samples: int, count: int, batch: int) -> None:
    values = torch.randint(0, 255, (batch, 3, 1, samples), dtype=torch.uint8)
    x = Rounded(values.contiguous(memory_format=torch.channels_last), 0.5, 7)
    rows = to_rows(x, count).values
    assert rows.shape[2] == count and torch.equal(rows[0, :, 0], values[0, :, 0, ::count])
    assert rows.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_rows(rows, samples), values)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_rounding_is_within_half_a_step_and_keeps_zero(shift: float) -> None:
    x = channels_last(2, 4, 1, 50) + shift
    x[0, 0, 0, 0] = 0.0
    values, scale, zero = rounded(x)
    back = (values.float() - zero) * scale
    assert (back - x).abs().max() <= scale / 2 * 1.001 and back[0, 0, 0, 0] == 0.0
    assert scale <= (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 254


def test_silence_stays_silence() -> None:
    values, scale, zero = rounded(torch.zeros(1, 4, 1, 9).contiguous(memory_format=torch.channels_last))
    assert scale > 0 and bool((values == zero).all())


@needs_int8
@pytest.mark.parametrize("samples", [1, 61, 300])
@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("kernel_size", [3, 11])
@torch.inference_mode()
def test_a_convolution_of_eight_bits_is_near_the_one_it_is_made_of(
    kernel_size: int, dilation: int, samples: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(32, 32, kernel_size, dilation=dilation, padding=dilation * (kernel_size // 2))
    x, short = channels_last(2, 32, 1, samples), EightBitConv(conv)
    made = from_rows(short(to_rows(rounded(x), dilation)), samples)
    wanted = conv(x.squeeze(2)).unsqueeze(2)
    assert decibels(made, wanted) > 36
    if dilation == 1:
        total = channels_last(2, 32, 1, samples)
        before = total.clone()
        short.add(rounded(x), total)
        torch.testing.assert_close(total, before + made)


@needs_int8
@pytest.mark.parametrize("kind", [ResidualBlock1, ResidualBlock2])
@torch.inference_mode()
def test_a_block_of_eight_bits_leaves_its_input_as_it_was(kind: type[ResidualBlock1 | ResidualBlock2]) -> None:
    torch.manual_seed(0)
    exact = kind(32, 7, (1, 3, 5)).eval()
    for name, weight in exact.named_parameters():
        if name.endswith("original0"):
            torch.nn.init.ones_(weight)
    x = channels_last(1, 32, 1, 200)
    before = x.clone()
    made = exact.in_eight_bits()(x)
    assert torch.equal(x, before) and decibels(made, exact(x)) > 36


@needs_int8
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_a_generator_of_eight_bits_sounds_the_same_in_blocks(resblock: str) -> None:
    exact = tiny_synthesizer(resblock=resblock).fold_weight_norm()
    short = exact.copy_in(torch.int8, torch.bfloat16)
    assert short.dec.dtype == torch.int8 and exact.dec.dtype == torch.float32 and short.n_bytes < exact.n_bytes
    latent, f0 = torch.randn(1, 8, 60), torch.full((1, 60), 200.0)
    with torch.inference_mode():
        speaker = exact.speaker(torch.tensor([0]))
        wanted = exact.dec(latent, f0, speaker, None, 0.0)
        made = short.dec.in_blocks(latent, f0, speaker, None, 0.0, block_frames=20)
    assert 30 < decibels(made, wanted) < 100 and agreement_in_db(exact, short) > 30


def capable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


def test_auto_takes_what_the_processor_says_it_does_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for names in ((), ("avx512_bf16",), ("avx_vnni",), ("avx512_vnni", "avx512_bf16")):
        capable(monkeypatch, *names)
        generators = [generator_dtype("auto", CPU, bears_int8=bears) for bears in (True, False)]
        chosen[names] = generators, analysis_dtype("auto", CPU)
    exact, half, short = torch.float32, torch.bfloat16, torch.int8
    assert list(chosen.values()) == [
        ([exact, exact], exact), ([half, half], half), ([short, exact], exact), ([short, half], half),
    ]  # fmt: skip


def test_int8_is_refused_where_it_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    capable(monkeypatch, "avx2")
    with pytest.raises(ConfigError, match=r"no fast instructions for int8 .*Choose the precision bf16, fp32 or auto\."):
        tiny_converter().convert(voice_like(0.5), PM.model_copy(update={"precision": "int8"}))


def with_a_loud_channel(synthesizer: Synthesizer) -> Synthesizer:
    """The same sound, but one channel within a block is so loud that eight bits have no steps left for the others."""
    for block in synthesizer.fold_weight_norm().dec.resblocks:
        assert isinstance(block, ResidualBlock1)
        for first, second in zip(block.convs1, block.convs2, strict=True):
            assert isinstance(first, nn.Conv1d) and isinstance(second, nn.Conv1d) and first.bias is not None
            with torch.no_grad():
                first.weight[0] *= 1e4
                first.bias[0] *= 1e4
                second.weight[:, 0] /= 1e4
    return synthesizer


@needs_int8
@pytest.mark.parametrize("loud", [False, True])
def test_a_voice_that_does_not_bear_eight_bits_is_not_computed_in_them(
    loud: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer.convert.INT8_CHANNELS", 16)
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


@needs_int8
def test_what_is_not_finite_is_still_found_in_eight_bits() -> None:
    synthesizer = tiny_synthesizer().fold_weight_norm()
    with torch.no_grad():
        synthesizer.dec.conv_pre.weight[:] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        tiny_converter(synthesizer=synthesizer).convert(voice_like(0.5), PM.model_copy(update={"precision": "int8"}))


@needs_int8
def test_the_shipped_voice_sounds_the_same_in_eight_bits() -> None:
    audio = load_audio(PRETRAINED / "lite" / "demo" / "source.flac", 16_000)
    converter = VoiceConverter.load(next(Path(PRETRAINED / "lite" / "voices").glob("*.pth")))
    options = [ConvertOptions.model_validate({"precision": name}) for name in ("fp32", "int8", "bf16")]
    exact, eight_bits, half = (converter.convert(audio, chosen) for chosen in options)
    assert decibels(eight_bits, exact) > 38 and decibels(half, exact) > 36
