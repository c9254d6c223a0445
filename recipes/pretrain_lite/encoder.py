"""Training of the lite content encoder: name the phone of every frame, and name it alike in every voice."""

import json
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.content.lite import WEIGHTS_FILE
from lib.errors import MissingFileError
from lib.files import replacing
from lib.models.lite_encoder import WIDTH, LiteEncoder
from lib.progress import Progress, no_progress
from recipes.pretrain_lite.corpus import FOLDER
from recipes.pretrain_lite.labels import UNKNOWN
from recipes.pretrain_lite.options import EncoderOptions
from train.augment import changed_view

logger = logging.getLogger(__name__)

HOP_LENGTH = 320  # samples per content frame
WINDOW_SURPLUS = 80  # samples a window is longer than a hop
IGNORED = -100  # label of frames that are not trained on
RARE = 50  # frames; a phone with fewer is ignored


class Stream(NamedTuple):
    """One file of the corpus as a stream of whole frames: audio (F * 320,) int16, labels (F,) int64, class range."""

    name: str
    audio: npt.NDArray[np.int16]
    labels: npt.NDArray[np.int64]
    first_class: int
    last_class: int


class Corpus(NamedTuple):
    """All streams, and the class names as "<phone set>/<phone>"."""

    streams: list[Stream]
    classes: list[str]


