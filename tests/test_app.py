"""The addresses of the page and its command line."""

import os
import runpy
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from lib.errors import ConfigError
from tests.helpers import ROOT
from tests.test_web import FakeConverter
from web.app import Address, build_app, check_address, find_port, is_loopback, open_in_browser, serve


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a desktop")
def test_a_browser_is_opened_where_there_is_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda address: opened.set())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not open_in_browser("http://127.0.0.1:7865/", os.environ) and not opened.is_set()
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_in_browser("http://127.0.0.1:7865/", os.environ) and opened.wait(60)


def test_ports() -> None:
    free = find_port("127.0.0.1", None)
    assert find_port("127.0.0.1", free) == free
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="in use"):
            find_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"70000 can be used .*1 to 65535"):
        find_port("127.0.0.1", 70_000)
    with pytest.raises(ConfigError, match="--host"):
        find_port("999.1.1.1", None)


@pytest.mark.parametrize(
    ("host", "want"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.0.7", False), ("", False)],
)
def test_addresses_are_classified_by_who_can_reach_them(host: str, want: bool) -> None:
    assert is_loopback(host) is want


def test_help_imports_nothing_large_and_a_wrong_option_is_one_line() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "infer-web.py"), "-h"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--port" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "gradio", "numpy", "pydantic"}
    wrong = subprocess.run([sys.executable, ROOT / "infer-web.py", "--port", "x"], capture_output=True, check=False)
    assert wrong.returncode == 2


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ({"root_path": "voices"}, "is not valid. Use a path like /voices"), ({"root_path": "/a b"}, "is not valid"),
        ({"root_path": "/../x?y"}, "is not valid"), ({"root_path": "//evil.example"}, "is not valid"),
        ({"key": Path("key.pem")}, "--certificate"), ({"certificate": Path("none.pem")}, "No such file"),
        ({"certificate": Path(__file__)}, "PEM"),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_served_are_one_sentence(values: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern) as caught:
        check_address(Address("127.0.0.1", **values))
    assert "\n" not in str(caught.value)
    for path in ("", "/voices", "/a/b-c", "https://voices.example/page"):
        check_address(Address("127.0.0.1", root_path=path))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that it has signed itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the command openssl is needed to make a certificate")
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *subject,
         "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True,
    )  # fmt: skip
    return paths


@pytest.mark.slow
def test_https_below_a_path(certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a proxy that removes the prefix, and as behind one that does not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    app = build_app(FakeConverter().services(tmp_path))
    address = Address(
        "127.0.0.1", find_port("127.0.0.1", None), certificate=certificate[0], key=certificate[1],
        root_path="/voices", login=("me", "secret"),
    )  # fmt: skip
    url = serve(app, address)[0]
    assert url.startswith("https://127.0.0.1:")
    trusted = ssl.create_default_context(cafile=certificate[0])
    with httpx.Client(base_url=url, verify=trusted, timeout=60) as client:
        for prefix in ("", "/voices"):
            for path in ("/config", "/gradio_api/cancel", "/gradio_api/upload"):
                assert client.request("GET" if path == "/config" else "POST", prefix + path).status_code in (401, 404)
        entered = client.post("/login", data={"username": "me", "password": "secret"})
        assert entered.status_code == 200
        assert all("secure" in cookie.lower() for cookie in entered.headers.get_list("set-cookie")[:1])
        assert client.get("/config").json()["root"].endswith("/voices")
        foreign = {"Origin": "https://evil.example"}
        for prefix in ("", "/voices"):
            refused = client.post(f"{prefix}/gradio_api/call/list_voices", json={"data": []}, headers=foreign)
            assert refused.status_code in (403, 404)
    app.close(verbose=False)


def test_the_options_of_rvc_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    start = runpy.run_path(str(ROOT / "infer-web.py"))["parse_arguments"]
    line = "infer-web.py --pycmd runtime\\python.exe --colab --noparallel --noautoopen --port 7897"
    monkeypatch.setattr(sys, "argv", line.split())
    arguments = start()
    assert arguments.share and arguments.port == 7897 and arguments.no_browser
    monkeypatch.setattr(sys, "argv", ["infer-web.py"])
    assert not start().share
