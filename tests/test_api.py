"""The API: optional parameters, names of results, errors, and job ids of training."""

import inspect
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
from gradio.context import LocalContext

from infer.options import ConvertOptions
from lib.config import FAMILIES
from lib.errors import AudioError
from tests.test_web import FakeConverter
from train.experiment import Experiment
from train.options import RunOptions
from web.app import build_app
from web.i18n.translator import Translator
from web.jobs.registry import JobContext, JobRegistry
from web.jobs.requests import TrainRequest
from web.tabs.handlers import handle_errors

NO_DEFAULT = {  # what the program cannot choose for its caller
    "recording", "name", "file", "files", "archive", "checkpoint", "job_id", "result", "voice", "folder", "link",
}  # fmt: skip


class Page:
    """The page's endpoints, without a server, and the trainings that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.trainings: list[TrainRequest] = []
        self.registry = JobRegistry(folder / "queue", {"train": self.train})
        self.app = build_app(replace(FakeConverter().services(folder), registry=self.registry), Translator())
        self.endpoints: dict[str, Any] = self.app.get_api_info()["named_endpoints"]

    def train(self, request: TrainRequest, context: JobContext) -> list[Path]:
        """Remember what was asked for."""
        self.trainings.append(request)
        return []

    def call(self, endpoint: str, **given: Any) -> Any:
        """Call an endpoint's handler as Gradio's client does, with the defaults that the description names."""
        handler = next(f.fn for f in self.app.fns.values() if f.api_name == endpoint)
        values = {p["parameter_name"]: p["parameter_default"] for p in self.endpoints[f"/{endpoint}"]["parameters"]}
        assert given.keys() <= values.keys()
        takes_request = "request" in inspect.signature(handler).parameters
        return handler(*[None] * takes_request, *(values | given).values())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = Page(tmp_path_factory.mktemp("api"))
    yield made
    made.registry.close()


def test_every_parameter_with_a_default_is_optional(page: Page) -> None:
    required = {
        name: {p["parameter_name"] for p in endpoint["parameters"] if not p["parameter_has_default"]}
        for name, endpoint in page.endpoints.items()
    }
    assert required["/convert"] == {"recording"} and required["/convert_batch"] == set()
    assert required["/train"] == {"name"} and required["/check_recordings"] == set()
    assert required["/delete_voice"] == {"voice"}, "the voice that the page has chosen is no default for deleting"
    assert all(names <= NO_DEFAULT for names in required.values()), required


def test_defaults_are_those_of_the_options(page: Page) -> None:
    for endpoint, model in (("/convert", ConvertOptions), ("/train", RunOptions)):
        for parameter in page.endpoints[endpoint]["parameters"]:
            name = parameter["parameter_name"]
            if name in model.model_fields and name != "device":
                assert (parameter["parameter_default"] or None) == (model.model_fields[name].get_default() or None), (
                    name
                )


def test_results_have_names(page: Page) -> None:
    for name, endpoint in page.endpoints.items():
        for result in endpoint["returns"]:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", result["label"]) and not result["label"].startswith("value_"), name
    loaded = [result["label"] for result in page.endpoints["/load_preset"]["returns"]]
    saved = [parameter["parameter_name"] for parameter in page.endpoints["/save_preset"]["parameters"]]
    assert loaded == [*saved[1:], "file"], "the options of a preset by their names"
    assert [result["label"] for result in page.endpoints["/train"]["returns"]] == ["message", "files", "job_id"]


def test_a_training_returns_its_job_and_takes_every_family_and_rate(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))
    rng = np.random.default_rng(0)
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings" / "a.wav", 0.1 * rng.standard_normal(3 * 24_000), 24_000)
    for family, rates in FAMILIES.items():
        for rate in (None, *rates):
            given = {"family": family, "sample_rate": rate, "stage": "prepare", "folder": str(tmp_path / "recordings")}
            _, _, job_id = page.call("train", name="nina", **given)
            assert page.registry.wait(job_id).state == "done"
            assert (page.trainings[-1].family, page.trainings[-1].sample_rate) == (family, rate)
    with pytest.raises(gr.Error, match="no sample rate &#x27;24k&#x27;; choose one of 40k"):
        page.call("train", name="nina", family="v2", sample_rate="24k", stage="index")
    label = Translator()("train.sample_rate")
    choice: Any = next(c for c in page.app.blocks.values() if getattr(c, "label", "") == label)
    assert {value for _, value in choice.choices} == {rate for names in FAMILIES.values() for rate in names}


def test_dropped_files_add_their_voices_and_bad_ones_are_reported_without_paths(page: Page, tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("dora.zip", "bomb.zip", "eva.pth", "fay.safetensors")}
    for path in paths.values():
        Path(path).write_bytes(b"PK")
    assert "dora" in page.call("import_voice", archive=paths["dora.zip"])[0]
    assert "eva, fay" in page.call("add_voices", files=[paths["eva.pth"], paths["fay.safetensors"]])[0]
    assert "gia" in page.call("add_voices", files=[paths["eva.pth"]], name="gia")[0]
    assert {"dora", "eva", "fay", "gia"} < {*page.call("list_voices")}
    with pytest.raises(gr.Error, match=r"bomb\.zip unfolds") as refused:
        page.call("import_voice", archive=paths["bomb.zip"])
    assert str(tmp_path) not in refused.value.message


@pytest.mark.slow
def test_a_link_adds_its_voices_where_links_are_allowed(page: Page, tmp_path: Path) -> None:
    assert "hal" in page.call("add_link", link="https://example.org/hal.pth")
    assert "ida" in page.call("add_link", link="https://example.org/x.pth", name="ida")
    for link, pattern in ((" ", "No link yet"), ("https://example.org/none.pth", "could not be downloaded")):
        with pytest.raises(gr.Error, match=pattern):
            page.call("add_link", link=link)
    shared = replace(FakeConverter().services(tmp_path), fetch_link=None)
    app = build_app(shared, Translator())
    shared.registry.close()
    assert "/add_link" not in app.get_api_info()["named_endpoints"]
    assert not any(getattr(block, "elem_id", None) == "import-link" for block in app.blocks.values())


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"user-agent": "python"}, "<b>x</b> & y"),
        ({"origin": "http://127.0.0.1:7865"}, "&lt;b&gt;x&lt;/b&gt; &amp; y"),
        ({"sec-fetch-site": "same-origin"}, "&lt;b&gt;x&lt;/b&gt; &amp; y"),
        (None, "&lt;b&gt;x&lt;/b&gt; &amp; y"),
    ],
)
def test_errors_are_escaped_for_browsers_only(headers: dict[str, str] | None, shown: str) -> None:
    raised: list[gr.Error] = []

    def ask() -> None:  # in a thread, whose context ends with it
        LocalContext.request.set(None if headers is None else SimpleNamespace(headers=headers))
        try:
            with handle_errors(Translator()):
                raise AudioError("<b>x</b> & y")
        except gr.Error as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert raised[0].message == shown