def read_stream(path: Path) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.str_]]:
    """(F * 320,) int16 audio and (F,) str phones of one corpus file; utterances are cut to whole frames."""
    with np.load(path, allow_pickle=False) as arrays:
        audio, lengths = arrays["audio"], arrays["lengths"]
        phones = arrays["names"][arrays["labels"]]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    pieces = [
        audio[start : start + (length - WINDOW_SURPLUS) // HOP_LENGTH * HOP_LENGTH]
        for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate(pieces), phones


def read_corpus(folder: Path) -> Corpus:
    """Every file of a corpus; phones are numbered per phone set, rare ones are ignored."""
    paths = sorted(folder.glob("*/*.npz"))
    if not paths:
        raise MissingFileError(folder, "Make the corpus first: python -m recipes.pretrain_lite corpus")
    found = [(path, *read_stream(path)) for path in paths]
    counts: dict[str, Counter[str]] = {}
    for path, _, phones in found:
        names, frequency = np.unique(phones, return_counts=True)
        counts.setdefault(path.parent.name, Counter()).update(
            dict(zip(names.tolist(), frequency.tolist(), strict=True))
        )
    classes: list[str] = []
    ranges: dict[str, tuple[int, int]] = {}
    for phone_set, counter in sorted(counts.items()):
        kept = sorted(name for name, count in counter.items() if count >= RARE and name != UNKNOWN)
        ranges[phone_set] = (len(classes), len(classes) + len(kept))
        classes += [f"{phone_set}/{name}" for name in kept]
    number = {name: place for place, name in enumerate(classes)}
    streams = []
    for path, audio, phones in found:
        phone_set = path.parent.name
        names, inverse = np.unique(phones, return_inverse=True)
        codes = np.array([number.get(f"{phone_set}/{name}", IGNORED) for name in names], dtype=np.int64)
        streams.append(Stream(f"{phone_set}/{path.stem}", audio, codes[inverse], *ranges[phone_set]))
    return Corpus(streams, classes)


class Crops(NamedTuple):
    """A batch: audio (B, T), labels (B, F), and per item the classes it may be (B, classes), boolean."""

    audio: Tensor
    labels: Tensor
    possible: Tensor


def draw_crops(corpus: Corpus, count: int, frames: int, rng: np.random.Generator) -> Crops:
    """`count` crops of `frames` content frames, every second of the corpus equally likely."""
    sizes = np.array([max(len(stream.labels) - frames, 1) for stream in corpus.streams], dtype=np.float64)
    audio = np.zeros((count, frames * HOP_LENGTH + WINDOW_SURPLUS), dtype=np.float32)
    labels = np.full((count, frames), IGNORED, dtype=np.int64)
    possible = np.zeros((count, len(corpus.classes)), dtype=bool)
    for row, place in enumerate(rng.choice(len(corpus.streams), size=count, p=sizes / sizes.sum())):
        stream = corpus.streams[place]
        start = int(rng.integers(max(len(stream.labels) - frames, 0) + 1))
        piece = stream.audio[start * HOP_LENGTH :][: audio.shape[1]]
        audio[row, : len(piece)] = piece / np.float32(32768)
        known = stream.labels[start : start + frames]
        labels[row, : len(known)] = known
        possible[row, stream.first_class : stream.last_class] = True
    return Crops(torch.from_numpy(audio), torch.from_numpy(labels), torch.from_numpy(possible))


class PhoneTeacher(nn.Module):
    """The encoder with the phone head it is trained by; the head is not shipped."""

    def __init__(self, options: EncoderOptions, classes: int) -> None:
        super().__init__()
        self.encoder = LiteEncoder(options.channels, options.blocks, options.kernel_size)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N_MELS, M) -> content (B, F, 256) and phone scores (B, F, classes)."""
        content = self.encoder.features(log_mel)
        return content, self.head(content)


def phone_loss(scores: Tensor, labels: Tensor, possible: Tensor) -> Tensor:
    """Cross-entropy over the phones of each item's own phone set: (B, F, classes), (B, F), (B, classes) -> scalar."""
    scores = scores.float().masked_fill(~possible[:, None], -1e4)
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def view_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine distance of the frames of two views: (B, F, C) twice -> scalar, 0 to 2."""
    return 1 - F.cosine_similarity(first, second, dim=2).mean()


def phone_contrast(content: Tensor, labels: Tensor, crops: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrast (Khosla et al. 2020) of frames (N, C) with labels (N,) from the crops (N,) -> scalar.

    A frame's neighbours in other recordings shall have its phone, whoever speaks. That is what retrieval asks of
    features; neighbours in its own recording are too easy to find.
    """
    similarity = F.normalize(content, dim=1) @ F.normalize(content, dim=1).T / temperature
    elsewhere = crops[:, None] != crops
    log_share = similarity.masked_fill(~elsewhere, -1e4).log_softmax(1)
    same = (labels[:, None] == labels) & elsewhere
    counts = same.sum(1)
    mean = (log_share * same).sum(1) / counts.clamp(min=1)
    return -mean.sum() / (counts > 0).sum().clamp(min=1)  # a frame without such neighbours has a sum of 0


class EncoderTrainer:
    """Everything the training changes; a saved state continues as if it had not stopped."""

    def __init__(self, options: EncoderOptions, corpus: Corpus, folder: Path) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.corpus = corpus
        self.state_file = folder / "encoder_state.pt"
        self.model = PhoneTeacher(options, len(corpus.classes))
        self.averaged = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), options.learning_rate, (0.9, 0.98), weight_decay=0.02
        )
        self.step = 0

    def learning_rate(self) -> float:
        """A short rise, then half a cosine down to 2 %."""
        rise = min(1.0, (self.step + 1) / 150)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.options.steps))
        return self.options.learning_rate * rise * (0.02 + 0.98 * fall)

    def train_step(self) -> dict[str, float]:
        """One step on crops that follow from the seed and the step number; returns the losses."""
        options = self.options
        numbers = np.random.default_rng((options.seed, self.step))
        noise = torch.Generator().manual_seed(int(numbers.integers(2**62)))
        crops = draw_crops(self.corpus, options.batch_size, round(options.crop_seconds * 50), numbers)
        filters = self.model.encoder.filters
        with torch.no_grad():
            views = torch.cat([changed_view(crops.audio, filters, noise) for _ in range(2)])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            content, scores = self.model(views)
        phones = phone_loss(scores, crops.labels.repeat(2, 1), crops.possible.repeat(2, 1))
        distance = view_distance(*content.chunk(2))
        labels = crops.labels.repeat(2, 1).flatten()
        known = torch.nonzero(labels != IGNORED)[:, 0]
        drawn = known[torch.randperm(len(known), generator=noise)[: options.contrast_frames]]
        frames_of_a_view = crops.labels.numel()
        crop = drawn % frames_of_a_view // crops.labels.shape[1]
        contrast = phone_contrast(content.flatten(0, 1)[drawn].float(), labels[drawn], crop)
        growth = min(1.0, self.step / 300)
        self.optimizer.zero_grad(set_to_none=True)
        (phones + growth * (options.consistency * distance + options.contrast * contrast)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average()
        self.step += 1
        return {
            "phones": phones.item(),
            "distance": distance.item(),
            "contrast": contrast.item(),
            "gradient": norm.item(),
        }

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the present ones; quickly at first, when the average means little."""
        decay = min(self.options.average, (self.step + 1) / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write the state from which `resume` continues."""
        state = {
            "step": self.step,
            "options": self.options.model_dump_json(),
            "classes": self.corpus.classes,
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.state_file) as path:
            torch.save(state, path)

    def resume(self) -> bool:
        """Continue from the saved state if there is one with the same options and phones; returns whether."""
        if not self.state_file.is_file():
            return False
        state: dict[str, Any] = torch.load(self.state_file, weights_only=True)
        if state["options"] != self.options.model_dump_json() or state["classes"] != self.corpus.classes:
            logger.warning("%s was made with other options or another corpus; starting anew", self.state_file)
            return False
        self.model.load_state_dict(state["model"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return True


def encoder_weights(averaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights of the encoder alone, in float16."""
    prefix = "encoder."
    kept = {name.removeprefix(prefix): value for name, value in averaged.items() if name.startswith(prefix)}
    return {name: value.half().contiguous() for name, value in kept.items()}


def write_encoder(averaged: dict[str, Tensor], options: EncoderOptions, path: Path) -> None:
    """Write the shipped file: float16 weights, and the shape of the network as text beside them."""
    about = {key: str(getattr(options, key)) for key in ("channels", "blocks", "kernel_size", "seed", "steps")}
    with replacing(path) as temporary:
        safetensors.torch.save_file(encoder_weights(averaged), temporary, metadata={"content_encoder": "lite", **about})


def train_encoder(
    options: EncoderOptions, folder: Path = FOLDER, target: Path = WEIGHTS_FILE, progress: Progress = no_progress
) -> Path:
    """Train on folder/corpus, save states and a log in `folder`, write the encoder to `target`."""
    torch.set_num_threads(options.threads)
    trainer = EncoderTrainer(options, read_corpus(folder / "corpus"), folder)
    streams = trainer.corpus.streams
    hours = sum(len(stream.labels) for stream in streams) / 50 / 3600
    logger.info("%.2f h in %d files, %d phones", hours, len(streams), len(trainer.corpus.classes))
    if trainer.resume():
        logger.info("continuing at step %d", trainer.step)
    started = time.monotonic()
    with (folder / "encoder_log.jsonl").open("a", encoding="utf-8") as log:
        while trainer.step < options.steps:
            losses = trainer.train_step()
            if trainer.step % 20 == 0:
                seconds = time.monotonic() - started
                log.write(json.dumps({"step": trainer.step, "seconds": round(seconds, 1), **losses}) + "\n")
                log.flush()
            if trainer.step % options.save_every == 0 or trainer.step == options.steps:
                trainer.save()
            progress(trainer.step, options.steps, "train encoder")
    write_encoder(trainer.averaged, options, target)
    return target
