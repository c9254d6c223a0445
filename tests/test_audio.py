"""Loading, resampling, filtering and writing audio: golden data, exact lengths, bad files."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.audio import ANALYSIS_RATE, AUDIO_FORMATS, decode, filters
from lib.audio import encode as audio_module
from lib.audio.decode import Recording, is_audio_file, list_recordings, load_audio, load_audio_native
from lib.audio.encode import save_audio
from lib.audio.filters import (
    highpass,
    highpass_blocks,
    highpass_causal,
    resample,
    resample_blocks,
    resampled_length,
)
from lib.errors import AudioError, ConfigError, MissingFileError, WriteError
from tests.helpers import Floats, error, read_golden

Tone = Callable[..., Floats]
ODD_NAMES = ["with space", 'it\'s "quoted"', "🎤 singing", "中文录音"]

WAV_HEADER = (  # 16-bit mono at 16 kHz with no samples
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\0\0\0"
)


def chirp(seconds: float, sample_rate: int, seed: int = 0) -> Floats:
    """A rising sweep with a little noise, (T,): no delay can go unnoticed in it."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * (200 * time + 300 * time**2)) + 0.003 * noise).astype(np.float32)


def test_golden_load_audio(golden: Path) -> None:
    """Stereo is mixed down as ffmpeg does; its resampler differs, hence the tolerance of the golden data."""
    data = read_golden(golden / "pipeline/load_audio.safetensors")
    assert data
    for key, tensor in data.items():
        want = tensor.numpy()
        got = load_audio(golden / "pipeline/stereo_44k.wav", int(key.removeprefix("out.sr")))
        assert abs(len(got) - len(want)) <= 1
        inner = slice(len(want) // 20, -(len(want) // 20) - 1)
        assert np.abs(got[: len(want)][inner] - want[inner]).max() < 0.02, key


def test_golden_highpass(golden: Path) -> None:
    data = read_golden(golden / "pipeline/highpass.safetensors")
    got = highpass(data["in.audio"].numpy())
    assert got.dtype == np.float64
    assert np.abs(got - data["out.audio_f64"].numpy()).max() < 1e-6


def test_golden_resample_to_16k(golden: Path) -> None:
    data = read_golden(golden / "preprocess/one_output.safetensors")
    rate = soundfile.info(golden / "preprocess/recording.wav").samplerate  # the clips have the recording's
    got = resample(data["out.gt"].numpy(), rate, ANALYSIS_RATE)
    assert got.shape == data["out.16k"].shape
    assert np.abs(got - data["out.16k"].numpy()).max() < 1e-4


@pytest.mark.slow
@settings(deadline=None)
@given(
    samples=st.integers(0, 3000),
    rates=st.tuples(*[st.sampled_from([8000, 16000, 22050, 32000, 40000, 44100, 48000])] * 2),
)
def test_resampling_has_exactly_the_promised_length(samples: int, rates: tuple[int, int]) -> None:
    out = resample(np.ones(samples, np.float32), *rates)
    assert out.shape == (resampled_length(samples, *rates),)
    assert len(out) == int(np.ceil(samples * rates[1] / rates[0]))
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


def test_resampling_keeps_a_tone(tone: Tone) -> None:
    got = resample(tone(1000, 0.5, 44100), 44100, 16000)
    assert error(got[1000:-1000], tone(1000, 0.5, 16000)[1000:-1000]) < 1e-3


def test_resampling_keeps_nine_tenths_of_the_band(tone: Tone) -> None:
    """soxr's HQ filter; the next lower one takes 0.15 dB off 7.2 kHz."""
    got = resample(tone(7200, 0.5, 40000), 40000, 16000)[1000:-1000]
    assert np.sqrt(np.mean(got**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.003)
    assert np.abs(resample(tone(8800, 0.5, 40000), 40000, 16000)[1000:-1000]).max() < 1e-6


@pytest.mark.parametrize("samples", [0, 1, 2, 5, 17, 18, 19, 160])
def test_highpass_takes_clips_shorter_than_its_padding(samples: int) -> None:
    out = highpass(np.linspace(-1, 1, samples, dtype=np.float32))
    assert out.shape == (samples,)
    assert np.isfinite(out).all()


def test_highpass_removes_rumble_and_keeps_the_voice_in_place(tone: Tone) -> None:
    rumble, voice = tone(15, 2), tone(220, 2)
    middle = slice(8000, -8000)
    assert np.abs(highpass(rumble)[middle]).max() < 0.005
    assert error(highpass(voice)[middle].astype(np.float32), voice[middle]) < 0.01


def test_causal_highpass_in_blocks_is_the_filter_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    whole = highpass_causal(noise, 40000)
    monkeypatch.setattr(filters, "BLOCK", 777)
    np.testing.assert_allclose(highpass_causal(noise, 40000), whole, atol=1e-12, rtol=1e-6)


@pytest.mark.slow
@given(samples=st.integers(1, 20_000), size=st.integers(1, 9_000), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_zero_phase_highpass_in_blocks_is_the_filter_of_the_whole(samples: int, size: int, seed: int) -> None:
    signal = np.random.default_rng(seed).standard_normal(samples) + 0.5
    blocks = [*highpass_blocks(signal[start : start + size] for start in range(0, samples, size))]
    np.testing.assert_allclose(np.concatenate(blocks), highpass(signal), atol=1e-10)


@pytest.mark.parametrize("sample_rate", [16_000, 40_000, 48_000])
def test_the_highpass_equals_scipys(sample_rate: int) -> None:
    signal = np.random.default_rng(2).standard_normal(30_000)
    sections = scipy.signal.butter(5, 48, "highpass", output="sos", fs=sample_rate)
    causal = scipy.signal.sosfilt(sections, signal)
    np.testing.assert_allclose(highpass_causal(signal, sample_rate), causal, atol=1e-6)
    if sample_rate == 16_000:
        both = scipy.signal.sosfiltfilt(sections, signal, padlen=18)
        np.testing.assert_allclose(highpass(signal), both, atol=1e-9)


@pytest.mark.slow
@given(
    samples=st.integers(1, 30_000),
    size=st.integers(1, 9_000),
    rates=st.sampled_from([(44_100, 16_000), (40_000, 48_000)]),
)
@settings(deadline=None, max_examples=30)
def test_resampling_in_blocks_is_resampling(samples: int, size: int, rates: tuple[int, int]) -> None:
    signal = np.random.default_rng(3).standard_normal(samples).astype(np.float32)
    blocks = [*resample_blocks((signal[start : start + size] for start in range(0, samples, size)), *rates)]
    np.testing.assert_array_equal(np.concatenate(blocks), resample(signal, *rates))
    assert sum(map(len, blocks)) == resampled_length(samples, *rates)


def test_decoding_in_blocks_is_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in AUDIO_FORMATS:
        path = tmp_path / f"a.{suffix}"
        save_audio(path, chirp(0.7, 48_000), 48_000)
        whole, rate = load_audio_native(path)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "BLOCK", 3_000)
            recording = Recording(path)
            blocks = [*recording.blocks]
        assert len(blocks) > 5 and (recording.sample_rate, recording.samples) == (rate, len(whole))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@pytest.mark.parametrize("rate", [16000, 24000, 32000, 40000, 48000])
def test_every_format_comes_back_with_exact_length_and_no_delay(tmp_path: Path, suffix: str, rate: int) -> None:
    sound = chirp(0.731, rate)
    path = tmp_path / f"out.{suffix}"
    save_audio(path, sound, rate)
    decoded, decoded_rate = load_audio_native(path)
    assert len(decoded) == resampled_length(len(sound), rate, decoded_rate)
    back = resample(decoded, decoded_rate, rate)[: len(sound)]
    inner = slice(len(sound) // 8, -len(sound) // 8)
    snr = 10 * np.log10(np.square(sound[inner]).mean() / np.square(back[inner] - sound[inner]).mean())
    assert snr > (20 if f".{suffix}" in audio_module._ENCODERS else 70)  # a delay of one sample would bring it below 20
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # no temporary file stays


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_long_audio_is_encoded_in_blocks_without_a_seam(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = chirp(1.0, 48000)
    save_audio(tmp_path / f"whole.{suffix}", sound, 48000)
    monkeypatch.setattr(audio_module, "BLOCK", 10_007)
    save_audio(tmp_path / f"blocks.{suffix}", sound, 48000)
    whole, blocks = (load_audio_native(tmp_path / f"{name}.{suffix}")[0] for name in ("whole", "blocks"))
    assert np.array_equal(whole, blocks)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@pytest.mark.parametrize("samples", [1, 20, 320])
def test_every_format_takes_the_shortest_clips(tmp_path: Path, suffix: str, samples: int) -> None:
    path = tmp_path / f"short.{suffix}"
    save_audio(path, np.full(samples, 0.25, np.float32), 16000)
    decoded, rate = load_audio_native(path)
    assert len(decoded) >= resampled_length(samples, 16000, rate)
    assert len(decoded) <= max(64, resampled_length(samples, 16000, rate))


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_silence_can_be_written(tmp_path: Path, suffix: str) -> None:
    save_audio(tmp_path / f"silence.{suffix}", np.zeros(4000, np.float32), 16000)
    assert np.abs(load_audio(tmp_path / f"silence.{suffix}", 16000)).max() < 1e-3


def test_float_wav_keeps_every_bit_and_values_above_one(tmp_path: Path, tone: Tone) -> None:
    sound = 3 * tone(220, 0.1)
    save_audio(tmp_path / "loud.wav", sound, 16000, subtype="FLOAT")
    assert np.array_equal(load_audio(tmp_path / "loud.wav", 16000), sound)


def test_loud_audio_is_clipped_and_never_wraps(tmp_path: Path, tone: Tone) -> None:
    sound = 3 * tone(220, 0.1)
    save_audio(tmp_path / "loud.wav", sound, 16000)
    assert np.abs(load_audio(tmp_path / "loud.wav", 16000) - np.clip(sound, -1, 1)).max() < 1e-4


@pytest.mark.parametrize(("subtype", "step"), [("PCM_U8", 1 / 128), ("PCM_16", 2**-15), ("PCM_24", 2**-23)])
def test_integer_samples_are_scaled(tmp_path: Path, tone: Tone, subtype: str, step: float) -> None:
    soundfile.write(tmp_path / "a.wav", tone(220, 0.1), 16000, subtype=subtype)
    got, rate = load_audio_native(tmp_path / "a.wav")
    assert rate == 16000
    assert np.abs(got - tone(220, 0.1)).max() <= step


@pytest.mark.parametrize("channels", [2, 6])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_are_mixed_down(tmp_path: Path, tone: Tone, channels: int, suffix: str) -> None:
    voice = 0.5 * tone(220, 0.1)
    one_sided = np.stack([voice] + [np.zeros_like(voice)] * (channels - 1), axis=1)
    soundfile.write(tmp_path / f"a.{suffix}", one_sided, 16000, subtype="PCM_16")
    assert np.abs(load_audio(tmp_path / f"a.{suffix}", 16000) * channels**0.5 - voice).max() < 2e-4


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_any_file_name_works(tmp_path: Path, tone: Tone, name: str, suffix: str) -> None:
    path = tmp_path / name / f"{name}.{suffix}"
    save_audio(path, tone(220, 0.1), 16000)
    assert len(load_audio(path, 16000)) == 1600
    assert is_audio_file(path)


def test_real_recordings_in_two_containers(shared_data: Path) -> None:
    stereo, rate = load_audio_native(shared_data / "sources/jfk.flac")
    assert rate == 44100
    assert 10.5 < len(stereo) / rate < 11.5
    want, _ = soundfile.read(shared_data / "sources/jfk.flac", dtype="float64")
    assert np.abs(stereo - want.sum(axis=1) / np.sqrt(2)).max() < 1e-6


def test_a_tag_in_an_old_encoding_does_not_matter(tmp_path: Path, tone: Tone) -> None:
    save_audio(tmp_path / "a.mp3", tone(220, 0.2), 16000)
    title = b"Stra\xdfe"  # Latin-1, which is not valid UTF-8, in an ID3v1 tag
    tag = b"TAG" + title.ljust(30, b"\0") + b"\0" * 94 + b"\xff"
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + tag)
    assert len(load_audio(tmp_path / "a.mp3", 16000)) >= 3200


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_truncated_recording_is_used_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    sound = chirp(3, 16000)
    path = tmp_path / f"cut.{suffix}"
    save_audio(path, sound, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        got = load_audio(path, 16000)
    assert 16000 < len(got) < 32000
    assert np.abs(got[:12000] - sound[:12000]).max() < 0.1
    assert path.name in caplog.text


def test_an_intact_recording_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for suffix in AUDIO_FORMATS:
        save_audio(tmp_path / f"a.{suffix}", chirp(1, 16000), 16000)
        load_audio(tmp_path / f"a.{suffix}", 16000)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "is empty"),
        (b"This is a shopping list.\n" * 50, "not a recording"),
        (WAV_HEADER, "no audio"),
    ],
)
def test_other_files_are_refused_as_recordings_in_one_sentence(tmp_path: Path, content: bytes, pattern: str) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=pattern) as caught:
        load_audio(path, 16000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 1.0], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="non-finite samples"):
        load_audio(tmp_path / "nan.wav", 16000)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.wav"):
        load_audio(tmp_path / "nowhere.wav", 16000)
    with pytest.raises(AudioError, match="not a file"):
        load_audio(tmp_path, 16000)
    with pytest.raises(MissingFileError, match="nowhere"):
        list_recordings(tmp_path / "nowhere")


