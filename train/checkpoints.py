"""The files of a training run: G/D checkpoints, the exported voice, audio samples.

Only the main process writes them.
"""

import contextlib
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from accelerate.utils import gather
from torch import Tensor

from lib.config import FamilyConfig
from lib.errors import CheckpointError, MissingFileError, RevoiceError, WriteError
from lib.files import sha256_of
from lib.messages import Message
from lib.voice.model_file import SPEAKER_NAMES, ContentEncoderId, extract_voice_model, write_voice_model
from lib.voice.training_state import (
    GENERATOR,
    TrainingState,
    optimizer_for,
    read_training_state,
    write_training_state,
)
from lib.voice.weights import Weights, load_weights, rvc_state_dict
from train.checkpoint_index import CheckpointIndex, Pair, find_pairs, read_index
from train.dataset import ClipDataset
from train.distributed import any_process
from train.experiment import Experiment
from train.options import FitOptions
from train.pipeline import record
from train.samples import write_sample
from train.speakers import read_table
from train.state import TrainProgress, TrainState

logger = logging.getLogger(__name__)

PRECISION_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}  # Accelerate's -> ours


# --- a pair of training states ----------------------------------------------------------------------------------------


def load_base(state: TrainState, generator: Weights | None, discriminator: Weights | None, where: str) -> None:
    """Load the weights of base models, strictly."""
    if generator is not None:
        load_weights(state.plain_generator, generator, Message("The base generator in {folder}", folder=where))
        state.start_from_base()
    if discriminator is not None:
        load_weights(
            state.plain_discriminator, discriminator, Message("The base discriminator in {folder}", folder=where)
        )


def save_pair(state: TrainState, generator: Path, discriminator: Path) -> None:
    """Write both training states with the same progress and random state; the D file records the G file's SHA-256.

    All processes have to call this, because the random states of all are collected; only the main process writes.
    """
    own = {**vars(state.progress), "from_base": state.from_base, **_random_states(state)}
    if not state.accelerator.is_main_process:
        return
    networks = (
        (generator, state.plain_generator, state.optimizer_g, state.averaged),
        (discriminator, state.plain_discriminator, state.optimizer_d, None),
    )
    for path, network, optimizer, averaged in networks:
        stored = TrainingState(
            weights=rvc_state_dict(network),
            epoch=state.progress.epoch,
            optimizer=optimizer.state_dict(),
            learning_rate=state.learning_rate,
            average=None if averaged is None else rvc_state_dict(averaged),
            extra={"revoice": own if path == generator else own | {GENERATOR: sha256_of(generator)}},
        )
        write_training_state(path, stored)


def resume_newest(state: TrainState, experiment: Experiment) -> "Resumed | None":
    """Resume from the newest intact pair of checkpoints; None if nothing was saved.

    Other pairs are reported in a warning and stay unchanged. All processes use the same pair. Raises CheckpointError if
    there are checkpoints but no intact pair: training never silently restarts from the base models.
    """
    pairs, others = find_pairs(read_index(experiment.folder))
    if not pairs and not any(map(experiment.was_saved, others)):
        for problem in others:
            logger.warning("%s Training starts from the beginning, because no save was completed.", problem)
        return None
    unusable: list[str] = []
    problems: list[RevoiceError] = [*others]
    for pair in pairs:
        failure: CheckpointError | MissingFileError | None = None
        try:
            pair.verify()
            resume_pair(state, *pair.files)
        except (CheckpointError, MissingFileError) as error:
            failure = error
        if not any_process(failure is not None)[0]:
            for skipped in problems:
                logger.warning("%s Training continues from %s.", skipped, pair.generator.name)
            return Resumed(pair, tuple(unusable))
        unusable.append(pair.number)
        if failure is not None:
            problems.append(failure)
    raise CheckpointError(
        "{reason} No other pair of checkpoints is intact. Restore a backup of the files, or move G_*.pth and "
        "D_*.pth out "
        "of {folder} to start again.",
        reason=problems[-1].message, folder=experiment.folder,
    )  # fmt: skip


class Resumed(NamedTuple):
    """The pair from which training resumes, and the numbers of newer pairs that are damaged."""

    pair: Pair
    unusable: tuple[str, ...]


