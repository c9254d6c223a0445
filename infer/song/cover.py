"""Song covers: stems, conversion of the vocals, key of the instrumental, mixdown. All but the mixdown is cached."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from infer.convert import VoiceConverter
from infer.options import ConvertOptions
from infer.song.convert import SUBTYPES, Sound, convert_sound, read_sound
from infer.song.key_change import change_key, check_package
from infer.song.mix import mix, silence_where_silent
from infer.song.options import CoverOptions
from infer.song.separation import LoadSeparator, load_separator
from infer.song.stems import Stems, join_stems, read_stem, split_song
from infer.song.step_cache import Made, StepCache
from lib.audio.encode import source_subtype
from lib.audio.filters import resample
from lib.audio.tags import Tags, read_tags
from lib.errors import AudioError, ConfigError
from lib.messages import Message
from lib.pitch import SILENCE_PEAK
from lib.progress import Progress, named, no_progress, part_of
from lib.typing import FloatArray

# The steps of a cover, and their parts of its progress
STEPS = {"read": 1, "separate": 6, "convert": 6, "key": 2, "mix": 1, "write": 2}
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
        if options.auto_pitch == "off":  # otherwise the shift is known only after the conversion
            check_package(instrumental_shift(options, options.pitch_shift))
        song = _read_main(sources, options, _step(progress, "read"))
        stems, rate = self._stems(sources, song, options, _step(progress, "separate")), song.sample_rate
        song = replace(song, audio=song.audio[:, :0].copy())  # frees the memory of the song
        try:
            voice, shift = self._voice(stems, rate, options, _step(progress, "convert"))
        except AudioError as error:
            raise AudioError(
                "The vocals of {path} cannot be converted. {reason}",
                path=sources.vocals or sources.main,
                reason=error.message,
            ) from error
        semitones = instrumental_shift(options, shift)
        instrumental = self._in_key(stems.instrumental, rate, semitones, _step(progress, "key"))
        total = mix(voice, instrumental, rate, options, named(_step(progress, "mix"), Message("mixing")))
        files = {output: replace(song, audio=total)}
        for name, audio in zip(STEM_NAMES, (voice, stems.vocals, instrumental), strict=True):
            files[_stem_path(output, name)] = Sound(audio, rate, "PCM_24", Tags())
        for i, (path, sound) in enumerate(files.items()):
            sound.save(path, part_of(_step(progress, "write"), i, len(files)))
        elapsed, written = time.perf_counter() - start, tuple(files)[1:]
        return Cover(output, written, total.shape[1] / rate, elapsed, rate, semitones, tuple(self.cache.reused))

    def _stems(self, sources: Sources, song: Sound, options: CoverOptions, progress: Progress) -> Stems:
        """Vocals and instrumental, from the user's stems or by separation; backing vocals separately if requested."""
        rate, length = song.sample_rate, song.audio.shape[1]
        reading = named(part_of(progress, 0, 6), Message("reading the stems"))
        own = {path: read_stem(path, rate, reading)[:, : length if options.preview else None]
               for path in (sources.vocals, sources.instrumental) if path}  # fmt: skip
        matching = named(part_of(progress, 1, 6), Message("finding the stem in the song"))
        if sources.vocals and sources.instrumental:
            stems = join_stems(own[sources.vocals], own[sources.instrumental])
        elif sources.instrumental:
            path = sources.instrumental
            instrumental, vocals = split_song(song.audio, own[path], rate, path, matching)
            stems = Stems(vocals, instrumental)
        elif sources.vocals:
            path = sources.vocals
            vocals, instrumental = split_song(song.audio, own[path], rate, path, matching)
            stems = Stems(vocals, instrumental)
        elif not options.separation:
            raise ConfigError(
                "The song has to be separated. Provide its instrumental or its vocals, or choose a pymss "
                'separation model (see "pymss list").'
            )
        else:
            report = named(part_of(progress, 2, 6, 2), Message("separating the vocals"))
            vocals = self._separated("separation", options.separation, song.audio, rate, options, report)
            stems = Stems(vocals, song.audio - vocals)
        return self._lead(stems, rate, options, part_of(progress, 4, 6, 2))

    def _lead(self, stems: Stems, rate: int, options: CoverOptions, progress: Progress) -> Stems:
        """The stems with the lead vocals in place of all vocals, if requested without reverb."""
        vocals = stems.vocals
        backing: FloatArray | None = None
        if options.lead_separation:
            report = named(part_of(progress, 0, 2), Message("separating lead and backing vocals"))
            lead = self._separated("lead separation", options.lead_separation, vocals, rate, options, report)
            backing = None if options.backing == "drop" else vocals - lead
            vocals = lead
        if options.dereverb:
            report = named(part_of(progress, 1, 2), Message("removing reverb"))
            vocals = self._separated("dereverb", options.dereverb, vocals, rate, options, report)
        return Stems(vocals, stems.instrumental, backing)

    def _voice(self, stems: Stems, rate: int, options: CoverOptions, progress: Progress) -> tuple[FloatArray, float]:
        """Return the converted vocals (C, T), including the backing, and their transposition in semitones."""
        if stems.backing is None:
            return self._converted(stems.vocals, rate, options, progress)
        voice, shift = self._converted(stems.vocals, rate, options, part_of(progress, 0, 2))
        return voice + self._backing(stems.backing, rate, options, shift, part_of(progress, 1, 2)), shift

    def _separated(
        self, step: str, model: str, audio: FloatArray, rate: int, options: CoverOptions, progress: Progress
    ) -> FloatArray:
        def make(report: Progress) -> Made:
            return self.load_separator(model, options.device)(audio, rate, report), {}

        return self.cache.get(step, {"audio": audio, "model": model}, rate, make, progress)[0]

    def _converted(
        self, vocals: FloatArray, rate: int, options: CoverOptions, progress: Progress
    ) -> tuple[FloatArray, float]:
        """Return the converted vocals (C, T) at the song's rate, and their transposition in semitones."""
        chosen = ConvertOptions.model_validate(
            {name: getattr(options, name) for name in ConvertOptions.model_fields} | VOCAL_OPTIONS
        )

        progress = named(progress, Message("converting"))

        def make(report: Progress) -> Made:
            done = convert_sound(self.converter, Sound(vocals, rate), chosen, part_of(report, 0, 10, 8))
            audio = resample(done.sound.audio, done.sound.sample_rate, rate, part_of(report, 8, 10))[
                :, : vocals.shape[1]
            ]
            audio = np.pad(audio, ((0, 0), (0, vocals.shape[1] - audio.shape[1])))
            return silence_where_silent(audio, vocals, rate, part_of(report, 9, 10)), {"pitch_shift": done.pitch_shift}

        settings = chosen.model_dump_json(exclude={"device"})
        inputs = {"audio": vocals, "voice": self.converter.identity, "options": settings}
        audio, numbers = self.cache.get("conversion", inputs, rate, make, progress)
        return audio, numbers.get("pitch_shift", options.pitch_shift)

    def _backing(
        self, backing: FloatArray, rate: int, options: CoverOptions, shift: float, progress: Progress
    ) -> FloatArray:
        """Backing vocals as they are mixed: transposed and converted like the lead, or in the instrumental's key."""
        if options.backing == "convert" and float(np.abs(backing).max(initial=0.0)) >= SILENCE_PEAK:
            alike = options.model_copy(update={"pitch_shift": shift, "auto_pitch": "off"})
            return self._converted(backing, rate, alike, progress)[0]
        return self._in_key(backing, rate, instrumental_shift(options, shift), progress)

    def _in_key(self, audio: FloatArray, rate: int, semitones: int, progress: Progress) -> FloatArray:
        progress = named(progress, Message("changing the key"))
        progress(0, 1, "")
        if semitones == 0:
            return audio

        def make(report: Progress) -> Made:
            return change_key(audio, rate, semitones, report), {}

        return self.cache.get("key change", {"audio": audio, "semitones": semitones}, rate, make, progress)[0]


def _step(progress: Progress, name: str) -> Progress:
    """The Progress of a step of a cover."""
    names = [*STEPS]
    first = sum(STEPS[before] for before in names[: names.index(name)])
    return part_of(progress, first, sum(STEPS.values()), STEPS[name])


def instrumental_shift(options: CoverOptions, vocal_shift: float) -> int:
    """Return the shift of the instrumental in semitones.

    Unless the options give one, it is the vocals' shift modulo whole octaves, so that both stay in the same key.
    """
    if options.instrumental_shift is not None:
        return options.instrumental_shift
    return round(vocal_shift - 12 * round(vocal_shift / 12))


def _read_main(sources: Sources, options: CoverOptions, progress: Progress) -> Sound:
    """The song, or the instrumental in its place, with both channels, and the format of the cover."""
    sound = read_sound(sources.main, options.model_copy(update={"channel": "stereo"}), progress)
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
