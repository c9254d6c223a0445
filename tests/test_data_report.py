"""Data reports: every piece of advice is given where it applies, and only there."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from lib.errors import ConfigError
from tests.tiny_voice import voice_like
from train.data_report import ADVICE, check_recordings, sample_rates
from train.data_report import describe as describe_lines
from train.experiment import Experiment
from web.i18n.translator import Translator
from web.tabs import train as train_tab
from web.tabs.train import keep_recordings
from web.tabs.train_report import describe

RATE = 44_100


def write(folder: Path, name: str, audio: npt.NDArray[np.float32], rate: int = RATE) -> Path:
    soundfile.write(folder / name, audio, rate, subtype="FLOAT")
    return folder / name


def voiced(seconds: float, level: float = 0.3) -> npt.NDArray[np.float32]:
    """A sound with pitch at 44.1 kHz."""
    times = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * harmonic * times) / harmonic for harmonic in range(1, 12))
    return np.asarray(level * tone / np.abs(tone).max(), dtype=np.float32)


@pytest.mark.slow
def test_good_recordings_are_only_short_in_all(tmp_path: Path) -> None:
    report = check_recordings([write(tmp_path, "a.wav", voiced(2)), write(tmp_path, "b.wav", voiced(3))])
    assert report.advice() == ["very_little"]
    assert report.minutes == pytest.approx(5 / 60)
    assert report.f0 is not None and report.f0[1] == pytest.approx(150, rel=0.03)
    assert sample_rates(report) == "44100 Hz: 2"
    assert sum(seconds for _, seconds in report.f0_histogram) == pytest.approx(5, abs=0.3)
    assert max(report.f0_histogram, key=lambda note: note[1])[0] in range(145, 156)


@pytest.mark.parametrize(
    ("advice", "audio", "rate"),
    [
        ("clipped", np.clip(voiced(2) * 8, -1, 1), RATE),
        ("quiet", voiced(2, 0.02), RATE),
        ("silent", np.concatenate([voiced(1), np.zeros(3 * RATE, np.float32)]), RATE),
        ("low_rate", voice_like(2.0), 16_000),
        ("short", voiced(0.4), RATE),
    ],
)
def test_each_fault_is_reported(tmp_path: Path, advice: str, audio: npt.NDArray[np.float32], rate: int) -> None:
    found = check_recordings([write(tmp_path, "a.wav", audio, rate)]).advice()
    assert advice in found and set(found) <= ADVICE.keys()


def with_pauses(noise: float) -> npt.NDArray[np.float32]:
    """Two seconds of voice and one of pauses, with noise of a level in dB below full scale."""
    audio = np.concatenate([voiced(1), np.zeros(RATE // 2, np.float32)] * 2)
    made: npt.NDArray[np.float32] = np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    return np.asarray(audio + 10 ** (noise / 20) * made, np.float32)


@pytest.mark.slow
def test_noise_is_measured_in_pauses_only(tmp_path: Path) -> None:
    noisy = check_recordings([write(tmp_path, "noisy.wav", with_pauses(-30.0))])
    assert "noisy" in noisy.advice() and noisy.is_noisy
    assert noisy.recordings[0].noise == pytest.approx(-30.0, abs=1.0)
    clean = check_recordings([write(tmp_path, "clean.wav", with_pauses(-70.0))])
    assert "noisy" not in clean.advice()
    steady = check_recordings([write(tmp_path, "sung.wav", voiced(3))])  # no pause, so the noise is not known
    assert "noisy" not in steady.advice()
    text = "\n".join(describe_lines(noisy))
    assert "loudness: " in text and "dBFS" in text and "The recordings are noisy" in text


@pytest.mark.slow
def test_faults_of_several_recordings(tmp_path: Path) -> None:
    loud, soft = write(tmp_path, "a.wav", voiced(2, 0.8)), write(tmp_path, "b.wav", voiced(2, 0.1))
    copy = write(tmp_path, "c.wav", voiced(2, 0.8))
    (tmp_path / "d.wav").write_text("no sound", encoding="utf-8")
    report = check_recordings([loud, soft, copy, tmp_path / "d.wav"])
    assert report.duplicates == ["c.wav"]
    assert {"duplicates", "uneven"} <= set(report.advice())
    assert len(report.failures) == 1 and "d.wav" in report.failures[0]
    text = describe(Translator(), report)
    assert "d.wav" in text and "3 recordings" in text


def test_silence_has_no_pitch_and_can_be_reported(tmp_path: Path) -> None:
    report = check_recordings([write(tmp_path, "a.wav", np.zeros(2 * RATE, np.float32))])
    assert report.f0 is None and "no_pitch" in report.advice()
    assert "inf" not in describe(Translator(), report)


def test_texts_of_the_page_and_of_the_command_line_are_the_same() -> None:
    texts = Translator().texts
    assert {name: texts[f"advice.{name}"] for name in ADVICE} == ADVICE


def test_kept_recordings_are_never_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, level in ((first, 0.3), (second, 0.2)):
        folder.mkdir()
        write(folder, "a.wav", voiced(0.2, level))
    kept = tmp_path / "kept"
    keep_recordings([first / "a.wav"], kept)
    before = (kept / "a.wav").stat().st_mtime_ns
    keep_recordings([first / "a.wav", second / "a.wav", second / "a.wav"], kept)
    assert sorted(path.name for path in kept.iterdir()) == ["a.wav", "a_2.wav"]
    assert (kept / "a.wav").stat().st_mtime_ns == before


def test_adding_recordings_keeps_those_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever order uploads and folders are given, the training goes on with all of them."""

    class Local:
        local = True

    typed, other = tmp_path / "typed", tmp_path / "other"
    for folder, level in ((typed, 0.3), (other, 0.2)):
        folder.mkdir()
        write(folder, f"{folder.name}.wav", voiced(0.2, level))
    upload = write(tmp_path, "upload.wav", voiced(0.2, 0.1))
    logs = tmp_path / "logs"
    monkeypatch.setattr(train_tab, "Experiment", lambda name: Experiment(name, logs, tmp_path / "weights"))

    def where(files: list[str] | None, folder: str) -> set[str]:
        found = train_tab._recordings(Translator(), Local(), "a", files, folder)  # type: ignore[arg-type]
        return {path.name for path in Path(str(found)).glob("*.wav")}

    with pytest.raises(ConfigError):
        where(None, "")
    assert where(None, str(typed)) == {"typed.wav"}
    assert where(None, "") == {"typed.wav"}
    assert where([str(upload)], "") == {"typed.wav", "upload.wav"}
    assert where(None, str(other)) == {"typed.wav", "upload.wav", "other.wav"}
    assert where(None, "") == {"typed.wav", "upload.wav", "other.wav"}
