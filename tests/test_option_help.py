"""Help describes defaults instead of showing None, shows what is required, and lists every command."""

import os
import re
import sys

import pytest
from pydantic import BaseModel
from tyro.extras import subcommand_cli_from_dict

from infer.__main__ import Arguments, Diagnosis, parse
from infer.cli import parse_as
from infer.song.__main__ import CoverArguments, SayArguments
from lib.assets.__main__ import main as assets
from lib.machine import machine_errors
from lib.option_help import DESCRIBED, EXPLANATION, REGISTRY
from lib.run_main import BROKEN_PIPE, run_main
from tests.helpers import ROOT
from train.__main__ import COMMANDS
from train.__main__ import main as train
from train.ckpt.cli import TOOLS
from web.manual.__main__ import main as write_manual


def help_of(command: type[BaseModel] | tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The help of an options model of infer, or of a command of training or of the assets, in one line."""
    with pytest.raises(SystemExit) as ended:
        if isinstance(command, type):
            parse_as(command, ["--help"], "program")
        elif command[:1] == ("assets",):
            assets([*command[1:], "--help"])
        else:
            train([*command, "--help"])
    assert ended.value.code == 0
    return re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().out)


MODELS = [Arguments, Diagnosis, CoverArguments, SayArguments]
OF_TRAINING = [(name,) for name in COMMANDS if name != "ckpt"] + [("ckpt", name) for name in TOOLS]
OF_ASSETS = [("assets", name) for name in ("list", "verify", "download")]


@pytest.mark.slow
@pytest.mark.parametrize("command", [*MODELS, *OF_TRAINING, *OF_ASSETS], ids=str)
def test_no_help_shows_a_default_that_is_none_or_empty(
    command: type[BaseModel] | tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, capsys)
    assert "usage: " in text and not re.search(r"None|\(default: ?('')?\)", text)


@pytest.mark.slow
def test_help_shows_what_a_missing_value_means_and_what_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(Arguments, capsys)
    assert "--output PATH output file or folder (default: next to the input" in text
    assert re.search(r"--target PATH [^()]*--report \(optional\)", text)
    assert re.search(r"--voice STR [^()]* \(required\)", text)
    assert re.search(r"INPUT \[...\] [^()]* \(at least one\)", text)


@pytest.mark.slow
def test_inherited_options_may_be_described_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert "stereo image" not in help_of(SayArguments, capsys)
    for model in (CoverArguments, SayArguments):
        assert set(model.HELP) <= {
            name for base in model.__bases__ if issubclass(base, BaseModel) for name in base.model_fields
        }
    for model, source in ((CoverArguments, "the vocals'"), (SayArguments, "the synthesised speech's")):
        text = help_of(model, capsys)
        assert "the input" not in text
        assert f"semitones to add to {source} pitch" in text and f"blended into {source} content features" in text


@pytest.mark.slow
def test_usage_shows_which_arguments_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[OPTIONS] [SONG]" in help_of(CoverArguments, capsys)
    assert "[TEXT] the text (required unless --file is given)" in help_of(SayArguments, capsys)


@pytest.mark.slow
def test_none_can_still_be_given() -> None:
    given = parse(["a.wav", "--voice", "v", "--index-rate", "None", "--output", "None", "--format", "flac"])
    assert (given.index_rate, given.output, given.format) == (None, None, "flac")


@pytest.mark.slow
def test_the_help_of_infer_and_train_names_all_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    conversion = help_of(Arguments, capsys)
    assert all(f"`{name}`" in conversion for name in ("cover", "say", "doctor"))
    training = help_of((), capsys)
    assert all(re.search(rf"\b{name}\b", training) for name in (*COMMANDS, *TOOLS))


def test_defaults_are_shown_or_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(("index",), capsys)
    assert "NAME name of the training run (required)" in text and "(default: 1234)" in text
    assert "--most-vectors INT maximum number of index vectors (default: all;" in text and "None" not in text
    assert "(optional)" in help_of(Diagnosis, capsys)


@pytest.mark.parametrize("model", [*MODELS, *COMMANDS.values(), *TOOLS.values()], ids=str)
def test_every_option_is_described(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        text = field.description or ""
        assert text, name
        assert not re.search(r"\bNone\b", text), name
        if not EXPLANATION.fullmatch(text):
            assert "default:" not in text, f"{name}: what the default means comes last, in parentheses"
        elif field.is_required() or field.get_default() not in DESCRIBED:
            assert "(default:" not in text, f"{name}: help shows this default itself"


def test_a_closed_pipe_ends_a_command_without_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `python -m infer --help | head -1`, whether the pipe is closed before or while the command prints."""

    def prints_help() -> int:
        sys.stdout.write("usage\n")
        raise SystemExit(0)

    def prints_much() -> int:
        with machine_errors():
            sys.stdout.write("line\n" * 100_000)
        return 0

    for command in (prints_help, prints_much):
        reading, writing = os.pipe()
        os.close(reading)
        with monkeypatch.context() as patch, os.fdopen(writing, "w") as pipe:
            patch.setattr(sys, "stdout", pipe)
            assert run_main(command) == BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_main(fails)


def test_every_command_runs_so() -> None:
    """All but lib.nvidia, which runs before any package is installed."""
    folders = ("lib", "infer", "train", "web", "recipes", "benchmarks")
    paths = [ROOT / "infer-web.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    commands = {path: text for path in paths if 'if __name__ == "__main__"' in (text := path.read_text("utf-8"))}
    lacking = {path.relative_to(ROOT).as_posix() for path, text in commands.items() if "sys.exit(run_main(" not in text}
    assert len(commands) > 10 and lacking == {"lib/nvidia/__main__.py"}


def test_help_of_the_manual_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("web.manual.__main__.write_option_pages", lambda: pytest.fail("the pages were written"))
    monkeypatch.setattr(sys, "argv", ["manual", "--help"])
    with pytest.raises(SystemExit, match="0"):
        write_manual()
    assert "usage: python -m web.manual" in capsys.readouterr().out


def test_an_earlier_name_of_an_option_still_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--speaker-description" in help_of(("ckpt", "edit"), capsys)
    for name in ("--speaker-description", "--reader"):
        edit = subcommand_cli_from_dict(TOOLS, args=["edit", "anna", name, "woman"], registry=REGISTRY)
        assert edit.reader == "woman"
