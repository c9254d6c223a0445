"""The start of the page leaves out stub files, pyplot, torch and spare web applications, and serves the same page."""

import subprocess
import sys
from pathlib import Path

import pytest

from lib.paths import ROOT

CODE = """
import sys
from pathlib import Path
from web.quick_start import import_gradio
import_gradio()
import_gradio()  # a second time without effect
import gradio
from gradio import blocks, component_meta
from web.app import build_app
from web.services import make_services
made = []
blocks.App.create_app = staticmethod(lambda *_, **__: made.append(1))
usual = blocks.App
app = build_app(make_services(Path(sys.argv[1]), "cpu", logs=Path(sys.argv[1])))
assert not made and app.app is None and blocks.App is usual and len(app.blocks) > 300
assert not {"torch", "matplotlib", "faiss"} & sys.modules.keys()
component_meta.create_or_modify_pyi(gradio.Textbox, "Nothing", [])  # the original raises: there is no such class
import matplotlib.pyplot
"""


@pytest.mark.slow
def test_a_start_imports_neither_torch_nor_pyplot_and_makes_no_spare_application(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
