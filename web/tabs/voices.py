"""The Voices tab: details of the voices, and the tools of `python -m train ckpt`."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from lib.errors import ConfigError
from lib.voice.facts import ENTRIES
from train.ckpt import cli as ckpt
from web.i18n.messages import translated
from web.i18n.translator import Translator, shorten
from web.services import Services
from web.tabs.handlers import handle_errors, show_success
from web.tabs.voice_folders import build_folders
from web.tabs.voice_intake import build_intake
from web.tabs.voice_names import READERS, updated_list, voice_choices
from web.tabs.voice_publish import build_publish

REFRESH_SECONDS = 5
OPEN: dict[str, Any] = {"allow_custom_value": True}  # else the API would accept only choices that existed at startup


def build_voices_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and connect its events, inside the current Blocks."""
    tools = _Tools(t, services)
    cards = gr.HTML(_cards(t, services, open_files=False), elem_id="voice-cards")
    with gr.Row():
        with gr.Column():
            voice = gr.Dropdown(
                label=t("convert.voice"),
                choices=voice_choices(t, services, open_files=False),
                elem_id="manage-voice",
                **OPEN,
            )
            info = gr.Textbox(label=t("voices.info"), lines=12, interactive=False, elem_id="voice-info")
            message = gr.Markdown(elem_id="voice-message")
        with gr.Column():
            _build_exchange(t, services, tools, voice, message)
            _build_edit(t, tools, voice, info, message)
            second, checkpoint = _build_makers(t, tools, voice, message)
            with gr.Row():
                delete = gr.Button(t("voices.delete"), variant="stop", elem_id="delete")
                undo = gr.Button(t("voices.undo"), elem_id="undo")
    gr.on(None, tools.voice_info, [voice], info, api_name="voice_info")  # when the web UI opens and when it changes
    delete.click(tools.delete_voice, [voice], message, api_name="delete_voice")
    undo.click(tools.undo_delete, outputs=message, api_name="undo_delete")
    gr.api(tools.list_voices, api_name="list_voices")
    _keep_fresh(tools, [voice, second, checkpoint], info, cards)


def _build_exchange(t: Translator, services: Services, tools: "_Tools", voice: Any, message: Any) -> None:
    with gr.Accordion(t("voices.import"), open=True):
        build_intake(t, services, message)
    build_folders(t, services)
    with gr.Accordion(t("voices.export"), open=False):
        export = gr.Button(t("voices.export_run"), elem_id="export")
        exported = gr.File(label=t("voices.exported"), interactive=False, visible=False)
    export.click(tools.export_voice, [voice], exported, api_name="export_voice")
    build_publish(t, services, voice, message)


def _build_edit(t: Translator, tools: "_Tools", voice: Any, info: Any, message: Any) -> None:
    with gr.Accordion(t("voices.edit"), open=False):
        texts: list[Any] = [gr.Textbox(label=t(f"voices.{name}")) for name in ("text", "author", "licence", "speakers")]
        readers = [(t(f"voices.{reader}"), reader) for reader in READERS]
        for name in ENTRIES:
            shown: dict[str, Any] = {"label": t(f"voices.{name}"), "info": t(f"voices.{name}_info")}
            is_list = name == "reader"
            texts.append(gr.Dropdown(choices=readers, value=None, **shown, **OPEN) if is_list else gr.Textbox(**shown))
        edit = gr.Button(t("voices.edit_run"))
    edit.click(tools.edit_voice, [voice, *texts], message, api_name="edit_voice").then(
        tools.voice_info, [voice], info, api_name="voice_info_again", api_visibility="private"
    )


def _build_makers(t: Translator, tools: "_Tools", voice: Any, message: Any) -> tuple[Any, Any]:
    with gr.Accordion(t("voices.merge"), open=False):
        second = gr.Dropdown(label=t("voices.second"), choices=tools.choices(open_files=False), **OPEN)
        alpha = gr.Slider(0, 1, 0.5, step=0.01, label=t("voices.alpha"))
        merged = gr.Textbox(label=t("voices.new_name"))
        merge = gr.Button(t("voices.merge_run"))
    with gr.Accordion(t("voices.extract"), open=False):
        checkpoint = gr.Dropdown(label=t("voices.checkpoint"), choices=tools.list_checkpoints(), **OPEN)
        extracted = gr.Textbox(label=t("voices.new_name"))
        extract = gr.Button(t("voices.extract_run"))
    merge.click(tools.merge_voices, [voice, second, alpha, merged], message, api_name="merge_voices")
    extract.click(tools.extract_voice, [checkpoint, extracted], message, api_name="extract_voice")
    return second, checkpoint


