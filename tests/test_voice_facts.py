"""Friendly names of voices: entries of their files, those of the shipped voices, titles in lists."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lib.voice.facts import SHIPPED, VoiceFacts, facts_of, read_facts, titles_of
from lib.voice.library import VOICE_ROOTS, list_voices
from lib.voice.model_file import read_voice_model, write_voice_model
from tests.test_web import FakeConverter
from tests.tiny_files import small_voice
from train.ckpt.cli import Edit, use
from web.i18n.translator import Translator
from web.tabs.voice_names import title_of, updated_list, voice_choices

LJ = VoiceFacts("LJ Speech", "en", "woman")


def test_every_shipped_voice_has_facts_that_need_no_file_opened() -> None:
    for voice in list_voices(VOICE_ROOTS[1:]):
        facts = read_facts(voice.path, open_file=False)
        assert facts.display_name and facts.language and facts.reader, voice.name
    assert read_facts(SHIPPED.parent / "ljspeech.pth") == LJ


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_facts_are_edited_in_the_file_and_read_anew_after_a_change(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_voice_model(path, small_voice("v1", "40k"))
    assert read_facts(path) == VoiceFacts()
    list(use(Edit(voice=str(path), display_name=" Anna  B. ", language="pl", reader="woman")))
    os.utime(path, ns=(1, 1))  # as if the clock stood still, the file differs in size
    assert read_facts(path) == VoiceFacts("Anna B.", "pl", "woman")
    assert read_facts(path, open_file=False) == VoiceFacts()
    assert read_voice_model(path).extra["display_name"] == "Anna B."
    list(use(Edit(voice=str(path), reader="", info="new")))
    assert read_facts(path) == VoiceFacts("Anna B.", "pl")


def test_odd_entries_and_damaged_files_have_no_facts(tmp_path: Path) -> None:
    assert facts_of({"display_name": ["x"], "language": 5, "reader": "r" * 1000}) == VoiceFacts("", "", "r" * 100)
    (tmp_path / "a.pth").write_bytes(b"no voice")
    (tmp_path / "b.safetensors").write_bytes(b"no voice")
    for path in (tmp_path / "a.pth", tmp_path / "b.safetensors", tmp_path / "c.pth"):
        assert read_facts(path) == VoiceFacts()


def test_titles_are_in_the_language_of_the_user_and_never_ambiguous(tmp_path: Path) -> None:
    assert title_of(Translator(), LJ) == "LJ Speech (English, woman)"
    assert title_of(Translator("pt_BR"), VoiceFacts("Rita", "pt-BR", "woman")) == "Rita (Português, mulher)"
    assert title_of(Translator(), VoiceFacts("Ola", "Polski", "Ola K.")) == "Ola (Polski, Ola K.)"
    assert title_of(Translator(), VoiceFacts(language="en")) == ""
    assert titles_of([("a", "Anna"), ("b", "Anna"), ("c", ""), ("d", "Dora")]) == ["Anna: a", "Anna: b", "c", "Dora"]
    services = replace(FakeConverter().services(tmp_path), voice_facts=lambda open_files: {"alice": LJ})
    services.registry.close()
    choices = voice_choices(Translator(), services)
    assert choices[:2] == [("LJ Speech (English, woman)", "alice"), ("broken", "broken")]


def test_a_late_update_of_a_list_does_not_undo_a_newer_choice() -> None:
    choices = [("Anna", "anna"), ("Lea", "lea")]
    assert "value" not in updated_list(choices, "anna", "anna"), "the browser may show another choice by now"
    assert updated_list(choices, "anna", "anna", first=True)["value"] == "anna", "its label may be a new one"
    assert updated_list(choices, "gone", None)["value"] is None
    assert updated_list(choices, None, "anna")["value"] == "anna"
