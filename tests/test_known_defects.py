"""docs/known-defects.md is complete and its tests exist; and the tests of those defects that no other file shows."""

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infer.batch import plan_jobs
from lib.config import load_family
from lib.devices import Precision, choose_device, choose_precision
from lib.errors import ConfigError, WriteError
from lib.files import replacing
from lib.progress import Cancelled
from lib.voice.library import find_index
from tests.helpers import ROOT, SPECIFICATION
from tests.tiny_files import save_checkpoint, tiny_family
from train.__main__ import main as train_main
from train.experiment import Clip, Experiment
from train.extract import ExtractReport, extract
from train.index import index_stage
from train.options import ExtractOptions, IndexOptions, PrepareOptions
from train.preprocess import prepare_stage
from web.jobs import registry as jobs_module
from web.jobs.registry import JobRegistry
from web.jobs.requests import ConvertRequest

PACKAGES = ("lib", "infer", "train", "web", "infer-web.py")
SOURCES = [path for name in PACKAGES for path in [ROOT / name, *(ROOT / name).rglob("*.py")] if path.is_file()]
FORBIDDEN_CALLS = {
    "eval", "exec", "os.system", "os.popen", "os._exit", "os.abort", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "joblib.load", "torch.jit.load", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
FORBIDDEN_MODULES = {"yaml", "fairseq", "omegaconf", "dill", "joblib", "cloudpickle"}
PATTERNS = "spec wav trained added.spec.pt 2b-f0nsf"  # what the references look for in whole paths


# --- the table --------------------------------------------------------------------------------------------------------


def rows() -> dict[int, str]:
    """The lines of docs/known-defects.md by number."""
    text = (ROOT / "docs" / "known-defects.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE)
    assert len({number for number, _ in found}) == len(found), "a number stands twice"
    return {int(number): line for number, line in found}


def test_every_known_defect_has_a_line_and_its_tests_exist() -> None:
    assert sorted(rows()) == list(range(1, 60))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    existing = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    for number, line in rows().items():
        named = set(re.findall(r"`(test_\w+)`", line))
        assert named or "By design" in line, f"row {number} names neither a test nor a reason"
        assert named <= existing, f"row {number} names tests that do not exist: {sorted(named - existing)}"


def test_the_table_has_the_numbers_of_the_specification() -> None:
    path = SPECIFICATION / "known-defects.md"
    if not path.is_file():
        pytest.skip(f"no list of defects at {path}")
    assert set(rows()) == {int(n) for n in re.findall(r"^\| (\d+) \|", path.read_text(encoding="utf-8"), re.MULTILINE)}


# --- 32 to 35, 38: nothing is evaluated, unpickled or handed to a shell -----------------------------------------------


def keyword(call: ast.Call, name: str) -> object:
    value = next((word.value for word in call.keywords if word.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


def dangers(tree: ast.AST) -> list[str]:
    """What a file does that could run what stands in a text or a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        unsafe = (
            name in FORBIDDEN_CALLS
            or keyword(node, "shell") not in (None, False)
            or keyword(node, "allow_pickle") not in (None, False)
            or (name == "torch.load" and keyword(node, "weights_only") is not True)
        )
        found += [f"line {node.lineno}: {name}"] if unsafe else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_evaluates_text_opens_pickles_or_calls_a_shell(path: Path) -> None:
    assert not dangers(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "os.system(x)", "subprocess.run(x, shell=True)", "np.load(x, allow_pickle=True)", "torch.load(x)",
     "torch.load(x, weights_only=False)", "import yaml", "from fairseq.data import dictionary", "pickle.load(x)"],
)  # fmt: skip
def test_dangerous_code_is_found(line: str) -> None:
    assert dangers(ast.parse(line))


# --- 4, 8, 21, 59: one experiment whose name and clips are awkward ----------------------------------------------------


@dataclass(frozen=True)
class Awkward:
    """An experiment called like everything that the references look for in paths, with one clip without a voice."""

    experiment: Experiment
    report: ExtractReport
    index: Path


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Awkward:
    folder = tmp_path_factory.mktemp(PATTERNS)
    data = folder / "data"
    data.mkdir()
    time = np.arange(2 * 24_000) / 24_000
    for i, frequency in enumerate((140.0, 280.0)):
        voice = sum(np.sin(2 * np.pi * frequency * h * time) / h for h in range(1, 8))
        soundfile.write(data / f"{i}.wav", 0.2 * np.asarray(voice), 24_000)
    noise = np.random.default_rng(0).standard_normal(len(time))
    soundfile.write(data / "2.wav", 0.2 * noise, 24_000)
    experiment = Experiment(PATTERNS, folder / "logs", folder / "weights")
    prepare_stage(experiment, data, load_family("lite"), PrepareOptions())
    report = extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    return Awkward(experiment, report, index_stage(experiment, IndexOptions()).path)


def test_an_experiment_name_may_contain_parts_of_path_names(awkward: Awkward) -> None:
    clips = awkward.experiment.clips()
    assert len(clips) == awkward.report.clips == 3
    assert awkward.index.name.startswith("added_IVF")
    assert (awkward.index.parent / awkward.index.name.replace("added_", "trained_", 1)).is_file()
    voice = awkward.experiment.voice
    voice.parent.mkdir(exist_ok=True)
    assert find_index(voice, "lite", [awkward.experiment.folder.parent]) == awkward.index


def test_a_clip_without_a_voiced_frame_is_kept_and_reported(awkward: Awkward) -> None:
    assert awkward.report.unvoiced == ("2_0.wav",)
    assert "2_0" in [clip.name for clip in awkward.experiment.clips()]


def test_every_clip_has_its_own_pitch(awkward: Awkward) -> None:
    curves = [np.load(awkward.experiment.f0 / f"{i}_0.wav.npy") for i in range(2)]
    assert [float(np.median(f0[f0 > 0])) for f0 in curves] == pytest.approx([140, 280], rel=0.02)


# --- 6, 13, 40: training and its files --------------------------------------------------------------------------------


def test_the_furthest_pair_is_the_newest_whatever_its_number(tmp_path: Path) -> None:
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    experiment.folder.mkdir(parents=True)
    config = tiny_family("v2", "40k").synthesizer
    for number, epoch in ((2333333, 3), (500, 7), (9000, 5)):
        save_checkpoint(experiment.folder / f"G_{number}.pth", config, epoch)
        (experiment.folder / f"D_{number}.pth").touch()
    newest = experiment.newest_pair()
    assert newest is not None and [path.name for path in newest] == ["G_500.pth", "D_500.pth"]


def test_only_extract_and_fit_work_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert train_main(["index", "v"]) == 1
    assert capsys.readouterr().err.startswith("Only extract and fit can run in several processes.")


def test_a_path_that_the_classic_list_cannot_hold_is_left_out_of_it(tmp_path: Path) -> None:
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    good, odd = (Clip(name, Path(f"/x/{name}.wav"), Path(f"/x/{name}.npy"), None, None) for name in ("a.b ", "a|b"))
    experiment.write_file_list([good, odd])
    (line,) = experiment.file_list.read_text(encoding="utf-8").split("\n")
    assert line.split("|") == [str(good.audio), str(good.content), "0"]


def test_names_with_dots_and_spaces_stay_whole(tmp_path: Path) -> None:
    jobs, _ = plan_jobs([Path("a.b.wav"), Path("a.c.mp3"), Path(" d .wav")], tmp_path, "voice")
    assert [job.output.name for job in jobs] == ["a.b.wav", "a.c.wav", " d .wav"]


# --- 37, 44: files ----------------------------------------------------------------------------------------------------


def test_the_page_deletes_nothing_but_its_own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [tmp_path / "TEMP" / "mine.txt", tmp_path / "mine.txt"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))
    os.utime(tmp_path / "TEMP", (0, 0))
    monkeypatch.setattr(jobs_module, "KEPT_JOBS", 1)
    registry = JobRegistry(tmp_path, {"convert": lambda request, context: []})
    (tmp_path / "in.wav").touch()
    request = ConvertRequest(voice="alice", recording=tmp_path / "in.wav")
    ids = [registry.submit("a job", request) for _ in range(1)]
    for _ in range(3):
        registry.wait(ids[-1])
        ids.append(registry.submit("a job", request))
    assert not (tmp_path / ids[0]).exists()
    registry.close()
    assert all(path.is_file() for path in others)


@pytest.mark.parametrize("failure", [Cancelled, KeyboardInterrupt, WriteError])
def test_an_incomplete_write_changes_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "G_1.pth"
    path.write_bytes(b"good")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device") if failure is WriteError else failure
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


# --- 49, 56: devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["", " ", "-", "0-1", "cuda:x", "meta", "cuda:99"])
def test_an_unknown_device_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match="specifies several GPUs" if wanted == "0-1" else "available: cpu"):
        choose_device(wanted)


@pytest.mark.parametrize("product", ["NVIDIA GeForce GTX 1660", "Tesla P40", "P10", "NVIDIA H200", ""])
def test_the_name_of_a_gpu_decides_nothing(monkeypatch: pytest.MonkeyPatch, product: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: product)
    device = choose_device("auto").device
    assert device.type == "cuda"
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert choose_precision("auto", device, supports_int8=True) == Precision(dtype, dtype, dtype)
        assert choose_precision("fp32", device, supports_int8=True) == Precision(*[torch.float32] * 3)
