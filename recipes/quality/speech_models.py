"""The two models that evaluate a voice: Whisper base for words, resemblyzer for speaker similarity."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lib.audio import ANALYSIS_RATE
from lib.errors import AudioError, ConfigError, MissingFileError
from lib.speaker import Resemblyzer, SpeakerEncoder
from lib.typing import FloatArray

WINDOW_SECONDS = 30  # input length of Whisper
N_MELS, N_FFT, HOP_LENGTH = 80, 400, 160  # of Whisper's spectrogram; samples at ANALYSIS_RATE
BEAM_SIZE = 5
MIN_TOKENS, TOKENS_PER_SECOND = 120, 8  # limits of the length of a transcript, in case decoding repeats itself
WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*")


class Transcriber(Protocol):
    """Transcribes speech."""

    def __call__(self, audio: FloatArray, language: str) -> str:
        """Transcribe (T,) at 16 kHz in a language such as "en"."""
        ...


def whisper_log_mel(audio: Tensor) -> Tensor:
    """Whisper's input features: (T,) at 16 kHz, at most 30 s -> log-mel spectrogram (80, 3000), padded with silence."""
    from torchaudio.functional import melscale_fbanks

    padded = torch.nn.functional.pad(audio.float(), (0, WINDOW_SECONDS * ANALYSIS_RATE - len(audio)))
    window = torch.hann_window(N_FFT)
    power = torch.stft(padded, N_FFT, HOP_LENGTH, window=window, return_complex=True)[:, :-1].abs().square()
    bank = melscale_fbanks(N_FFT // 2 + 1, 0.0, ANALYSIS_RATE / 2, N_MELS, ANALYSIS_RATE, "slaney", "slaney")
    mel = torch.log10((bank.T @ power).clamp(min=1e-10))  # [80, 3000]
    return (torch.maximum(mel, mel.max() - 8) + 4) / 4


class Whisper:
    """A Whisper model in CTranslate2's format, in int8 on the CPU, with a beam size of 5."""

    def __init__(self, folder: Path) -> None:
        """Raise MissingFileError if the folder is incomplete, and ConfigError if a package is not installed."""
        for name in WHISPER_FILES:
            if not any(folder.glob(name)):
                raise MissingFileError(folder / name, "requirements-quality.txt names a source of Whisper base.")
        try:
            import ctranslate2
            from tokenizers import Tokenizer
        except ImportError as error:
            raise _missing(error) from error
        self._storage: Any = ctranslate2.StorageView
        threads = torch.get_num_threads()
        self._model: Any = ctranslate2.models.Whisper(str(folder), compute_type="int8", intra_threads=threads)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def __call__(self, audio: FloatArray, language: str) -> str:
        """Transcribe (T,) at 16 kHz.

        Raises AudioError if it is longer than 30 s, and ConfigError if the model does not support the language.
        """
        seconds = len(audio) / ANALYSIS_RATE
        if seconds > WINDOW_SECONDS:
            raise AudioError(
                "A clip of {seconds:.0f} s is too long; Whisper accepts at most {limit} s.",
                seconds=seconds,
                limit=WINDOW_SECONDS,
            )
        if self._tokenizer.token_to_id(f"<|{language}|>") is None:
            raise ConfigError(
                "This Whisper model has no language {language!r}; give a code such as en, de or pt.", language=language
            )
        mel = self._storage.from_array(whisper_log_mel(torch.from_numpy(audio))[None].numpy())
        prompt = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
        tokens = max(MIN_TOKENS, round(TOKENS_PER_SECOND * seconds))
        result = self._model.generate(mel, [prompt], beam_size=BEAM_SIZE, max_length=tokens)
        text: str = self._tokenizer.decode(result[0].sequences_ids[0])
        return text


def load_speaker_encoder() -> SpeakerEncoder:
    """Load resemblyzer. Raises ConfigError if the package is not installed."""
    try:
        return Resemblyzer()
    except ImportError as error:
        raise _missing(error) from error


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(
        "The package {package} is not installed. Run: python -m pip install -r requirements-quality.txt",
        package=error.name,
    )
