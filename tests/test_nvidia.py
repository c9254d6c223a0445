"""Which build of PyTorch is installed for which NVIDIA GPU and driver, and the advice about old ones."""

import re
import subprocess
import sys

import pytest

from lib.nvidia import Card, advise, parse_cards, suitable_build
from tests.helpers import ROOT

ANSWER = """NVIDIA GeForce RTX 4090, 580.82.09, 8.9
NVIDIA GeForce GTX 1060 3GB, 560.35.03, 6.1
Tesla K80, 470.57.02, 3.7
Quadro P4000, 390.12, [N/A]
Failed to initialize NVML: Driver/library version mismatch
"""


def test_the_answer_of_nvidia_smi_is_read() -> None:
    assert parse_cards(ANSWER) == [
        Card("NVIDIA GeForce RTX 4090", 580, 8.9), Card("NVIDIA GeForce GTX 1060 3GB", 560, 6.1),
        Card("Tesla K80", 470, 3.7), Card("Quadro P4000", 390, None),
    ]  # fmt: skip
    assert parse_cards("") == []


@pytest.mark.parametrize(
    ("driver", "capability", "build", "pattern"),
    [
        (580, 8.9, "cu130", ""),
        (610, 12.0, "cu130", ""),
        (580, 7.5, "cu130", ""),
        (580, 6.1, "cu126", ""),  # Pascal
        (580, 7.0, "cu126", ""),  # Volta
        (560, 8.6, "cu126", ""),
        (525, 5.0, "cu126", ""),  # Maxwell
        (570, 12.0, "cpu", "driver 570"),  # Blackwell needs CUDA 13, hence a newer driver
        (470, 6.1, "cpu", "driver 470"),
        (470, 3.7, "cpu", "not supported by PyTorch .*3.7"),
        (390, None, "cpu", "driver 390"),
    ],
)
def test_every_card_gets_a_build_that_supports_it_or_the_reason(
    driver: int, capability: float | None, build: str, pattern: str
) -> None:
    card = Card("GPU", driver, capability)
    assert suitable_build([card]) == build
    advice = " ".join(advise([card], build))
    assert bool(advice) == bool(pattern)
    if pattern:
        assert re.search(pattern, advice), advice


def test_the_best_card_decides() -> None:
    assert suitable_build([Card("old", 580, 3.7), Card("new", 580, 8.9)]) == "cu130"
    assert suitable_build([]) == "cpu"


def test_an_installed_build_that_does_not_fit_is_reported_with_the_remedy() -> None:
    (advice,) = advise([Card("GTX 1060", 580, 6.1)], "cu130")
    assert "GTX 1060 (compute capability 6.1, driver 580) cannot" in advice and "cu126 build: delete .venv" in advice
    (advice,) = advise([Card("RTX 3060", 560, 8.6)], "cu130")
    assert "driver 560" in advice and "cu126" in advice
    (advice,) = advise([Card("RTX 3060", 580, 8.6)], "cpu")
    assert "the PyTorch build cpu" in advice and "cu130" in advice


def test_the_start_scripts_get_one_word() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "lib.nvidia"], cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() in ("cu130", "cu126", "cpu"), "without any package installed"
