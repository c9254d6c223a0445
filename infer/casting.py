"""Holds a synthesizer in the dtypes of the last conversion, and casts it when another precision is requested."""

import logging
from collections.abc import Callable

import torch

from lib.devices import Precision, choose_precision
from lib.errors import ConfigError
from lib.models import VoiceSynthesizer
from lib.models.memory import trim_memory
from lib.models.synthesizer import Synthesizer, snr_db

logger = logging.getLogger(__name__)

FLOAT32 = (torch.float32, torch.float32)
INT8_CHANNELS = 512  # at the start of a generator; in smaller ones quantising takes longer than int8 saves
MIN_INT8_SNR = 30.0  # dB; bfloat16 reaches about 40


class CastSynthesizer:
    """A synthesizer held in one precision at a time."""

    def __init__(
        self, synthesizer: VoiceSynthesizer, device: torch.device, reload: Callable[[], VoiceSynthesizer] | None = None
    ) -> None:
        """`synthesizer` is in float32; `reload` loads it again, so that no float32 copy is kept next to a cast one."""
        self._current = synthesizer.to(device)
        self._device = device
        self._dtypes = FLOAT32  # of the generator, and of prior and flow
        self._reload = reload or (lambda: synthesizer)
        self._int8_helps = (
            synthesizer.supports_int8
            and isinstance(synthesizer, Synthesizer)
            and synthesizer.config.upsample_initial_channel >= INT8_CHANNELS
        )

    @property
    def current(self) -> VoiceSynthesizer:
        """The synthesizer in the precision set by the last `prepare`."""
        return self._current

    def prepare(self, wanted: str, *, casts_encoder: bool) -> Precision:
        """Choose the dtypes of a conversion and cast the synthesizer to them.

        "auto" uses int8 only for large generators whose int8 output stays close to float32. Raises ConfigError if the
        device or the voice does not support the precision.
        """
        if wanted == "int8" and not self._current.supports_int8:
            raise ConfigError("This voice cannot run in int8. Choose bf16, fp32 or auto precision.")
        precision = choose_precision(wanted, self._device, supports_int8=self._int8_helps, casts_encoder=casts_encoder)
        dtypes = precision.generator, precision.analysis
        if dtypes == self._dtypes:
            return precision
        if self._dtypes != FLOAT32:
            self._current, self._dtypes = self._reload().to(self._device), FLOAT32
        if dtypes == FLOAT32:
            return precision
        cast = self._current.cast(*dtypes)
        if wanted == "auto" and precision.generator == torch.int8 and not _is_accurate(self._current, cast):
            self._int8_helps = False
            return self.prepare(wanted, casts_encoder=casts_encoder)
        self._current, self._dtypes = cast, dtypes
        trim_memory()
        return precision


def _is_accurate(exact: VoiceSynthesizer, cast: VoiceSynthesizer) -> bool:
    """Whether the int8 generator is close enough to the float32 one."""
    assert isinstance(exact, Synthesizer) and isinstance(cast, Synthesizer)
    snr = snr_db(exact, cast)
    if snr < MIN_INT8_SNR:
        logger.info("int8 reaches an SNR of only %.0f dB with this voice; another precision is used", snr)
    return snr >= MIN_INT8_SNR
