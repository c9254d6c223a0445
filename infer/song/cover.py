"""Song covers: stems, conversion of the vocals, key of the instrumental, remix. Each step is cached."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from infer.song.convert import SUBTYPES, Sound, convert_sound, read_sound
from infer.song.mix import change_key, mix, silence_where_silent
from infer.song.options import CoverOptions
from infer.song.separation import LoadSeparator, load_separator
from infer.song.stems import Stems, join_stems, read_stem, split_song
from infer.song.step_cache import Made, StepCache
from lib.audio.encode import source_subtype
from lib.audio.filters import resample
from lib.audio.tags import Tags, read_tags
from lib.errors import ConfigError
from lib.messages import Message
from lib.pitch import SILENCE_PEAK
from lib.progress import PART_STEPS, Progress, no_progress, part_of
from lib.typing import FloatArray

STEPS = 4  # of the progress: separate, convert, change the key, mix
STEM_NAMES = ("vocals", "original_vocals", "instrumental")  # of the files, converted vocals first
VOCAL_OPTIONS = {"channel": "stereo", "keep_format": False, "bit_depth": 32, "loudness": None, "preview": 0.0}


@dataclass(frozen=True)
class Sources:
    """The input files of a cover: the song, the song and a stem, or both stems without the song."""

    song: Path | None = None
    vocals: Path | None = None
    instrumental: Path | None = None

    def __post_init__(self) -> None:
        if self.song is None and (self.vocals is None or self.instrumental is None):
            raise ConfigError("A cover needs the song, or both its vocals and its instrumental.")

    @property
    def main(self) -> Path:
        """The file that gives the cover its format, tags and name."""
        found = self.song or self.instrumental
        assert found is not None
        return found


@dataclass(frozen=True)
class Cover:
    """A finished cover."""

    path: Path
    stems: tuple[Path, ...]
    seconds: float  # of the cover
    elapsed_seconds: float
    sample_rate: int  # Hz
    instrumental_shift: int  # semitones
    reused: tuple[str, ...]  # steps whose results were cached


@dataclass
class CoverMaker:
    """Creates covers with one voice."""

    converter: VoiceConverter
    cache: StepCache = field(default_factory=StepCache)
    load_separator: LoadSeparator = load_separator

    def make(self, sources: Sources, output: Path, options: CoverOptions, progress: Progress = no_progress) -> Cover:
        """Create a cover, write it to `output` and its stems to the folder OUTPUT_stems next to it."""
        start = time.perf_counter()
        _check_outputs(sources, output)
        song = _read_main(sources, options)
        stems = self._stems(sources, song, options, part_of(progress, 0, STEPS))
        voice, shift = self._converted(stems.vocals, song.sample_rate, options, part_of(progress, 1, STEPS))
        if stems.backing is not None:
            voice = voice + self._backing(stems.backing, song.sample_rate, options, shift, part_of(progress, 1, STEPS))
        progress(2 * PART_STEPS, STEPS * PART_STEPS, Message("changing the key"))
        semitones = instrumental_shift(options, shift)
        instrumental = self._in_key(stems.instrumental, song.sample_rate, semitones)
        progress(3 * PART_STEPS, STEPS * PART_STEPS, Message("mixing"))
        total = mix(
            voice, instrumental, song.sample_rate, vocal_level=options.vocal_level,
            instrumental_level=options.instrumental_level, pan=options.vocal_pan, reverb_level=options.vocal_reverb,
            loudness=options.loudness,
        )  # fmt: skip
        replace(song, audio=total).save(output)
        written = _save_stems(output, song, dict(zip(STEM_NAMES, (voice, stems.vocals, instrumental), strict=True)))
        progress(STEPS * PART_STEPS, STEPS * PART_STEPS, Message("mixing"))
        elapsed = time.perf_counter() - start
        seconds = total.shape[1] / song.sample_rate
        return Cover(output, written, seconds, elapsed, song.sample_rate, semitones, tuple(self.cache.reused))

    def _stems(self, sources: Sources, song: Sound, options: CoverOptions, progress: Progress) -> Stems:
        """Vocals and instrumental, from the user's stems or by separation; backing vocals separately if requested."""
        rate, length = song.sample_rate, song.audio.shape[1]
        own = {path: read_stem(path, rate)[:, : length if options.preview else None]
               for path in (sources.vocals, sources.instrumental) if path}  # fmt: skip
        if sources.vocals and sources.instrumental:
            stems = join_stems(own[sources.vocals], own[sources.instrumental])
        elif sources.instrumental:
            instrumental, vocals = split_song(song.audio, own[sources.instrumental], rate, sources.instrumental)
            stems = Stems(vocals, instrumental)
        elif sources.vocals:
            vocals, instrumental = split_song(song.audio, own[sources.vocals], rate, sources.vocals)
            stems = Stems(vocals, instrumental)
        elif not options.separation:
            raise ConfigError(
                "The song has to be separated. Provide its instrumental or its vocals, or choose a separation model of "
                'pymss (see "pymss list").'
            )
        else:
            vocals = self._separated("separation", options.separation, song.audio, rate, options, progress)
            stems = Stems(vocals, song.audio - vocals)
        vocals = stems.vocals
        backing: FloatArray | None = None
        if options.lead_separation:
            lead = self._separated("lead separation", options.lead_separation, vocals, rate, options, progress)
            backing = None if options.backing == "drop" else vocals - lead
            vocals = lead
        if options.dereverb:
            vocals = self._separated("dereverb", options.dereverb, vocals, rate, options, progress)
        return Stems(vocals, stems.instrumental, backing)

    def _separated(
        self, step: str, model: str, audio: FloatArray, rate: int, options: CoverOptions, progress: Progress
    ) -> FloatArray:
        def make() -> Made:
            return self.load_separator(model, options.device)(audio, rate, progress)[0], {}

        return self.cache.get(step, {"audio": audio, "model": model}, rate, make)[0]

    def _converted(
        self, vocals: FloatArray, rate: int, options: CoverOptions, progress: Progress
    ) -> tuple[FloatArray, float]:
        """Return the converted vocals (C, T) at the song's rate, and their transposition in semitones."""
        chosen = ConvertOptions.model_validate(
            {name: getattr(options, name) for name in ConvertOptions.model_fields} | VOCAL_OPTIONS
        )

        def make() -> Made:
            done = convert_sound(self.converter, Sound(vocals, rate), chosen, progress)
            audio = resample(done.sound.audio, done.sound.sample_rate, rate)[:, : vocals.shape[1]]
            audio = np.pad(audio, ((0, 0), (0, vocals.shape[1] - audio.shape[1])))
            return silence_where_silent(audio, vocals, rate), {"pitch_shift": done.pitch_shift}

        settings = chosen.model_dump_json(exclude={"device"})
        inputs = {"audio": vocals, "voice": self.converter.identity, "options": settings}
        audio, numbers = self.cache.get("conversion", inputs, rate, make)
        return audio, numbers.get("pitch_shift", options.pitch_shift)

    def _backing(
        self, backing: FloatArray, rate: int, options: CoverOptions, shift: float, progress: Progress
    ) -> FloatArray:
        """Backing vocals as they are mixed: transposed and converted like the lead, or in the instrumental's key."""
        if options.backing == "convert" and float(np.abs(backing).max(initial=0.0)) >= SILENCE_PEAK:
            alike = options.model_copy(update={"pitch_shift": shift, "auto_pitch": "off"})
            return self._converted(backing, rate, alike, progress)[0]
        return self._in_key(backing, rate, instrumental_shift(options, shift))

    def _in_key(self, audio: FloatArray, rate: int, semitones: int) -> FloatArray:
        if semitones == 0:
            return audio

        def make() -> Made:
            return change_key(audio, rate, semitones), {}

        return self.cache.get("key change", {"audio": audio, "semitones": semitones}, rate, make)[0]


