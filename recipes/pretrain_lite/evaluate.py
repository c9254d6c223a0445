# ruff: noqa: RUF001 - Turkish has letters like others
"""What the content encoder keeps and what it drops, measured on real recordings of two readers.

Needs a reference alignment: a JSON file {clip name: [[phone, start, end], ...]} in seconds with the CMU dictionary's
phones in lower case, as a forced aligner writes it. Nothing measured here may be used for training.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch

from lib.content import content_frames, load_content_encoder
from lib.errors import ConfigError, MissingFileError
from lib.models.lite_encoder import SAMPLE_RATE, LiteEncoder, normalised_log_mel, power_spectrum
from lib.pitch import load_pitch_extractor
from recipes.pretrain_lite.labels import english_phones, frame_phones
from recipes.pretrain_lite.options import EvaluateOptions
from recipes.pretrain_lite.speech import Manner, espeak
from recipes.pretrain_lite.utterance import SILENCE

Array = npt.NDArray[Any]
Features = Callable[[Array], Array]
NOISE_DB = 20.0
# Two languages that the encoder never heard, and a manner of speaking; each by a man's and a woman's variant.
UNHEARD: dict[str, tuple[str, tuple[str, str], tuple[str, ...]]] = {
    "Turkish": ("tr", ("m3", "f2"), (
        "Sabah erkenden kalkıp denize doğru yürüdük.", "Kitabı masanın üstünde unuttum.",
        "Yarın hava güzel olursa pazara gideceğiz.", "Komşumuzun küçük kızı piyano çalıyor.",
        "Bu akşam yemekte ne pişirelim?", "Tren istasyona yarım saat geç geldi.",
    )),
    "Hungarian": ("hu", ("m3", "f2"), (
        "A kutya a kert végében alszik az árnyékban.", "Holnap reggel korán indulunk a hegyekbe.",
        "Nem tudom, hová tettem a szemüvegemet.", "A gyerekek egész délután a patak partján játszottak.",
        "Kérek egy pohár hideg vizet és két zsemlét.", "Az öreg hídon lassan mentek át a szekerek.",
    )),
    "whispered English": ("en-us", ("whisper", "f2"), (
        "The boat was waiting for us near the old bridge.", "Nobody had seen the letter before this morning.",
        "We shall keep the window open until the rain begins.", "She put five green apples into a paper bag.",
        "He asked them to speak more quietly in the library.", "Both of the judges were pleased with the choice.",
    )),
}  # fmt: skip
_TIED = {"zh": "sh", "ao": "aa"}  # the usual merging of phones that references confuse themselves


class Clip(NamedTuple):
    """A real recording: (T,) audio at 16 kHz and, if aligned, its phones with end times."""

    name: str
    audio: Array
    phones: list[tuple[str, float]] | None


def read_clips(folder: Path, pattern: str, alignment: dict[str, Any]) -> list[Clip]:
    """Every clip of `folder` that matches, as 16 kHz mono, with its alignment if there is one."""
    clips = []
    for path in sorted(folder.glob(pattern)):
        audio, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        samples = soxr.resample(audio.mean(axis=1), sample_rate, SAMPLE_RATE)
        aligned = alignment.get(path.stem)
        phones = [(english_phones(name)[0], float(end)) for name, _, end in aligned] if aligned else None
        clips.append(Clip(path.stem, samples, phones))
    if not clips:
        raise MissingFileError(folder / pattern, "Give the folder of the reader's clips.")
    return clips


def spoken_clips(voice: str, variant: str, texts: Sequence[str]) -> list[Clip]:
    """Sentences by a variant of an espeak-ng voice, with its phones; English ones in the common set."""
    clips = []
    for text in texts:
        said = espeak().say(f"{voice}+{variant}", text, Manner(1.0, 100.0, 15.0), 50)
        audio = soxr.resample(said.audio, said.sample_rate, SAMPLE_RATE)
        phones = (
            [(english_phones(name)[0], end) for name, end in said.phones] if voice.startswith("en") else said.phones
        )
        clips.append(Clip(text, audio, phones))
    return clips


def with_noise(clip: Clip) -> Clip:
    """The clip with white noise NOISE_DB below its power, the same each time."""
    noise = np.random.default_rng(0).standard_normal(len(clip.audio))
    level = np.sqrt(np.mean(np.square(clip.audio))) * 10 ** (-NOISE_DB / 20)
    return clip._replace(audio=(clip.audio + level * noise).astype(np.float32))


def labelled_frames(clips: Sequence[Clip], features: Features) -> tuple[Array, Array]:
    """(F, C) features and (F,) phones of the aligned clips, without silence."""
    rows, names = [], []
    for clip in clips:
        if clip.phones:
            rows.append(features(clip.audio))
            names += frame_phones(clip.phones, len(rows[-1]))
    phones = np.array([_TIED.get(name, name) for name in names])
    spoken = phones != SILENCE
    return np.concatenate(rows)[spoken], phones[spoken]


def neighbour_agreement(query: tuple[Array, Array], stock: tuple[Array, Array]) -> float:
    """Share of query frames whose nearest frame by cosine in `stock` is of the same phone."""
    first, second = (rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9) for rows, _ in (query, stock))
    nearest = (first @ second.T).argmax(axis=1)
    return float((stock[1][nearest] == query[1]).mean())


def ridge_predictions(
    rows: Sequence[Array], targets: Sequence[Array], groups: Sequence[int], penalty: float = 10.0
) -> list[Array]:
    """Per clip, what a ridge regression on all other clips predicts: (F, C), (F,) -> (F,) each.

    Clips of one group count together as much as those of any other group, in every fit anew; otherwise the prediction
    for a clip would lean away from its own group, which has one clip less.
    """
    predictions = []
    for left_out in range(len(rows)):
        others = [place for place in range(len(rows)) if place != left_out]
        x, y = np.concatenate([rows[i] for i in others]), np.concatenate([targets[i] for i in others])
        group = np.concatenate([np.full(len(rows[i]), groups[i]) for i in others])
        share = 1.0 / np.bincount(group)[group]
        share = share / share.mean()
        mean, deviation = np.average(x, axis=0, weights=share), x.std(axis=0) + 1e-6
        level = np.average(y, weights=share)
        z = (x - mean) / deviation
        weighted = z * share[:, None]
        solution = np.linalg.solve(weighted.T @ z + penalty * np.eye(z.shape[1]), weighted.T @ (y - level))
        predictions.append((rows[left_out] - mean) / deviation @ solution + level)
    return predictions


def speaker_probe(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Balanced accuracy of a linear classifier that tells the two readers' frames apart; .50 is chance."""
    rows = [*first, *second]
    groups = [0] * len(first) + [1] * len(second)
    signs = [np.full(len(item), 1.0 - 2.0 * group) for item, group in zip(rows, groups, strict=True)]
    right = [np.sign(g) == s for g, s in zip(ridge_predictions(rows, signs, groups), signs, strict=True)]
    return float((np.concatenate(right[: len(first)]).mean() + np.concatenate(right[len(first) :]).mean()) / 2)


