"""Missing downloads: found before a job starts, listed with their size, downloaded by one button."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lib import assets
from lib.assets import SETS, choose, download, missing_megabytes
from lib.content import hubert
from lib.pitch import rmvpe
from tests.test_assets import FakeHub, hub  # noqa: F401
from train import base_models
from train.options import RunOptions
from web.i18n.translator import Translator
from web.tabs import settings as settings_tab
from web.tabs.needs import NeedsPanel, download_with_progress, needs_of_conversion, needs_of_training

T = Translator()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in place of every folder that is searched for weights."""
    for name in ("PRETRAINED", "ROOT"):
        monkeypatch.setattr(hubert, name, tmp_path)
    monkeypatch.setattr(rmvpe, "PLACES", (tmp_path / "rmvpe.pt",))
    monkeypatch.setattr(base_models.has_base, "__defaults__", (tmp_path,))
    monkeypatch.setattr(assets, "PRETRAINED", tmp_path)
    return tmp_path


def test_a_conversion_needs_the_encoder_of_its_voice_and_the_weights_of_its_pitch_method(
    nothing_installed: Path,
) -> None:
    assert needs_of_conversion("lite", "auto", "cpu") == ([], [])
    assert needs_of_conversion("v2", "hybrid[pm+rmvpe]", "cpu")[0] == ["hubert_base", "rmvpe"]
    (nothing_installed / "rmvpe.pt").write_bytes(b"weights")
    assert needs_of_conversion("v2", "rmvpe", "cpu")[0] == ["hubert_base"]
    names, problems = needs_of_conversion("lite", "pm", "cuda:77")
    assert names == [] and "'cuda:77' cannot be used here" in str(problems[0])


def test_a_training_also_needs_base_models(nothing_installed: Path) -> None:
    options = RunOptions(device="cpu", pitch_method="rmvpe")
    assert needs_of_training("v2", "40k", True, options)[0] == list(SETS["v2-starter"])
    assert needs_of_training("v1", "48k", False, options)[0] == ["hubert_base", "v1-48k-nof0"]
    assert needs_of_training("v2", "32k", True, RunOptions(device="all", base=False))[0] == ["hubert_base"]
    assert needs_of_training("lite", "24k", True, RunOptions(device="cpu"))[0] == []
    for name in ("f0G40k", "f0D40k"):
        path = nothing_installed / "pretrained_v2" / f"{name}.pth"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
    assert "v2-40k" not in needs_of_training("v2", "40k", True, options)[0]


def shown(find: Callable[[], Any]) -> Any:
    """What a panel shows for the needs that `find` returns."""
    with gr.Blocks() as app:
        box = gr.Textbox()
        NeedsPanel(T, "test").wire(lambda _: find(), [box], [box.change])
    show = next(f.fn for f in app.fns.values() if f.fn and f.fn.__qualname__.endswith("show"))
    return show("")


@pytest.mark.slow
def test_the_panel_names_what_is_missing_with_its_size(nothing_installed: Path) -> None:
    panel, text, button, names = shown(lambda: needs_of_conversion("v2", "rmvpe", "cpu"))
    assert panel["visible"] and button["visible"] and names == ["hubert_base", "rmvpe"]
    assert "- `hubert_base`: every v1 and v2 voice" in text and "(370 MB)" in button["value"]
    assert not shown(lambda: needs_of_conversion("lite", "auto", "cpu"))[0]["visible"]
    panel, text, button, _ = shown(lambda: needs_of_conversion("lite", "auto", "cuda:77"))
    assert panel["visible"] and not button["visible"] and "cuda:77" in text
    assert not shown(lambda: needs_of_conversion("lite", "no such method", "cpu"))[0]["visible"], "reported elsewhere"


def test_sets_stand_for_their_downloads(nothing_installed: Path) -> None:
    names = {asset.name for asset in choose(["v2-starter"])}
    assert names == {"hubert_base", "rmvpe", "v2-40k"} and missing_megabytes(["v2-starter"]) == 189 + 181 + 73 + 143
    assert missing_megabytes(["v2-40k-nof0"]) is None, "not known"
    choices, listed = {value: label for label, value in settings_tab._choices()}, settings_tab._list_weights(T)
    assert choices["v2-starter"] == "v2-starter (586 MB)" and choices["v1-48k"] == "v1-48k (183 MB)"
    assert "- `v2-starter`: hubert_base, rmvpe, v2-40k (586 MB)" in listed
    assert "- `v1-48k`: training v1 voices at 48k with F0 (183 MB)" in listed
    for asset in choose(["v2-starter"]):
        path = assets.path_of(asset)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"there")
    assert "v2-starter" not in {value for _, value in settings_tab._choices()}
    assert "v2-starter" not in settings_tab._list_weights(T)
    assert missing_megabytes(["v2-starter"]) == 0


def test_a_download_reports_the_bytes_received(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    received: list[tuple[int, int]] = []
    download(["one"], received=lambda count, size: received.append((count, size)))
    assert received == [(9, 19), (19, 19)]
    shutil.rmtree(vars(assets)["PRETRAINED"] / "sub")
    bars: list[Any] = []
    message = download_with_progress(T, ["one", "two"], lambda value, desc: bars.append((value, desc)))
    assert message == T("weights.done", files="one.bin, two.bin")
    assert bars[0][0] == 0 and bars[-1][0] == 1
    assert all(0 <= share <= 1 for share, _ in bars)
    assert any("MB" in desc and share == pytest.approx(9 / 19 / 2) for share, desc in bars)
