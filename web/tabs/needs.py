"""Lists missing files that a conversion or training run requires, with a button that downloads them."""

import html
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from lib import assets
from lib.config import load_family
from lib.devices import choose_device
from lib.errors import MissingFileError, RevoiceError
from lib.pitch import split_method
from train.options import RunOptions
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.runners import ALL_GPUS, chosen_gpus
from web.tabs.handlers import handle_errors, show_percent

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Needs = tuple[list[str], list[RevoiceError]]  # names of missing downloads, and other problems


class NeedsPanel:
    """The list and its download button, hidden if nothing is missing.

    The constructor adds them to the current Blocks.
    """

    def __init__(self, t: Translator, name: str) -> None:
        self._t = t
        with gr.Column(visible=False) as self.panel:
            self.text = gr.Markdown(elem_id=f"{name}-needs")
            self.get = gr.Button(t("needs.download"), size="sm", elem_id=f"{name}-download")
        self.names = gr.State([])

    def wire(self, find: Callable[..., Needs], inputs: Sequence[Any], triggers: Sequence[Any]) -> None:
        """Show what `find` returns for the values of `inputs`, when the web UI opens and after each of `triggers`."""

        def show(*values: Any) -> tuple[Any, ...]:
            try:
                names, problems = find(*values)
            except RevoiceError:  # a damaged voice, an invalid value: reported when it is used
                names, problems = [], []
            lines = [f"- {html.escape(translated(self._t, error.message))}" for error in problems]
            purposes = {asset.name: asset.needed_by for asset in assets.MANIFEST}
            lines += [f"- `{name}`: {translated(self._t, purposes[name])}" for name in names]
            text = "\n".join([self._t("needs.missing"), *lines])
            return (
                gr.update(visible=bool(lines)),
                text,
                gr.update(value=self._button(names), visible=bool(names)),
                names,
            )

        shown = [self.panel, self.text, self.get, self.names]
        opened = gr.on(None, lambda: None, **_QUIET)
        for event in (opened.then, *triggers):
            event(show, list(inputs), shown, **_QUIET)
        self.get.click(
            self.download, [self.names], [self.text], concurrency_limit=1, show_progress_on=self.text,
            api_visibility="private",
        ).then(show, list(inputs), shown, **_QUIET)  # fmt: skip

    def download(self, names: list[str], bar: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """Download the missing files; return the message about them."""
        with handle_errors(self._t):
            return download_with_progress(self._t, names, bar)

    def _button(self, names: Sequence[str]) -> str:
        megabytes = assets.missing_megabytes(names) if names else None
        return self._t("needs.download_size", size=megabytes) if megabytes else self._t("needs.download")


def download_with_progress(t: Translator, names: Sequence[str], bar: gr.Progress) -> str:
    """Download files by name, with a progress bar; return the message that lists them."""
    now: list[Any] = [0, 1, ""]  # files done, number of files, current step

    def progress(done: int, total: int, what: str) -> None:
        now[:] = [done, total, translated(t, what)]
        show_percent(bar, *now)

    def received(count: int, size: int) -> None:
        done, total, what = now
        if size:
            show_percent(bar, done + count / size, total, f"{what} ({count / 1e6:.0f} / {size / 1e6:.0f} MB)")

    paths = assets.download(names, progress=progress, received=received)
    return t("weights.done", files=html.escape(", ".join(path.name for path in paths)))


def needs_of_conversion(family: str, pitch_method: str, device: str) -> Needs:
    """Return what a conversion with a voice of a family lacks: names of missing downloads, and problems.

    A device that is not available is a problem.
    """
    return _encoder(family) + _pitch(pitch_method), _device(device)


def needs_of_training(family: str, sample_rate: str, pitch: bool, options: RunOptions) -> Needs:
    """Return what training from recordings lacks: names of missing downloads, and problems.

    Base models are included if the options use them.
    """
    from train.base_models import has_base

    config = load_family(family, sample_rate, has_f0=pitch)  # type: ignore[arg-type]
    names = [] if options.content_encoder else _encoder(family)
    names += _pitch(options.pitch_method) if pitch else []
    if options.base and family != "lite" and not has_base(config):
        names.append(f"{family}-{sample_rate}" + ("" if pitch else "-nof0"))
    several = options.device == ALL_GPUS or bool(chosen_gpus(options.device))
    return names, _device("auto" if several else options.device)


def _encoder(family: str) -> list[str]:
    if family == "lite":
        return []
    from lib.content import find_content_encoder

    try:
        find_content_encoder(family)
    except MissingFileError:
        return ["hubert_base"]
    return []


def _pitch(method: str) -> list[str]:
    if "rmvpe" not in split_method(method):
        return []
    from lib.pitch.rmvpe import find_weights

    try:
        find_weights()
    except MissingFileError:
        return ["rmvpe"]
    return []


def _device(name: str) -> list[RevoiceError]:
    try:
        choose_device(name)
    except RevoiceError as error:
        return [error]
    return []
