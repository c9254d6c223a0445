"""NVIDIA GPUs and drivers, and the CUDA build of PyTorch that supports them. Imports only the standard library.

Sources: PyTorch's support matrix for release 2.11 (compute capabilities of its builds) and NVIDIA's table of minor
version compatibility (drivers).
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lib.messages import Message

QUERY = ("--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")
PATIENCE = 30.0  # seconds to wait for the output of nvidia-smi


class Build(NamedTuple):
    """A CUDA build of PyTorch, and what it supports."""

    name: str  # the last part of its package index
    lowest: float  # compute capability
    highest: float
    driver: int  # oldest major version


BUILDS = (Build("cu130", 7.5, 12.9, 580), Build("cu126", 5.0, 9.9, 525))  # the first that fits is taken
CPU = "cpu"


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU as described by nvidia-smi. `capability` is None if an old driver does not report it."""

    name: str
    driver: int
    capability: float | None


def find_cards() -> list[Card]:
    """List the NVIDIA GPUs of this machine; empty if no driver responds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, *QUERY], capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_cards(answer.stdout) if answer.returncode == 0 else []


def parse_cards(text: str) -> list[Card]:
    """Parse the output of nvidia-smi for QUERY; lines in another format are skipped."""
    cards = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and (driver := re.match(r"\d+", fields[1])):
            capability = float(fields[2]) if re.fullmatch(r"\d+\.\d+", fields[2]) else None
            cards.append(Card(fields[0], int(driver[0]), capability))
    return cards


def suitable_build(cards: Sequence[Card]) -> str:
    """Return the build that supports the best of the cards: "cu130", "cu126" or "cpu"."""
    for build in BUILDS:
        if any(_works(card, build) for card in cards):
            return build.name
    return CPU


def advise(cards: Sequence[Card], build: str) -> list[Message]:
    """Return a sentence with the remedy for each GPU that a build does not support."""
    return [advice for card in cards if (advice := _advise(card, build)) is not None]


def _advise(card: Card, name: str) -> Message | None:
    build = next((build for build in BUILDS if build.name == name), None)
    if build is not None and _works(card, build):
        return None
    fitting = [build for build in BUILDS if _supports(card, build)]
    if not fitting:
        return Message(
            "{name} is not supported by PyTorch (compute capability {capability}; {lowest} or more is needed). The CPU "
            "is used.",
            name=card.name, capability=card.capability, lowest=BUILDS[-1].lowest,
        )  # fmt: skip
    better = suitable_build([card])
    if better == CPU:
        return Message(
            "The driver {driver} of {name} is too old for PyTorch, which needs {needed} or newer. Install the newest "
            "driver from nvidia.com, delete .venv, then run go-web again. Until then the CPU is used.",
            driver=card.driver, name=card.name, needed=fitting[-1].driver,
        )  # fmt: skip
    return Message(
        "{name} (compute capability {capability}, driver {driver}) cannot be used with the PyTorch build {build}. "
        "Install the {better} build: delete .venv, then run go-web again.",
        name=card.name, capability=card.capability or "?", driver=card.driver, build=name, better=better,
    )  # fmt: skip


def _supports(card: Card, build: Build) -> bool:
    return card.capability is None or build.lowest <= card.capability <= build.highest


def _works(card: Card, build: Build) -> bool:
    return _supports(card, build) and card.driver >= build.driver
