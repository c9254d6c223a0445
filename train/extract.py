"""Extracts F0 and content features of clips, one `.npy` file each, in RVC's folders and formats."""

import contextlib
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil
import soundfile
import torch

from lib.arrays import read_array
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.audio.encode import save_audio
from lib.config import FamilyConfig
from lib.content import CONTENTVEC, ContentEncoder, casts_encoder, encode_clips, load_content_encoder
from lib.content.lite import LiteContentEncoder
from lib.devices import Precision, choose_device, choose_precision
from lib.errors import AudioError, ConfigError
from lib.files import replacing
from lib.messages import Message
from lib.pitch import ExactExtractor, load_pitch_extractor
from lib.pitch.scale import HOP_LENGTH, fill_unvoiced, hz_to_bins
from lib.progress import Cancelled, Progress, no_progress
from train.distributed import any_process, connect, explaining_lost_processes, minimum
from train.experiment import Clip, Experiment, list_clips
from train.feature_augment import augment_features
from train.options import ExtractOptions
from train.pipeline import fingerprint, is_done, record

if TYPE_CHECKING:
    from accelerate.state import PartialState

logger = logging.getLogger(__name__)

MUTE_SECONDS = 3.0
CPU_SECONDS, GPU_SECONDS = 15.0, 60.0  # of audio computed at once
BYTES_PER_WORKER = 1e9  # what RMVPE and HuBERT take for CPU_SECONDS, roughly


@dataclass(frozen=True)
class ExtractReport:
    """The result of the extract stage."""

    clips: int
    unvoiced: tuple[str, ...]  # names of clips without a single voiced frame
    f0_range: tuple[float, float, float] | None  # Hz: 5 %, 50 % and 95 % of the voiced frames
    pitch_method: str | None
    skipped: bool  # all features existed already


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write a `.npy` file atomically, without pickling."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def extract(experiment: Experiment, options: ExtractOptions, progress: Progress = no_progress) -> ExtractReport:
    """Compute the features of all clips that have none; several processes share the clips.

    Features computed with other settings, with another encoder or from other clips are replaced. Raises ConfigError if
    there are no clips, and AudioError if a clip cannot be read or its features are not finite.
    """
    config = experiment.config()
    names = _clip_names(experiment)
    device = choose_device(options.device).device
    processes = connect(cpu=device.type == "cpu")
    if processes.num_processes > 1:
        device = processes.device
    precision = _precision(experiment, options, config, device)
    encoder, pitch = _networks(config, options, device, precision)
    method, cache_key = (None, None) if pitch is None else (pitch.method, pitch.cache_key)
    augmentations = config.augmentations if isinstance(encoder, LiteContentEncoder) else 0
    made_from = fingerprint(
        experiment.stage("prepare").get("made_from"), encoder.sha256, cache_key, options.interpolate_unvoiced, names,
        *([augmentations] if augmentations else []), *(["bf16"] if precision.encoder != torch.float32 else []),
    )  # fmt: skip
    facts: dict[str, Any] = {
        "content_encoder": encoder.name,
        "precision": "fp32" if precision.analysis == torch.float32 else "bf16",
    }
    clips = _Clips(experiment, encoder, pitch, options, augmentations)
    with explaining_lost_processes(Message("Run the same command to extract the remaining clips.")):
        with processes.main_process_first():
            if processes.is_main_process and not is_done(experiment, "extract", made_from):
                experiment.mark_owned(clips.folders, clear=True)
                record(experiment, "extract", made_from=made_from, **facts)
        missing = [name for name in names if not clips.is_complete(name)]
        processes.wait_for_everyone()  # no process writes before all have listed what is missing
        _extract_missing(clips, missing, device, progress, processes)
    report = _report(experiment, names, method, skipped=not missing)
    if processes.is_main_process and (missing or "f0_range" not in experiment.stage("extract")):
        facts |= {"f0_range": report.f0_range, "interpolate_unvoiced": options.interpolate_unvoiced}
        record(experiment, "extract", made_from=made_from, **facts)
    return report


def _clip_names(experiment: Experiment) -> list[str]:
    """The file names of all clips at 16 kHz. Raises ConfigError if there are none."""
    names = [path.name for path in list_clips(experiment.wavs_16k)]
    if not names:
        raise ConfigError(
            "The training run {name!r} has no clips in {folder}. Prepare the recordings first.",
            name=experiment.name, folder=experiment.wavs_16k,
        )  # fmt: skip
    return names


