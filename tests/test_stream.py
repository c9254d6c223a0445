"""Long recordings in bounded memory: a conversion block by block equals a conversion at once."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer import batch
from infer import disk_buffer as buffer_module
from infer import f0 as f0_module
from infer.batch import Job, convert_file, convert_files
from infer.chunking import ChunkLimits
from infer.disk_buffer import DiskBuffer, collect_blocks, in_blocks
from infer.f0 import estimate_f0
from infer.input_audio import ReflectionPadding, prepare_input
from infer.options import ConvertOptions
from lib.audio.decode import load_audio_native
from lib.audio.encode import save_audio
from lib.errors import AudioError
from lib.progress import Cancelled
from tests.helpers import Floats
from tests.tiny_voice import tiny_converter, voice_like

CUTTING = ChunkLimits(pad=0.2, query=0.2, center=0.8, longest=0.9)
PM = ConvertOptions(pitch_method="pm")


def noise(samples: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("in_memory", [100, 1 << 20])
def test_a_disk_buffer_returns_what_was_written(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "IN_MEMORY", in_memory)
    signal = noise(10_000)
    with collect_blocks(np.array_split(signal, 7)) as buffer:
        assert len(buffer) == 10_000
        np.testing.assert_array_equal(buffer[:], signal)
        np.testing.assert_array_equal(buffer[123:4567], signal[123:4567])
        np.testing.assert_array_equal(buffer[9_990:20_000], signal[9_990:])
        assert len(buffer[50:20]) == 0
        buffer.append(signal[:5])
        np.testing.assert_array_equal(np.concatenate([*in_blocks(buffer, 999)]), np.append(signal, signal[:5]))


def test_a_disk_buffer_whose_source_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[DiskBuffer] = []
    close = DiskBuffer.close

    def closing(buffer: DiskBuffer) -> None:
        close(buffer)
        closed.append(buffer)

    monkeypatch.setattr(DiskBuffer, "close", closing)

    def failing() -> Iterator[Floats]:
        yield noise(10)
        raise AudioError("It breaks off.")

    with pytest.raises(AudioError):
        collect_blocks(failing())
    assert len(closed) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(samples=st.integers(2, 300), pad=st.integers(0, 700), data=st.data())
def test_every_part_of_reflection_padding_is_that_of_numpys(samples: int, pad: int, data: st.DataObject) -> None:
    signal = noise(samples)
    reflected, want = ReflectionPadding(signal, pad), np.pad(signal, pad, mode="reflect")
    assert len(reflected) == len(want)
    start = data.draw(st.integers(0, len(want)))
    stop = data.draw(st.integers(start, len(want)))
    np.testing.assert_array_equal(reflected[start:stop], want[start:stop])


def test_f0_in_windows_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f0_module, "CORE_FRAMES", 50)
    monkeypatch.setattr(f0_module, "MARGIN_FRAMES", 4)
    signal, lengths = noise(160 * 333 + 77), list[int]()

    def loudness(audio: Floats) -> Floats:  # looks 3 frames around each
        lengths.append(len(audio))
        energy = np.square(audio[: len(audio) // 160 * 160]).reshape(-1, 160).sum(1)
        return np.convolve(energy, np.ones(7), "same").astype(np.float32)

    windowed = estimate_f0(signal, loudness)
    assert len(lengths) == 7 and max(lengths) <= 58 * 160 + 77
    np.testing.assert_allclose(windowed, loudness(signal), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [PM, PM.model_copy(update={"resample_rate": 48_000, "rms_mix_rate": 1.0})])
def test_reading_and_writing_in_blocks_equals_the_whole(
    options: ConvertOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = 1.5 * voice_like(3.3)
    converter = tiny_converter(limits=CUTTING)
    at_once = converter.convert(audio, options)
    for module in ("infer.disk_buffer", "infer.input_audio", "infer.convert", "infer.loudness"):
        monkeypatch.setattr(f"{module}.in_blocks", partial(in_blocks, size=4_999))
    monkeypatch.setattr(buffer_module, "IN_MEMORY", 1000)
    with (
        collect_blocks(np.array_split(audio, 11)) as source,
        prepare_input(source) as prepared,
        converter.convert_prepared(prepared, options) as conversion,
    ):
        blocks = [*conversion.blocks()]
    assert len(blocks) > 5
    np.testing.assert_allclose(np.concatenate(blocks), at_once, atol=1e-6)


def test_input_is_prepared_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = 3 * voice_like(4)
    with prepare_input(audio) as prepared:
        at_once = prepared[:]
    monkeypatch.setattr("infer.input_audio.in_blocks", partial(in_blocks, size=20_000))
    with prepare_input(audio) as prepared:
        np.testing.assert_allclose(prepared[:], at_once, atol=1e-7)


@pytest.mark.slow
def test_the_next_recording_is_read_while_one_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(tmp_path / f"{i}.wav", tmp_path / f"{i}.flac") for i in range(3)]
    for i, job in enumerate(jobs):
        save_audio(job.path, voice_like(0.2 + 0.1 * i), 16_000)
    read = {job.path: threading.Event() for job in jobs}
    plain = batch._read

    def reading(job: Job, options: ConvertOptions) -> batch._Input:
        read[job.path].set()
        return plain(job, options)

    monkeypatch.setattr(batch, "_read", reading)

    def progress(done: int, total: int, what: str) -> None:
        number = int(what[0])
        assert all(read[job.path].wait(10) for job in jobs[number : number + 2])

    converter = tiny_converter()
    outcomes = convert_files(converter, jobs, PM, progress)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    for job in jobs:
        alone = tmp_path / "alone" / job.output.name
        convert_file(converter, Job(job.path, alone), PM)
        np.testing.assert_array_equal(load_audio_native(job.output)[0], load_audio_native(alone)[0])


@pytest.mark.slow
def test_cancelling_frees_what_was_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(tmp_path / f"{i}.wav", tmp_path / f"{i}.flac") for i in range(3)]
    for job in jobs:
        save_audio(job.path, voice_like(0.2), 16_000)
    opened: list[DiskBuffer] = []
    open_buffers: set[int] = set()
    start, close = DiskBuffer.__init__, DiskBuffer.close

    def starting(buffer: DiskBuffer) -> None:
        start(buffer)
        opened.append(buffer)
        open_buffers.add(id(buffer))

    def closing(buffer: DiskBuffer) -> None:
        close(buffer)
        open_buffers.discard(id(buffer))

    monkeypatch.setattr(DiskBuffer, "__init__", starting)
    monkeypatch.setattr(DiskBuffer, "close", closing)

    def cancel(done: int, total: int, what: str) -> None:
        if what.startswith("1"):
            raise Cancelled

    with pytest.raises(Cancelled):
        convert_files(tiny_converter(), jobs, PM, cancel)
    assert len(opened) >= 6 and not open_buffers
    assert jobs[0].output.is_file() and not jobs[1].output.exists()
