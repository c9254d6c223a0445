"""Metrics of a training run: means and speed, TensorBoard, `events.jsonl`, and a plot of the losses."""

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field

from lib.files import replacing, write_errors
from lib.json_reader import parse_json
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

LOG_SECONDS = 15.0  # after which metrics are written on a slow machine, whatever the step
WARM_UP_STEPS = 3  # not counted in the speed
MAX_EVENT_BYTES = 65_536  # of a line of events.jsonl
SHOWN_STEPS = 50  # over which the mel loss that is shown is averaged


class MetricLogger(Protocol):
    """Receives metrics named `group/name`."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_sample(self, step: int, name: str, sample: Path) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes scalars for TensorBoard into the experiment's own folder, as RVC does."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with write_errors(folder):
            self._writer = SummaryWriter(str(folder))
        self._previous_hook = threading.excepthook
        threading.excepthook = self._report_thread_error

    def _report_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of TensorBoard's thread: the next call to its writer raises the same error."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self._previous_hook(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per value."""
        with write_errors(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def log_sample(self, step: int, name: str, sample: Path) -> None:
        """Write an audio file, and the image of the same name with the suffix .png, if it exists."""
        import soundfile

        audio, rate = soundfile.read(sample, dtype="float32")
        with write_errors(self._folder):
            self._writer.add_audio(f"{name}/sample", audio[None], step, rate)
            if (picture := sample.with_suffix(".png")).is_file():
                self._writer.add_image(f"{name}/mel", read_picture(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Write buffered values; a failure is only logged, so that it cannot hide a training error."""
        try:
            self._writer.close()
        except OSError as error:
            logger.warning("the TensorBoard file in %s is incomplete: %s", self._folder, error)
        finally:
            threading.excepthook = self._previous_hook


class _Event(BaseModel, extra="allow"):
    """The fields of an event that other modules use."""

    stage: str
    done: Annotated[int, Field(ge=0)]
    total: Annotated[int, Field(ge=0)] = 0
    losses: dict[str, float] = {}
    steps_per_second: float = 0.0


class Events:
    """`events.jsonl`: one JSON object per line, for the web UI and for scripts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Append one event."""
        event = {"stage": stage, "done": done, "total": total, **facts, "time": round(time.time(), 3)}
        with (
            write_errors(self._path),
            self._path.open("ab+") as file,
        ):  # a line torn by a crash must not swallow this one
            torn = file.tell() > 0 and file.seek(-1, 2) is not None and file.read(1) != b"\n"
            file.write((("\n" if torn else "") + json.dumps(event) + "\n").encode())

    def read(self, stage: str) -> list[dict[str, Any]]:
        """Return all events of a stage so far; incomplete and damaged lines are skipped."""
        events: list[dict[str, Any]] = []
        if self._path.is_file():
            with self._path.open("rb") as file:
                while line := file.readline(MAX_EVENT_BYTES):
                    with contextlib.suppress(ValueError):
                        if not line.startswith(b"{"):
                            continue
                        event = parse_json(line)
                        _Event.model_validate(event)
                        events.append(event)
        return [event for event in events if event["stage"] == stage]


class RunMetrics:
    """Metrics of one run: speed, means of the mel loss, and the values for the logger and `events.jsonl`."""

    def __init__(self, events: Events, log_interval: int, first_step: int) -> None:
        self.events = events
        self.logger: MetricLogger | None = None  # of the main process while it trains
        self._log_interval = log_interval  # steps
        self._mel: deque[float] = deque(maxlen=max(SHOWN_STEPS, log_interval))
        self._first_step, self._last_step = first_step, first_step
        self._warm: tuple[float, int] | None = None  # time and step from which speed is measured
        self._last_log = time.monotonic()

    @property
    def speed(self) -> float:
        """Steps per second of this run; 0 if unknown."""
        if self._warm is None or self._last_step == self._warm[1]:
            return 0.0
        return (self._last_step - self._warm[1]) / (time.monotonic() - self._warm[0])

    @property
    def shown_mel_loss(self) -> float | None:
        """Mean of the mel loss over the last SHOWN_STEPS steps; None before the first step."""
        return _mean(list(self._mel)[-SHOWN_STEPS:])

    @property
    def logged_mel_loss(self) -> float | None:
        """Mean of the mel loss over the last log interval; None before the first step."""
        return _mean(list(self._mel)[-self._log_interval :])

    def add(self, step: int, epoch: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Add the losses of a step; they are logged every `log_interval` steps, and at least every LOG_SECONDS."""
        self._last_step = step
        if "loss/g/mel" in losses:
            self._mel.append(losses["loss/g/mel"])
        if self._warm is None and step >= self._first_step + WARM_UP_STEPS:
            self._warm = time.monotonic(), step
        slow = time.monotonic() - self._last_log > LOG_SECONDS
        if self.logger is not None and (slow or step % self._log_interval == 0):
            self._log(self.logger, step, epoch, {**losses, "learning_rate": learning_rate})

    def _log(self, logger: MetricLogger, step: int, epoch: int, values: Mapping[str, float]) -> None:
        self._last_log = time.monotonic()
        logger.log(step, values)
        parts = ("loss/d_r/", "loss/d_g/")
        named = {name: round(value, 5) for name, value in values.items() if not name.startswith(parts)}
        if (mel := self.logged_mel_loss) is not None:
            named["loss/g/mel"] = round(mel, 4)
        self.events.write("fit", step, 0, epoch=epoch, losses=named, steps_per_second=round(self.speed, 3))

    def close(self) -> None:
        """Write buffered values."""
        if self.logger is not None:
            self.logger.close()


def read_picture(path: Path) -> FloatArray:
    """Read the pixels of an image: (H, W, 3) in [0, 1]."""
    from matplotlib.image import imread

    pixels: FloatArray = imread(path)[..., :3]
    return pixels


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def plot_losses(events: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the losses and the training speed in "fit" events against steps, as a PNG."""
    from matplotlib.figure import Figure  # no pyplot: it would keep a global state

    figure = Figure(figsize=(9, 6))
    # Fixed margins: a computed layout would take longer than drawing.
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.08, top=0.95, wspace=0.25, hspace=0.3)
    names = ("loss/g/mel", "loss/g/fm", "loss/g/gen", "loss/g/kl", "loss/d/total", "steps_per_second")
    for axes, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        points = [(event["done"], event["losses"].get(name, event.get(name))) for event in events if "losses" in event]
        axes.plot(*zip(*[point for point in points if point[1] is not None], strict=True))  # a family may lack one
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90)