def _precision(
    experiment: Experiment, options: ExtractOptions, config: FamilyConfig, device: torch.device
) -> Precision:
    """The dtypes of HuBERT and RMVPE. "auto" keeps those of the features the experiment has already."""
    earlier, wanted = experiment.stage("extract"), options.precision
    if wanted == "auto" and "made_from" in earlier:
        wanted = earlier.get("precision", "fp32")
    return choose_precision(wanted, device, casts_encoder=casts_encoder(config.family))


def _networks(
    config: FamilyConfig, options: ExtractOptions, device: torch.device, precision: Precision
) -> tuple[ContentEncoder, ExactExtractor | None]:
    """Return the content encoder, and the pitch method for a voice with F0.

    Raises ConfigError if the encoder is not compatible with the family.
    """
    encoder = load_content_encoder(config.family, device, options.content_encoder, precision.encoder)
    if encoder.width != config.synthesizer.content_width:
        raise ConfigError(
            "The content encoder {encoder!r} computes {width} features per frame, but the {family} family requires "
            "{wanted}. Use the encoder with which this family was trained.",
            encoder=encoder.name, width=encoder.width, family=config.family, wanted=config.synthesizer.content_width,
        )  # fmt: skip
    if not config.synthesizer.has_f0:
        return encoder, None
    return encoder, load_pitch_extractor(options.pitch_method, device, options.crepe_hop_length, precision.analysis)


