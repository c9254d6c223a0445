"""Published vulnerabilities of RVC's web UI, Applio and Gradio, tried on the command line and with raw HTTP requests.

RVC: CVE-2025-43842 to 43852. Applio: CVE-2025-27774 to 27787. Commands and files are those of the CVE records, but for
names. For what does not exist here (downloads from an address, paths of results) the nearest thing is tried.
"""

import contextlib
import importlib.machinery
import json
import os
import pickle
import shlex
import socket
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
import torch

from infer.song.pymss_engine import UNSAFE_TYPES, PymssSeparator
from lib.content.fairseq_reader import read_fairseq
from lib.errors import ConfigError, RevoiceError
from lib.index import FeatureIndex
from lib.voice.safe_load import read_weights
from tests.attacked_page import PATIENCE, Page
from tests.helpers import ROOT
from tests.tiny_files import save_voice, small_voice
from train import __main__ as train_cli
from train.experiment import Experiment
from web.jobs.requests import TrainRequest, read_request
from web.jobs.runners import make_runners, train_commands

pytestmark = pytest.mark.slow
COMMANDS = (
    "x; touch {mark}",
    "x && touch {mark}",
    "x | touch {mark}",
    "$(touch {mark})",
    "`touch {mark}`",
    "x\ntouch {mark}",
)


class Evil:
    """Makes a file when it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.mark))}",)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that exists after an attack has succeeded."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "code of the attacker was run"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        made = Page(tmp_path_factory.mktemp("page"))
        yield made
        made.client.close()
        made.app.close(verbose=False)
        made.services.registry.close()


@pytest.fixture
def listener() -> Iterator[list[bytes]]:
    """What arrives at a server inside the network of the victim; [0] is its address."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        received.append(f"http://127.0.0.1:{server.getsockname()[1]}/secret.pth".encode())

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    received.append(b"connected")

        threading.Thread(target=listen, daemon=True).start()
        yield received
        server.shutdown(socket.SHUT_RDWR) if sys.platform == "linux" else None
    assert received[1:] == [], "the server has sent a request for the attacker"


def open_pickle(model_path: str, **_: object) -> None:
    """What the reader of such a model does."""
    pickle.loads(Path(model_path).read_bytes())  # noqa: S301


def evil_files(folder: Path, mark: Path) -> dict[str, Path]:
    """Files that a careless reader of each kind would run."""
    content = save_voice(folder / "good.pth", small_voice())
    torch.save(content | {"info": Evil(mark)}, folder / "voice.pth")
    torch.save({"model": content["weight"], "iteration": 1, "optimizer": Evil(mark)}, folder / "G_1.pth")
    (folder / "bare.pth").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    (folder / "evil.index").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.write(folder / "voice.pth", "voice.pth")
        archive.write(folder / "evil.index", "evil.index")
    return {name: folder / name for name in ("voice.pth", "G_1.pth", "bare.pth", "evil.index", "archive.zip")}


# --- commands in parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stage", ["prepare", "extract", "fit", "index", "run"])
def test_cve_2025_43842_43843_43844_parameters_of_a_training_are_no_commands(
    page: Page, mark: Path, tmp_path: Path, stage: str, command: str
) -> None:
    """Name, folder, rate, number of processes and method went into a shell; here a training is a list of arguments."""
    words = command.format(mark=mark)
    options: list[dict[str, Any]] = [
        {"name": "a", "options": {option: words}} for option in ("device", "workers", "pitch_method")
    ]
    for values in ({"name": words}, {"name": "a", "data": words}, {"name": "a", "sample_rate": words}, *options):
        try:
            request = read_request("train", {"stage": stage, **values})
        except RevoiceError:
            continue
        assert isinstance(request, TrainRequest)
        for arguments in train_commands(request, []):
            assert all(words in (part, part.partition("=")[2]) or "touch" not in part for part in arguments)
            if stage == "prepare":  # what the program is started with reaches it as it is: no shell is in between
                code = "import sys; print(sys.argv[1:])"
                done = subprocess.run([sys.executable, "-c", code, *arguments[2:]], capture_output=True, text=True)
                assert done.stdout == f"{arguments[2:]}\n"


