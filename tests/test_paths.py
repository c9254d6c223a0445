"""Paths as users type and paste them."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from infer.__main__ import parse
from lib.errors import ConfigError, MissingFileError
from lib.paths import GivenPath, check_name, given_path
from lib.voice.intake import free_name
from lib.voice.library import find_voice
from train.experiment import Experiment


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/a/b.wav", "/a/b.wav"),
        ('"/a/my song.wav"', "/a/my song.wav"),
        ("  '/a/b.wav'\n", "/a/b.wav"),
        ("“/a/b.wav”", "/a/b.wav"),
        ('/a/my takes"', "/a/my takes"),
        ('/a/"live"', '/a/"live"'),
        ("/a/it's", "/a/it's"),
        ('""', '""'),
        ("file:///a/my%20song%20%E5%A3%B0.wav", "/a/my song 声.wav"),
        ("file://localhost/a/b%25.wav", "/a/b%.wav"),
        ("'FILE:///a/b.wav'", "/a/b.wav"),
        ("file:///a/b%00.wav", "/a/b%00.wav"),
        ("files/a%20b.wav", "files/a%20b.wav"),
        ("~/a.wav", "/home/eve/a.wav"),
        ('"~/a b.wav"', "/home/eve/a b.wav"),
        ("~nobody-of-this-name/a.wav", "~nobody-of-this-name/a.wav"),
        ("a~/b", "a~/b"),
        ("~\0/a.wav", "~%00/a.wav"),
    ],
)
def test_pasted_paths_are_understood(given: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/eve")
    assert given_path(given) == Path(meant)
    assert given_path(Path(given)) == Path(meant)  # as a parser of options passes it


def test_existing_paths_are_used_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('"quoted"', "~", "file:", 'ends with "'):
        Path(name).touch()
        assert given_path(name) == Path(name)


def test_options_take_paths_as_they_are_pasted(tmp_path: Path) -> None:
    class Options(BaseModel):
        data: GivenPath | None = None

    assert Options(data=f'"{tmp_path}"').data == tmp_path
    song = tmp_path / "my song.wav"
    words = [f'"{song}"', song.as_uri(), "--voice", "eve", "-o", f"'{tmp_path}'", "--target", "~/x", "--f0-file", "a b"]
    arguments = parse(words)
    assert arguments.inputs == (song, song) and arguments.output == tmp_path
    assert arguments.target == Path.home() / "x" and arguments.f0_file == Path("a b")


def test_a_voice_is_found_by_a_pasted_path(tmp_path: Path) -> None:
    (tmp_path / "my voice.pth").touch()
    for given in (f'"{tmp_path}/my voice.pth"', (tmp_path / "my voice.pth").as_uri()):
        assert find_voice(given, [tmp_path / "weights"]).path == tmp_path / "my voice.pth"
    with pytest.raises(MissingFileError, match=r"Not found: /a/b\.pth"):
        find_voice('"/a/b.pth"', [tmp_path / "weights"])


def test_names_that_would_be_options_are_refused_where_commands_take_them() -> None:
    for name in ("-h", "--data", "-"):
        assert check_name(name, "preset") == name
        with pytest.raises(ConfigError, match="begins with a hyphen"):
            check_name(name, "voice", is_argument=True)
        with pytest.raises(ConfigError, match="begins with a hyphen"):
            Experiment(name)
        assert free_name(f"{name}alice", [])[0] != "-"
