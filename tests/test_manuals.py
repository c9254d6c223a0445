"""The manuals: what they say agrees with the program, in every language; and the server shows them."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tyro
from starlette.applications import Starlette
from starlette.testclient import TestClient

from infer import doctor
from infer.__main__ import parse
from infer.song.__main__ import CoverArguments
from lib.assets.__main__ import Download
from lib.audio.decode import load_audio
from lib.audio.encode import save_audio
from lib.config import FAMILIES, LITE_INDEX_RATE, USUAL_INDEX_RATE, load_family
from tests.error_templates import templates
from tests.helpers import ROOT
from tests.page_server import copy_program
from tests.test_documents import commands_in
from train import data_report, estimate, held_out, preprocess
from train.__main__ import COMMANDS
from train.ckpt.cli import TOOLS
from train.options import RunOptions
from web.i18n.catalogue import read
from web.i18n.translator import Translator, texts_of
from web.manual.options import BY_HAND, by_hand, navigation, option_page
from web.manual.pages import DOCS, MANUALS, PAGES, documents, manual_routes, page_title, render

WRITTEN = [page for page in PAGES if page != "options"]
EVERY = [(language, page) for language in MANUALS for page in PAGES]
TRANSLATED = [(language, page) for language, page in EVERY if language != "en_US"]
DEMO = ROOT / "pretrained" / "lite" / "demo"
DATA = (data_report.ENOUGH_MINUTES, data_report.LONG_MINUTES)
USUAL, NOISY = (200, 600), (20, estimate.NOISY_EPOCHS)  # epochs, as the page says
SAVE, KEPT = RunOptions().save_every_minutes, RunOptions().keep_checkpoints
# The figures of each section, from where the program has them.
FIGURES: dict[tuple[str, str], Sequence[float | str]] = {
    ("quick-start", "install"): [*(f"{major}.{minor}" for major, minor in doctor.PYTHONS), 6],  # GB, measured
    ("training", "recordings"): [
        *DATA, data_report.SHORT_MINUTES, DATA[1], min(int(rate[:-1]) for rate in FAMILIES["v2"]),
        RunOptions().slice_seconds,
    ],
    ("training", "model"): [int(FAMILIES["v2"][0][:-1])],
    ("training", "epochs"): [
        RunOptions().epochs, *USUAL, *NOISY, held_out.ENOUGH_SECONDS / 60, 100 * held_out.SHARE,
    ],
    ("training", "stop"): [SAVE, KEPT],
    ("faq", "false-errors"): [0],
    ("faq", "epochs"): [RunOptions().epochs, *USUAL, *NOISY],
    ("faq", "data-length"): [*DATA, 5, 10],  # the advice of RVC's users
    ("faq", "saving"): [SAVE, KEPT],
    ("faq", "tensor-17280"): [17280, 0],
    ("faq", "tensor-24-16"): [24, 16],
    ("faq", "slicing"): [RunOptions().slice_seconds, preprocess.OVERLAP_SECONDS],
    ("faq", "index-rate"): [USUAL_INDEX_RATE, LITE_INDEX_RATE],
    ("faq", "expecting-value"): [1, 1, 0, "127.0.0.1"],
    ("troubleshooting", "wrong-index"): [load_family(name, "40k").synthesizer.content_width for name in ("v1", "v2")],
}  # fmt: skip


class Section(NamedTuple):
    """A heading and what follows it."""

    level: int
    anchor: str
    title: str
    text: str


def name_of(value: object) -> str:
    return str(value)


def page_text(language: str, page: str) -> str:
    return (DOCS / language / f"{page}.md").read_text(encoding="utf-8")


@cache
def sections(language: str, page: str) -> tuple[Section, ...]:
    parts = re.split(r'^(#+) <a id="([\w-]+)"></a>(.*)$', page_text(language, page), flags=re.MULTILINE)[1:]
    return tuple(Section(len(a), b, c, d) for a, b, c, d in zip(*(parts[n::4] for n in range(4)), strict=True))


def code(text: str) -> list[str]:
    """The blocks of code, and the code in the text in any order, without comments."""
    inline = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks = [re.sub(r" +#.*$", "", block, flags=re.MULTILINE) for block in re.findall(r"```.*?```", text, re.DOTALL)]
    return blocks + sorted(re.findall(r"`[^`\n]+`", inline))


def labels(text: str) -> list[str]:
    return re.findall(r"\*\*(.+?)\*\*", text)


def quotes(text: str) -> list[str]:
    return re.findall(r"^> (.*)$", text, re.MULTILINE)


def shown(template: str) -> str:
    """A template of a message as the manuals quote it."""
    return re.sub(r"\{[^{}]*\}", "…", template)


@cache
def english_messages() -> frozenset[str]:
    return frozenset(templates())


@cache
def quotable(language: str) -> frozenset[str]:
    """The messages of the program in a language, as the manuals quote them."""
    catalogue = read(language)
    return frozenset(shown(catalogue.get(template, template)) for template in english_messages())


def figures(section: Section) -> Counter[str]:
    """The numbers of a section, without those in code, labels, quotes, links and the names of things."""
    text = re.sub(
        r"```.*?```|`[^`\n]*`|\*\*.*?\*\*|^> [^\n]*$|\]\([^)]*\)|\b[vV][12](?!\d)|F0|UTF-8|^\d\. ", " ",
        f"{section.title}\n{section.text}", flags=re.DOTALL | re.MULTILINE,
    )  # fmt: skip
    return Counter(found.replace(",", ".") for found in re.findall(r"\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize("page", WRITTEN)
def test_figures_are_those_of_the_program(page: str) -> None:
    for section in sections("en_US", page):
        wanted = FIGURES.get((page, section.anchor), ())
        known = Counter(value if isinstance(value, str) else f"{value:g}" for value in wanted)
        assert figures(section) == known, f"{page}.md#{section.anchor}"
    assert {anchor for name, anchor in FIGURES if name == page} <= {
        section.anchor for section in sections("en_US", page)
    }


@pytest.mark.parametrize(("language", "page"), TRANSLATED, ids=name_of)
def test_languages_have_the_same_sections_figures_code_links_and_labels(language: str, page: str) -> None:
    english, other = sections("en_US", page), sections(language, page)
    assert [(item.level, item.anchor) for item in other] == [(item.level, item.anchor) for item in english]
    texts, words = texts_of("en_US"), texts_of(language)
    for first, second in zip(english, other, strict=True):
        where = f"{language}/{page}.md#{first.anchor}"
        assert first.title != second.title or first.title.startswith('"') or page == "options", where
        if page == "options":  # the rest is generated
            first, second = (item._replace(title="", text=item.text.partition(BY_HAND)[2]) for item in (first, second))
        assert figures(second) == figures(first), where
        assert code(second.title + second.text) == code(first.title + first.text), where
        links = [re.findall(r"\]\(([^)]+)\)", item.text) for item in (first, second)]
        assert sorted(links[1]) == sorted(links[0]), where
        translations = Counter(labels(second.text))
        for label, count in Counter(labels(first.text)).items():
            keys = [key for key, text in texts.items() if text == label]
            assert sum(translations[word] for word in {words[key] for key in keys}) >= count, f"{where}: {label}"
        assert len(labels(second.text)) == len(labels(first.text)), where
        assert len(first.text.split("\n\n")) == len(second.text.split("\n\n")), where


@pytest.mark.slow
@pytest.mark.parametrize(("language", "page"), EVERY, ids=name_of)
def test_labels_and_messages_are_those_of_the_program(language: str, page: str) -> None:
    text, texts = page_text(language, page), set(texts_of(language).values())
    assert not [label for label in labels(text) if label not in texts]
    assert render(page, text, documents()).count("<strong>") == len(labels(text)), "a label is not shown in bold"
    assert not [quote for quote in quotes(text) if quote not in quotable(language)]
    assert text.splitlines()[0] == f"# {page_title(Translator(language), page)}"
    assert navigation(language, page) in text


def test_troubleshooting_begins_every_section_with_a_message() -> None:
    found = [section for section in sections("en_US", "troubleshooting") if section.level == 3]
    assert len(found) >= 20
    assert all(quotes(section.text) and section.text.startswith("\n> ") for section in found)


@pytest.mark.parametrize("language", MANUALS)
def test_every_question_of_the_audit_is_answered(language: str) -> None:
    audit = (DOCS / "faq-audit.md").read_text(encoding="utf-8")
    rows = [line for line in audit.splitlines() if line.startswith("| ") and not line.startswith("| Question")]
    linked = [re.findall(r"\]\(en_US/faq\.md#([\w-]+)\)", row.split(" | ")[0]) for row in rows]
    answered = [section for section in sections(language, "faq") if section.level == 3]
    assert linked == [[section.anchor] for section in answered]
    assert all(len(section.text.strip()) > 10 for section in answered)


@pytest.mark.parametrize("language", MANUALS)
def test_the_page_of_options_is_the_generated_one(language: str) -> None:
    """After a change of an option or its texts: python -m web.manual."""
    assert page_text(language, "options") == option_page(language, page_text(language, "options"))
    assert set(RunOptions.model_fields) - {"device"} <= {section.anchor for section in sections(language, "options")}
    explained = by_hand(page_text(language, "options"))
    assert explained and all(explained.values())
    assert explained.keys() == by_hand(page_text("en_US", "options")).keys()


def test_the_readme_leads_to_every_manual() -> None:
    linked = re.findall(r"\(docs/(\w+)/quick-start\.md\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert linked == list(MANUALS)


def test_manuals_are_short() -> None:
    for language in MANUALS:
        lengths = {page: len(page_text(language, page).splitlines()) for page in WRITTEN}
        assert lengths["quick-start"] <= 70 and lengths["training"] <= 90, lengths


def manual_commands() -> list[str]:
    """All commands in blocks of the English manual, in order; those of the others are equal."""
    return [line for page in WRITTEN for line in commands_in(page_text("en_US", page)) if line]


def module_and_words(command: str) -> tuple[str, list[str]]:
    """What a command starts: "infer", "train" or "lib.assets", and its words."""
    words = shlex.split(command, comments=True)
    if words[0] == "./go-web.sh":
        return {"convert": "infer", "train": "train"}[words[1]], words[2:]
    assert words[:2] == [".venv/bin/python", "-m"], command
    return words[2], words[3:]


@pytest.mark.parametrize("command", sorted(set(manual_commands())))
def test_commands_of_the_manuals_are_understood(command: str) -> None:
    module, words = module_and_words(command)
    if module == "lib.assets":
        assert words[0] == "download" and tyro.cli(Download, args=words[1:]).names
    elif words[0] == "cover":
        assert tyro.cli(CoverArguments, args=words[1:]).song
    elif module == "infer":
        assert parse(words).inputs
    elif words[0] == "ckpt":
        assert words[1] in TOOLS
    else:
        assert tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="train", args=words)


def provide_files(program: Path) -> None:
    """The user's files in the commands: recordings, a song and its instrumental."""
    (program / "recordings").mkdir()
    for name in ("01.flac", "02.flac"):
        (program / "recordings" / name).write_bytes((DEMO / "voice" / name).read_bytes())
    rate = 24_000
    voice = load_audio(DEMO / "source.flac", rate)
    music = (0.1 * np.sin(2 * np.pi * 110 * np.arange(len(voice)) / rate)).astype(np.float32)
    save_audio(program / "song.flac", voice + music, rate)
    save_audio(program / "song.mp3", voice, rate)
    save_audio(program / "karaoke.flac", music, rate)


