"""Makes tests/data/golden, the small set of golden data, out of a full one: python tests/data/make_data.py FOLDER.

The result has the layout of the full set and a manifest of its own; every file is checked against the full manifest.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

SMALL_SET = Path(__file__).resolve().parent / "golden"
LIMIT = 5_000_000  # bytes, of everything in tests/data
CHOSEN = (
    "README.md",
    "ckpt/ckpt.json",
    "disc/mpd_v2.fill.json",
    "disc/mpd_v2.fmaps.json",
    "disc/mpd_v2.safetensors",
    "functions/01_f0_coarse.json",
    "functions/02_slicer.json",
    "functions/03_piece_naming.json",
    "functions/05_sine_source.npz",
    "functions/07_rmvpe.npz",
    "functions/08_manual_f0.npz",
    "functions/09_tiny_v1_f0.npz",
    "functions/10_bucket_sampler.json",
    "functions/11_losses.npz",
    "functions/12_retrieval.index",
    "functions/12_retrieval.npz",
    "hubert/hubert_tiny_b_fp16.features.safetensors",
    "hubert/hubert_tiny_b_fp16.pt",
    "loss_mel/losses.safetensors",
    "loss_mel/mel_32k.safetensors",
    "pipeline/f0_methods.safetensors",
    "pipeline/highpass.safetensors",
    "pipeline/load_audio.safetensors",
    "pipeline/pitch_quantisation.safetensors",
    "pipeline/speech_16k.wav",
    "pipeline/split_points.json",
    "pipeline/stereo_44k.wav",
    "rmvpe/decode.safetensors",
    "rmvpe/rmvpe.fill.json",
    "synth/full_v2_32k_nof0.fill.json",
    "synth/full_v2_32k_nof0.infer.safetensors",
    "synth/small_v2_40k_f0.infer_short.safetensors",
    "synth/small_v2_40k_f0.pth",
)


def damage(path: Path, facts: dict[str, object]) -> str | None:
    """What differs between a file and its row of a manifest (keys `bytes`, `sha256`); None if nothing does."""
    if not path.is_file():
        return f"{path} is missing"
    content = path.read_bytes()
    if len(content) != facts["bytes"]:
        return f"{path} has {len(content)} bytes, not {facts['bytes']}"
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        return f"{path} is not the file of the manifest: its SHA-256 differs"
    return None


def facts_of(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def make(full: Path, small: Path) -> None:
    """Copy the chosen files of a full set; refuse data that differ from the full set's own manifest.

    That manifest does not name `functions/`, and its row of the README is older than the README: neither is checked.
    """
    rows = json.loads((full / "manifest.json").read_text(encoding="utf-8"))
    checked = [name for name in CHOSEN if name in rows and name != "README.md"]
    problems = [text for name in checked if (text := damage(full / name, rows[name]))]
    if problems:
        raise SystemExit("\n".join(problems))
    if small.exists():
        shutil.rmtree(small)
    for name in CHOSEN:
        (small / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(full / name, small / name)
    lines = [f"{json.dumps(name)}: {json.dumps(facts_of(small / name))}" for name in CHOSEN]
    (small / "manifest.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/data/make_data.py FOLDER-OF-THE-FULL-SET")
    make(Path(sys.argv[1]), SMALL_SET)
