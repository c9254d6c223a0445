"""The addresses of the page and its command line."""

import socket
import subprocess
import sys

import pytest

from lib.errors import ConfigError
from tests.helpers import ROOT
from web.app import find_port, is_loopback


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
def test_who_can_reach_an_address(host: str, want: bool) -> None:
    assert is_loopback(host) is want


def test_help_imports_nothing_large_and_a_wrong_option_is_one_line() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "infer-web.py"), "-h"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--port" in told.stdout
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "gradio", "numpy", "pydantic"}
    wrong = subprocess.run([sys.executable, ROOT / "infer-web.py", "--port", "x"], capture_output=True, check=False)
    assert wrong.returncode == 2