# Runs commands from stdin, `python -m` each, in processes that are forked from one that has imported the program.
RUN = """
import json, os, runpy, sys
import infer.batch, infer.song.__main__, lib.assets.__main__, lib.content, lib.pitch, train.__main__, train.loop
for line in sys.stdin:
    sys.argv = json.loads(line)
    if not os.fork():
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(os.open("errors.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_every_command_of_the_manuals_runs(tmp_path: Path) -> None:
    program = copy_program(tmp_path / "program")
    provide_files(program)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=program, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        for command in dict.fromkeys(manual_commands()):
            module, words = module_and_words(command)
            if "--epochs" in words:
                words[words.index("--epochs") + 1] = "1"  # enough to make a voice
            process.stdin.write(json.dumps([module, *words]) + "\n")
            process.stdin.flush()
            status, text = int(process.stdout.readline()), (program / "errors.txt").read_text(encoding="utf-8")
            if "download" in words or "v2" in words:  # weights that are not included, without a network
                assert status == 1 and len(text.splitlines()) < 12, text
                assert "could not be downloaded" in text or "hubert_base" in text, text
            else:
                assert status == 0, f"{command}: {text}"
        process.stdin.close()
    for name in ("out/first.wav", "out/01.wav", "out/02.wav", "out/alice.wav", "weights/alice.pth", "alice.zip"):
        assert (program / name).stat().st_size > 1000, name
    assert list(program.glob("*cover*")), "the cover"


def ask(path: str, **headers: str) -> tuple[int, str, str]:
    """Status, text and final path of an answer of the manual's routes."""
    with TestClient(Starlette(routes=[*manual_routes(None)])) as client:
        answer = client.get(path, headers=headers)
        return answer.status_code, answer.text, answer.url.path


