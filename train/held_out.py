"""Held-out recordings: which are kept from the training, and how well the voice converts them into themselves."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from lib.audio import ANALYSIS_RATE
from lib.audio.filters import resample
from lib.audio.mel import log_mel
from lib.config import FamilyConfig
from lib.errors import ConfigError, MissingFileError
from lib.pitch import ExactExtractor, load_pitch_extractor
from lib.typing import FloatArray
from lib.voice.infer_config import Network
from train.dataset import ClipDataset
from train.experiment import Clip, Experiment
from train.history import Evaluation
from train.options import FitOptions
from train.samples import convert_clip
from train.speakers import Source, Table, read_table

logger = logging.getLogger(__name__)

ENOUGH_SECONDS = 600.0  # of clips, from which recordings are held out by default
SHARE, MIN_SECONDS, MAX_SHARE = 0.05, 20.0, 1 / 3  # of the clips of all speakers together
MAX_EVALUATED = 60.0  # seconds that are converted at every save
PITCH_METHODS = ("swift", "harvest")  # fast ones, the first that is installed; for both sides of the comparison
RECORD = "held_out"  # in the record of an experiment: what is held out, and the voice of the best epoch
Parts = Mapping[str, int]  # file of a recording -> number of its first clip that is held out; 0: all of it


def choose_parts(table: Table) -> dict[str, int]:
    """The recordings to hold out, by speaker: 5 % of the length and together at least 20 s, at most a third.

    The order is that of a hash of the file names, so that more data changes little. Of a single recording it is the
    end. Empty if nothing can be held out.
    """
    parts: dict[str, int] = {}
    speakers = sorted({item.speaker for item in table.recordings if item.clips})
    for speaker in speakers:
        own = [item for item in table.recordings if item.speaker == speaker and item.clips]
        total = sum(item.seconds for item in own)
        wanted = min(max(SHARE * total, MIN_SECONDS / len(speakers)), MAX_SHARE * total)
        parts |= _whole_recordings(own, wanted, MAX_SHARE * total) or _end_of_longest(own, wanted)
    return parts


def _whole_recordings(own: Sequence[Source], wanted: float, limit: float) -> dict[str, int]:
    taken, seconds = dict[str, int](), 0.0
    for item in sorted(own, key=lambda item: hashlib.sha256(item.file.encode(errors="surrogateescape")).digest()):
        if seconds < wanted and seconds + item.seconds <= limit:
            taken[item.file] = 0
            seconds += item.seconds
    return taken


def _end_of_longest(own: Sequence[Source], wanted: float) -> dict[str, int]:
    """The last clips of the longest recording; nothing if no other clip would remain."""
    longest = max(own, key=lambda item: item.seconds)
    first = longest.clips - int(np.ceil(wanted * longest.clips / longest.seconds))
    first = max(first, 2 if len(own) == 1 else 1)  # the clip before it is not used either
    return {longest.file: first} if first < longest.clips else {}


def held_out_parts(experiment: Experiment, options: FitOptions) -> dict[str, int]:
    """What a run holds out. A training that has begun keeps its choice, as far as the recordings still exist.

    ConfigError if recordings are to be held out and there are none that the voice was not trained on.
    """
    table, begun = read_table(experiment), any(experiment.folder.glob("G_*.pth"))
    if options.held_out == "off":
        return {}
    if begun:
        known = {item.file for item in table.recordings} if table else set()
        kept: dict[str, int] = experiment.stage(RECORD).get("parts", {})
        kept = {file: first for file, first in kept.items() if file in known}
        if not kept and options.held_out == "on":
            raise ConfigError(
                "The voice {name!r} has been trained on all of its recordings, so none can be held out. Train it under "
                "another name, or with --held-out off.",
                name=experiment.name,
            )
        return kept
    if table is None or (options.held_out == "auto" and _length(table) < ENOUGH_SECONDS):
        parts = {}
    else:
        parts = choose_parts(table)
    if not parts and options.held_out == "on":
        raise ConfigError(
            "The recordings of {name!r} are too few or too short to hold some of them out. Give more, or train with "
            "--held-out off.",
            name=experiment.name,
        )
    return parts


def _length(table: Table) -> float:
    return sum(item.seconds for item in table.recordings)


class ChosenClips(NamedTuple):
    """The clips of a run."""

    training: list[Clip]  # those of speakers with less material several times
    held_out: list[Clip]
    parts: dict[str, int]


def choose_clips(experiment: Experiment, options: FitOptions) -> ChosenClips:
    """The clips of an experiment with their speakers, to train on and held out. ConfigError as in `held_out_parts`."""
    clips, table = experiment.clips(speaker_id=options.speaker_id), read_table(experiment)
    parts = held_out_parts(experiment, options)
    if table is None:
        return ChosenClips(clips, [], {})
    training, held_out = split_clips(table, table.with_speakers(clips), parts)
    return ChosenClips(table.balanced(training) if options.balance_speakers else training, held_out, parts)


def split_clips(table: Table, clips: Sequence[Clip], parts: Parts) -> tuple[list[Clip], list[Clip]]:
    """The clips to train on, and those held out; the clip before a held-out end overlaps it and is in neither."""
    training, held_out = [], []
    for clip in clips:
        first = parts.get(table.recordings[table.recording_of(clip.name)].file)
        number = int(clip.name.partition("_")[2]) if first is not None else 0
        if first is None or number < first - 1:
            training.append(clip)
        elif number >= first:
            held_out.append(clip)
    return training, held_out


@dataclass
class HeldOut:
    """The held-out clips of a run, of at most a minute, and what is measured on them."""

    dataset: ClipDataset
    pitch: ExactExtractor | None
    _real: dict[int, tuple[FloatArray, FloatArray]] = field(default_factory=dict)  # mel and F0 of each clip

    def evaluate(self, network: Network, device: torch.device, step: int, epoch: int) -> Evaluation:
        """Convert all clips with the network and compare. The random state of the training does not change."""
        config, before = self.dataset.config, torch.get_rng_state()
        distances, cents, unequal = [], [], []
        for number in range(len(self.dataset)):
            real, made = (sound.numpy()[0] for sound in convert_clip(network, self.dataset, number, device))
            mel, f0 = self._real.setdefault(number, self._analyse(real, config))
            other_mel, other_f0 = self._analyse(made, config)
            distances.append(np.abs(mel - other_mel).mean(0))
            both = (f0 > 0) & (other_f0 > 0)
            cents.append(np.abs(1200 * np.log2(other_f0[both] / f0[both])))
            unequal.append((f0 > 0) != (other_f0 > 0))
        torch.set_rng_state(before)
        together = np.concatenate(cents)
        error = float(np.median(together)) if len(together) else None
        voicing = float(np.concatenate(unequal).mean()) if self.pitch else None
        return Evaluation(step, epoch, float(np.concatenate(distances).mean()), error, voicing)

    def _analyse(self, audio: FloatArray, config: FamilyConfig) -> tuple[FloatArray, FloatArray]:
        """Log mel (bands, F) and F0 (N,) in Hz of (T,) at the voice's rate; F0 is empty without a pitch method."""
        mel = log_mel(torch.from_numpy(audio)[None], config.audio)[0].numpy()
        if self.pitch is None:
            return mel, np.zeros(0, np.float32)
        return mel, self.pitch(resample(audio, config.audio.sample_rate, ANALYSIS_RATE))


