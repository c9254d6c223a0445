"""Converts sets of clips and measures the results: the rows of the table, from sources to noisy recordings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from infer.report import FULL_SCALE, compare
from lib.audio import ANALYSIS_RATE
from lib.audio.filters import resample
from lib.pitch import PitchExtractor
from lib.pitch.scale import suggested_shift
from lib.speaker import SpeakerEncoder
from lib.typing import FloatArray
from recipes.quality.clips import Clip, noisy
from recipes.quality.figures import ClipFigures, Figures, Line, mean_figures, pause_level
from recipes.quality.speech_models import Transcriber
from recipes.quality.words import count_errors, split_words

Vocoder = Callable[[Clip, int], FloatArray]  # a clip and a seed -> (T,) at the voice's sample rate
NAN = float("nan")


@dataclass
class Evaluator:
    """A voice and the models that evaluate it; caches the embeddings and reference transcripts of the clips."""

    converter: VoiceConverter
    transcribe: Transcriber
    embed: SpeakerEncoder
    pitch: PitchExtractor
    references: Sequence[Clip]  # held-out recordings of the voice
    voice_f0: float  # Hz, median F0 of the recordings that the voice was trained on
    repeats: int = 3  # conversions of each clip, with the seeds 0, 1, ...
    vocoder: Vocoder | None = None  # of voices that have one
    _texts: dict[Clip, list[str]] = field(default_factory=dict)
    _embeddings: dict[Path, FloatArray] = field(default_factory=dict)

    def shift(self, clip: Clip, audio: FloatArray) -> int:
        """Return the shift in whole semitones from the median F0 of 16 kHz audio (T,) to that of the voice.

        It is 0 for the voice's own recordings.
        """
        median = 0.0 if clip.is_own else median_f0(audio, self.pitch)
        return suggested_shift(median, self.voice_f0) if median > 0 else 0

    def convert(self, clip: Clip, options: ConvertOptions, seed: int) -> tuple[FloatArray, int]:
        """Convert a clip; return (T,) at the converter's rate, and the transposition in semitones."""
        audio = clip.audio()
        shift = self.shift(clip, audio)
        return self.converter.convert(audio, options.model_copy(update={"pitch_shift": shift, "seed": seed})), shift

    def converted(self, name: str, clips: Sequence[Clip], options: ConvertOptions) -> Line:
        """Return the row of a set of clips, each converted `repeats` times."""
        return self._made(name, clips, lambda clip, seed: self.convert(clip, options, seed))

    def vocoded(self, name: str, clips: Sequence[Clip]) -> Line:
        """Return the row of a set of clips resynthesised by the vocoder from their own mel spectrograms and F0."""
        vocoder = self.vocoder
        assert vocoder is not None
        return self._made(name, clips, lambda clip, seed: (vocoder(clip, seed), 0))

    def _made(self, name: str, clips: Sequence[Clip], make: Callable[[Clip, int], tuple[FloatArray, int]]) -> Line:
        """Return the row of a set of clips; `make` returns (T,) at the converter's rate and the transposition."""
        figures = []
        for clip in clips:
            repeats = []
            for seed in range(self.repeats):
                output, shift = make(clip, seed)
                analysed = resample(output, self.converter.sample_rate, ANALYSIS_RATE)
                repeats.append(self.measure(clip, analysed, shift, clipped=count_clipped(output)))
            figures.append(self._clip_figures(clip, repeats))
        return Line(name, figures)

    def unconverted(self, name: str, clips: Sequence[Clip]) -> Line:
        """Return the row of a set of unconverted clips: words, similarity to the voice, pauses, clipping and DC."""
        figures = []
        for clip in clips:
            audio, source = clip.audio(), clip.clean()
            errors = NAN if clip.text is None and clip.snr_db is None else self._errors(clip, audio)
            similarity = self._to_voice(clip, self.embed(audio))
            levels = (pause_level(source, audio), count_clipped(audio), abs(float(audio.mean())))
            figures.append(self._clip_figures(clip, [Figures(errors, similarity, NAN, NAN, NAN, NAN, *levels)]))
        return Line(name, figures)

    def measure(self, clip: Clip, output: FloatArray, shift: int, *, clipped: int) -> Figures:
        """Measure the output (T,) at 16 kHz of a conversion of `clip` by `shift` semitones.

        The reference is the clip without its added noise. `clipped` is the number of clipped samples.
        """
        source, embedding = clip.clean(), self.embed(output)
        f0 = compare(source, output, self.pitch, pitch_shift=shift)
        return Figures(
            word_errors=self._errors(clip, output),
            to_voice=self._to_voice(clip, embedding),
            to_source=float(embedding @ self._embedding(clip)),
            f0_correlation=f0.f0_correlation,
            cents=f0.median_cents,
            voicing=f0.voicing_agreement,
            pause_db=pause_level(source, output),
            clipped=clipped,
            dc=abs(float(output.mean())),
        )

    def _clip_figures(self, clip: Clip, repeats: Sequence[Figures]) -> ClipFigures:
        figures = mean_figures(repeats)
        return ClipFigures(clip.name, 0 if np.isnan(figures.word_errors) else len(self._reference(clip)), figures)

    def _reference(self, clip: Clip) -> list[str]:
        """Return the words of a clip; if its text is unknown, those in the transcript of its recording."""
        if clip not in self._texts:
            text = clip.text if clip.text is not None else self.transcribe(clip.clean(), clip.language)
            self._texts[clip] = split_words(text, clip.language)
        return self._texts[clip]

    def _errors(self, clip: Clip, audio: FloatArray) -> float:
        transcript = split_words(self.transcribe(audio, clip.language), clip.language)
        reference = self._reference(clip)
        return float(count_errors(reference, transcript)) if reference else NAN

    def _embedding(self, clip: Clip) -> FloatArray:
        """The speaker embedding of a recording without noise."""
        if clip.path not in self._embeddings:
            self._embeddings[clip.path] = self.embed(clip.clean())
        return self._embeddings[clip.path]

    def _to_voice(self, clip: Clip, embedding: FloatArray) -> float:
        """Return the mean cosine similarity to the held-out recordings, without the clip itself."""
        others = [self._embedding(reference) for reference in self.references if reference.path != clip.path]
        return float(np.mean([embedding @ other for other in others])) if others else NAN