def test_the_server_leads_to_the_page_in_the_language_of_the_user() -> None:
    for language in MANUALS:
        status, text, path = ask("/manual/options", cookie=f"revoice-language={language}")
        assert (status, path) == (200, f"/manual/{language}/options.md")
        assert 'id="index_rate"' in text and f'lang="{language.replace("_", "-")}"' in text
    assert ask("/manual/faq", cookie="revoice-language=it")[2] == "/manual/en_US/faq.md"


@pytest.mark.parametrize(
    "path", ["../README.md", "%2e%2e/README.md", "images/map.png", "en_US/", "en_US/no.md", "/etc/passwd"]
)
def test_the_server_shows_nothing_but_documents(path: str) -> None:
    assert ask(f"/manual/{path}")[0] == 404


@pytest.mark.slow
def test_links_of_shown_documents_lead_to_documents() -> None:
    for document in sorted(documents()):
        text = render(document, (DOCS / document).read_text(encoding="utf-8"), documents())
        for link in re.findall(r'<a href="([^"#]+)', text):
            if not link.startswith("http"):
                target = os.path.normpath(Path(document).parent / link)
                assert target in documents(), f"{document} links to {link}"


def test_options_on_the_page_link_to_their_paragraphs() -> None:
    import gradio as gr

    from web.tabs.form import Form

    with gr.Blocks():
        form = Form(RunOptions, Translator(MANUALS[-1]), skip=frozenset({"device"}))
    anchors = {section.anchor for section in sections(MANUALS[-1], "options")}
    for name, component in zip(form.names, form.components, strict=True):
        (linked,) = re.findall(r"\]\(manual/options#(\w+)\)$", component.info)
        assert linked == name and name in anchors
