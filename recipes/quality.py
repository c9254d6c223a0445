"""How a voice sounds, in figures: python -m recipes.quality --voice NAME [--output docs/quality].

Each source is transposed to the height of the voice and converted, and compared with itself (melody, words) and with
held-back recordings of the voice (timbre). The held-back recordings converted into their own voice are the ceiling,
the untouched sources the floor. Needs requirements-quality.txt. Transcripts are read from transcripts.txt beside the
recordings: NAME.flac|text or NAME|text. --synthetic adds sentences by two synthesisers, said for this purpose only.
Word errors of so few clips scatter by a tenth from one noise to another; --repeats 5 takes the mean of five conversions
of every clip, up to 0.4 semitones lower and higher.
"""

import argparse
import html
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infer.convert import VoiceConverter
from infer.load import load_converter
from infer.options import ConvertOptions
from infer.report import ENVELOPE, compare, draw
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import list_recordings, load_audio
from lib.audio.encode import save_audio
from lib.audio.filters import resample
from lib.audio.mel import log_mel
from lib.paths import ROOT
from lib.pitch import load_pitch_extractor
from lib.pitch.scale import suggested_shift
from lib.voice.library import find_index, find_voice
from lib.voice.model_file import read_voice_model

Floats = npt.NDArray[np.float32]
PICTURE_WIDTH, PICTURE_COLOURS = 760, 48
JUMP = 10  # times the step that one sample in a thousand exceeds
CEPSTRA = 14  # the first, loudness, is left out
SPOKEN = (
    "The ship was torn apart on the sharp reef.", "He wrote his last novel there at the inn.",
    "We asked them to send the letter before the end of the week.",
    "They found a small boat on the other side of the river.",
    "She put the flowers on the table next to the window.", "Nobody knew why the train was so late that evening.",
)  # fmt: skip
SPEAKERS = ("rms", "en-US")  # of flite and Pico; the encoder and the base have heard them, but not these sentences
# By itself the recogniser searches so narrowly that it loses what is said in noise: half of the words of one untouched
# source, where with these settings it loses a fifth.
WIDE_SEARCH: dict[str, Any] = {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-60, "maxhmmpf": -1}
SPREAD = 0.4  # semitones between the repeated conversions of a clip and the one at the voice's height
PAUSE_DB = -40.0  # below the loudest frame: what counts as a pause


@dataclass(frozen=True)
class Row:
    """The figures of one clip."""

    name: str
    to_voice: float  # cosine of speaker embeddings
    to_source: float
    source_to_voice: float
    f0_correlation: float
    cents: float
    voicing: float
    word_errors: float | None
    source_word_errors: float | None
    pause_db: float  # loudness in the source's pauses, relative to its speech
    dc: float
    jumps: int  # between neighbouring samples, as at a badly joined place
    stoi: float | None  # intelligibility and quality against the source, where the source is what should come out,
    pesq: float | None
    mcd: float | None  # and cepstral distance to it in dB
    clipped: int

    def cells(self) -> list[str]:
        """The figures as text."""
        words = [_number(value) for value in (self.word_errors, self.source_word_errors)]
        return [
            self.name, f"{self.to_voice:.3f}", f"{self.to_source:.3f}", f"{self.source_to_voice:.3f}",
            f"{self.f0_correlation:.3f}", f"{self.cents:.0f}", f"{self.voicing:.3f}", *words, _number(self.pause_db, 0),
            f"{self.dc:.4f}", f"{self.jumps:.0f}", *map(_number, (self.stoi, self.pesq, self.mcd)), str(self.clipped),
        ]  # fmt: skip


def _number(value: float | None, decimals: int = 2) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{decimals}f}"


HEADS = [
    "clip", "to voice", "to source", "source to voice", "F0 corr.", "cents", "voicing", "word errors", "of the source",
    "pauses dB", "DC", "jumps", "STOI", "PESQ", "MCD", "clipped",
]  # fmt: skip