def measure_all(
    evaluator: Evaluator,
    readers: Sequence[Clip],
    trained: Sequence[Clip],
    sets: Mapping[str, Sequence[Clip]],
    options: ConvertOptions | None = None,
) -> Iterator[Line]:
    """Yield the rows of the table one by one; a row without clips is omitted. `options` are the default options."""
    options = options or ConvertOptions()
    if readers:
        yield evaluator.unconverted("other readers, unconverted", readers)
    if evaluator.vocoder is not None:
        for name, clips in {"other readers": readers, "held-out recordings": evaluator.references}.items():
            if clips:
                yield evaluator.vocoded(f"{name}, vocoder alone", clips)
    for name, clips in {"training recordings": trained, "held-out recordings": evaluator.references}.items():
        if clips:
            yield evaluator.unconverted(f"{name}, unconverted", clips)
            yield evaluator.converted(f"{name}, converted", clips, options)
    if readers:
        yield evaluator.converted("other readers, defaults", readers, options)
        rates = {0.0, 1.0} - {options.index_rate} if evaluator.converter.index is not None else set[float]()
        for rate in sorted(rates):
            changed = options.model_copy(update={"index_rate": rate})
            yield evaluator.converted(f"other readers, index rate {rate:.0f}", readers, changed)
    noise = {"other readers with noise": noisy(readers)} if readers else {}
    for name, clips in {**noise, **sets}.items():
        yield evaluator.unconverted(f"{name}, unconverted", clips)
        yield evaluator.converted(f"{name}, defaults", clips, options)


def count_clipped(audio: FloatArray) -> int:
    """Return the number of samples at full scale."""
    return int((np.abs(audio) >= FULL_SCALE).sum())


def median_f0(audio: FloatArray, pitch: Callable[[FloatArray], FloatArray]) -> float:
    """Return the median F0 in Hz of the voiced frames of 16 kHz audio (T,); 0 if there are none."""
    f0 = pitch(audio)
    return float(np.median(f0[f0 > 0])) if np.any(f0 > 0) else 0.0
