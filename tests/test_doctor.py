"""The check of the installation: its findings here, and that broken parts become findings with a remedy."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from infer import __main__ as command
from infer import doctor
from infer.doctor import Finding, compute_on, write_report
from lib.messages import Message


def state_of(findings: list[Finding], word: str) -> str:
    """The state of the only finding whose name contains a word."""
    (found,) = [finding for finding in findings if word in finding.what]
    return found.state


@pytest.mark.slow
def test_a_conversion_with_the_included_voice_is_made() -> None:
    (found,) = doctor._conversion()
    assert found.state == "ok" and found.what == "conversion of 3 seconds" and " s on " in found.found


@pytest.mark.slow
def test_the_processor_computes_correctly_and_a_wrong_device_is_a_problem() -> None:
    assert compute_on("cpu") is None
    failed = compute_on("cuda:99")
    assert failed is not None and "the computation failed" in failed


def test_a_damaged_voice_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voice.pth").write_bytes(b"damaged")
    monkeypatch.setattr(doctor, "VOICE", tmp_path / "voice.pth")
    (found,) = doctor._conversion()
    assert found.state == "problem" and found.remedy is not None and "voice.pth" in found.found


def test_shortages_are_found_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    found = [*doctor._memory(), *doctor._disk()]
    assert {finding.state for finding in found} == {"problem"} and all(finding.remedy for finding in found)
    assert found[0].found == "1.0 GB free"
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(doctor, "WEIGHTS", tmp_path / "file")
    monkeypatch.setattr(doctor, "LOGS", tmp_path / "logs")
    findings = list(doctor._write_access())
    assert state_of(findings, "write access to file") == "problem" and state_of(findings, "to logs") == "ok"


def test_missing_models_are_notes_and_missing_parts_of_the_program_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.pitch.rmvpe._places", lambda: iter(()))
    monkeypatch.setattr("lib.content.hubert._places", lambda _: iter(()))
    findings = list(doctor._weights())
    assert state_of(findings, "included models") == "ok" and state_of(findings, "rmvpe") == "note"
    assert state_of(findings, "content encoder") == "note"
    assert "python -m lib.assets download rmvpe" in str(findings[1].remedy)
    monkeypatch.setattr(doctor, "VOICE", tmp_path / "none.pth")
    assert next(iter(doctor._weights())).found == "none.pth"


def test_one_failing_check_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a mistake of ours")

    for name in ("_devices", "_driver", "_conversion"):
        monkeypatch.setattr(doctor, name, broken)
    status = command.main(["doctor", "--report", str(tmp_path)])
    printed = capsys.readouterr().out
    assert status == 1 and printed.count("a mistake of ours") == 3
    assert "Python" in printed and "→ Report this with the bug report." in printed
    (report,) = tmp_path.glob("revoice-report-*.zip")
    with zipfile.ZipFile(report) as archive:
        assert "a mistake of ours" in archive.read("checks.txt").decode()


def test_the_report_has_no_private_paths(tmp_path: Path) -> None:
    finding = Finding(Message("check"), "problem", "/home/anna/secret folder/voice.pth is damaged")
    with zipfile.ZipFile(write_report([finding], tmp_path)) as archive:
        text = archive.read("checks.txt").decode()
    assert "secret folder" not in text and "voice.pth is damaged" in text