class Judges:
    """The speaker encoder and the recogniser."""

    def __init__(self) -> None:
        try:
            import jiwer
            import pesq
            import pocketsphinx
            import pystoi
            from resemblyzer import VoiceEncoder
        except ImportError as error:
            sys.exit(f"{error.name} is missing. Run: .venv/bin/python -m pip install -r requirements-quality.txt")
        self._word_error_rate = jiwer.wer
        self._stoi, self._pesq = pystoi.stoi, pesq.pesq
        self._encoder = VoiceEncoder("cpu", verbose=False)
        self._decoder: Any = pocketsphinx.Decoder(samprate=ANALYSIS_RATE, loglevel="FATAL", cmn="batch", **WIDE_SEARCH)

    def speaker(self, audio: Floats) -> Floats:
        """(T,) at 16 kHz -> a unit vector that says who speaks."""
        embedding: Floats = self._encoder.embed_utterance(audio / max(float(np.abs(audio).max()), 1e-9) * 0.7)
        return embedding

    def intelligibility(self, reference: Floats, output: Floats) -> float:
        """STOI (Taal et al. 2011) of (T,) at 16 kHz, 1 at best."""
        return float(self._stoi(reference, output, ANALYSIS_RATE))

    def quality(self, reference: Floats, output: Floats) -> float:
        """Wide-band PESQ (ITU-T P.862.2) of (T,) at 16 kHz, from 1 to 4.6."""
        return float(self._pesq(ANALYSIS_RATE, reference, output, "wb"))

    def word_errors(self, audio: Floats, text: str | None) -> float | None:
        """Errors per word of what the recogniser hears in (T,) at 16 kHz."""
        if not text:
            return None
        loud = audio / max(float(np.abs(audio).max()), 1e-9) * 0.7
        self._decoder.start_utt()
        self._decoder.process_raw((loud * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return float(self._word_error_rate(text, heard.hypstr if heard else ""))


def speak_sources(folder: Path) -> Path:
    """Have two synthetic voices say the sentences, with transcripts; returns the folder."""
    from recipes.pretrain_lite.speech import Manner, say_pico, speak_flite
    from recipes.pretrain_lite.voices import VOICES

    lines = []
    for voice in (voice for voice in VOICES if voice.name in SPEAKERS):
        for number, text in enumerate(SPOKEN, start=1):
            name, manner = f"{voice.engine}-{voice.name.lower()}-{number}", Manner(1.0, 115.0, 20.0)
            if voice.engine == "pico":
                audio, sample_rate = say_pico(voice, text, manner, folder)
            else:
                said = speak_flite(voice, text, manner, folder)
                assert said is not None, text
                audio, sample_rate = said.audio, said.sample_rate
            save_audio(folder / f"{name}.flac", audio, sample_rate)
            lines.append(f"{name}|{text}\n")
    (folder / "transcripts.txt").write_text("".join(lines), encoding="utf-8")
    for left in folder.glob("*.wav"):
        left.unlink()
    return folder


def transcripts(folder: Path) -> dict[str, str]:
    """What is said in the recordings of a folder, in small letters, by the names of the files without suffix."""
    path, texts = folder / "transcripts.txt", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        name, _, text = line.partition("|")
        texts[name.strip().removesuffix(".flac")] = re.sub(r"[^a-z' ]", "", text.lower().replace("-", " "))
    return texts


def pause_level(source: Floats, output: Floats) -> float:
    """Mean power of the output where the source pauses, in dB relative to where it does not; NaN without pauses."""
    size, frames = 320, min(len(source), len(output)) // 320
    power, made = (np.mean(x[: frames * size].reshape(-1, size) ** 2, axis=1) for x in (source, output))
    pauses = 10 * np.log10(power / power.max() + 1e-12) < PAUSE_DB
    if pauses.all() or not pauses.any():
        return float("nan")
    return float(10 * np.log10((made[pauses].mean() + 1e-12) / made[~pauses].mean()))


def median_f0(audio: Floats, pitch: Any) -> float:
    """Median F0 in Hz of the voiced frames of (T,) at 16 kHz."""
    f0 = pitch(audio)
    return float(np.median(f0[f0 > 0]))


def count_jumps(audio: Floats) -> int:
    """Steps between neighbouring samples far above all others, as where pieces are joined badly."""
    steps = np.abs(np.diff(audio))
    return int((steps > JUMP * np.quantile(steps, 0.999)).sum())


def cepstral_distance(reference: Floats, output: Floats) -> float:
    """Mel-cepstral distance in dB of two recordings (T,) at 16 kHz that run side by side."""
    from scipy.fft import dct

    mels = [log_mel(torch.from_numpy(audio)[None], ENVELOPE)[0].numpy() for audio in (reference, output)]
    frames = min(mel.shape[1] for mel in mels)
    difference = dct(mels[0][:, :frames] - mels[1][:, :frames], axis=0, norm="ortho")[1:CEPSTRA]
    cepstra = difference * np.sqrt(2 / ENVELOPE.n_mels)  # of a series of cosines
    return float(10 / np.log(10) * np.sqrt(2 * np.square(cepstra).sum(0)).mean())


def measure(path: Path, output: Floats, voice: Floats, judges: Judges, pitch: Any, shift: float, *, copy: bool) -> Row:
    """All figures of one clip; `output` (T,) at 16 kHz, shifted by semitones; `voice` the target's mean embedding.

    `copy` says that the source is a recording of the voice itself, which the output should equal.
    """
    source, text = load_audio(path, ANALYSIS_RATE), transcripts(path.parent).get(path.stem)
    ours, theirs = judges.speaker(output), judges.speaker(source)
    stoi = pesq = mcd = None
    if copy:
        length = min(len(source), len(output))
        stoi = judges.intelligibility(source[:length], output[:length])
        pesq = judges.quality(source[:length], output[:length])
        mcd = cepstral_distance(source, output)
    melody = compare(source, output, pitch, pitch_shift=shift)
    return Row(
        path.stem, float(ours @ voice), float(ours @ theirs), float(theirs @ voice), melody.f0_correlation,
        melody.median_cents, melody.voicing_agreement, judges.word_errors(output, text),
        judges.word_errors(source, text), pause_level(source, output), float(output.mean()),
        count_jumps(output), stoi, pesq, mcd, melody.clipped,
    )  # fmt: skip


def mean_row(rows: Sequence[Row], name: str) -> Row:
    """The mean of the figures of several conversions, each over those that have it."""
    columns = [[getattr(row, field) for row in rows] for field in list(Row.__dataclass_fields__)[1:]]
    known = [[value for value in column if value is not None and np.isfinite(value)] for column in columns]
    means = [float(np.mean(column)) if column else float("nan") for column in known]
    return Row(name, *means[:-1], round(means[-1]))  # type: ignore[arg-type, call-arg]


def transpositions(repeats: int) -> list[float]:
    """So many offsets in semitones, an odd number, evenly spread within +-SPREAD; the one in the middle is 0."""
    half = repeats // 2
    return [SPREAD * place / max(half, 1) for place in range(-half, half + 1)]


def make_small(picture: Path) -> None:
    """Shrink a picture for the page: few colours, and half the width."""
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    image.quantize(PICTURE_COLOURS).save(picture, optimize=True)


def write_page(output: Path, title: str, rows: list[list[str]]) -> None:
    """docs/quality/index.html: the table, with players and pictures."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    players = "".join(
        f'<h2>{path.stem}</h2><audio controls src="{path.name}"></audio><br><img src="{path.stem}.png" width="760">'
        for path in sorted(output.glob("*.opus"))
    )
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .6em;text-align:right}"
    page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1>'
    (output / "index.html").write_text(f"{page}<table>{head}{body}</table>{players}\n", encoding="utf-8")


@dataclass(frozen=True)
class Trial:
    """A voice with all that its conversions are judged by."""

    converter: VoiceConverter
    judges: Judges
    options: ConvertOptions
    target: Floats  # unit vector of the voice's held-back recordings
    height: float  # median F0 in Hz of the recordings that the voice was trained on
    repeats: int  # number of conversions per clip but copies; odd, so that one is at that height
    output: Path | None  # folder for players and pictures

    def rows(self, kind: str, paths: Sequence[Path], *, copies: bool = False) -> list[list[str]]:
        """Convert some recordings, one row each and one of their means; `copies`: they are of the voice itself."""
        pitch, rows = load_pitch_extractor("swift", torch.device("cpu")), []
        for path in paths:
            source = load_audio(path, ANALYSIS_RATE)
            to_height = suggested_shift(median_f0(source, pitch), self.height)
            conversions = []
            for offset in transpositions(1 if copies else self.repeats):
                shift = to_height + offset
                made = self.converter.convert(source, self.options.model_copy(update={"pitch_shift": shift}))
                output = resample(made, self.converter.sample_rate, ANALYSIS_RATE)
                conversions.append(measure(path, output, self.target, self.judges, pitch, shift, copy=copies))
                if self.output and offset == 0:
                    self.show(path.stem, source, made, output, pitch)
            rows.append(mean_row(conversions, path.stem))
        return [row.cells() for row in rows] + [mean_row(rows, f"mean of the {kind}").cells()]

    def show(self, name: str, source: Floats, made: Floats, output: Floats, pitch: Any) -> None:
        """Player and picture of a conversion `made`, and `output`, the same at 16 kHz."""
        assert self.output is not None
        self.output.mkdir(parents=True, exist_ok=True)
        save_audio(self.output / f"{name}.opus", made, self.converter.sample_rate)
        draw(self.output / f"{name}.png", source, output, pitch)
        make_small(self.output / f"{name}.png")


def main() -> None:
    """Convert, measure, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voice", required=True, help="name of a voice")
    parser.add_argument("--sources", type=Path, default=ROOT.parent / "shared/data/sources")
    parser.add_argument("--held-back", type=Path, nargs="+", required=True, help="recordings not used in training")
    parser.add_argument("--synthetic", action="store_true", help="also convert synthesized sentences")
    parser.add_argument("--index-rate", type=float, default=0.75)
    parser.add_argument("--repeats", type=int, choices=(1, 3, 5, 9), default=1, help="number of conversions per clip")
    parser.add_argument("--output", type=Path, help="folder for an HTML page with players")
    options = parser.parse_args()
    judges, voice = Judges(), find_voice(options.voice)
    embeddings = [judges.speaker(load_audio(path, ANALYSIS_RATE)) for path in options.held_back]
    trial = Trial(
        load_converter(voice.path, find_index(voice.path)),
        judges,
        ConvertOptions(pitch_method="swift", index_rate=options.index_rate),
        target=np.mean(embeddings, axis=0) / np.linalg.norm(np.mean(embeddings, axis=0)),
        height=read_voice_model(voice.path).extra["training_f0"][1],
        repeats=options.repeats,
        output=options.output,
    )
    table = trial.rows("sources", list_recordings(options.sources))
    if options.synthetic:
        with tempfile.TemporaryDirectory() as folder:
            table += trial.rows("synthetic sources", list_recordings(speak_sources(Path(folder))))
    table += trial.rows("held back", options.held_back, copies=True)
    for cells in [HEADS, *table]:
        print("  ".join(f"{cell:>22}" if place == 0 else f"{cell:>15}" for place, cell in enumerate(cells)))
    if options.output:
        title = (
            f"The voice {voice.name}, index rate {options.index_rate}, {options.repeats} conversion(s) of every source"
        )
        write_page(options.output, title, table)


if __name__ == "__main__":
    main()
