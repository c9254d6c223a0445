"""Folders of RVC, Applio and their forks that are used in place: add one, show its contents, remove it."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from lib.errors import ConfigError
from lib.installations import add_installation, installations, remove_installation
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.handlers import handle_errors, show_success


def build_folders(t: Translator, services: Services) -> None:
    """Lay out the field and the list; they are shown only if the web UI is local to this machine."""
    with gr.Accordion(t("voices.folders"), open=False, visible=services.local, elem_id="folders"):
        gr.Markdown(t("voices.folders_info"))
        folder = gr.Textbox(label=t("voices.folder"), elem_id="folder")
        add = gr.Button(t("voices.folder_add"), elem_id="folder-add")
        used = gr.Dropdown(
            label=t("voices.folders_used"),
            choices=_used() if services.local else [],
            elem_id="folders-used",
            allow_custom_value=True,
        )
        remove = gr.Button(t("voices.folder_remove"), elem_id="folder-remove")

    def use_folder(folder: str | None) -> tuple[str, Any]:
        """Use the voices, indexes and weights of a folder in which RVC, Applio or a fork is installed."""
        with handle_errors(t):
            _check_local(t, services)
            if not (folder or "").strip():
                raise ConfigError(t("voices.no_folder"))
            before = set(services.list_voices())
            path = add_installation(str(folder))
            new = len(set(services.list_voices()) - before)
            show_success(t, t("voices.folder_added", name=html.escape(path.name), count=new))
            return "", gr.update(choices=_used(), value=str(path))

    def remove_folder(folder: str | None) -> Any:
        """Stop using a folder; its files are kept."""
        with handle_errors(t):
            _check_local(t, services)
            if folder not in _used():
                raise ConfigError(t("voices.no_folder"))
            remove_installation(Path(str(folder)))
            return gr.update(choices=_used(), value=None)

    add.click(use_folder, [folder], [folder, used], api_name="use_folder")
    remove.click(remove_folder, [used], used, api_name="remove_folder")


def _used() -> list[str]:
    return [str(path) for path in installations()]


def _check_local(t: Translator, services: Services) -> None:
    """Raise ConfigError if other machines can reach the web UI: only the local user may choose folders."""
    if not services.local:
        raise ConfigError(t("voices.folders_local"))
