"""Base models that are dropped on the page: recognised, checked before the training is queued, and kept."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile

from lib.paths import PRETRAINED
from tests.test_api import Page
from train.experiment import Experiment
from web.jobs.runners import train_command


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setattr(Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))
    made = Page(tmp_path / "page")
    yield made
    made.registry.close()


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A recording, and the shipped base models under names that say nothing."""
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "data" / "a.wav", 0.1 * rng.standard_normal(3 * 24_000), 24_000)
    for name, kept in (("G", "first"), ("D", "second")):
        shutil.copyfile(PRETRAINED / "lite" / f"{name}.safetensors", tmp_path / f"{kept}.safetensors")
    return {"name": "olga", "folder": str(tmp_path / "data"), "device": "cpu"}


@pytest.mark.slow
def test_a_dropped_base_is_used_and_kept_beside_the_training(page: Page, given: dict[str, Any], tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.safetensors") for name in ("second", "first")]
    _, _, job_id = page.call("train", **given, base_files=files)
    assert page.registry.wait(job_id).state == "done"
    kept = tmp_path / "logs" / "olga" / "base"
    options = page.trainings[-1].options
    assert (options.base_generator, options.base_discriminator) == (kept / "G.safetensors", kept / "D.safetensors")
    assert (kept / "G.safetensors").read_bytes() == (tmp_path / "first.safetensors").read_bytes()
    words = train_command(page.trainings[-1])
    assert words[words.index("--base-generator") + 1] == str(kept / "G.safetensors")


@pytest.mark.slow
def test_a_dropped_base_of_another_kind_is_refused_before_anything_is_kept(
    page: Page, given: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(gr.Error, match="Files given: 1; discriminators among them: 0"):
        page.call("train", **given, base_files=[str(tmp_path / "first.safetensors")])
    files = [str(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    with pytest.raises(gr.Error, match="is a base generator for lite at 24k"):
        page.call("train", **given, base_files=files, family="v2", sample_rate="40k")
    assert not (tmp_path / "logs" / "olga" / "base").exists() and not page.trainings
