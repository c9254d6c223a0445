"""go-web.sh makes an environment that later starts trust only if it is complete; from local wheels, offline."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.lock import LOCKS, entries, split

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="go-web.sh is for Linux and macOS")
TOOLS = ("bash", "cat", "cksum", "dirname", "flock", "grep", "mkdir", "rm", "sh", "uname")
# Everything the last step of the installation imports besides torch and torchaudio, from one small package.
OTHER_MODULES = ("av", "faiss", "gradio", "pydantic", "pyworld", "soundfile", "tyro")
PATIENCE = 600.0  # seconds


def make_wheel(folder: Path, name: str, modules: tuple[str, ...]) -> None:
    """Write a pure Python wheel `name` 1.0 with empty modules."""
    info = f"{name}-1.0.dist-info"
    files = {f"{module}.py": "" for module in modules}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    digests = {key: hashlib.sha256(text.encode()).digest() for key, text in files.items()}
    lines = [f"{key},sha256={base64.urlsafe_b64encode(digests[key]).rstrip(b'=').decode()}," for key in files]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for key, text in files.items():
            archive.writestr(key, text)


class Checkout:
    """A small project with the real go-web.sh, in a folder whose name has a space, a quote and Chinese characters."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "it's a 语音 folder"
        self.elsewhere = folder / "elsewhere"
        self.wheels = folder / "wheels"
        self.tools = folder / "tools"
        for path in (self.root, self.elsewhere, self.wheels, self.tools):
            path.mkdir()
        shutil.copy(ROOT / "go-web.sh", self.root)
        (self.root / "requirements.txt").write_text("torch==1.0\ntorchaudio==1.0\nothers==1.0\n")
        (self.root / "requirements-dev.txt").write_text("-r requirements.txt\n")
        (self.root / "requirements.lock").write_text("torch==1.0\ntorchaudio==1.0\nothers==1.0\n")
        (self.root / "infer-web.py").write_text("import sys\nprint('page', sys.argv[1:])\n")
        for package in ("infer", "train"):
            (self.root / package).mkdir()
            (self.root / package / "__main__.py").write_text(f"import sys\nprint({package!r}, sys.argv[1:])\n")
        # A package of the same name in the user's folder must not be taken for ours.
        (self.elsewhere / "infer").mkdir()
        (self.elsewhere / "infer" / "__main__.py").write_text("print('the wrong one')\n")
        for name, modules in {"torch": ("torch",), "torchaudio": ("torchaudio",), "others": OTHER_MODULES}.items():
            make_wheel(self.wheels, name, modules)
        self.lock("requirements-torch.lock", "torch", "torchaudio")
        self.lock("requirements-run.lock", "others")
        self.lock("requirements-dev.lock")
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.tools / tool).symlink_to(found)
        self.add_tool("python3", f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')  # type: ignore[attr-defined]

    def lock(self, file: str, *names: str) -> None:
        """Write a list of packages with the hashes of their wheels."""
        wheels = {name: self.wheels / f"{name}-1.0-py3-none-any.whl" for name in names}
        digests = {name: hashlib.sha256(wheel.read_bytes()).hexdigest() for name, wheel in wheels.items()}
        lines = [f"{name}==1.0 --hash=sha256:{digest}\n" for name, digest in digests.items()]
        (self.root / file).write_text("".join(lines))

    def add_tool(self, name: str, text: str) -> None:
        """Put a script on the PATH of the checkout."""
        (self.tools / name).unlink(missing_ok=True)
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Return variables with which pip finds our wheels and nothing else, and only our tools are on the PATH."""
        return {
            "PATH": str(self.tools),
            "HOME": str(self.elsewhere),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "LC_ALL": "C.UTF-8",
        }

    def go(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run go-web.sh from another folder."""
        return subprocess.run(
            [str(self.root / "go-web.sh"), *words],
            cwd=self.elsewhere,
            env=self.environment(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )

    @property
    def is_trusted(self) -> bool:
        """Whether a later start would use the environment as it is."""
        return (self.root / ".venv" / "finished-run").is_file() and not (self.root / ".venv" / "unfinished").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose first start has succeeded."""
    checkout = Checkout(tmp_path_factory.mktemp("installed"))
    first = checkout.go("web", "--port", "1")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "page ['--port', '1']\n"
    assert [line[:11] for line in first.stderr.splitlines() if line.startswith("Step")] == [
        f"Step {number} of 4" for number in (1, 2, 3, 4)
    ]
    assert checkout.is_trusted
    return checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout that was never started."""
    return Checkout(tmp_path)


@pytest.mark.slow
def test_second_start_installs_nothing(installed: Checkout) -> None:
    again = installed.go("--port", "2")
    assert (again.returncode, again.stdout, again.stderr) == (0, "page ['--port', '2']\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["convert", "a b.wav", "$(touch x)", "it's", "*"], ["infer", "a b.wav", "$(touch x)", "it's", "*"]),
        (["train", "run", "demo voice"], ["train", "run", "demo voice"]),
    ],
)
def test_arguments_reach_our_module_unchanged(installed: Checkout, words: list[str], want: list[str]) -> None:
    done = installed.go(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{want[0]} {want[1:]!r}\n"
    assert not (installed.elsewhere / "x").exists()


@pytest.mark.slow
def test_demo_trains_on_what_is_shipped_and_converts_with_it(installed: Checkout) -> None:
    done = installed.go("demo", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    train, infer = done.stdout.splitlines()
    assert train.startswith("train ['run', 'demo', ") and train.endswith("'--epochs', '3']")
    assert infer.startswith("infer [") and "'--voice', 'demo'" in infer
    for line in (train, infer):
        assert str(installed.root / "pretrained" / "lite" / "demo") in line


@pytest.mark.slow
def test_unknown_word_is_refused(installed: Checkout) -> None:
    done = installed.go("covnert")
    assert done.returncode == 1
    assert "unknown word 'covnert'" in done.stderr


@pytest.mark.slow
def test_changed_lists_are_installed_again(installed: Checkout) -> None:
    lock = installed.root / "requirements.lock"
    lock.write_text(lock.read_text() + "# changed\n")
    again = installed.go("web")
    assert again.returncode == 0, again.stderr
    assert "Step 1" not in again.stderr
    assert "Step 3" in again.stderr
    assert installed.go("web").stderr == ""


@pytest.mark.slow
def test_a_package_with_another_hash_is_not_installed(checkout: Checkout) -> None:
    make_wheel(checkout.wheels, "others", (*OTHER_MODULES, "more"))
    done = checkout.go("web")
    assert done.returncode == 1 and "DO NOT MATCH THE HASHES" in done.stderr
    assert not list((checkout.root / ".venv").rglob("gradio.py")) and not checkout.is_trusted
    environment = checkout.environment() | {"REVOICE_REQUIRE_HASHES": "0"}
    accepted = subprocess.run([checkout.root / "go-web.sh", "web"], env=environment, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    assert "Step 1" not in accepted.stderr and checkout.is_trusted


@pytest.mark.slow
def test_killed_installation_is_repeated(checkout: Checkout) -> None:
    with socket.socket() as silent:  # accepts pip's request for a package and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        env = checkout.environment() | {"PIP_FIND_LINKS": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
        command = [str(checkout.root / "go-web.sh"), "web"]
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stderr is not None
        assert any("Step 2" in line for line in iter(process.stderr.readline, ""))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
    assert (checkout.root / ".venv" / "unfinished").exists()
    assert not checkout.is_trusted
    debris = checkout.root / ".venv" / "debris"
    debris.touch()
    again = checkout.go("web")
    assert again.returncode == 0, again.stderr
    assert "Step 1" in again.stderr
    assert not debris.exists()
    assert checkout.is_trusted


@pytest.mark.slow
def test_failed_step_is_named_and_not_trusted(checkout: Checkout) -> None:
    wheel = next(checkout.wheels.glob("others-*"))
    wheel.rename(wheel.with_suffix(".away"))
    failed = checkout.go("web")
    assert failed.returncode != 0
    assert "Step 3 of 4, installing the other packages, failed" in failed.stderr
    assert re.search(r"ERROR: .*others==1\.0", failed.stderr)
    assert not checkout.is_trusted
    wheel.with_suffix(".away").rename(wheel)
    repaired = checkout.go("web")
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout == "page []\n"


@pytest.mark.slow
def test_two_first_starts_at_once_take_turns(checkout: Checkout) -> None:
    command = [str(checkout.root / "go-web.sh"), "web"]
    env, pipe = checkout.environment(), subprocess.PIPE
    both = [subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out for out, _ in outputs] == ["page []\n"] * 2
    if shutil.which("flock"):
        assert sum("Step 2 of 4" in err for _, err in outputs) == 1


@pytest.mark.parametrize("version", ["(3, 9)", "(3, 14)"])
def test_unsuitable_python_is_not_used(checkout: Checkout, version: str) -> None:
    # Answers the question about its version as a Python of that version would.
    checkout.add_tool(
        "python3", f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = {version}; $2"\n'
    )
    done = checkout.go("web")
    assert done.returncode == 1, done.stderr
    assert "No Python 3.10 to 3.13 was found" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_python_without_venv_is_explained(checkout: Checkout) -> None:
    text = f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n'
    checkout.add_tool("python3", text)
    done = checkout.go("web")
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_batch_file_is_for_windows() -> None:
    data = (ROOT / "go-web.bat").read_bytes()
    assert data.isascii()
    assert data.count(b"\r\n") == data.count(b"\n") > 0


def test_the_batch_file_takes_every_status_but_zero_for_a_failure() -> None:
    lines = (ROOT / "go-web.bat").read_text(encoding="ascii").splitlines()
    commands = [line for line in lines if not line.lower().startswith("rem ")]
    assert not any("if errorlevel" in line.lower() or "if not errorlevel" in line.lower() for line in commands), (
        "it is false for crashes, whose status is negative (0xC0000005)"
    )
    end = commands[commands.index(":ended") :][:7]
    assert 'set "status=%errorlevel%"' in end[1] and "exit /b %status%" in end, "the status is passed on"
    assert any("pause" in line for line in end)
    run = next(number for number, line in enumerate(commands) if line.startswith('set "run='))
    assert run < next(number for number, line in enumerate(commands) if "lib.nvidia" in line), "defined before its use"


def test_windows_container_and_notebook_install_packages_by_their_hashes_only() -> None:
    """But PyTorch's own builds, which have no list of hashes, and where REVOICE_REQUIRE_HASHES=0 says so."""
    batch = (ROOT / "go-web.bat").read_text(encoding="ascii").splitlines()
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    cells = json.loads((ROOT / "notebooks" / "colab.ipynb").read_text(encoding="utf-8"))["cells"]
    notebook = "".join(line for cell in cells for line in cell["source"]).replace('", "', " ")
    found = 0
    for lines, what in (batch, ":{}_unhashed"), (re.split("[;\n]", dockerfile), ""), (notebook.splitlines(), ""):
        for before, line in zip(["", *lines], lines, strict=False):
            if re.search(r"pip[^;]* install ", line) and "--index-url" not in line:
                unhashed = what and before in (what.format("no_card"), what.format("other_packages"))
                assert unhashed or "--no-deps --require-hashes" in line.replace('"', ""), line
                found += 1
    assert found == 8
    for name in ("no_card", "other_packages"):
        assert f'if "%REVOICE_REQUIRE_HASHES%"=="0" goto {name}_unhashed' in batch


@pytest.mark.slow
def test_an_old_card_gets_a_build_that_supports_it(checkout: Checkout) -> None:
    shutil.copytree(ROOT / "lib", checkout.root / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    checkout.add_tool("nvidia-smi", '#!/bin/sh\necho "NVIDIA GeForce GTX 1060 3GB, 560.35.03, 6.1"\n')
    done = checkout.go("web")
    assert "Taking PyTorch's build cu126" in done.stderr, done.stderr
    assert "builds cannot be reached from here" not in done.stderr, "pip found the wheels of the test"
    assert done.returncode == 0


def test_every_direct_requirement_is_pinned_and_locked() -> None:
    locked = {line.split(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.split("#")[0].split(";")[0].strip() for line in (ROOT / name).read_text().splitlines()]
        wanted = {line for line in lines if line and not line.startswith("-r")}
        assert wanted, name
        assert wanted <= locked, f"{sorted(wanted - locked)} of {name} are not in requirements.lock; update it"


def test_the_lists_with_hashes_are_those_of_the_lock() -> None:
    lists = [entries((ROOT / name).read_text(encoding="utf-8")) for name in LOCKS]
    named = [name for each in lists for name in each]
    assert len(named) == len(set(named)), "each package is in one list"
    assert set(named) == set(entries((ROOT / "requirements.lock").read_text(encoding="utf-8"))), (
        "run python -m tests.lock"
    )
    assert all("--hash=sha256:" in entry for each in lists for entry in each.values())


def test_the_lock_is_split_by_who_needs_a_package() -> None:
    lock = "# made by\na==1 \\\n    --hash=sha256:0a \\\n    --hash=sha256:0b\n"
    lock += "b==2 ; sys_platform == 'linux' \\\n    --hash=sha256:1\nnvidia-x==3 \\\n    --hash=sha256:2\n"
    assert list(entries(lock)) == ["a==1", "b==2", "nvidia-x==3"]
    parts = split(lock, ["a==1"])
    assert [[part.split()[0] for part in parts[name]] for name in LOCKS] == [["nvidia-x==3"], ["a==1"], ["b==2"]]
    assert parts["requirements-run.lock"][0].count("--hash") == 2 and "linux" in parts["requirements-dev.lock"][0]
