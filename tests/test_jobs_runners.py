"""The commands of a training job: what the page shows for copying is what it runs; the files of a conversion."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

from infer.options import ConvertOptions
from lib.devices import choose_device, gpu_numbers
from lib.errors import ConfigError
from lib.pitch.curve_file import read_curve
from tests.tiny_voice import tiny_converter, voice_like
from web.jobs.registry import JobContext
from web.jobs.requests import ConvertRequest, TrainRequest
from web.jobs.runners import chosen_gpus, make_runners, train_commands


def request(device: str, **values: Any) -> TrainRequest:
    options = {"epochs": 7, "most_vectors": 500, "device": device}
    voice = {"name": "a b", "family": "v2", "sample_rate": "40k", "pitch": True}
    return TrainRequest.model_validate({**voice, "options": options, **values})


def lines(stage: str, device: str, gpus: Sequence[int] = ()) -> list[str]:
    return [shlex.join(words) for words in train_commands(request(device, stage=stage, data="/my data"), gpus)]


@pytest.mark.parametrize("device", ["auto", "cuda:1"])
def test_everything_is_one_command(device: str) -> None:
    (line,) = lines("run", device)
    assert line.startswith("-m train run 'a b' --data '/my data' --family v2 --sample-rate 40k --pitch --epochs 7")
    assert ("--device cuda:1" in line) == (device != "auto")


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("prepare", "-m train prepare 'a b' --data '/my data' --family v2 --sample-rate 40k --pitch"),
        ("extract", "-m train extract 'a b' --device cpu"),
        ("index", "-m train index 'a b' --most-vectors 500"),
        ("fit", "-m train fit 'a b' --epochs 7 --device cpu"),
    ],
)
def test_a_stage_gets_its_own_options(stage: str, line: str) -> None:
    assert lines(stage, "cpu") == [line]


def test_all_gpus_share_the_slow_stages() -> None:
    launcher = "-m accelerate.commands.launch --multi_gpu --num_processes 3 "
    found = lines("run", "all", (0, 1, 2))
    assert found == [
        "-m train prepare 'a b' --data '/my data' --family v2 --sample-rate 40k --pitch",
        launcher + "-m train extract 'a b'",
        "-m train index 'a b' --most-vectors 500",
        launcher + "-m train fit 'a b' --epochs 7",
    ]
    assert [shlex.join(words) for words in train_commands(request("all"), (0, 1, 2))] == found[1:]
    assert lines("fit", "all", (0,)) == ["-m train fit 'a b' --epochs 7"]


def test_gpus_can_be_named_as_in_rvc() -> None:
    assert chosen_gpus("0-2") == [0, 2] and chosen_gpus("1,0,0") == [1, 0]
    assert (
        chosen_gpus("1") == [] and chosen_gpus("cuda:1") == [] and chosen_gpus("auto") == [] and not chosen_gpus(None)
    )
    launcher = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --gpu_ids 0,2 "
    assert lines("fit", "0-2", chosen_gpus("0-2")) == [launcher + "-m train fit 'a b' --epochs 7"]
    assert lines("index", "0-2", chosen_gpus("0-2")) == ["-m train index 'a b' --most-vectors 500"]
    assert gpu_numbers("0-0-1") == [0, 1] and gpu_numbers("cpu") == [] and gpu_numbers("") == []
    with pytest.raises(ConfigError, match=r"'0-2' specifies several GPUs.*cuda:0"):
        choose_device("0-2")
    with pytest.raises(ConfigError, match="'cuda:7' cannot be used here"):
        choose_device("7")


@pytest.mark.slow
def test_the_target_f0_of_a_conversion_is_a_file_to_download(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", voice_like(0.5), 16_000)
    convert = make_runners(lambda *_: tiny_converter())["convert"]
    context = JobContext(tmp_path / "job", lambda **_: None, print)
    options = ConvertOptions(pitch_method="pm", device="cpu", pitch_shift=12)
    request = ConvertRequest(voice="eve", recording=tmp_path / "song.wav", options=options, f0_curve=True)
    result, curve = convert(request, context)
    assert curve == result.with_name(f"{result.stem}_f0.csv") and curve.parent == tmp_path / "job"
    f0 = read_curve(curve)
    assert len(f0.times) == 50 and f0.values.max() > 200
    again = request.model_copy(update={"f0_file": curve, "options": options.model_copy(update={"pitch_shift": 0.0})})
    assert read_curve(convert(again, context)[1]).values.tolist() == f0.values.tolist()
    assert len(convert(request.model_copy(update={"f0_curve": False}), context)) == 1