@pytest.mark.parametrize(
    "field", ["name", "sample_rate", "pitch_method", "device", "content_encoder", "folder", "workers"]
)
def test_cve_2025_43842_43843_43844_over_http(page: Page, mark: Path, field: str) -> None:
    before = len(page.requests)
    for command in COMMANDS[:3]:
        values = {"name": "a", "stage": "index", field: command.format(mark=mark)}
        page.call("train", *page.parameters("train", **values))
    for job in page.services.registry.jobs("train"):
        page.services.registry.wait(job.id, PATIENCE)
    for request in page.requests[before:]:
        assert "touch" not in request.name and "touch" not in str(request.data)


@pytest.mark.parametrize("name", ["x; touch mark", "$(touch mark)", "-h", "--data", "../../x", "a/b", "a\nb"])
def test_cve_2025_43842_on_the_command_line(mark: Path, tmp_path: Path, name: str) -> None:
    """A name is a folder or is refused."""
    if name.startswith("-"):
        with pytest.raises(SystemExit):  # help, or a wrong option
            train_cli.main(["index", name])
    else:
        assert train_cli.main(["index", name]) not in (0, None)
    assert not (ROOT / "mark").exists()


def test_cve_2025_43845_no_text_beside_a_checkpoint_is_evaluated(tmp_path: Path, mark: Path, capfd: Any) -> None:
    """The path of a model led to the train.log beside it, whose text was evaluated as Python."""
    folder = tmp_path / "logs" / "alice"
    folder.mkdir(parents=True)
    evil = f"__import__('os').system('touch {mark}')"
    (folder / "train.log").write_text(f"{evil}\t{evil}")
    for text in (evil, f"[{evil}]", f'{{"train": {evil}}}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(RevoiceError):
            Experiment("alice", tmp_path / "logs", tmp_path).config()
    content = save_voice(tmp_path / "good.pth", small_voice())
    torch.save({"model": content["weight"], "iteration": 1}, folder / "G_1.pth")
    torch.save(content | {"config": evil, "sr": evil, "f0": evil}, tmp_path / "text.pth")
    for words in (["info", str(folder / "G_1.pth")], ["info", str(tmp_path / "text.pth")]):
        train_cli.main(["ckpt", *words])


# --- code in files ----------------------------------------------------------------------------------------------------

TOOLS = {  # of the command line, by the CVE that ran code in the same place
    "CVE-2025-43846 show": ["info", "{file}"],
    "CVE-2025-43847 extract": ["extract", "{file}", "--name", "never"],
    "CVE-2025-43848 change": ["edit", "{file}", "--info", "x", "--output", "{folder}/out.pth"],
    "CVE-2025-43849 merge": ["merge", "{file}", "{file}", "--name", "never"],
    "CVE-2025-43850 ONNX export": ["export", "{file}", "--onnx", "--output", "{folder}/out-onnx"],
    "CVE-2025-27779 blend": ["merge", "{folder}/good.pth", "{file}", "--name", "never"],
    "CVE-2025-27780 information": ["info", "{file}"],
    "convert": ["convert", "{file}", "--output", "{folder}/out.safetensors"],
    "archive": ["export", "{file}", "--output", "{folder}/out.zip"],
    "import": ["import", "{file}", "--name", "never"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_of_the_command_line_runs_code_in_a_file(
    tmp_path: Path, mark: Path, capfd: pytest.CaptureFixture[str], tool: str
) -> None:
    for name, path in evil_files(tmp_path, mark).items():
        words = [word.format(file=path, folder=tmp_path) for word in TOOLS[tool]]
        assert train_cli.main(["ckpt", *words]) not in (0, None), (tool, name)
        assert "Traceback" not in capfd.readouterr().err
    assert not list(tmp_path.glob("out*")) and not (ROOT / "weights" / "never.pth").exists()


@pytest.mark.parametrize("kind", UNSAFE_TYPES)
def test_cve_2025_43851_43852_separation_models_that_are_pickles_are_not_opened(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The model for the separation of vocals was chosen by its path; here by its name, and pickles are refused.

    pymss, which is optional, is stood in for by its list of models, with a file that would run code.
    """
    evil = evil_files(tmp_path, mark)["bare.pth"]
    found = {"model_type": kind, "model_path": evil, "config_path": None}
    package = types.ModuleType("pymss")
    package.__spec__ = importlib.machinery.ModuleSpec("pymss", None)
    package.resolve_model = lambda *_, **__: found  # type: ignore[attr-defined]
    package.MSSeparator = open_pickle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pymss", package)
    with pytest.raises(ConfigError, match="can execute code"):
        PymssSeparator("DeEcho", "cpu", tmp_path)


def test_weights_of_other_networks_run_no_code(tmp_path: Path, mark: Path) -> None:
    """Content encoders, base models and indexes."""
    for path in evil_files(tmp_path, mark).values():
        for read in (read_fairseq, read_weights, FeatureIndex.load):
            with pytest.raises(RevoiceError):
                read(path)


@pytest.mark.parametrize("endpoint", ["add_voices", "import_voice"])
def test_uploaded_models_run_no_code(page: Page, tmp_path: Path, mark: Path, endpoint: str) -> None:
    for name, path in evil_files(tmp_path, mark).items():
        file = page.upload(name, path.read_bytes())
        answer = page.call(endpoint, *([[file], None] if endpoint == "add_voices" else [file]))
        assert "event: error" in answer or "Nothing" in answer or "event: complete" in answer
    assert [path.name for path in page.weights.glob("*") if not path.name.startswith(".")] == []


@pytest.mark.parametrize("endpoint", ["convert", "merge_voices", "voice_info", "edit_voice", "export_voice"])
def test_cve_2025_27778_27779_27780_27781_a_voice_with_code_in_it_is_not_used(
    page: Page, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """Converting, blending, showing and choosing (which lists its speakers), even if the file is among the voices."""
    monkeypatch.setattr("lib.voice.library.voice_roots", lambda: (page.weights,))
    save_voice(page.weights / "good.pth", small_voice())
    (page.weights / "bad.pth").write_bytes(evil_files(tmp_path, mark)["voice.pth"].read_bytes())
    soundfile.write(tmp_path / "in.wav", [0.1] * 16000, 16000)
    recording = page.upload("in.wav", (tmp_path / "in.wav").read_bytes())
    values = {"voice": "bad", "first": "good", "second": "bad", "name": "never", "info": "x", "recording": recording}
    answer = page.call(endpoint, *page.parameters(endpoint, **values))
    with pytest.raises(RevoiceError, match="could run code"):
        page.services.speaker_names("bad")
    for name in ("good", "bad"):
        (page.weights / f"{name}.pth").unlink()
    assert "event: error" in answer and "could run code on your computer" in answer


# --- requests of the server, and files elsewhere ----------------------------------------------------------------------


def test_cve_2025_27774_27775_27776_27777_the_server_fetches_no_address(page: Page, listener: list[bytes]) -> None:
    """Nothing takes an address; where Gradio would (a file by its address), it reaches no internal one."""
    url = listener[0].decode()
    for name in ("download_weights", "voice_info", "delete_voice", "export_voice", "load_preset"):
        page.call(name, url)
    for file in ({"path": url}, {"url": url, "path": "x"}, {"path": url, "meta": {"_type": "gradio.FileData"}}):
        assert "event: error" in page.call("import_voice", file)
        assert "event: error" in page.call("convert", *page.parameters("convert", voice="x", recording=file))
    assert page.client.get(f"/gradio_api/proxy={url}").status_code >= 400  # CVE-2026-28416, of Gradio


@pytest.mark.parametrize("name", ["../../evil.pth", "/tmp/evil.pth", "..\\..\\evil.pth", "a/../../evil.pth"])
def test_cve_2025_27782_27783_no_file_is_written_elsewhere(page: Page, tmp_path: Path, name: str) -> None:
    before = {path for path in page.folder.rglob("*") if page.services.files not in path.parents}
    stored = Path(page.upload(name, b"x")["path"])
    assert stored.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve()) and ".." not in stored.parts
    for call in (
        page.parameters("save_preset", name=name), page.parameters("train", name=name, stage="index"),
        page.parameters("merge_voices", first="x", second="x", name=name),
    ):  # fmt: skip
        for endpoint in ("save_preset", "train", "merge_voices"):
            page.call(endpoint, *call)
    assert {path for path in page.folder.rglob("*") if page.services.files not in path.parents} == before
    assert not Path("/tmp/evil.pth").exists() and not (page.folder.parent / "evil.pth").exists()


SECRET = "a secret of this machine"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.mark.parametrize("endpoint", ["export_voice", "voice_info", "load_preset", "extract_voice", "import_voice"])
def test_cve_2025_27784_27785_no_file_of_the_machine_is_read(page: Page, secret: Path, endpoint: str) -> None:
    for name in (str(secret), f"../../../..{secret}", "/etc/passwd", {"path": str(secret)}, {"path": "/etc/passwd"}):
        answer = page.call(endpoint, name)
        assert SECRET not in answer and "root:" not in answer


@pytest.mark.parametrize("endpoint", ["delete_voice", "forget_job", "cancel_job", "resume_job"])
def test_cve_2025_27786_27787_no_file_is_removed_and_no_process_ended(
    page: Page, secret: Path, tmp_path: Path, endpoint: str
) -> None:
    """The path of a result was deleted before speech was written there; a name chose a file that lists processes.

    Here no endpoint takes the path of a result, and processes are ended by their jobs only.
    """
    endpoints = page.client.get("/gradio_api/info").json()["named_endpoints"].values()
    parameters = {each["parameter_name"] for about in endpoints for each in about["parameters"]}
    assert "recording" in parameters and not [name for name in parameters if "output" in name or "path" in name]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        try:
            (page.logs / "evil").mkdir(parents=True, exist_ok=True)
            (page.logs / "evil" / "config.json").write_text(json.dumps({"process_pids": [other.pid]}))
            for name in (str(secret), f"../../../..{secret}", "../.lock", "0", "1", "", "evil", "../logs/evil"):
                page.call(endpoint, name)
            assert other.poll() is None
        finally:
            other.kill()
    assert secret.read_text() == SECRET and page.client.get("/config").status_code == 200


# --- Gradio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd", "file=../../../../etc/passwd", "file=%2e%2e%2f%2e%2e%2fetc%2fpasswd", "file/etc/passwd",
        "file=file:///etc/passwd", "file=/proc/self/environ", "custom_component/x/server/component/../../etc/passwd",
        "../static//etc/passwd", "../static/..%2f..%2fetc%2fpasswd", "../assets//etc/passwd", "stream/../../etc/passwd",
    ],
)  # fmt: skip
def test_gradio_cve_2023_51449_2024_47164_47166_2026_28414_no_path_leaves_the_page(page: Page, path: str) -> None:
    answer = page.client.get(f"/gradio_api/{path}")
    assert answer.status_code >= 400 and "root:" not in answer.text and "PATH=" not in answer.text


@pytest.mark.parametrize("function", ["move_resource_to_block_cache", "__init__", "preprocess", "load_example"])
def test_gradio_cve_2024_1561_2024_34511_no_method_of_a_component_is_called(page: Page, function: str) -> None:
    for component in (1, 5, 20):
        body = {"component_id": component, "data": "/etc/passwd", "fn_name": function, "session_hash": "x"}
        try:
            answer = page.client.post("/gradio_api/component_server", json=body)
        except httpx.ReadError:  # refused before the request was read; the page goes on
            assert page.client.get("/gradio_api/info").status_code == 200
            continue
        assert answer.status_code >= 400 and "root:" not in answer.text


def test_gradio_cve_2024_47867_2024_51751_2025_48889_a_foreign_path_is_no_upload(page: Page, secret: Path) -> None:
    for file in (str(secret), "/etc/passwd", f"{os.environ['GRADIO_TEMP_DIR']}/../{secret.name}"):
        data = {"path": file, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.wav"}
        answer = page.call("convert", *page.parameters("convert", voice="x", recording=data))
        assert "event: error" in answer and SECRET not in answer


def test_gradio_cve_2024_8966_2025_0187_uploads_of_a_strange_form_do_not_stop_the_page(page: Page) -> None:
    boundary = "-" * 20_000
    for kind, body in (
        (f"multipart/form-data; boundary={boundary}", b"-" * 900_000),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="files"; filename="' + b"a" * 900_000,
        ),
        ("multipart/form-data", b"x"),
    ):
        with contextlib.suppress(httpx.TransportError):  # the answer may come before the body was sent
            answer = page.client.post("/gradio_api/upload", content=body, headers={"Content-Type": kind})
            assert answer.status_code >= 400 and len(answer.content) < 10_000
    assert page.client.get("/config").status_code == 200


def test_starlette_cve_2026_48710_the_host_header_is_no_path(page: Page) -> None:
    for host in ("evil.example/gradio_api", "127.0.0.1/login?", "127.0.0.1@evil.example", "127.0.0.1#"):
        assert page.client.get("/config", headers={"Host": host}).status_code in (400, 403)


def test_the_runners_of_a_page_are_functions_not_commands() -> None:
    """What the server can be asked for is a closed list."""
    assert set(make_runners(lambda *names: None)) == {"convert", "compare", "batch", "train", "cover", "say"}  # type: ignore[arg-type]
