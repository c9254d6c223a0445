"""Uploads a voice to the user's own account on the Hugging Face Hub. The token is used once and is not kept."""

import html
from typing import Any

import gradio as gr

from lib.errors import ConfigError
from lib.pitch import METHODS
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.handlers import handle_errors, show_success

LICENCES = ("cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "mit", "openrail")  # others can be typed


def build_publish(t: Translator, services: Services, voice: Any, message: Any) -> None:
    """Lay out the section and connect its events; `message` shows the result."""
    if services.publish is None:
        return
    with gr.Accordion(t("publish.title"), open=False, elem_id="publish"):
        gr.Markdown(t("publish.info"))
        repository = gr.Textbox(label=t("publish.repository"), elem_id="publish-repository")
        licence = gr.Dropdown(
            label=t("publish.licence"), info=t("publish.licence_info"), choices=[*LICENCES], value=None,
            allow_custom_value=True, elem_id="publish-licence",
        )  # fmt: skip
        method = gr.Dropdown(label=t("publish.f0_method"), choices=[*METHODS], value="rmvpe")
        notes = gr.Textbox(label=t("publish.notes"), lines=3)
        private = gr.Checkbox(True, label=t("publish.private"))
        consent = gr.Checkbox(False, label=t("publish.consent"), elem_id="publish-consent")
        token = gr.Textbox(
            label=t("publish.token"), info=t("publish.token_info"), type="password", elem_id="publish-token"
        )
        run = gr.Button(t("publish.run"), elem_id="publish-run")

    def publish(
        name: str | None, repository: str, licence: str | None, method: str, notes: str, private: bool, consent: bool,
        token: str,
    ) -> tuple[str, str]:  # fmt: skip
        with handle_errors(t, names_only=True):
            from lib.voice.publish import Publication

            assert services.publish is not None
            if name not in services.list_voices():
                raise ConfigError(t("voices.none"))
            wanted = Publication(repository.strip(), licence or "", consent, private, method, notes)
            address = html.escape(services.publish(str(name), wanted, token))
            said = t("publish.done", link=f'<a href="{address}" target="_blank" rel="noopener">{address}</a>')
            show_success(t, said)
            return said, ""

    fields = [voice, repository, licence, method, notes, private, consent, token]
    # No part of the API: a token should not be given to programs that call it.
    run.click(publish, fields, [message, token], api_visibility="private", concurrency_limit=1)