class _Tools:
    """The handlers of the buttons; each is an API endpoint with this name and description."""

    def __init__(self, t: Translator, services: Services) -> None:
        self._t = t
        self._services = services

    def cards(self) -> str:
        """Return the voices as HTML."""
        return _cards(self._t, self._services)

    def _named(self, name: str | None) -> str:
        if name not in self._services.list_voices():
            raise ConfigError(self._t("voices.none"))
        return str(name)

    def list_voices(self) -> list[str]:
        """List the names of all voices."""
        return self._services.list_voices()

    def choices(self, *, open_files: bool = True) -> list[tuple[str, str]]:
        """Return titles and names of all voices."""
        return voice_choices(self._t, self._services, open_files=open_files)

    def list_checkpoints(self) -> list[str]:
        """List the checkpoints of all experiments as "experiment/file name", newest first."""
        return list(self._services.list_checkpoints())

    def voice_info(self, voice: str | None) -> str:
        """Return the properties of a voice: family, sample rate, pitch, epochs and more."""
        with handle_errors(self._t, names_only=True):
            if not voice:
                return ""
            from train.ckpt.tools import describe, voice_path

            facts = describe(voice_path(self._named(voice)))
            return "\n".join(
                f"{self._translate(name)}: {self._translate(shorten(str(fact)))}" for name, fact in facts.items()
            )

    def _translate(self, text: str) -> str:
        return translated(self._t, text)

    def export_voice(self, voice: str | None) -> Any:
        """Export a voice, its index and a card as one ZIP file."""
        with handle_errors(self._t, names_only=True):
            output = self._services.folder / f"{self._named(voice)}.zip"
            list(ckpt.use(ckpt.Export(voice=self._named(voice), output=output, overwrite=True)))
            return gr.update(value=str(output), visible=True)

    def _done(self, message: str) -> str:
        """Show a success message, and return it."""
        show_success(self._t, message)
        return message

    def _new_name(self, name: str | None, usual: str) -> str:
        """Return the name of a new voice, by default an unused one.

        Raises ConfigError if it is taken: the web UI replaces no voice.
        """
        from lib.voice.intake import free_name

        chosen = (name or "").strip()
        if not chosen:
            return free_name(usual, self._services.list_voices())
        if chosen.casefold() in {voice.casefold() for voice in self._services.list_voices()}:
            raise ConfigError("There is a voice named {name!r} already. Choose another name.", name=chosen)
        return chosen

    def edit_voice(
        self,
        voice: str | None,
        info: str | None = None,
        author: str | None = None,
        licence: str | None = None,
        speakers: str | None = None,
        display_name: str | None = None,
        language: str | None = None,
        reader: str | None = None,
    ) -> str:
        """Change the metadata of a voice; empty values leave it unchanged."""
        given = {"info": info, "author": author, "licence": licence, "speakers": speakers}
        given |= {"display_name": display_name, "language": language, "reader": reader}
        texts = {name: text for name, text in given.items() if text}
        with handle_errors(self._t, names_only=True):
            name = self._named(voice)
            if not texts:
                raise ConfigError(self._t("voices.nothing_to_edit"))
            list(ckpt.use(ckpt.Edit(voice=name, **texts)))
            return self._done(self._t("voices.edited", name=html.escape(name)))

    def merge_voices(self, first: str | None, second: str | None, alpha: float = 0.5, name: str | None = None) -> str:
        """Blend two voices of the same kind; alpha is the weight of the first."""
        with handle_errors(self._t, names_only=True):
            pair = {"first": self._named(first), "second": self._named(second)}
            made = self._new_name(name, "-".join(pair.values()))
            list(ckpt.use(ckpt.Merge(**pair, alpha=alpha, name=made)))
            return self._done(self._t("voices.made", name=html.escape(made)))

    def extract_voice(self, checkpoint: str | None, name: str | None = None) -> str:
        """Extract a voice from a training checkpoint."""
        with handle_errors(self._t, names_only=True):
            path = self._services.list_checkpoints().get(checkpoint or "")
            if path is None:
                raise ConfigError(self._t("voices.no_checkpoint"))
            made = self._new_name(name, path.parent.name)
            list(ckpt.use(ckpt.Extract(checkpoint=path, name=made)))
            return self._done(self._t("voices.made", name=html.escape(made)))

    def delete_voice(self, voice: str | None) -> str:
        """Delete a voice; undo_delete restores it."""
        with handle_errors(self._t, names_only=True):
            self._services.delete_voice(self._named(voice))
            return self._done(self._t("voices.deleted", name=html.escape(str(voice))))

    def undo_delete(self) -> str:
        """Restore the most recently deleted voice."""
        with handle_errors(self._t, names_only=True):
            return self._done(self._t("voices.restored", name=html.escape(self._services.undo_delete())))


def _cards(t: Translator, services: Services, *, open_files: bool = True) -> str:
    """Describe every voice as a card: title and name, whether it has an index, size and date."""
    titles = {name: title for title, name in voice_choices(t, services, open_files=open_files)}
    cards = []
    for card in services.voice_cards():
        title = titles.get(card.name, card.name)
        facts = [] if title == card.name else [html.escape(card.name)]
        facts += [t("voices.indexed" if card.indexed else "voices.unindexed"), f"{card.megabytes:.1f} MB", card.day]
        cards.append(
            '<div style="border:1px solid var(--border-color-primary);border-radius:6px;padding:.4em .9em">'
            f"<b>{html.escape(title)}</b><br><small>{' · '.join(facts)}</small></div>"
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:.6em">{"".join(cards)}</div>'


def _keep_fresh(tools: _Tools, choices: Sequence[Any], info: Any, cards: Any) -> None:
    """Update the lists from the disk; choices are kept while they exist."""
    known = gr.State(None)

    def refresh(shown: Any, first: str | None, second: str | None) -> tuple[Any, ...]:
        choices, checkpoints = [*map(list, tools.choices())], tools.list_checkpoints()
        names = [name for _, name in choices]
        if [choices, checkpoints] == shown:
            return tuple(gr.skip() for _ in range(6))
        stay = [(name, name if name in names else None) for name in (first, second)]
        facts = tools.voice_info(stay[0][1]) if shown is None else gr.skip()
        updates = [updated_list(choices, *values, first=shown is None) for values in stay]
        return [choices, checkpoints], *updates, gr.update(choices=checkpoints), facts, tools.cards()

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    ticks = [gr.Timer(REFRESH_SECONDS).tick]
    gr.on(ticks, refresh, [known, *choices[:2]], [known, *choices, info, cards], **quiet)
