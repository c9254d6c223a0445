"""Held-out recordings: which ones are excluded from training, and how well the voice reconstructs them."""

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
from lib.speaker import Resemblyzer, SpeakerEncoder
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
    """Choose the recordings to hold out: per file name, the number of the first held-out clip.

    They make up 5% of each speaker's material, at least 20 s over all speakers, and at most a third. The recordings are
    chosen by a hash of their file names, so that adding data hardly changes the choice. If a speaker has only one
    recording, its end is held out. Empty if nothing can be held out.
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
    """Return the recordings that a run holds out, in the form that `choose_parts` returns.

    A run that has started keeps its choice for those recordings that still exist. Raises ConfigError if recordings are
    to be held out but all have been used for training or are too short.
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
            "The recordings of {name!r} are too few or too short to hold some of them out. Add more, or train with "
            "--held-out off.",
            name=experiment.name,
        )
    return parts


def _length(table: Table) -> float:
    return sum(item.seconds for item in table.recordings)


class ChosenClips(NamedTuple):
    """The training clips and held-out clips of a run."""

    training: list[Clip]  # those of speakers with less material several times
    held_out: list[Clip]
    parts: dict[str, int]


def choose_clips(experiment: Experiment, options: FitOptions) -> ChosenClips:
    """Return the clips of an experiment with their speakers, divided into training and held-out clips.

    Raises ConfigError as `held_out_parts` does.
    """
    clips, table = experiment.clips(speaker_id=options.speaker_id), read_table(experiment)
    parts = held_out_parts(experiment, options)
    if table is None:
        return ChosenClips(clips, [], {})
    training, held_out = split_clips(table, table.with_speakers(clips), parts)
    return ChosenClips(table.balanced(training) if options.balance_speakers else training, held_out, parts)


def split_clips(table: Table, clips: Sequence[Clip], parts: Parts) -> tuple[list[Clip], list[Clip]]:
    """Return the clips to train on, and those held out.

    If the end of a recording is held out, the clip before it is in neither list, because it overlaps the end.
    """
    training, held_out = [], []
    for clip in clips:
        first = parts.get(table.recordings[table.recording_of(clip.name)].file)
        number = int(clip.name.partition("_")[2]) if first is not None else 0
        if first is None or number < first - 1:
            training.append(clip)
        elif number >= first:
            held_out.append(clip)
    return training, held_out


class _Analysis(NamedTuple):
    """The analysis of a clip for the comparison."""

    mel: FloatArray  # log mel (bands, F)
    f0: FloatArray  # (N,) Hz; empty without a pitch method
    speaker: FloatArray  # embedding (E,); empty without a speaker encoder


@dataclass
class HeldOut:
    """Evaluates a voice on the held-out clips of a run, at most a minute of them."""

    dataset: ClipDataset
    pitch: ExactExtractor | None
    speaker: SpeakerEncoder | None = None
    _real: dict[int, _Analysis] = field(default_factory=dict)  # of each clip

    def evaluate(self, network: Network, device: torch.device, step: int, epoch: int) -> Evaluation:
        """Convert all clips with the network and compare. Does not change the random state of training."""
        before, pairs = torch.get_rng_state(), list[tuple[_Analysis, _Analysis]]()
        for number in range(len(self.dataset)):
            real, made = (sound.numpy()[0] for sound in convert_clip(network, self.dataset, number, device))
            if number not in self._real:
                self._real[number] = self._analyse(real)
            pairs.append((self._real[number], self._analyse(made)))
        torch.set_rng_state(before)
        distances = [np.abs(real.mel - made.mel).mean(0) for real, made in pairs]
        f0 = np.concatenate([np.stack([real.f0, made.f0]) for real, made in pairs], axis=1)
        both = f0[:, (f0 > 0).all(0)]
        error = float(np.median(np.abs(1200 * np.log2(both[1] / both[0])))) if both.size else None
        voicing = float(((f0[0] > 0) != (f0[1] > 0)).mean()) if f0.size else None
        return Evaluation(
            step, epoch, float(np.concatenate(distances).mean()), error, voicing, self._similarity(pairs)
        )  # fmt: skip

    def _analyse(self, audio: FloatArray) -> _Analysis:
        """Analyse (T,) at the voice's sample rate."""
        config, none = self.dataset.config, np.zeros(0, np.float32)
        mel = log_mel(torch.from_numpy(audio)[None], config.audio)[0].numpy()
        if self.pitch is None and self.speaker is None:
            return _Analysis(mel, none, none)
        resampled = resample(audio, config.audio.sample_rate, ANALYSIS_RATE)
        f0 = none if self.pitch is None else self.pitch(resampled)
        return _Analysis(mel, f0, none if self.speaker is None else self.speaker(resampled))

    def _similarity(self, pairs: Sequence[tuple[_Analysis, _Analysis]]) -> float | None:
        if self.speaker is None:
            return None
        real, made = (np.stack([pair[which].speaker for pair in pairs]) for which in (0, 1))
        return speaker_similarity([clip.speaker_id for clip in self.dataset.clips], real, made)


def speaker_similarity(speakers: Sequence[int], real: FloatArray, made: FloatArray) -> float:
    """Return the mean cosine similarity between converted clips and recordings of their speakers.

    `real` and `made` are unit embeddings (N, E), `speakers` (N,) the speaker numbers. A clip is not compared with
    its own recording, unless its speaker has no other.
    """
    same = np.equal.outer(speakers, speakers)
    others = same & ~np.eye(len(speakers), dtype=bool)
    compared = np.where(others.any(1, keepdims=True), others, same)
    return float(((made @ real.T * compared).sum(1) / compared.sum(1)).mean())


def make_held_out(clips: Sequence[Clip], config: FamilyConfig) -> HeldOut:
    """Build the evaluation of a run on its held-out clips."""
    rng = np.random.default_rng(0)
    order = [clips[i] for i in rng.permutation(len(clips))]  # of all recordings and speakers
    dataset = ClipDataset([replace(clip, augmented=None) for clip in order], config, seed=0)
    lengths = np.cumsum(dataset.frames) / 100
    count = max(1, int(np.searchsorted(lengths, MAX_EVALUATED)))
    dataset.clips, dataset.frames = dataset.clips[:count], dataset.frames[:count]
    logger.info("held out: %d clips, of which %.0f s are converted at every save", len(clips), lengths[count - 1])
    return HeldOut(dataset, _pitch_method() if config.synthesizer.has_f0 else None, _speaker_encoder())


def _pitch_method() -> ExactExtractor | None:
    for method in PITCH_METHODS:
        try:
            return load_pitch_extractor(method, torch.device("cpu"))
        except (ConfigError, MissingFileError):
            continue
    return None


def _speaker_encoder() -> SpeakerEncoder | None:
    """The speaker encoder, if it is installed; loading it does not change the random state of training."""
    with torch.random.fork_rng(devices=[]):
        try:
            return Resemblyzer()
        except ImportError:
            return None


def to_event(found: Evaluation) -> dict[str, Any]:
    """Return the fields of a "held_out" event."""
    facts = found._asdict()
    del facts["step"]
    return {key: None if value is None else round(value, 5) for key, value in facts.items()}
