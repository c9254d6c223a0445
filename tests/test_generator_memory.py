"""Blocks of the generator on a device with little memory."""

import logging
from typing import Any

import pytest
import torch

from lib.models import generator
from lib.models.generator import BLOCK_FRAMES, BLOCK_STEP, MAX_GPU_FRAMES, blocks_for
from tests.tiny_voice import tiny_synthesizer


def test_blocks_take_half_of_the_free_memory() -> None:
    assert blocks_for(0, 800_000) == BLOCK_FRAMES  # no shorter than on a CPU; if even that fails, they are halved
    assert blocks_for(100 * 10**9, 800_000) == MAX_GPU_FRAMES // BLOCK_FRAMES * BLOCK_FRAMES
    frames = blocks_for(2 * 10**9, 800_000)
    assert frames * 800_000 <= 10**9 < (frames + BLOCK_FRAMES) * 800_000 and frames % BLOCK_FRAMES == 0


@pytest.mark.slow
def test_out_of_memory_halves_the_blocks_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dec: Any = tiny_synthesizer().dec
    latent, f0, speaker = torch.randn(1, 8, 300), torch.full((1, 300), 200.0), torch.randn(1, 8, 1)
    synthesize, room, lengths = dec.synthesize, 60 + 2 * dec.receptive_field, list[int]()

    def with_little_memory(part: torch.Tensor, *rest: Any) -> torch.Tensor:
        if part.shape[2] > room:
            raise torch.OutOfMemoryError
        lengths.append(part.shape[2])
        made: torch.Tensor = synthesize(part, *rest)
        return made

    with torch.inference_mode(), caplog.at_level(logging.INFO, generator.__name__):
        whole = dec(latent, f0, speaker, temperature=0.0)
        monkeypatch.setattr(dec, "synthesize", with_little_memory, raising=False)
        made = dec.in_blocks(latent, f0, speaker, temperature=0.0, keep=(3, 290), block_frames=287)
        torch.testing.assert_close(made, whole[..., 3 * 240 : 290 * 240], atol=1e-5, rtol=0)
        assert "out of memory on cpu: from now on in blocks of" in caplog.text and max(lengths) <= room
        room = BLOCK_STEP
        with pytest.raises(torch.OutOfMemoryError):
            dec.in_blocks(latent, f0, speaker, temperature=0.0)
