"""Makes the corpora again: python -m tests.fuzz.corpus"""

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from lib.voice.archive import export_voice
from lib.voice.model_file import METADATA
from tests.fuzz.targets import CORPUS
from tests.hostile import build_index
from tests.tiny_files import save_voice, small_voice

TEXTS = {
    "json": {
        "good": '{"a": [1, -2.5e3, "\\u00e9\\ud83c\\udfb5", true, null], "b": {"c": {}}}',
        "deep": "[" * 41 + "]" * 41,
        "numbers": "[9223372036854775808, 1e999, NaN, -Infinity, -0.0, 00]",
        "bom": '\ufeff{"a": 1}',
    },
    "curve": {
        "good": "0.00,0\n0.01,220.5\n0.02,221\n",
        "header": "time_ms;f0_hz\n0;--undefined--\n10;nan\n20;440,5\n",
        "midi": "Time (s)\tPitch (MIDI)\n0\t69\n0.01\t\n",
        "tony": "0.5,220\n0.5,-220\n",
    },
    "index_name": {
        "standard": "added_IVF123_Flat_nprobe_1_alice_v2\0alice\0alice_e200_s1000",
        "trained": "trained_IVF1_Flat_nprobe_1_a_b_v1\0a_b\0a_b",
        "other": "alice_added_IVF1\0alice\0alice",
    },
    "script": {
        "good": "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> there.\n\n2\n00:00:03.5 --> 00:00:04.0\n{\\an8}Bye\n",
        "text": 'One sentence. "Two?" Three, four\u3002\u4e94\n\nSix ...',
        "cues": "00:00:05,000 --> 00:00:01,000\nlate\n00:00:01,000 --> 00:00:02,000\nearly",
    },
    "preset": {
        "good": '{"pitch_shift": 12, "effects": "vocal, reverb=0.2", "pitch_method": "hybrid[pm+dio]", "key": "C#"}',
        "wrong": '{"pitch_shift": 1e999, "index_rate": null, "device": "cuda:1"}',
    },
    "experiment": {
        "good": '{"fit": {"checkpoints": [2, 4], "batch_size": 4}, "made": ["a"], "index": {"file": "a.index"}}',
        "checkpoints": '{"format": 1, "pairs": {"2": {"epoch": 1, "step": 2, "files": [[1, "0a"], [1, "0b"]]}}, '
        '"writing": null, "deleting": [], "exported": 2, "record": {}, "checksum": "0"}',
        "recordings": '{"speakers": {"0": "a"}, "recordings": [{"file": "a.wav", "speaker": 0, "clips": 1}]}',
        "events": '{"stage": "fit", "done": 1, "total": 2, "losses": {"mel": 1.5}}\n{"stage": "fit", "done": -1}\n',
        "config": '{"train": {"epochs": 2}, "data": {"sampling_rate": 40000, "hop_length": 400}, "model": {}}',
        "request": '{"voice": "a", "recording": "a.wav", "options": {"pitch_shift": 2}, "files": ["a", "b"]}',
    },
    "options": {
        "effects": "highpass=80, compressor=-20:3, vocal",
        "method": "hybrid[pm+harvest]",
        "devices": "0-1,2",
        "path": "file:///home/a/%C3%A9.wav",
        "name": "\u6b4c\u58f0 1",
        "null": "~\x1d" + 7 * "\0",
    },
    "request": {
        "good": "POST /gradio_api/cancel\nHost: voices.example:7865\nOrigin: http://voices.example:7865\n"
        "Cookie: revoice-language=ja; a=b\nAccept-Language: de-CH,de;q=0.9,*;q=0.1\nContent-Length: 2",
        "cross": "GET /config\nHost: [::1]:7865\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate",
        "upload": "POST /gradio_api/upload\nHost: localhost\nContent-Type: multipart/form-data; boundary=b",
    },
    "voice_texts": {
        "good": '{"info": "7epoch", "author": "a", "speaker_names": {"0": "anna"}, "training_f0": [100, 200.5, 300]}',
        "nested": '{"info": {"a": [1, null, true]}, "sr": "40k", "f0": 1, "version": "v2", "epoch": 1e3}',
    },
    "placeholders": {
        "text": "a \x01convert.run\x04 b",
        "values": "\x01voices.deleted\x02name\x03<b>\x01convert.run\x04</b>\x04",
        "json": '{"data": ["\x01voices.deleted\x02name\x03x\\n\x04", "\x02\x03\x04"]}',
        "nested": "\x01" * 20 + "convert.run" + "\x04" * 20,
    },
}


def write(target: str, name: str, data: bytes) -> None:
    """Write one file of a corpus."""
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_models(folder: Path) -> None:
    """A voice in every format, and an index."""
    voice = small_voice("lite", "24k", prior_blocks=1, vocoder_blocks=1, n_speakers=2)
    content = save_voice(folder / "a.pth", voice)
    write("pth", "good", (folder / "a.pth").read_bytes())
    torch.save(content, folder / "b.pth", _use_new_zipfile_serialization=False)
    write("pth", "legacy", (folder / "b.pth").read_bytes())
    facts = {key: value for key, value in content.items() if key != "weight"}
    metadata = {METADATA: json.dumps(facts | {"tensors": list(content["weight"])})}
    save_file(content["weight"], folder / "a.safetensors", metadata)
    write("safetensors", "good", (folder / "a.safetensors").read_bytes())
    build_index(folder / "a.index")
    write("index", "good", (folder / "a.index").read_bytes())
    export_voice(folder / "a.pth", None, folder / "a.zip")
    write("archive", "good", (folder / "a.zip").read_bytes())


def write_audio() -> None:
    """A hundredth of a second in several containers."""
    tone = 0.5 * np.sin(np.arange(441) / 7)
    for name, container, coding in (
        ("good.wav", "WAV", "PCM_16"), ("float.wav", "WAV", "FLOAT"), ("a.flac", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"), ("a.mp3", "MP3", "MPEG_LAYER_III"), ("a.aiff", "AIFF", "PCM_16"),
    ):  # fmt: skip
        data = io.BytesIO()
        soundfile.write(data, tone, 44_100, format=container, subtype=coding)
        write("audio", name, data.getvalue())


def main() -> None:
    """Write all corpora."""
    for target, texts in TEXTS.items():
        for name, text in texts.items():
            write(target, name, text.encode())
    write_audio()
    with TemporaryDirectory() as folder:
        write_models(Path(folder))


if __name__ == "__main__":
    main()
