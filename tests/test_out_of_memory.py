"""A conversion whose memory runs out is repeated in shorter chunks; gradient checkpointing keeps fewer activations."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from infer.batch import Job, convert_files
from infer.chunking import ChunkLimits
from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from lib.config import LiteConfig
from lib.errors import RevoiceError
from lib.models.memory import is_out_of_memory
from tests.test_state import new_state, tiny_batch
from tests.tiny_files import tiny_family
from tests.tiny_voice import tiny_converter, voice_like
from train.networks import build_networks, checkpoint_gradients
from train.step import train_step

OPTIONS = ConvertOptions(pitch_method="pm", device="cpu")
LIMITS = ChunkLimits(query=1.0, center=8.0, longest=10.0)


def limited_to(monkeypatch: pytest.MonkeyPatch, converter: VoiceConverter, frames: int, error: Exception) -> list[int]:
    """Let the synthesizer run out of memory for more frames; returns the frames of its calls."""
    network, calls = converter._synthesizer.current, list[int]()
    infer = network.infer

    def limited(content: Tensor, *values: Any) -> Tensor:
        calls.append(content.shape[1])
        if content.shape[1] > frames:
            raise error
        return infer(content, *values)

    monkeypatch.setattr(network, "infer", limited)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_a_conversion_is_repeated_in_chunks_that_fit(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    converter = tiny_converter(limits=LIMITS)
    audio = voice_like(9.0)
    calls = limited_to(monkeypatch, converter, 800, error)
    out = converter.convert(audio, OPTIONS)
    assert len(out) == round(9.0 * converter.sample_rate) and np.isfinite(out).all()
    assert calls[0] > 800 >= max(calls[1:]) and len(calls) > 2
    calls.clear()
    converter.convert(audio, OPTIONS)  # the next one begins with the shorter chunks
    assert max(calls) <= 800
    same = tiny_converter(limits=ChunkLimits(query=0.5, center=4.0, longest=5.0)).convert(audio, OPTIONS)
    assert np.array_equal(out, same)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
)
def test_an_allocation_that_fails_inside_torch_is_repeated_in_shorter_chunks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    convolve, failures = torch.nn.functional.conv1d, [error]

    def failing_once(*values: Any, **named: Any) -> Tensor:
        if failures:
            raise failures.pop()
        return convolve(*values, **named)

    converter, audio = tiny_converter(limits=LIMITS), voice_like(3.0)
    monkeypatch.setattr(torch.nn.functional, "conv1d", failing_once)
    out = converter.convert(audio, OPTIONS)
    assert not failures and "out of memory on cpu: converting again in chunks" in caplog.text
    assert len(out) == round(3.0 * converter.sample_rate) and np.isfinite(out).all()


def test_a_recording_that_never_fits_is_one_sentence_per_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", voice_like(3.0), 16_000)
    converter = tiny_converter(limits=LIMITS)
    limited_to(monkeypatch, converter, 0, torch.OutOfMemoryError("CUDA out of memory."))
    (outcome,) = convert_files(converter, [Job(tmp_path / "a.wav", tmp_path / "b.wav")], OPTIONS)
    assert outcome.error == (
        "There is not enough memory on cpu for this conversion, even in short chunks. Close other programs, or convert "
        "on another device."
    )
    assert not (tmp_path / "b.wav").exists()


def test_other_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = tiny_converter(limits=LIMITS)
    calls = limited_to(monkeypatch, converter, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        converter.convert(voice_like(3.0), OPTIONS)
    assert len(calls) == 1


def test_memory_errors_are_known_by_their_kind_or_words() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("can't multiply")) and not is_out_of_memory(RevoiceError("no"))


def kept_bytes(network: nn.Module, run: Callable[[], None]) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, parameters not counted."""
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def _run(network: nn.Module, inputs: Sequence[Tensor], outputs: list[Tensor]) -> None:
    outputs.append(network(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["v2", "lite"])
def test_gradient_checkpointing_keeps_less_with_equal_gradients(family: str) -> None:
    config = tiny_family(family, "40k" if family == "v2" else "24k")  # type: ignore[arg-type]
    found = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        generator = build_networks(config).generator
        if checkpoints:
            checkpoint_gradients(generator)
        torch.manual_seed(1)
        frames, network = 24, config.synthesizer
        f0, speaker = torch.full((1, frames), 200.0), torch.randn(1, network.gin_channels)
        blocks: nn.Module
        if isinstance(network, LiteConfig):
            blocks, inputs = generator.enc_p, (torch.randn(1, frames, network.content_width), f0, speaker)
        else:
            blocks, inputs = generator.dec, (torch.randn(1, network.inter_channels, frames), f0, speaker[..., None])
        outputs: list[Tensor] = []
        torch.manual_seed(2)
        kept = kept_bytes(generator, partial(_run, blocks, inputs, outputs))
        outputs[0].square().mean().backward()  # type: ignore[no-untyped-call]
        found.append((kept, [p.grad for p in blocks.parameters() if p.grad is not None]))
    assert found[1][0] < 0.8 * found[0][0]
    assert found[0][1] and all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.slow
def test_one_clip_that_does_not_fit_is_computed_with_gradient_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()
    forward = state.plain_discriminator.forward

    def failing(*values: Any) -> Any:
        if not state.checkpoints_gradients:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*values)

    monkeypatch.setattr(state.plain_discriminator, "forward", failing)
    losses = train_step(state, tiny_batch(0))
    assert state.micro_batch == 1 and state.checkpoints_gradients and state.progress.step == 1
    assert np.isfinite(list(losses.values())).all()
