"""benchmarks/gpu_check.py runs on a CPU with tiny networks, so that it works when there is a GPU."""

import pytest

from benchmarks.gpu_check import CHECKS, Row, Settings, check, table
from lib.content import hubert
from lib.pitch import rmvpe

SLOW = ("steps", "training", "extraction", "conversion")


@pytest.fixture(autouse=True)
def restore_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script makes its process find networks of random weights; the tests after it need the real places again."""
    monkeypatch.setattr(hubert, "find", hubert.find)
    monkeypatch.setattr(rmvpe, "PLACES", rmvpe.PLACES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CHECKS]
)
def test_every_check_passes_on_the_cpu(name: str) -> None:
    rows = check(Settings(device="cpu", tiny=True, only=(name,)))
    assert rows and not [row for row in rows if not row.passed]
    assert {row.case.split(",")[0] for row in rows} >= ({"v2"} if name == "generator" else {"v2", "lite"})


def test_a_failed_check_is_marked() -> None:
    assert "**FAILED**" in table([Row("agreement", "v2, fp32", "12 dB", passed=False)])