def resume_pair(state: TrainState, generator: Path, discriminator: Path) -> None:
    """Resume from a pair of training states. Raises CheckpointError if they do not belong together or do not match the
    networks."""
    paths = (generator, discriminator)
    stored = [read_training_state(path) for path in paths]
    own, other = (_own_entry(item, path) for item, path in zip(stored, paths, strict=True))
    if stored[0].epoch != stored[1].epoch or own.get("step") != other.get("step"):
        raise CheckpointError(
            "{generator} and {discriminator} are from different training steps. Move the older one out of the folder.",
            generator=generator.name, discriminator=discriminator.name,
        )  # fmt: skip
    networks = (
        (generator, stored[0], state.plain_generator, state.optimizer_g),
        (discriminator, stored[1], state.plain_discriminator, state.optimizer_d),
    )
    moments = [
        (optimizer, optimizer_for(network, item, path.name))
        for path, item, network, optimizer in networks
        if item.optimizer
    ]
    for path, item, network, _ in networks:
        load_weights(network, item.weights, path.name)
    if state.averaged is not None:
        load_weights(state.averaged, stored[0].voice, generator.name)
    if own:
        try:
            _restore_random_state(state, own)
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                "{path} has a damaged random state. Go back to an earlier checkpoint.", path=generator
            ) from error
    for optimizer, state_dict in moments:  # last, so that a refused pair leaves nothing that the next one does not set
        optimizer.load_state_dict(state_dict)
    if own:
        state.progress = TrainProgress(own["epoch"], own["batch"], own["step"], float(own["seconds"]))
        if own.get("from_base"):
            state.start_from_base()
    else:  # written by another program, at the end of an epoch
        state.progress = TrainProgress(epoch=stored[0].epoch)


def _own_entry(stored: TrainingState, path: Path) -> dict[str, Any]:
    """Return what `save_pair` added to a training state; empty in files from other programs.

    Raises CheckpointError if it is damaged.
    """
    own = stored.extra.get("revoice")
    if own is None:
        return {}
    numbers = [own.get(name) for name in ("epoch", "batch", "step", "seconds")] if isinstance(own, dict) else []
    counts = all(type(number) is int and number >= 0 for number in numbers[:3])
    if not (numbers and counts and isinstance(numbers[3], int | float) and 0 <= numbers[3] < float("inf")):
        raise CheckpointError(
            "{path} has a damaged entry 'revoice': the training progress is missing. Go back to an earlier checkpoint.",
            path=path,
        )
    return dict(own)


def _random_states(state: TrainState) -> dict[str, Any]:
    """The random states of all processes, as checkpoints store them."""
    device, states = state.accelerator.device, {}
    kinds = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        kinds["cuda_rng"] = torch.cuda.get_rng_state(device)
    for name, own in kinds.items():
        of_all = gather(own[None].to(device)).cpu()  # [processes, bytes]
        states[name] = of_all[0].clone()
        if len(of_all) > 1:
            states[f"{name}_of_others"] = of_all[1:].clone()
    return states


def _restore_random_state(state: TrainState, own: dict[str, Any]) -> None:
    """Restore the random state of this process; a process that the checkpoint does not cover gets a new seed."""
    index, device = state.accelerator.process_index, state.accelerator.device

    def of_this_process(name: str) -> Tensor | None:
        others = own.get(f"{name}_of_others", [])
        if index == 0:
            return cast(Tensor | None, own.get(name))
        return cast(Tensor, others[index - 1]) if index <= len(others) else None

    cpu, cuda = of_this_process("rng"), of_this_process("cuda_rng")
    if index == 0 or cpu is not None:
        torch.set_rng_state(cast(Tensor, cpu))
    else:
        torch.manual_seed(state.progress.step * state.accelerator.num_processes + index)
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda, device)


# --- the files of an experiment ---------------------------------------------------------------------------------------


