"""Train the base generator and discriminator of the lite family on the recordings of many synthetic speakers.

The project's own stages do it: each speaker is prepared and extracted as an experiment of its own, and one training
runs over all their clips. Speaker 0 of the result is the mean of the others; new voices are trained in its place.
"""

import json
from itertools import islice

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.audio.decode import load_audio
from lib.config import load_family
from lib.content import lite
from lib.errors import MissingFileError
from lib.files import replacing
from lib.paths import LOGS, PRETRAINED
from lib.progress import Progress, no_progress
from lib.voice.training_state import read_training_state
from lib.voice.weights import Weights
from recipes.pretrain_lite.options import BaseOptions, TurnOptions
from train.experiment import Clip, Experiment
from train.extract import extract
from train.loop import FitReport, fit
from train.options import ExtractOptions, FitOptions, PrepareOptions
from train.preprocess import prepare_stage

SPEAKERS = LOGS / "pretrain_lite" / "base"  # one folder of recordings per speaker
RUNS = LOGS / "pretrain_lite" / "base_runs"
CLIPS_TO_TURN_BY = 12  # of every speaker
FIRST_SPEAKER = 1  # 0 is the place of the voice that is trained later


def train_base(options: BaseOptions, progress: Progress = no_progress) -> str:
    """Prepare, extract, train (or continue), and write pretrained/lite/{G,D}.safetensors."""
    folders = sorted(path for path in SPEAKERS.iterdir() if path.is_dir()) if SPEAKERS.is_dir() else []
    if not folders:
        raise MissingFileError(SPEAKERS, "Make the recordings first: python -m recipes.pretrain_lite base-corpus")
    family = load_family("lite").model_copy(update={"views": 0})  # so many speakers are guises enough
    clips: list[Clip] = []
    for speaker_id, folder in enumerate(folders, start=FIRST_SPEAKER):
        experiment = Experiment(folder.name, RUNS, RUNS / "voices")
        prepare_stage(experiment, folder, family, PrepareOptions(), progress)
        extract(experiment, ExtractOptions(device=options.device), progress)
        clips += experiment.clips(speaker_id=speaker_id)
    whole = Experiment("all", RUNS, RUNS / "voices")
    whole.create(family)
    fit_options = FitOptions(
        epochs=options.epochs,
        max_minutes=options.max_minutes,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        base=options.from_shipped,
    )
    report = fit(whole, fit_options, progress, clips)
    return export_base(report, [folder.name for folder in folders], options)


def export_base(report: FitReport, speakers: list[str], options: BaseOptions) -> str:
    """Write the newest checkpoints as half-precision safetensors that say how they were made."""
    told = {
        "steps": str(report.steps),
        "epochs": str(report.epochs),
        "speakers": json.dumps(speakers),
        "command": "python -m recipes.pretrain_lite base",
        "options": options.model_dump_json(),
    }
    files = []
    for letter in "GD":
        checkpoint = report.checkpoint.with_name(letter + report.checkpoint.name[1:])
        weights = read_training_state(checkpoint).voice
        if letter == "G":
            weights = with_mean_speaker(weights, len(speakers))
        path = PRETRAINED / "lite" / f"{letter}.safetensors"
        with replacing(path) as temporary:
            save_file({key: value.half().contiguous() for key, value in weights.items()}, temporary, told)
        files.append(path)
    return f"{files[0]}, {files[1]}: {report.steps} steps, mel loss {report.mel_loss}"


def with_mean_speaker(weights: Weights, n_speakers: int) -> Weights:
    """Set the untrained rows of the speaker embedding, the first of all, to the mean of the trained ones."""
    table = weights["emb_g.weight"].clone()
    trained = slice(FIRST_SPEAKER, FIRST_SPEAKER + n_speakers)
    mean = table[trained].mean(0)
    table[:FIRST_SPEAKER] = mean
    table[trained.stop :] = mean
    return weights | {"emb_g.weight": table}


def turn_base(options: TurnOptions, progress: Progress = no_progress) -> str:
    """Make the base generator understand the present encoder instead of the one it was trained with.

    Its first layer is linear in the features, so the best linear map from the new features to the old ones is enough to
    go on from; train the base on afterwards.
    """
    old, new = (lite.load("lite", torch.device("cpu"), path) for path in (options.old_encoder, lite.WEIGHTS_FILE))
    folders = sorted(path for path in SPEAKERS.iterdir() if path.is_dir()) if SPEAKERS.is_dir() else []
    paths = [path for folder in folders for path in islice(sorted(folder.iterdir()), CLIPS_TO_TURN_BY)]
    if not paths:
        raise MissingFileError(SPEAKERS, "Make the recordings first: python -m recipes.pretrain_lite base-corpus")
    before: list[Tensor] = []
    now: list[Tensor] = []
    for done, path in enumerate(paths, start=1):
        audio = load_audio(path, 16_000)
        before.append(torch.from_numpy(old(audio)))
        now.append(torch.from_numpy(new(audio)))
        progress(done, len(paths), "listen with both encoders")
    target = PRETRAINED / "lite" / "G.safetensors"
    with safe_open(target, framework="pt") as file:
        told = file.metadata() or {}
    weights = turned(load_file(target), torch.cat(before), torch.cat(now))
    with replacing(target) as temporary:
        save_file({key: value.half().contiguous() for key, value in weights.items()}, temporary, told)
    return f"{target}: turned to the features of {lite.WEIGHTS_FILE}"


def turned(weights: Weights, old: Tensor, new: Tensor, penalty: float = 1e-3) -> Weights:
    """Generator weights for features `new` (F, C) that do what `weights` did for `old` (F, C): ridge regression."""
    rows = torch.cat([new, torch.ones(len(new), 1)], 1).double()
    square = rows.T @ rows / len(rows)
    solution = torch.linalg.solve(square + penalty * torch.eye(len(square)), rows.T @ old.double() / len(rows))
    matrix, offset = solution[:-1].float(), solution[-1].float()  # old = new @ matrix + offset
    first, bias = weights["enc_p.emb_phone.weight"].float(), weights["enc_p.emb_phone.bias"].float()
    return weights | {"enc_p.emb_phone.weight": first @ matrix.T, "enc_p.emb_phone.bias": bias + first @ offset}