def f0_readable(clips: Sequence[Clip], features: Features) -> float:
    """R² of a linear reading of log F0 around its mean in the clip, from single voiced frames of clips left out."""
    extractor = load_pitch_extractor("pm", torch.device("cpu"))
    rows, targets = [], []
    for clip in clips:
        content, f0 = features(clip.audio), extractor(clip.audio)
        at_frames = f0[np.minimum(2 * np.arange(len(content)) + 1, len(f0) - 1)]
        log_f0 = np.log(at_frames[at_frames > 0])
        rows.append(content[at_frames > 0])
        targets.append(log_f0 - log_f0.mean())
    truth = np.concatenate(targets)
    wrong = np.concatenate(ridge_predictions(rows, targets, [0] * len(rows))) - truth
    return float(1 - wrong.var() / truth.var())


def best_path(scores: Array, stay: float = 2.5) -> list[int]:
    """(F, P) log probabilities -> the phones of the best path, where every change of phone costs `stay`."""
    total, came_from = scores[0].copy(), np.zeros(scores.shape, dtype=np.int64)
    for frame in range(1, len(scores)):
        change = total.max() - stay
        came_from[frame] = np.where(total >= change, np.arange(len(total)), total.argmax())
        total = np.maximum(total, change) + scores[frame]
    path = [int(total.argmax())]
    for frame in range(len(scores) - 1, 0, -1):
        path.append(int(came_from[frame, path[-1]]))
    path.reverse()
    return [phone for place, phone in enumerate(path) if place == 0 or phone != path[place - 1]]


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Insertions, deletions and substitutions between two sequences."""
    row = list(range(len(second) + 1))
    for place, item in enumerate(first, 1):
        previous, row[0] = row[0], place
        for column, other in enumerate(second, 1):
            previous, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, previous + (item != other))
    return row[-1]


def phone_error_rate(clips: Sequence[Clip], state_file: Path) -> float:
    """Edit distance between recognised and reference phones over the number of reference phones."""
    state = torch.load(state_file, weights_only=True)
    options, averaged = json.loads(state["options"]), state["averaged"]
    network = LiteEncoder(options["channels"], options["blocks"], options["kernel_size"]).eval()
    prefix = "encoder."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in averaged.items() if k.startswith(prefix)})
    english = [(place, name[3:]) for place, name in enumerate(state["classes"]) if name.startswith("en/")]
    errors = length = 0
    for clip in clips:
        if clip.phones is None:
            continue
        with torch.inference_mode():
            content = network(torch.from_numpy(clip.audio)[None])[0]
            scores = (content @ averaged["head.weight"].T + averaged["head.bias"])[:, [place for place, _ in english]]
        heard = [english[phone][1] for phone in best_path(scores.log_softmax(-1).numpy())]
        pairs = [[_TIED.get(p, p) for p in names if p != SILENCE] for names in (heard, [p for p, _ in clip.phones])]
        errors, length = errors + edit_distance(*pairs), length + len(pairs[1])
    return errors / length


def log_mel_features(audio: Array) -> Array:
    """(T,) -> (F, 9 * 80): normalised log mel with nine frames of context; what the encoder has to beat."""
    samples = torch.from_numpy(audio)[None]
    log_mel = normalised_log_mel(power_spectrum(samples) @ LiteEncoder(8, 1).filters)[0].T.numpy()  # [M, C]
    frames = content_frames(len(audio))
    padded = np.pad(log_mel, ((4, 4), (0, 0)), mode="edge")
    return np.concatenate([padded[shift : shift + 2 * frames : 2] for shift in range(9)], axis=1)


def real_time_factor(features: Features, seconds: int = 20) -> float:
    """Processor seconds per second of audio, the best of five."""
    audio = np.random.default_rng(0).normal(0, 0.1, seconds * SAMPLE_RATE).astype(np.float32)
    times = []
    for _ in range(5):
        started = time.process_time()
        features(audio)
        times.append(time.process_time() - started)
    return min(times) / seconds


def evaluate(options: EvaluateOptions) -> str:
    """All figures as lines of text."""
    if not options.alignment.is_file():
        raise MissingFileError(options.alignment, "Make it with a forced aligner, as the module's first lines say.")
    torch.set_num_threads(1)
    alignment = json.loads(options.alignment.read_text(encoding="utf-8"))
    readers = [
        read_clips(options.first, "*.flac", alignment),
        read_clips(options.second, options.second_pattern, alignment),
    ]
    if any(all(clip.phones is None for clip in clips) for clips in readers):
        raise ConfigError(
            "{path} has no clip of one of the readers. Align at least one clip of each.", path=options.alignment
        )
    encoder = load_content_encoder("lite", torch.device("cpu"))
    lines = []
    for name, features in (("content", encoder), ("log-mel, 9 frames", log_mel_features)):
        first, second = (labelled_frames(clips, features) for clips in readers)
        probe = speaker_probe(*[[features(clip.audio) for clip in clips] for clips in readers])
        lines.append(
            f"{name}: agreement second->first {neighbour_agreement(second, first):.3f}"
            f" first->second {neighbour_agreement(first, second):.3f}, reader probe {probe:.3f},"
            f" F0 R2 {f0_readable([*readers[0], *readers[1]], features):.3f}"
        )
    lines.append(f"real-time factor on one thread: {real_time_factor(encoder):.4f}")
    if options.state.is_file():
        rates = [phone_error_rate(clips, options.state) for clips in readers]
        noisy = [phone_error_rate([with_noise(clip) for clip in clips], options.state) for clips in readers]
        lines.append(
            f"phone error rate: first {100 * rates[0]:.1f} %, second {100 * rates[1]:.1f} %; with noise at "
            f"{NOISE_DB:.0f} dB {100 * noisy[0]:.1f} % and {100 * noisy[1]:.1f} %"
        )
    for name, (voice, variants, texts) in UNHEARD.items():
        man, woman = (labelled_frames(spoken_clips(voice, variant, texts), encoder) for variant in variants)
        lines.append(
            f"{name}: agreement {variants[1]}->{variants[0]} {neighbour_agreement(woman, man):.3f}"
            f" {variants[0]}->{variants[1]} {neighbour_agreement(man, woman):.3f}"
        )
    return "\n".join(lines)