def make_held_out(clips: Sequence[Clip], config: FamilyConfig) -> HeldOut:
    """What to measure on the held-out clips of a training."""
    rng = np.random.default_rng(0)
    order = [clips[i] for i in rng.permutation(len(clips))]  # of all recordings and speakers
    dataset = ClipDataset([replace(clip, augmented=None) for clip in order], config, seed=0)
    lengths = np.cumsum(dataset.frames) / 100
    count = max(1, int(np.searchsorted(lengths, MAX_EVALUATED)))
    dataset.clips, dataset.frames = dataset.clips[:count], dataset.frames[:count]
    logger.info("held out: %d clips, of which %.0f s are converted at every save", len(clips), lengths[count - 1])
    return HeldOut(dataset, _pitch_method() if config.synthesizer.has_f0 else None)


def _pitch_method() -> ExactExtractor | None:
    for method in PITCH_METHODS:
        try:
            return load_pitch_extractor(method, torch.device("cpu"))
        except (ConfigError, MissingFileError):
            continue
    return None


def to_event(found: Evaluation) -> dict[str, Any]:
    """The facts of an event of stage "held_out"."""
    facts = {"epoch": found.epoch, "mel": found.mel, "f0_cents": found.f0_cents, "voicing": found.voicing}
    return {key: None if value is None else round(value, 5) for key, value in facts.items()}
