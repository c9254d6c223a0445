"""Plots the mel loss of several training runs: python benchmarks/curves.py logs/first logs/second --output curves.png.

One panel shows the losses against steps, the other against minutes of training.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from matplotlib.figure import Figure  # noqa: E402

from lib.run_main import run_main  # noqa: E402
from train.metrics import Events  # noqa: E402


def points(folder: Path) -> list[tuple[int, float, float]]:
    """Return the steps, minutes and mel losses of a training run; the minutes exclude the time between its sessions."""
    found: list[tuple[int, float, float]] = []
    seconds, last_step, last_time = 0.0, 0, 0.0
    for event in Events(folder / "events.jsonl").read("fit"):
        if "losses" not in event:
            continue
        speed = event.get("steps_per_second") or 1.0
        steps, waited = event["done"] - last_step, event["time"] - last_time
        seconds += min(waited, 3 * steps / speed)  # longer ones are pauses
        last_step, last_time = event["done"], event["time"]
        found.append((last_step, seconds / 60, float(event["losses"]["loss/g/mel"])))
    return found


def main() -> None:
    """Plot the curves and print the final loss of each run."""
    parser = argparse.ArgumentParser(prog="python benchmarks/curves.py", description=__doc__.splitlines()[0])
    parser.add_argument("experiments", type=Path, nargs="+", help="folders of training runs, logs/NAME")
    parser.add_argument("--names", nargs="+", help="labels (default: the names of the folders)")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    by_step, by_minute = figure.subplots(1, 2, sharey=True)
    for folder, name in zip(options.experiments, options.names or [f.name for f in options.experiments], strict=True):
        steps, minutes, losses = zip(*points(folder), strict=True)
        by_step.plot(steps, losses, label=name)
        by_minute.plot(minutes, losses, label=name)
        print(f"{name}: {steps[-1]} steps, {minutes[-1]:.1f} minutes, mel loss {losses[-1]:.1f}")
    for axes, what in ((by_step, "steps"), (by_minute, "minutes of training")):
        axes.set_xlabel(what)
        axes.grid(alpha=0.3)
    by_step.set_ylabel("mel loss")
    by_step.legend()
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    sys.exit(run_main(main))