@dataclass(frozen=True)
class _Clips:
    """Extracts clips of one experiment with the same networks and options."""

    experiment: Experiment
    encoder: ContentEncoder
    pitch: ExactExtractor | None
    options: ExtractOptions
    augmentations: int  # augmented versions of each clip's content features; only for the lite encoder
    # Most packages of pitch methods do not document whether they are thread-safe, and some use threads themselves.
    one_pitch: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folders(self) -> list[Path]:
        """The folders to which features are written."""
        experiment = self.experiment
        content = experiment.content_folder(self.encoder.width)
        return [content, experiment.augmented, experiment.pitch_bins, experiment.f0]

    def extract(self, names: Sequence[str]) -> None:
        """Write F0, bins and content of some clips; content last, because it marks completion."""
        experiment = self.experiment
        audio = [load_audio(experiment.wavs_16k / name, ANALYSIS_RATE) for name in names]
        for name, f0 in zip(names, self._f0(audio), strict=self.pitch is not None):
            save_array(experiment.f0 / f"{name}.npy", f0.astype(np.float64))
            save_array(experiment.pitch_bins / f"{name}.npy", hz_to_bins(f0))
        if isinstance(self.encoder, LiteContentEncoder) and self.augmentations:
            for name, samples in zip(names, audio, strict=True):
                made = augment_features(self.encoder, samples, self.augmentations, name)
                save_array(self.experiment.augmented / f"{Path(name).stem}.npy", made)
        for name, content in zip(names, encode_clips(self.encoder, audio), strict=True):
            if not np.isfinite(content).all():
                path = experiment.wavs_16k / name
                raise AudioError("The content features of {path} are not finite. Remove the clip.", path=path)
            folder = experiment.content_folder(self.encoder.width)
            save_array(folder / f"{Path(name).stem}.npy", content.astype(np.float32))

    def is_complete(self, name: str) -> bool:
        """Whether all output files of a clip exist."""
        folders = [self.experiment.content_folder(self.encoder.width)]
        folders += [self.experiment.augmented] if self.augmentations else []
        files = [folder / f"{Path(name).stem}.npy" for folder in folders]
        if self.pitch is not None:
            files += [folder / f"{name}.npy" for folder in (self.experiment.pitch_bins, self.experiment.f0)]
        return all(file.is_file() for file in files)

    def _f0(self, audio: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        if self.pitch is None:
            return []
        with contextlib.nullcontext() if self.pitch.supports_batch else self.one_pitch:
            curves = self.pitch.batch(audio)
        return [fill_unvoiced(f0) for f0 in curves] if self.options.interpolate_unvoiced else curves


def _extract_missing(
    clips: _Clips, missing: Sequence[str], device: torch.device, progress: Progress, processes: "PartialState"
) -> None:
    """Extract the missing clips in batches, with all processes and threads."""
    on_cpu = device.type == "cpu"
    batches = batches_by_length(clips.experiment.wavs_16k, missing, CPU_SECONDS if on_cpu else GPU_SECONDS)
    before = torch.get_num_threads()
    workers = minimum(cpu_workers(before, psutil.virtual_memory().available)) if on_cpu else 1
    at_once, done = workers * processes.num_processes, 0
    try:
        if workers > 1:
            torch.set_num_threads(1)  # a clip is too short to keep several threads busy
        with ThreadPoolExecutor(workers) as pool:
            for i in range(0, len(batches), at_once):
                _check_cancelled(progress, done, len(missing))
                with processes.split_between_processes(batches[i : i + at_once]) as own:
                    list(pool.map(clips.extract, own))
                done += sum(map(len, batches[i : i + at_once]))
        _check_cancelled(progress, len(missing), len(missing))
    finally:
        torch.set_num_threads(before)


def cpu_workers(threads: int, memory: float) -> int:
    """Return the number of batches computed at once on a CPU: one per thread, limited by the free memory in bytes."""
    return max(1, min(threads, int(memory / BYTES_PER_WORKER)))


def _check_cancelled(progress: Progress, done: int, total: int) -> None:
    """Report the progress; raise Cancelled in every process if one of them has been asked to stop."""
    stop = False
    try:
        progress(done, total, Message("extracting F0 and content features"))
    except Cancelled:
        stop = True
    if any_process(stop)[0]:
        raise Cancelled


def batches_by_length(folder: Path, names: Sequence[str], seconds: float) -> list[list[str]]:
    """Group clips by length, longest first, with at most `seconds` of audio per batch; each clip occurs once."""
    lengths = {name: _seconds(folder / name) for name in names}
    batches: list[list[str]] = []
    for name in sorted(names, key=lambda name: (-lengths[name], name)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > seconds:
            batches.append([])
        batches[-1].append(name)
    return batches


def _seconds(path: Path) -> float:
    """The length of a clip; 0 for a damaged one, which fails when it is read."""
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError:
        return 0.0


def _report(experiment: Experiment, names: list[str], method: str | None, *, skipped: bool) -> ExtractReport:
    curves = {} if method is None else {name: read_array(experiment.f0 / f"{name}.npy") for name in names}
    unvoiced = tuple(name for name, f0 in curves.items() if not f0.any())
    if unvoiced:
        logger.warning("%d of %d clips have no voiced frame, e.g. %s", len(unvoiced), len(names), unvoiced[0])
    f0_range = None
    if len(unvoiced) < len(curves):
        low, middle, high = np.percentile(np.concatenate([f0[f0 > 0] for f0 in curves.values()]), [5, 50, 95])
        f0_range = (float(low), float(middle), float(high))
    return ExtractReport(len(names), unvoiced, f0_range, method, skipped)


def mute_clip(logs: Path, config: FamilyConfig, encoder: ContentEncoder, speaker_id: int) -> Clip:
    """Return RVC's silent clip in `logs/mute`; training on it keeps pauses quiet. `make_mute_clip` writes it.

    Folder names include the feature dimension; encoders other than ContentVec have their own folders, because features
    of equal dimension can differ.
    """
    folder, rate = logs / "mute", config.audio.sample_rate
    content_name = f"3_feature{encoder.width}" if encoder.name == CONTENTVEC else f"3_feature_{encoder.name}"
    return Clip(
        name="mute",
        audio=folder / "0_gt_wavs" / f"mute{rate // 1000}k.wav",
        content=folder / content_name / "mute.npy",
        pitch_bins=folder / "2a_f0" / "mute.wav.npy" if config.synthesizer.has_f0 else None,
        f0=folder / "2b-f0nsf" / "mute.wav.npy" if config.synthesizer.has_f0 else None,
        speaker_id=speaker_id,
    )


def make_mute_clip(clip: Clip, config: FamilyConfig, encoder: ContentEncoder) -> None:
    """Write the missing files of `mute_clip`."""
    rate = config.audio.sample_rate
    silence = np.zeros(round(MUTE_SECONDS * ANALYSIS_RATE), np.float32)
    frames = len(silence) // HOP_LENGTH + 1  # RVC's mute clip has one frame more than the audio
    if not clip.audio.is_file() or soundfile.info(clip.audio).samplerate != rate:
        save_audio(clip.audio, np.zeros(round(MUTE_SECONDS * rate), np.float32), rate)
    if config.family == "lite" or not clip.content.is_file():  # our encoder may have changed since
        save_array(clip.content, encoder(silence))
    if clip.pitch_bins is not None and clip.f0 is not None and not (clip.pitch_bins.is_file() and clip.f0.is_file()):
        save_array(clip.pitch_bins, np.ones(frames, np.int64))
        save_array(clip.f0, np.zeros(frames))
