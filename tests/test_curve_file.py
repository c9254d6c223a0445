"""F0 files: accepted forms, refused ones with their line, and lossless writing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infer import model_cache as loaded_module
from infer.__main__ import main
from infer.batch import Job, convert_file, convert_files, with_f0_files
from infer.chunking import ChunkLimits
from infer.options import ConvertOptions
from lib.audio.decode import load_audio_native
from lib.audio.encode import save_audio
from lib.errors import ConfigError, MissingFileError
from lib.pitch.curve_file import PitchCurve, read_curve, write_curve
from lib.pitch.scale import median_filter, shift_semitones, splice_curve
from lib.voice.model_file import extract_voice_model, write_voice_model
from tests.helpers import Floats, read_golden
from tests.tiny_voice import TinyEncoder, lite_synthesizer, tiny_converter, tiny_synthesizer, voice_like

PM = ConvertOptions(pitch_method="pm")
HERTZ = st.one_of(st.just(0.0), st.floats(30, 1100, width=32))


def curve_of(tmp_path: Path, text: str | bytes) -> PitchCurve:
    path = tmp_path / "curve.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_curve(path)


@pytest.mark.parametrize(
    "text",
    [
        "0.5,220\n0.6,0\n1,230.5",
        "0.5,220\r\n0.6,0\r\n1,230.5\r\n",
        "﻿0.5, 220\n\n# a remark\n0.6 ,0\n1,230.5\n",
        "seconds,Hz\n0.5,220\n0.6,0\n1,230.5\n",
        "Hz,confidence,time\n220,0.9,0.5\n0,0.1,0.6\n230.5,1,1\n",
        "time;F0\n0,5;220\n0,6;0\n1;230,5\n",
        "0.5\t220\n0.6\t0\n1\t230.5\n",
        "0.5 220\n 0.6   0\n1.0e0 230.5\n",
        '"Time (s)","F0 [Hz]"\n0.5,220\n"0.6","0"\n1,230.5\n'.replace("Time (s)", "time").replace("F0 [Hz]", "F0 (Hz)"),
    ],
)
def test_forms_that_are_read(tmp_path: Path, text: str) -> None:
    curve = curve_of(tmp_path, text)
    assert curve.times.tolist() == [0.5, 0.6, 1.0]
    assert curve.values.tolist() == [220, 0, 230.5]


@pytest.mark.parametrize(
    "text",
    [
        "time_ms,f0_hz\n500,220\n600,0\n1000,230.5\n",
        "Time (ms)\tF0 (Hz)\n500\t220\n600\t\n1000\t230.5\n",
        "Time (ms)   F0 (Hz)\n500  220\n600  --undefined--\n1000  230.5\n",
        "timeMs,f0Hz\n500,220\n600,NaN\n1000,230.5\n",
        "frame;time [ms];MIDI note;pitch_hz\n9;500;1;220\n9;600;1;-1\n9;1000;1;230,5\n",
        "Time_s   F0_Hz\n0.5   220\n0.6   --undefined--\n1   230.5\n",
        "t_µs,hertz\n5e5,220\n6e5,nan\n1e6,230.5\n",
        "时间 (ms),频率 (Hz)\n500,220\n600,\n1000,230.5\n",
        "# F0 per frame\n# time_ms f0_hz\n500 220\n600 nan\n# the end\n1000 230.5\n",
        "# time in ms, pitch in Hz\n500,220\n600,None\n1000,230.5\n",
        "time,pitch\n0.5,220\n0.6,-220\n1,230.5\n",
        "0.5,220\n0.6,nan\n1,230.5\n",
        '"time_s","f0_hz"\n"0,5","220"\n"0,6","0"\n"1","230,5"\n',
        "time_s,f0_hz,\n0.5,220,\n0.6,,\n1,230.5,\n",
        "Zeit (ms);Grundfrequenz (Hz)\n500;220\n600;0\n1000;230,5\n",
        "時刻 [ミリ秒],周波数(Hz)\n500,220\n600,0\n1000,230.5\n",
        "time_s\tf0_hz\n0,5\t220\n0,6\t0\n1\t230,5\n".encode("utf-16"),
    ],
)
def test_units_come_from_the_header_and_unvoiced_has_many_names(tmp_path: Path, text: str | bytes) -> None:
    curve = curve_of(tmp_path, text)
    np.testing.assert_allclose(curve.times, [0.5, 0.6, 1.0], rtol=1e-12)
    assert curve.values.tolist() == [220, 0, 230.5]


@pytest.mark.parametrize("header", ["seconds,midi", "time_s,MIDI note", "sec;midi_pitch", "time\tnote (MIDI)"])
def test_midi_notes_become_hertz(tmp_path: Path, header: str) -> None:
    lines = (header, "0.5,69", "0.6,0", "0.7,nan", "0.8,57", "0.9,60.5")
    separator = next(sign for sign in ";\t," if sign in header)
    curve = curve_of(tmp_path, "\n".join(line.replace(",", separator) for line in lines))
    np.testing.assert_allclose(curve.values, [440, 0, 0, 220, 440 * 2 ** (-8.5 / 12)], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "contains no F0 curve"),
        ("seconds,Hz\n", "contains no F0 curve"),
        ("0.5,220\n0.6\n", r"line 2: '0\.6' is not a point"),
        ("0.5,220\n0.6,abc\n", "line 2"),
        ("0.5,220\nseconds,Hz\n", "line 2"),
        ("0.5,inf\n", "line 1"),
        ("nan,220\n", "line 1"),
        ("time_s,midi\n0.5,128\n", "line 2"),
        ("something;else\n0,5;220\n", r"line 1: the header 'something;else' does not name a column"),
        ("time,duration_s\n0.5,220\n", "does not name a column"),
        ("frame,f0_hz\n50,220\n", r"line 1: the name of the column 'frame' does not state its unit"),
        ("\ntime_s,cents\n0.5,5500\n", "line 2: the name of the column 'cents'"),
        ("time_s,midi_cents\n0.5,5500\n", "'midi_cents'"),
        ("s or ms,Hz\n0.5,220\n", "does not name a column"),
        ("time_s_ms,Hz\n0.5,220\n", "'time_s_ms'"),
        ("Time (s) pitch\n0.5 57\n0.6 60.2\n", "line 1: the name of the column 'pitch'"),
        ("# frame, midi\n0.5,57\n", "'frame'"),
        ("-0.5,220\n", "line 1"),
        (";" * 5000, "line 1"),
        ("0,220\n" + "1," * 5000, "line 2"),
        ("inf,220\n", "line 1"),
        ("0.5,48000\n", "line 1"),
        (b"\xff\xff\x00\x01", "not a text file"),
        (b"\xff\xfe\x00", "not a text file"),
        ("time_s,f0_hz\n0,5,220,5\n", r"line 2: '0,5,220,5' has 4 columns instead of 2"),
        ("1,500,220\n", "line 1: '1,500,220' has 3 columns"),
        ("0.5\t0.6\t220\n", "has 3 columns"),
        ("time_s,f0_hz\n1,0.5,220\n", "has 3 columns"),
        ("0.5,5.4\n0.6,0\n", "no pitch is above 5.4 Hz"),
        ("start_s,f0_hz\n0.5,0.6\n", "no pitch is above 0.6 Hz"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        curve_of(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.csv"):
        read_curve(tmp_path / "none.csv")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(f0=arrays(np.float32, st.integers(1, 120), elements=HERTZ), suffix=st.sampled_from([".csv", ".txt"]))
def test_written_values_are_read_back_exactly(tmp_path: Path, f0: Floats, suffix: str) -> None:
    path = tmp_path / f"curve{suffix}"
    write_curve(path, f0)
    assert path.read_text().startswith("seconds,Hz\n") == (suffix == ".csv")
    curve = read_curve(path)
    spliced = splice_curve(np.full(len(f0) + 5, 77.0, np.float32), curve.times, curve.values)
    assert np.array_equal(spliced[: len(f0)], f0)
    assert (spliced[len(f0) :] == 77).all()


def test_golden_curve_through_a_file(golden: Path, tmp_path: Path) -> None:
    """The reference writes as many frames as the file covers, but from the start of the song on."""
    data = {k: v.numpy() for k, v in read_golden(golden / "pipeline/pitch_quantisation.safetensors").items()}
    table, song, want = data["in.f0_file"], data["in.f0_f64"][100:], data["out.classic2023.f0_with_file_f64"][100:]
    (tmp_path / "golden.txt").write_text("\n".join(f"{seconds},{hertz}" for seconds, hertz in table))
    curve = read_curve(tmp_path / "golden.txt")
    got = splice_curve(song, curve.times, curve.values)
    first, last = round(float(table[0, 0]) * 100), round(float(table[-1, 0]) * 100)
    both = slice(first, last - first + 1)
    assert len(got[both]) > 20
    np.testing.assert_allclose(got[both], want[both], rtol=1e-6)
    assert np.array_equal(got[:first], song[:first])


def test_voice_begins_and_ends_at_the_nearer_point_without_a_glide() -> None:
    f0 = splice_curve(np.full(60, 99.0), np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 200.0, 220.0, 0.0]))
    assert f0[[9, 10, 14, 15, 16, 20, 25, 30, 34, 36, 40, 41]].tolist() == [
        *[99, 0, 0, 0, 200],
        *[200, 210, 220, 220, 0, 0, 99],
    ]


def convert_voice(
    options: ConvertOptions, audio: Floats, curve: PitchCurve | None = None, **parts: object
) -> tuple[Floats, Floats]:
    converted, f0 = tiny_converter(**parts).convert_with_f0(audio, options, curve=curve)
    assert f0 is not None
    return converted, f0


@pytest.mark.slow
@pytest.mark.parametrize("limits", [None, ChunkLimits(pad=0.2, query=0.2, center=0.8, longest=0.9)])
@pytest.mark.parametrize("interpolate", [False, True])
def test_the_written_curve_fed_back_gives_the_very_same_audio(
    tmp_path: Path, limits: ChunkLimits | None, interpolate: bool
) -> None:
    options = PM.model_copy(update={"pitch_shift": 3.0, "filter_radius": 3, "interpolate_unvoiced": interpolate})
    audio = np.concatenate([voice_like(1.1), np.zeros(6_000, np.float32), voice_like(0.73)])
    converted, f0 = convert_voice(options, audio, limits=limits)
    assert f0.shape == (len(audio) // 160,)
    assert 0.3 < (f0 > 0).mean() < 0.98
    write_curve(tmp_path / "curve.csv", f0)
    again, f0_again = convert_voice(options, audio, read_curve(tmp_path / "curve.csv"), limits=limits)
    assert np.array_equal(f0, f0_again)
    assert np.array_equal(converted, again)


def test_an_edited_curve_replaces_the_f0_it_covers(tmp_path: Path) -> None:
    (tmp_path / "edit.txt").write_text("0.5,300\n0.7,400\n")
    options = PM.model_copy(update={"pitch_shift": 12.0, "filter_radius": 5})
    converted, f0 = convert_voice(options, voice_like(1), read_curve(tmp_path / "edit.txt"))
    plain, own = convert_voice(options, voice_like(1))
    frames = np.arange(50, 71)
    np.testing.assert_allclose(f0[frames], 300 + 100 * (frames - 50) / 20, rtol=1e-6)
    assert np.array_equal(np.delete(f0, frames), np.delete(own, frames))
    assert np.abs(converted - plain).max() > 1e-4


def test_the_median_comes_before_the_shift_and_removes_a_stray_frame() -> None:
    _, plain = convert_voice(PM, voice_like(1))
    _, filtered = convert_voice(PM.model_copy(update={"filter_radius": 7, "pitch_shift": 12.0}), voice_like(1))
    np.testing.assert_allclose(filtered[4:-4], shift_semitones(median_filter(plain, 7), 12.0)[4:-4], rtol=1e-6)


def test_a_curve_for_a_voice_without_f0_is_refused(tmp_path: Path) -> None:
    converter = tiny_converter(synthesizer=tiny_synthesizer(has_f0=False))
    save_audio(tmp_path / "song.wav", voice_like(0.3), 16_000)
    (tmp_path / "curve.txt").write_text("0,200\n")
    for job in (
        Job(tmp_path / "song.wav", tmp_path / "out.wav", f0_file=tmp_path / "curve.txt"),
        Job(tmp_path / "song.wav", tmp_path / "out.wav", f0_out=tmp_path / "out.csv"),
    ):
        with pytest.raises(ConfigError, match="uses no F0"):
            convert_file(converter, job, PM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.txt", "song.wav"]


def test_a_curve_of_another_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "late.txt").write_text("12,200\n13,200\n")
    with pytest.raises(ConfigError, match=r"begins at 12\.00 s, but the recording ends at 1\.00 s"):
        convert_voice(PM, voice_like(1), read_curve(tmp_path / "late.txt"))


def test_files_in_and_out(tmp_path: Path) -> None:
    converter = tiny_converter()
    for folder in ("a", "b"):
        save_audio(tmp_path / folder / "song.wav", voice_like(0.4), 44_100)
    jobs = [Job(tmp_path / f / "song.wav", tmp_path / f / "song_eve.wav") for f in ("a", "b")]
    outcomes = convert_files(converter, with_f0_files(jobs, None, tmp_path / "curves"), PM)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(path.name for path in (tmp_path / "curves").iterdir()) == ["song_eve.csv", "song_eve_2.csv"]
    first = load_audio_native(tmp_path / "a/song_eve.wav")[0]
    back = Job(jobs[0].path, tmp_path / "back.wav", f0_file=tmp_path / "curves/song_eve.csv")
    assert convert_files(converter, [back], PM)[0].error is None
    np.testing.assert_array_equal(load_audio_native(tmp_path / "back.wav")[0], first)


@pytest.mark.parametrize(
    ("n_jobs", "f0_file", "f0_out", "sentence"),
    [
        (2, "x.csv", None, "one by one"),
        (2, None, "x.csv", "Specify a folder"),
        (1, None, "song0.txt", "already the name"),
    ],
)
def test_contradictory_f0_files_are_refused(
    n_jobs: int, f0_file: str | None, f0_out: str | None, sentence: str
) -> None:
    jobs = [Job(Path(f"song{i}.txt"), Path(f"out{i}.wav")) for i in range(n_jobs)]
    with pytest.raises(ConfigError, match=sentence):
        with_f0_files(jobs, f0_file and Path(f0_file), f0_out and Path(f0_out))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--pitch-method", "hybrid[pm+guess]"], "There is no pitch method 'guess'"),
        (["--pitch-method", "hybrid[pm+auto]"], "There is no pitch method 'auto'"),
        (["--filter-radius", "8"], "--filter-radius cannot be 8"),
        (["--crepe-hop-length", "0"], "--crepe-hop-length cannot be 0"),
    ],
)
def test_wrong_options_are_one_sentence(args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["song.wav", "--voice", "eve", *args])
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert sentence in output


def test_a_curve_of_ten_minutes_ends_where_it_ends(tmp_path: Path) -> None:
    """The reference counts frames in 16 bits and fails beyond 327 s."""
    (tmp_path / "long.txt").write_text("0,100\n600,700\n")
    curve = read_curve(tmp_path / "long.txt")
    f0 = splice_curve(np.zeros(61_000), curve.times, curve.values)
    assert f0[[0, 30_000, 60_000, 60_001]].tolist() == [100, 400, 700, 0]


@pytest.mark.slow
def test_the_command_line_writes_a_curve_and_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    write_voice_model(tmp_path / "eve.pth", extract_voice_model(lite_synthesizer(), "lite", "1epoch"))
    save_audio(tmp_path / "song.wav", voice_like(0.5), 16_000)
    curve, common = tmp_path / "curve.csv", ["--voice", str(tmp_path / "eve.pth"), "--device", "cpu"]

    def run(name: str, *args: str) -> Floats:
        output = tmp_path / name
        assert main([str(tmp_path / "song.wav"), "-o", str(output), *common, *args]) == 0, capsys.readouterr().err
        return load_audio_native(output)[0]

    how = ("--pitch-method", "hybrid[pm+dio+swift]", "--pitch-shift", "2")
    first = run("first.wav", *how, "--f0-out", str(curve))
    assert "pitch: hybrid[pm+dio+swift]" in capsys.readouterr().out
    assert len(curve.read_text().splitlines()) == 51
    np.testing.assert_array_equal(run("second.wav", *how, "--f0-file", str(curve)), first)
    curve.write_text("0,300\n0.5,300\n")
    assert np.abs(run("third.wav", *how, "--f0-file", str(curve)) - first).max() > 1e-3
    assert main([str(tmp_path / "song.wav"), *common, "--f0-file", str(tmp_path / "none.csv")]) == 1
    assert "none.csv" in capsys.readouterr().err
