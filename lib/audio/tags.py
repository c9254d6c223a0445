"""Tags and cover art of recordings: read from any container, and prepared for writing to another."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from lib.audio.decode import _check_file, _open, unreadable

NAMES = (
    "title", "artist", "album_artist", "album", "composer", "genre", "date", "track", "disc", "comment", "copyright",
    "publisher",
)  # fmt: skip
MAX_VALUE = 4096  # characters
MAX_COVER = 16 << 20  # bytes
FRONT_COVER = 3  # the picture type in FLAC and ID3
PICTURE_KEY = "METADATA_BLOCK_PICTURE"  # of a cover in Ogg, as base64
OGG_SUFFIXES = (".ogg", ".opus", ".oga")
MIME: dict[str, str] = {"mjpeg": "image/jpeg", "png": "image/png"}


@dataclass(frozen=True)
class Cover:
    """Cover art as stored in an audio file."""

    codec: Literal["mjpeg", "png"]
    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Tags:
    """Tags, keyed by the names in NAMES, and the cover art."""

    values: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None

    def __bool__(self) -> bool:
        return bool(self.values) or self.cover is not None


def read_tags(path: Path) -> Tags:
    """Read the tags and the first JPEG or PNG cover art of a recording; empty if it has none.

    Raises the same errors as `Recording`.
    """
    import av

    _check_file(path)
    try:
        with _open(path) as container:
            found: dict[str, str] = {}
            for source in (container, *container.streams.audio):  # Ogg keeps the tags in its stream
                found.update({key.lower(): value for key, value in source.metadata.items()})
            values = {name: found[name][:MAX_VALUE] for name in NAMES if found.get(name)}
            return Tags(values, _read_cover(container))
    except av.error.FFmpegError as error:
        raise unreadable(path, error) from error


def _read_cover(container: Any) -> Cover | None:
    import av

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic or stream.codec_context.name not in MIME:
            continue
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        if packet is not None and packet.size <= MAX_COVER:
            context = stream.codec_context
            return Cover(context.name, bytes(packet), context.width, context.height)
    return None


def add_tags(container: Any, tags: Tags, suffix: str) -> Any:
    """Add tags to an output container before its packets; returns the packet with the cover art to mux first, or None.

    WAV cannot store cover art.
    """
    container.metadata.update(tags.values)
    cover = tags.cover
    if cover is None or suffix == ".wav":
        return None
    if suffix in OGG_SUFFIXES:
        container.metadata[PICTURE_KEY] = base64.b64encode(_picture_block(cover)).decode()
        return None
    import av

    stream = container.add_stream(cover.codec)
    stream.width, stream.height = cover.width, cover.height
    stream.pix_fmt = "yuvj420p" if cover.codec == "mjpeg" else "rgb24"
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover.data)
    packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 1000), 0, 0
    return packet


def _picture_block(cover: Cover) -> bytes:
    """The picture block of FLAC (RFC 9639, section 8.8)."""
    mime = MIME[cover.codec].encode()
    head = struct.pack(">II", FRONT_COVER, len(mime)) + mime + struct.pack(">I", 0)  # without a description
    return head + struct.pack(">IIIII", cover.width, cover.height, 24, 0, len(cover.data)) + cover.data
