"""Downloads the files of voices from a link: a repository or a file on the Hugging Face Hub, or any https link."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from lib.errors import LinkError
from lib.fetch import Limits, fetch, is_link, not_a_link, too_large, too_slow
from lib.messages import Message
from lib.progress import Progress, no_progress
from lib.voice.intake import INTAKE_SUFFIXES, MAX_FILES

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_CHECKPOINT = re.compile(r"[GD]_\w+$|(f0)?[GD](24|32|40|48)k\w*$")  # large, and no voices

Kind = Literal["model", "dataset", "space"]


@dataclass(frozen=True)
class HubPlace:
    """A repository of the Hub, a folder in it (`path` ends with /), or a file in it."""

    repository: str  # owner/name
    kind: Kind = "model"
    revision: str | None = None
    path: str = ""


def hub_place(link: str) -> HubPlace | None:
    """Return the location on the Hugging Face Hub that a link or "owner/name" points to; None for any other link.

    The Hub is huggingface.co, or the mirror given by HF_ENDPOINT. Raises LinkError if it is a page of the Hub without
    files.
    """
    from huggingface_hub import constants

    text = link.strip()
    if _REPOSITORY.fullmatch(text):
        return HubPlace(text)
    parts = urlsplit(text)
    if (parts.hostname or "").lower() not in HUB_HOSTS | {urlsplit(constants.ENDPOINT).hostname}:
        return None
    names = [unquote(name) for name in parts.path.split("/") if name]
    kind: Kind = "model"
    if names and names[0] in ("datasets", "spaces"):
        kind = "dataset" if names.pop(0) == "datasets" else "space"
    repository = "/".join(names[:2])
    if not _REPOSITORY.fullmatch(repository):
        raise not_a_link(link)
    if len(names) == 2:
        return HubPlace(repository, kind)
    action, *rest = names[2:]
    if action not in ("tree", "blob", "resolve", "raw") or not rest:
        raise not_a_link(link)
    revision, path = rest[0], "/".join(rest[1:])
    if action == "tree":
        return HubPlace(repository, kind, revision, f"{path}/" if path else "")
    if not path:
        raise not_a_link(link)
    return HubPlace(repository, kind, revision, path)


def fetch_voices(
    link: str, folder: Path, progress: Progress = no_progress, *, limits: Limits | None = None, own: bool = True
) -> list[Path]:
    """Download the voice models, indexes and archives that a link points to into `folder`, which must exist; return
    their paths.

    If `own` is set, private repositories that the Hugging Face account of this machine can read are allowed; otherwise
    only public ones are. Raises LinkError if the link cannot be used, leads to no such file, or exceeds `limits`.
    """
    place = hub_place(link)
    if place is not None:
        return _fetch_from_hub(place, folder, progress, limits or Limits(), own)
    if not is_link(link):
        raise not_a_link(link)
    path = fetch(link, folder, progress, limits)
    if path.suffix.lower() not in INTAKE_SUFFIXES:
        path.unlink()
        raise _no_voice(path.name)
    return [path]


def _no_voice(name: str) -> LinkError:
    return LinkError(
        "The link points to {file}. Use a link to a file of one of these types: {suffixes}, or to a Hugging Face "
        "repository that contains such files.",
        file=name, suffixes=", ".join(INTAKE_SUFFIXES),
    )  # fmt: skip


def _fetch_from_hub(place: HubPlace, folder: Path, progress: Progress, limits: Limits, own: bool) -> list[Path]:
    """Download the files of a place. The Hub's own client follows its redirects and verifies sizes."""
    import httpx2
    import huggingface_hub

    where: dict[str, Any] = {
        "repo_id": place.repository, "repo_type": place.kind, "revision": place.revision,
        "token": None if own else False,
    }  # fmt: skip
    try:
        info: Any = huggingface_hub.HfApi().repo_info(**where, files_metadata=True, timeout=limits.silent_seconds)
        files = [file for file in info.siblings or () if ".." not in PurePosixPath(file.rfilename).parts]
        sizes = {file.rfilename: file.size or 0 for file in files}
        names = _chosen(place, sizes, limits)
        meter = _Meter(names, sum(sizes[name] for name in names), limits, progress)
        where["revision"] = info.sha  # all files of one state
        paths = []
        for number, name in enumerate(names):
            meter.name = PurePosixPath(name).name
            local = folder / f"hub-{number}"
            bar: Any = meter.bar()
            paths.append(Path(huggingface_hub.hf_hub_download(filename=name, local_dir=local, tqdm_class=bar, **where)))
        return paths
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise LinkError(
            "{repository} (Hugging Face Hub) could not be read ({reason}). Check the link and the connection.",
            repository=place.repository, reason=reason,
        ) from error  # fmt: skip


def _chosen(place: HubPlace, sizes: dict[str, int], limits: Limits) -> list[str]:
    """The files to download. Raises LinkError if there are none or too many, or if they are too large."""
    if place.path and not place.path.endswith("/"):
        names = [place.path] if place.path in sizes else []
        if names and PurePosixPath(place.path).suffix.lower() not in INTAKE_SUFFIXES:
            raise _no_voice(PurePosixPath(place.path).name)
    else:
        names = [name for name in sizes if name.startswith(place.path) and _is_wanted(PurePosixPath(name))]
    size = sum(sizes[name] for name in names)
    if not names:
        raise LinkError(
            "{repository} (Hugging Face Hub) contains no voice model, index or archive at that location.",
            repository=place.repository,
        )
    if len(names) > MAX_FILES or size > limits.max_bytes:
        raise LinkError(
            "{repository} (Hugging Face Hub) contains {count} voice files at that location, {size} MB in total; at "
            "most {most_files} files and {most} MB can be downloaded at once. Use a link to a folder or to a single "
            "file.",
            repository=place.repository, count=len(names), size=size // 10**6, most_files=MAX_FILES,
            most=limits.max_bytes // 10**6,
        )  # fmt: skip
    return names


def _is_wanted(path: PurePosixPath) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".index":
        return not path.name.startswith("trained_")  # empty
    return suffix in INTAKE_SUFFIXES and not _CHECKPOINT.match(path.stem)


class _Meter:
    """Progress of several downloads, which stops them when they exceed a limit."""

    def __init__(self, names: Sequence[str], total: int, limits: Limits, progress: Progress) -> None:
        self.name = ""
        self._total = total
        self._limits = limits
        self._progress = progress
        self._received = 0
        self._end = time.monotonic() + limits.max_seconds

    def bar(self) -> Any:
        """A progress bar class for huggingface_hub that reports here."""
        from huggingface_hub.utils.tqdm import tqdm

        meter = self

        class Bar(tqdm):
            def update(self, n: float | None = 1) -> bool | None:
                meter.count(int(n or 0))
                shown: bool | None = super().update(n)
                return shown

        return Bar

    def count(self, size: int) -> None:
        """Count bytes. Raises LinkError if there are too many, or the time is up."""
        self._received += size
        if self._received > self._limits.max_bytes:
            raise too_large(self._limits.max_bytes)
        if time.monotonic() > self._end:
            raise too_slow(self._limits.max_seconds)
        what = Message("downloading {file}", file=self.name)
        self._progress(self._received, max(self._total, self._received, 1), what)
