"""Where the figures of a training go: TensorBoard and `events.jsonl` behind one protocol, and a plot of the losses."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lib.files import replacing


class MetricLogger(Protocol):
    """Takes figures by their `group/name`."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars for TensorBoard, in the experiment's own folder as the ecosystem does."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        self._writer.close()


class Events:
    """`events.jsonl`: one JSON object per line, which the page and scripts can follow."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Append one event."""
        event = {"stage": stage, "done": done, "total": total, **facts, "time": round(time.time(), 3)}
        with self._path.open("ab+") as file:  # a line torn by a crash must not swallow this one
            torn = file.tell() > 0 and file.seek(-1, 2) is not None and file.read(1) != b"\n"
            file.write((("\n" if torn else "") + json.dumps(event) + "\n").encode())

    def read(self, stage: str) -> list[dict[str, Any]]:
        """All events of a stage so far; torn lines are left out."""
        events = []
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    events.append(json.loads(line))
        return [event for event in events if isinstance(event, dict) and event.get("stage") == stage]


def plot_losses(events: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw mel, adversarial and KL losses over the steps of `events` (stage "fit") as a PNG."""
    from matplotlib.figure import Figure  # no pyplot: it would keep a global state

    figure = Figure(figsize=(9, 6), layout="constrained")
    names = ("loss/g/mel", "loss/g/fm", "loss/g/gen", "loss/g/kl", "loss/d/total", "steps_per_second")
    for axes, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        points = [(event["done"], event["losses"].get(name, event.get(name))) for event in events if "losses" in event]
        axes.plot(*zip(*[point for point in points if point[1] is not None], strict=True))  # lite has no KL
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90)
