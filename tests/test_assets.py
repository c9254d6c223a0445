"""Downloads: only on request, verified before they get their names, with a clear message if they fail."""

import hashlib
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from lib import assets
from lib.assets import MANIFEST, Asset, choose, download, how_to_get, known_name, state_of
from lib.assets.__main__ import main
from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import sha256_of
from tests.helpers import ROOT

SPEC = ROOT.parent / "shared" / "spec" / "file-formats.md"
GENUINE = b"the genuine weights"


def asset(name: str, content: bytes = GENUINE) -> Asset:
    return Asset(name, f"folder/{name}.bin", f"sub/{name}.bin", hashlib.sha256(content).hexdigest(), "a test")


class FakeHub:
    """Stands for the hub: has files, counts what is asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, repo_id: str, filename: str, *, local_dir: Path, tqdm_class: Any = None) -> str:
        assert repo_id == assets.REPOSITORY
        self.asked.append(filename)
        if self.failure is not None:
            raise self.failure
        path = local_dir / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[filename])
        if tqdm_class is not None:
            size = len(self.files[filename])
            with tqdm_class(total=size, disable=False) as bar:
                for part in (size // 2, size - size // 2):
                    bar.update(part)
        return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.setattr(
        assets, "MANIFEST", (asset("one"), asset("two", b"other"), Asset("old", None, "old.pt", "", ""))
    )
    monkeypatch.setattr(assets, "PRETRAINED", tmp_path)
    fake.files = {"folder/one.bin": GENUINE, "folder/two.bin": b"other"}
    return fake


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_download_puts_files_where_they_belong(hub: FakeHub, tmp_path: Path) -> None:
    reported: list[str] = []
    paths = download(["two", "one"], progress=lambda done, total, what: reported.append(f"{done}/{total} {what}"))
    assert paths == [tmp_path / "sub/one.bin", tmp_path / "sub/two.bin"]
    assert paths[0].read_bytes() == GENUINE
    assert files_in(tmp_path) == ["sub/one.bin", "sub/two.bin"]
    assert reported[0] == "0/2 downloading sub/one.bin"
    assert reported[-1].startswith("2/2")


def test_existing_files_are_not_downloaded_again(hub: FakeHub) -> None:
    download(["one"])
    download(["one"])
    assert hub.asked == ["folder/one.bin"]


def test_wrong_hash_is_refused_and_removed(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["folder/one.bin"] = b"tampered"
    with pytest.raises(CheckpointError, match="not the published file"):
        download(["one"])
    assert files_in(tmp_path) == []
    hub.files["folder/one.bin"] = GENUINE
    assert download(["one"])[0].read_bytes() == GENUINE


def test_file_of_the_user_is_never_overwritten(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/one.bin").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="Move it away"):
        download(["one"])
    assert (tmp_path / "sub/one.bin").read_bytes() == b"mine"
    assert hub.asked == []


def test_the_http_errors_of_the_hub_are_those_that_are_caught() -> None:
    assert issubclass(HfHubHTTPError, httpx2.HTTPError)


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("no route"),
        OSError("disk full"),
        LocalEntryNotFoundError("offline mode is enabled"),
        ValueError("odd answer"),
    ],
)
def test_unreachable_hub_says_what_to_do(hub: FakeHub, tmp_path: Path, failure: Exception) -> None:
    hub.failure = failure
    with pytest.raises(MissingFileError, match=r"HF_ENDPOINT.*folder/one\.bin of lj1995.*by hand") as caught:
        download(["one"])
    assert str(tmp_path / "sub/one.bin") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_interrupted_download_keeps_what_it_has(hub: FakeHub, tmp_path: Path) -> None:
    part = tmp_path / assets.STAGING / ".cache" / "huggingface" / "download" / "one.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    hub.failure = httpx2.ReadTimeout("gone")
    with pytest.raises(MissingFileError):
        download(["one"])
    assert part.is_file()
    hub.failure = None
    download(["one"])
    assert part.is_file(), "what is unfinished may belong to another file"
    part.unlink()
    download(["two"])
    assert files_in(tmp_path) == ["sub/one.bin", "sub/two.bin"]


def test_file_of_older_revisions_cannot_be_downloaded(hub: FakeHub) -> None:
    with pytest.raises(MissingFileError, match="older revisions"):
        download(["old"])
    assert hub.asked == []


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'hubert_base'.*rmvpe, v1-32k"):
        choose(["hubert_bas"])


def test_states(hub: FakeHub, tmp_path: Path) -> None:
    one = asset("one")
    assert state_of(one, tmp_path) == "missing"
    download(["one"])
    assert state_of(one, tmp_path) == "genuine"
    (tmp_path / one.target).write_bytes(b"changed")
    assert state_of(one, tmp_path) == "different"


def test_command_line(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "one"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sub/one.bin")
    assert main(["download", "nothing"]) == 1
    assert "There is no download 'nothing'" in capsys.readouterr().err
    assert main(["download"]) == 1
    assert "Available" in capsys.readouterr().err
    assert main(["verify", "one"]) == 0
    (tmp_path / "sub/one.bin").write_bytes(b"changed")
    assert main(["verify", "one"]) == 1
    assert main(["verify", "two"]) == 1
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^one +installed +sub/one.bin", out, re.MULTILINE)
    assert re.search(r"^two +missing +sub/two.bin", out, re.MULTILINE)
    assert how_to_get("NAME") in out


def test_mistake_on_the_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fetch"])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_manifest_is_that_of_the_specification() -> None:
    if not SPEC.is_file():
        pytest.skip(f"no specification at {SPEC}")
    rows = re.findall(r"^\| `([^`]+)`.*\| `([0-9a-f]{64})` \|$", SPEC.read_text(encoding="utf-8"), re.MULTILINE)
    published = {name: sha256 for name, sha256 in rows if name != "mute.zip"}  # silence is made, not downloaded
    assert {item.source or item.target: item.sha256 for item in MANIFEST} == published


def test_manifest_is_consistent() -> None:
    targets = [item.target for item in MANIFEST]
    assert len(set(targets)) == len(targets)
    assert all(re.fullmatch("[0-9a-f]{64}", item.sha256) for item in MANIFEST)
    assert [item.target for item in choose(["v2-40k"])] == ["v2/f0D40k.pth", "v2/f0G40k.pth"]
    assert [item.target for item in choose(["v1-48k-nof0"])] == ["v1/D48k.pth", "v1/G48k.pth"]
    assert len(choose(["hubert_base"])) == 3
    assert known_name(choose(["rmvpe"])[0].sha256) == "rmvpe"
    assert known_name("") is None


def test_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


class Mirror(http.server.BaseHTTPRequestHandler):
    """A hub with one file; the first time it is asked for it hangs up halfway."""

    content = bytes(range(256)) * 4096 * 24  # 24 MiB: more than one piece of the client
    ranges: ClassVar[list[str | None]] = []

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer with the headers of the whole file."""
        self._head(200, len(self.content))

    def do_GET(self) -> None:
        """Send the file, or the part asked for."""
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        begin = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        rest = self.content[begin:]
        self._head(206 if wanted else 200, len(rest), begin)
        broken = len(self.ranges) == 1
        self.wfile.write(rest[: len(rest) // 2] if broken else rest)
        self.close_connection = True

    def _head(self, status: int, length: int, begin: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()


@pytest.mark.slow
def test_mirror_is_used_and_a_broken_download_is_continued(tmp_path: Path) -> None:
    """With the real client and a real server, which HF_ENDPOINT names."""
    code = (
        "import sys; from pathlib import Path; from lib import assets\n"
        "assets.MANIFEST = (assets.Asset('x', 'folder/x.bin', 'sub/x.bin', sys.argv[2], 'a test'),)\n"
        "print(*assets.download(['x'], Path(sys.argv[1])))\n"
    )
    Mirror.ranges.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home"), "PATH": "",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        command = [sys.executable, "-c", code, str(tmp_path / "new"), hashlib.sha256(Mirror.content).hexdigest()]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:  # a client that does not try again by itself continues with the same command
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        server.shutdown()
    assert done.stdout.strip() == str(tmp_path / "new/sub/x.bin"), done.stderr
    assert (tmp_path / "new/sub/x.bin").read_bytes() == Mirror.content
    assert files_in(tmp_path / "new") == ["sub/x.bin"]
    assert Mirror.ranges[0] is None and len(Mirror.ranges) == 2
    assert Mirror.ranges[1] is not None, "the second time only the rest is asked for"


@pytest.mark.slow
def test_offline_mode_is_honoured(tmp_path: Path) -> None:
    """With the real client: HF_HUB_OFFLINE ends in the sentence, at once and without a trace."""
    code = (
        "import sys; from pathlib import Path; from lib.assets import download\n"
        "try: download(['rmvpe'], Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment: dict[str, Any] = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("MissingFileError"), done.stderr
    assert "rmvpe.pt" in done.stdout
    assert not (tmp_path / "rmvpe.pt").exists()
    assert not (tmp_path / assets.STAGING).exists()
