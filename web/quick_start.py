"""Speeds up startup: skips work that Gradio does on every start but that this program does not need."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

STUBS = "gradio.component_meta"
PLOTS = "matplotlib"


def import_gradio() -> None:
    """Import Gradio without writing its stub files, and pandas' styles without pyplot.

    On every import, Gradio generates a stub file (.pyi) for editors from the source of each component. pandas
    imports pyplot for the colours of styled tables, which the page does not have; matplotlib stays importable.
    """
    if "gradio" in sys.modules:
        return
    sys.meta_path.insert(0, _WithoutStubs)
    plots = sys.modules.get(PLOTS)
    if plots is None:
        sys.modules[PLOTS] = None  # type: ignore[assignment]  # what Python does for a package that cannot be imported
    try:
        import gradio
        import pandas.io.formats.style  # noqa: F401

        assert gradio
    finally:
        sys.meta_path.remove(_WithoutStubs)
        if plots is None:
            del sys.modules[PLOTS]


class _WithoutStubs:
    """A finder that makes Gradio's generator of stubs do nothing."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find Gradio's stub generator; leave all other modules to the other finders."""
        spec = PathFinder.find_spec(name, path, target) if name == STUBS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_without_stubs(module: ModuleType) -> None:
            execute(module)
            vars(module)["create_or_modify_pyi"] = lambda *_: None

        spec.loader.exec_module = execute_without_stubs  # type: ignore[method-assign]
        return spec


@contextmanager
def without_applications() -> Iterator[None]:
    """Prevent Gradio from creating web applications while a page is being built.

    It would create one when a Blocks context is entered, one when it is exited and one for its queue; `launch` creates
    the one that is served.
    """
    from gradio import blocks

    usual = blocks.App
    blocks.App = _NoApplication
    try:
        yield
    finally:
        blocks.App = usual


class _NoApplication:
    @staticmethod
    def create_app(*_: Any, **__: Any) -> None:
        """Do nothing."""