class CheckpointManager:
    """Saves the state of a run into its experiment, exports the voice, and deletes this program's older checkpoints.

    The steps of a save are atomic and run in this order: record in `checkpoints.json` that the pair is being written;
    write G; write D; list the pair; update the record of stages; export the voice; delete older pairs. If the process
    is killed in between, `Experiment.recover` and the next save continue from there.
    """

    def __init__(
        self,
        experiment: Experiment,
        options: FitOptions,
        config: FamilyConfig,
        encoder: ContentEncoderId,
        resumed: Resumed | None = None,
    ) -> None:
        self.experiment = experiment
        self.options = options
        self.config = config
        self.encoder = encoder
        table = read_table(experiment)
        named = table.names if table is not None else {}
        self.speaker_names = dict(named) or {options.speaker_id: experiment.name}
        self.newest: Path | None = None  # the last generator checkpoint of this run
        self._resumed = resumed
        self._saved_step = -1

    def save(self, state: TrainState, dataset: ClipDataset) -> None:
        """Write the pair of checkpoints, the voice and a sample, unless there was no step since the last call.

        Right after resuming, only the files missing because the process was killed are written.
        """
        step, folder = state.progress.step, self.experiment.folder
        if step in (0, self._saved_step):
            return
        index = read_index(folder)
        generator, discriminator = index.files_of(str(step))
        is_resumed = self._resumed is not None and self._resumed.pair.files == (generator, discriminator)
        if not is_resumed:
            self._save_pair(state, index)
        self.newest, self._saved_step = generator, step
        if not state.accelerator.is_main_process or (is_resumed and index.exported == step):
            return
        facts, deleted = self._record_of(state, index)
        index.add(
            str(step), state.progress.epoch, step, delete=deleted, record=self.experiment.record() | {"fit": facts}
        )
        record(self.experiment, "fit", **facts)
        self._export_voice(state)
        index.finish(exported=step)
        try:
            write_sample(state.voice, dataset, folder, step, state.accelerator.device)
        except (RevoiceError, OSError) as error:  # training does not depend on it
            logger.warning("no audio sample was written: %s", error)

    def _save_pair(self, state: TrainState, index: CheckpointIndex) -> None:
        """Write both files; if that fails, neither of them is kept."""
        step, is_main = state.progress.step, state.accelerator.is_main_process
        if is_main:
            index.begin(str(step))
        with contextlib.ExitStack() as on_failure:
            if is_main:
                on_failure.callback(_abandon, index)
            save_pair(state, *index.files_of(str(step)))
            on_failure.pop_all()

    def _record_of(self, state: TrainState, index: CheckpointIndex) -> tuple[dict[str, Any], list[str]]:
        """The record of the stage after a save, and the numbers of the pairs that it replaces."""
        step, unusable = state.progress.step, self._resumed.unusable if self._resumed else ()
        # The process can be killed between index and record, so either can list a pair that the other lacks.
        own = {*self.experiment.stage("fit").get("checkpoints", []), *map(int, index.pairs)}
        known = sorted(number for number in own - {step} if str(number) not in unusable)
        kept = [*known, step][-self.options.keep_checkpoints :]
        facts = {
            "voice": str(self.experiment.voice),
            "checkpoints": kept,
            "precision": PRECISION_NAMES[state.accelerator.mixed_precision],
            "batch_size": self.config.train.batch_size,
            "made_from": self.experiment.stage("extract").get("made_from"),
        }
        return facts, [str(number) for number in known if number not in kept]

    def _export_voice(self, state: TrainState) -> None:
        progress = state.progress
        voice = extract_voice_model(state.voice, self.config.family, f"{progress.epoch}epoch", self.encoder)
        facts: dict[str, Any] = {"epoch": progress.epoch, "step": progress.step}
        facts[SPEAKER_NAMES] = {str(number): name for number, name in self.speaker_names.items()}
        extracted = self.experiment.stage("extract")
        facts |= {"training_f0": extracted.get("f0_range")}
        facts |= {"interpolate_unvoiced": extracted.get("interpolate_unvoiced") or None}
        facts |= {"creation_date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        if seconds := self.experiment.stage("prepare").get("seconds"):
            facts["dataset_length"] = str(timedelta(seconds=round(seconds))).zfill(8)  # HH:MM:SS
        voice.extra.update({key: value for key, value in facts.items() if value is not None})
        if self.options.save_every_voice:
            name = f"{self.experiment.name}_e{progress.epoch}_s{progress.step}.pth"
            write_voice_model(self.experiment.voice.with_name(name), voice)
        write_voice_model(self.experiment.voice, voice)


def _abandon(index: CheckpointIndex) -> None:
    with contextlib.suppress(WriteError):  # then the next start cleans up
        index.abandon()