def test_a_playlist_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.wav").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(AudioError):
        load_audio(tmp_path / "list.wav", 16000)


def test_writing_refuses_what_makes_no_file(tmp_path: Path, tone: Tone) -> None:
    with pytest.raises(ConfigError, match=r"\.flac"):
        save_audio(tmp_path / "a.xyz", tone(220, 0.1), 16000)
    for unusable in (np.zeros(0, np.float32), np.zeros((2, 10), np.float32), np.array([np.inf], np.float32)):
        with pytest.raises(AudioError, match="Cannot write"):
            save_audio(tmp_path / "a.wav", unusable, 16000)
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_file_as_if_it_were_a_folder_is_an_error(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"Cannot write .*a\.wav: (File exists|Not a directory)\. Check"):
        save_audio(tmp_path / "file" / "a.wav", tone(220, 0.1), 16000)


def test_a_write_that_reads_back_wrong_leaves_the_old_file(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, tone(220, 0.1), 16000)
    before = path.read_bytes()

    def write_half(target: Path, blocks: Iterable[Floats], sample_rate: int, channels: int, subtype: str) -> None:
        audio = np.concatenate([*blocks])
        soundfile.write(target, audio[: len(audio) // 2], sample_rate, subtype=subtype)

    monkeypatch.setattr(audio_module, "_write_pcm", write_half)
    with pytest.raises(AudioError, match="read back"):
        save_audio(path, tone(330, 0.1), 16000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_recordings_are_found_by_content_sorted_without_hidden_files(tmp_path: Path, tone: Tone) -> None:
    save_audio(tmp_path / "b.wav", tone(220, 0.1), 16000)
    save_audio(tmp_path / "a.flac", tone(220, 0.1), 16000)
    save_audio(tmp_path / ".hidden.wav", tone(220, 0.1), 16000)
    (tmp_path / "b.wav").rename(tmp_path / "b.take1")  # no suffix of audio, but audio
    (tmp_path / "notes.txt").write_text("some text\n" * 20)
    (tmp_path / "broken.wav").write_text("some text\n" * 20)  # promises audio: loading it must report the reason
    (tmp_path / "folder.wav").mkdir()
    assert [path.name for path in list_recordings(tmp_path)] == ["a.flac", "b.take1", "broken.wav"]
    assert not is_audio_file(tmp_path / "broken.wav")


def test_recordings_of_sub_folders_are_found_once_whatever_the_links(tmp_path: Path, tone: Tone) -> None:
    for name in ("b.wav", "one/b.wav", "one/two/three/a.wav", ".trash/c.wav", "results/d.wav", "results/more/e.wav"):
        save_audio(tmp_path / "data" / name, tone(220, 0.1), 16000)
    (tmp_path / "data/one/two/loop").symlink_to(tmp_path / "data", target_is_directory=True)
    save_audio(tmp_path / "elsewhere/f.wav", tone(220, 0.1), 16000)
    (tmp_path / "data/zz").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = list_recordings(tmp_path / "data", tmp_path / "data/results")
    names = [path.relative_to(tmp_path / "data").as_posix() for path in found]
    assert names == ["b.wav", "one/b.wav", "one/two/three/a.wav", "zz/f.wav"]
    assert len(list_recordings(tmp_path / "data/results", tmp_path / "data/results")) == 2


def test_folders_without_recordings_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="is empty"):
        list_recordings(tmp_path / "empty")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("some text\n" * 20)
    with pytest.raises(AudioError, match="none of its 1 files is audio"):
        list_recordings(tmp_path / "texts")
    monkeypatch.setattr(decode, "MAX_FILES", 1)
    (tmp_path / "texts" / "b.txt").write_text("some text\n" * 20)
    with pytest.raises(AudioError, match="more than 1 files"):
        list_recordings(tmp_path / "texts")
    with pytest.raises(AudioError, match="not a folder"):
        list_recordings(tmp_path / "texts" / "a.txt")
