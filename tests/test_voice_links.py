"""Voices from links: places on the Hugging Face Hub, other files, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest

from lib.errors import LinkError
from lib.fetch import Limits
from lib.voice import intake, links
from lib.voice.intake import install
from lib.voice.links import HubPlace, fetch_voices, hub_place
from lib.voice.model_file import write_voice_model
from tests.test_intake import save_index
from tests.tiny_files import small_voice
from train.ckpt.cli import Import, use

SHA = "0" * 40


class FakeHub:
    """Stands for the hub: has one repository, and notes what is asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.where: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def repo_info(self, repo_id: str, **where: Any) -> Any:
        """The files of the repository and their sizes."""
        self.where.append({"repo_id": repo_id, **where})
        if self.failure:
            raise self.failure
        siblings = [SimpleNamespace(rfilename=name, size=len(data)) for name, data in self.files.items()]
        return SimpleNamespace(siblings=siblings, sha=SHA)

    def download(self, filename: str, local_dir: Path, tqdm_class: Any, **where: Any) -> str:
        """Write a file in two parts."""
        assert where["revision"] == SHA, "all files are of one state"
        self.asked.append(filename)
        path = local_dir / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.files[filename]
        path.write_bytes(data)
        with tqdm_class(total=len(data), disable=False) as bar:
            for size in (len(data) // 2, len(data) - len(data) // 2):
                bar.update(size)
        return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    fake.files = {
        "README.md": b"read", "alice/alice.pth": b"voice", "alice/added_IVF1_Flat_alice.index": b"index",
        "alice/trained_IVF1_Flat_alice.index": b"empty", "bob.zip": b"archive", "G_2333333.pth": b"G" * 100,
        "D_2333333.pth": b"D", "f0G40k.pth": b"base", "../outside.pth": b"evil",
    }  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake


@pytest.mark.parametrize(("link", "place"), [
    ("https://huggingface.co/owner/voices", HubPlace("owner/voices")), (" owner/voices ", HubPlace("owner/voices")),
    ("https://hf.co/owner/voices/", HubPlace("owner/voices")),
    ("https://huggingface.co/owner/voices/tree/main", HubPlace("owner/voices", revision="main")),
    ("https://huggingface.co/owner/voices/tree/v1/my%20voice", HubPlace("owner/voices", "model", "v1", "my voice/")),
    ("https://huggingface.co/owner/voices/blob/main/a/b.pth", HubPlace("owner/voices", "model", "main", "a/b.pth")),
    ("https://huggingface.co/o/v/resolve/main/b.zip?download=true", HubPlace("o/v", "model", "main", "b.zip")),
    ("https://huggingface.co/datasets/o/v/resolve/main/b.zip", HubPlace("o/v", "dataset", "main", "b.zip")),
    ("https://example.org/owner/voices", None), ("https://huggingface.co.evil.org/o/v", None),
])  # fmt: skip
def test_what_a_link_names(link: str, place: HubPlace | None) -> None:
    assert hub_place(link) == place


@pytest.mark.parametrize("link", ["https://huggingface.co/owner", "https://huggingface.co/owner/voices/discussions/1",
                                  "https://huggingface.co/owner/voices/blob/main", "hello"])  # fmt: skip
def test_pages_without_files_are_refused(hub: FakeHub, tmp_path: Path, link: str) -> None:
    with pytest.raises(LinkError, match="not a link to a file"):
        fetch_voices(link, tmp_path)


def test_a_repository_gives_its_voices_and_indexes_only(hub: FakeHub, tmp_path: Path) -> None:
    reported: list[tuple[int, int, str]] = []
    found = fetch_voices("owner/voices", tmp_path, lambda *progress: reported.append(progress))
    assert {path.name: path.read_bytes() for path in found} == {
        "alice.pth": b"voice", "added_IVF1_Flat_alice.index": b"index", "bob.zip": b"archive"
    }  # fmt: skip
    assert all(path.is_relative_to(tmp_path) for path in found)
    assert reported[-1] == (17, 17, "downloading bob.zip") and hub.where[0]["token"] is None
    assert [path.name for path in fetch_voices("https://hf.co/o/v/tree/main/alice", tmp_path, own=False)] == [
        "alice.pth", "added_IVF1_Flat_alice.index"
    ]  # fmt: skip
    assert hub.where[1]["token"] is False, "a guest of the page reads nothing that only its owner may read"


def test_one_file_of_a_repository(hub: FakeHub, tmp_path: Path) -> None:
    found = fetch_voices("https://huggingface.co/o/v/resolve/main/G_2333333.pth", tmp_path)
    assert [path.name for path in found] == ["G_2333333.pth"], "what is asked for by name is not left out"
    for name, pattern in (("README.md", "points to README.md"), ("none.pth", "no voice model, index or archive")):
        with pytest.raises(LinkError, match=pattern):
            fetch_voices(f"https://huggingface.co/o/v/blob/main/{name}", tmp_path)


def test_a_repository_that_is_too_large_is_not_begun(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"contains 3 voice files at that location.*link to a folder"):
        fetch_voices("owner/voices", tmp_path, limits=Limits(max_bytes=16))
    hub.files = {f"{number}.pth": b"" for number in range(51)}
    with pytest.raises(LinkError, match="51 voice files"):
        fetch_voices("owner/voices", tmp_path)
    assert not hub.asked


def test_a_download_ends_when_its_limits_are_exceeded(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="took longer"):
        fetch_voices("owner/voices", tmp_path, limits=Limits(max_seconds=-1.0))
    meter = links._Meter(["a"], 1, Limits(max_bytes=10), lambda done, total, what: None)
    with pytest.raises(LinkError, match="larger than"):  # than its declared size
        meter.count(11)


@pytest.mark.parametrize("failure", [httpx2.ConnectError("no route"), OSError("offline"), ValueError("odd")])
def test_an_unreachable_hub_is_one_sentence(hub: FakeHub, tmp_path: Path, failure: Exception) -> None:
    hub.failure = failure
    with pytest.raises(LinkError, match=rf"owner/voices \(Hugging Face Hub\) could not be read \({failure}\)"):
        fetch_voices("owner/voices", tmp_path)


def test_another_link_gives_its_file_or_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Callable[..., Path]:
        def write(link: str, folder: Path, *rest: Any) -> Path:
            path = folder / name
            path.write_bytes(b"data")
            return path

        return write

    monkeypatch.setattr(links, "fetch", fetch("alice.PTH"))
    assert fetch_voices("https://example.org/x", tmp_path) == [tmp_path / "alice.PTH"]
    monkeypatch.setattr(links, "fetch", fetch("song.mp3"))
    with pytest.raises(LinkError, match=r"points to song\.mp3.*\.pth"):
        fetch_voices("https://example.org/x", tmp_path)
    assert not (tmp_path / "song.mp3").exists()


def test_the_command_imports_what_a_link_leads_to(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voice and an index of a repository are paired as dropped files are."""
    write_voice_model(tmp_path / "alice.pth", small_voice("v1", "40k"))
    save_index(tmp_path / "anything.index", 256)
    hub.files = {name: (tmp_path / name).read_bytes() for name in ("alice.pth", "anything.index")}

    def into(found: Any, name: str | None) -> list[str]:
        return install(found, name, weights=tmp_path / "w", logs=tmp_path / "l")

    monkeypatch.setattr(intake, "install", into)
    output = "\n".join(use(Import(files=("https://huggingface.co/owner/voices",), name="new")))
    assert "imported the voice 'new' with the index anything.index" in output
    assert (tmp_path / "w" / "new.pth").read_bytes() == hub.files["alice.pth"]