def instrumental_shift(options: CoverOptions, vocal_shift: float) -> int:
    """Return the shift of the instrumental in semitones.

    Unless the options give one, it is the shift of the vocals without whole octaves, so that both stay in the same key.
    """
    if options.instrumental_shift is not None:
        return options.instrumental_shift
    return round(vocal_shift - 12 * round(vocal_shift / 12))


def _read_main(sources: Sources, options: CoverOptions) -> Sound:
    """The song, or the instrumental in its place, with both channels, and the format of the cover."""
    sound = read_sound(sources.main, options.model_copy(update={"channel": "stereo"}))
    subtype = source_subtype(sources.main) if options.keep_format else SUBTYPES[options.bit_depth]
    return replace(sound, subtype=subtype, tags=read_tags(sources.main))


def _check_outputs(sources: Sources, output: Path) -> None:
    """Raise ConfigError if the cover or its stems would overwrite a source, such as a stem of an earlier cover."""
    written = {path.resolve() for path in (output, *(_stem_path(output, name) for name in STEM_NAMES))}
    for path in (sources.song, sources.vocals, sources.instrumental):
        if path and path.resolve() in written:
            raise ConfigError("{path} is the recording itself, which is never overwritten. Choose another name.",
                              path=path)  # fmt: skip


def _stem_path(output: Path, name: str) -> Path:
    return output.with_name(f"{output.stem}_stems") / f"{name}.flac"


def _save_stems(output: Path, song: Sound, stems: dict[str, FloatArray]) -> tuple[Path, ...]:
    written = []
    for name, audio in stems.items():
        path = _stem_path(output, name)
        Sound(audio, song.sample_rate, "PCM_24", Tags()).save(path)
        written.append(path)
    return tuple(written)
