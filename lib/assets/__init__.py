"""Downloadable weights: names, paths, SHA-256, and the download from the Hugging Face Hub.

Nothing is downloaded automatically; the user runs `python -m lib.assets download NAME`.
"""

import difflib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import sha256_of
from lib.messages import Message
from lib.paths import PRETRAINED
from lib.progress import Progress, no_progress

REPOSITORY = "lj1995/VoiceConversionWebUI"  # on the Hugging Face Hub
LICENCE = "MIT"  # as that repository states
PROGRAM = "python -m lib.assets"
STAGING = ".download"  # below pretrained/; interrupted downloads are resumed from here
Received = Callable[[int, int], None]  # bytes received of a file, its size or 0


@dataclass(frozen=True)
class Asset:
    """A file to download."""

    name: str  # on the command line; several files may share one
    source: str | None  # path in the repository; None: only its older revisions have it
    target: str  # path below pretrained/
    sha256: str
    needed_by: str
    size: int | None = None  # bytes, where known
    megabytes: int | None = None  # rounded, where known


_HUBERT = {
    "config.json": "0346950779dfb7f9316fa74ed846e2b8a22a08eedfdc5387b73f327cb1a4a7cf",
    "preprocessor_config.json": "7c1976a680fb7acc757cd36fb08eef878fa36c70b4c9d2d595df9c608bbbbf0e",
    "pytorch_model.bin": "cc8c20f4b90a520757260197a3ff2505705a7adbd20ad9eeaa4e1a9b38442ef5",
}
_BASES = {
    "v1": {
        "D32k": "2ab20645829460fdad0d3c44254f1ab53c32cae50c22a66c926ae5aa30abda6f",
        "D40k": "547f66dbbcd9023b9051ed244d12ab043ba8a4e854b154cc28761ac7c002909b",
        "D48k": "8cc013fa60ed9c3f902f5bd99f48c7e3b9352d763d4d3cd6bc241c37b0bfd9ad",
        "G32k": "81817645cde7ed2e2d83f23ef883f33dda564924b497e84d792743912eca4c23",
        "G40k": "e428573bda1124b0ae0ae843fd8dcded6027d3993444790b3e9b0100938b2113",
        "G48k": "3862a67ea6313e8ffefc05cee6bee656ef3e089442e9ecf4a6618d60721f3e95",
        "f0D32k": "294db3087236e2c75260d6179056791c9231245daf5d0485545d9e54c4057c77",
        "f0D40k": "7d4f5a441594b470d67579958b2fd4c6b992852ded28ff9e72eda67abcebe423",
        "f0D48k": "1b84c8bf347ad1e539c842e8f2a4c36ecd9e7fb23c16041189e4877e9b07925c",
        "f0G32k": "285f524bf48bb692c76ad7bd0bc654c12bd9e5edeb784dddf7f61a789a608574",
        "f0G40k": "9115654aeef1995f7dd3c6fc4140bebbef0ca9760bed798105a2380a34299831",
        "f0G48k": "78bc9cab27e34bcfc194f93029374d871d8b3e663ddedea32a9709e894cc8fe8",
    },
    "v2": {
        "D32k": "d8043378cc6619083d385f5a045de09b83fb3bf8de45c433ca863b71723ac3ca",
        "D40k": "471378e894e7191f89a94eda8288c5947b16bbe0b10c3f1f17efdb7a1d998242",
        "D48k": "db01094a93c09868a278e03dafe8bb781bfcc1a5ba8df168c948bf9168c84d82",
        "G32k": "869b26a47f75168d6126f64ac39e6de5247017a8658cfd68aca600f7323efb9f",
        "G40k": "a3843da7fde33db1dab176146c70d6c2df06eafe9457f4e3aa10024e9c6a4b69",
        "G48k": "2e2b1581a436d07a76b10b9d38765f64aa02836dc65c7dee1ce4140c11ea158b",
        "f0D32k": "bd7134e7793674c85474d5145d2d982e3c5d8124fc7bb6c20f710ed65808fa8a",
        "f0D40k": "6b6ab091e70801b28e3f41f335f2fc5f3f35c75b39ae2628d419644ec2b0fa09",
        "f0D48k": "2269b73c7a4cf34da09aea99274dabf99b2ddb8a42cbfb065fb3c0aa9a2fc748",
        "f0G32k": "2332611297b8d88c7436de8f17ef5f07a2119353e962cd93cda5806d59a1133d",
        "f0G40k": "3b2c44035e782c4b14ddc0bede9e2f4a724d025cd073f736d4f43708453adfcb",
        "f0G48k": "b5d51f589cc3632d4eae36a315b4179397695042edc01d15312e1bddc2b764a4",
    },
}
_MEGABYTES = {  # of generators by rate, and of discriminators, with F0
    "v1": {"G32k": 73, "G40k": 73, "G48k": 73, "D": 110},
    "v2": {"G32k": 74, "G40k": 73, "G48k": 75, "D": 143},
}
_FOLDERS = {"v1": "pretrained", "v2": "pretrained_v2"}  # in the repository


def _base(family: str, stem: str, sha256: str) -> Asset:
    rate, pitched = stem[-3:], stem.startswith("f0")
    name = f"{family}-{rate}" if pitched else f"{family}-{rate}-nof0"
    if pitched:
        needed_by = Message("training {family} voices at {rate} with F0", family=family, rate=rate)
    else:
        needed_by = Message("training {family} voices at {rate} without F0", family=family, rate=rate)
    sizes = _MEGABYTES[family]
    megabytes = sizes.get(stem.removeprefix("f0"), sizes["D"]) if pitched else None
    return Asset(
        name, f"{_FOLDERS[family]}/{stem}.pth", f"{family}/{stem}.pth", sha256, needed_by, megabytes=megabytes
    )  # fmt: skip


MANIFEST: tuple[Asset, ...] = (
    *(
        Asset(
            "hubert_base", f"hubert_base/{file}", f"hubert_base/{file}", sha256, "every v1 and v2 voice",
            megabytes=189 if file.endswith(".bin") else 0,
        )
        for file, sha256 in _HUBERT.items()
    ),
    Asset(
        "hubert_base.pt", None, "hubert_base.pt", "f54b40fd2802423a5643779c4861af1e9ee9c1564dc9d32f54f20b5ffba7db96",
        "every v1 and v2 voice, instead of hubert_base", 189_507_909,
    ),
    Asset(
        "rmvpe", "rmvpe.pt", "rmvpe.pt", "6d62215f4306e3ca278246188607209f09af3dc77ed4232efdd069798c4ec193",
        "the pitch method rmvpe", megabytes=181,
    ),
    *(_base(family, stem, sha256) for family, stems in _BASES.items() for stem, sha256 in stems.items()),
)  # fmt: skip


SETS: dict[str, tuple[str, ...]] = {  # names for several downloads at once
    "v2-starter": ("hubert_base", "rmvpe", "v2-40k"),
    "v1-starter": ("hubert_base", "rmvpe", "v1-40k"),
}


def how_to_get(name: str, alternative: str = "") -> Message:
    """Return the sentence that tells the user how to get a missing file: the command that downloads it.

    If `alternative` is given, the sentence also names the folder into which an existing file of that name can be
    copied.
    """
    command = f"{PROGRAM} download {name}"
    if not alternative:
        return Message('Get it with "{command}".', command=command)
    return Message(
        'Get it with "{command}", or copy an existing {file} into {folder}.',
        command=command,
        file=alternative,
        folder=PRETRAINED,
    )


def known_name(sha256: str) -> str | None:
    """Return the name of the published file with this hash; None if there is none."""
    return next((asset.name for asset in MANIFEST if asset.sha256 == sha256), None)


def choose(names: Sequence[str]) -> list[Asset]:
    """Return the files with these names, in the order of MANIFEST.

    A name in SETS stands for several files. Raises ConfigError, listing all names, if a name is unknown.
    """
    names = [part for name in names for part in SETS.get(name, (name,))]
    existing = [*dict.fromkeys(asset.name for asset in MANIFEST), *SETS]
    listed = ", ".join(existing)
    if not names:
        raise ConfigError("Specify a download. Available: {names}.", names=listed)
    for name in names:
        if name in existing:
            continue
        if close := difflib.get_close_matches(name, existing, n=1):
            raise ConfigError(
                "There is no download {name!r}. Did you mean {close!r}? Available: {names}.",
                name=name,
                close=close[0],
                names=listed,
            )
        raise ConfigError("There is no download {name!r}. Available: {names}.", name=name, names=listed)
    return [asset for asset in MANIFEST if asset.name in names]


def path_of(asset: Asset, root: Path | None = None) -> Path:
    """Return the path of a file below `root`, which defaults to pretrained/."""
    return (root or PRETRAINED) / asset.target


def missing_megabytes(names: Sequence[str], root: Path | None = None) -> int | None:
    """Return the total size in MB of the named files that are not installed; None if a size is unknown."""
    sizes = [asset.megabytes for asset in choose(names) if not path_of(asset, root).is_file()]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def state_of(asset: Asset, root: Path | None = None) -> str:
    """Return "missing", "genuine" (SHA-256 as published) or "different"."""
    path = path_of(asset, root)
    if not path.is_file():
        return "missing"
    return "genuine" if sha256_of(path) == asset.sha256 else "different"


def download(
    names: Sequence[str], root: Path | None = None, progress: Progress = no_progress, received: Received | None = None
) -> list[Path]:
    """Download the named files that are missing, and return the paths of all named files.

    `received` is called with the number of bytes received and the size of the current file. A file gets its final name
    after its hash has been verified; the next call resumes an interrupted download. Raises ConfigError if a name is
    unknown, MissingFileError if the download fails, and CheckpointError if a file differs from the published one.
    """
    root = root or PRETRAINED
    chosen = choose(names)
    try:
        for i, asset in enumerate(chosen):
            progress(i, len(chosen), Message("downloading {file}", file=asset.target))
            state = state_of(asset, root)
            if state == "different":
                raise CheckpointError(
                    "{path} is not the published file (its SHA-256 differs). Move it away, then try again.",
                    path=path_of(asset, root),
                )
            if state == "missing":
                _fetch(asset, root, received)
    finally:
        if not any((root / STAGING).rglob("*.incomplete")):
            shutil.rmtree(root / STAGING, ignore_errors=True)
    progress(len(chosen), len(chosen), Message("downloaded"))
    return [path_of(asset, root) for asset in chosen]


def _meter(received: Received) -> Any:
    """A progress bar class for huggingface_hub that also calls `received`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Meter(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            received(int(self.n), int(self.total or 0))
            return shown

    return Meter


def _fetch(asset: Asset, root: Path, received: Received | None = None) -> None:
    """Download one file to the staging folder, verify its hash and move it to its path."""
    import httpx2
    import huggingface_hub

    target = path_of(asset, root)
    by_hand = Message(
        "put the file {file} of {repository} (Hugging Face Hub) there by hand", file=asset.source, repository=REPOSITORY
    )
    if asset.source is None:
        raise MissingFileError(
            target,
            "Only older revisions of its repository have it: put a copy there if you have one, or get the same weights "
            'with "{command}".',
            command=f"{PROGRAM} download hubert_base",
        )
    try:
        bar = {} if received is None else {"tqdm_class": _meter(received)}
        staged = Path(huggingface_hub.hf_hub_download(REPOSITORY, asset.source, local_dir=root / STAGING, **bar))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise MissingFileError(
            target,
            "It could not be downloaded ({reason}). Check the connection and the free space, or set HF_ENDPOINT to a "
            "mirror, and run the same command again; or {by_hand}.",
            reason=reason,
            by_hand=by_hand,
        ) from error
    _verify(staged, asset, by_hand)
    with staged.open("rb+") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(target)


def _verify(staged: Path, asset: Asset, by_hand: Message) -> None:
    """Raise CheckpointError if a downloaded file is not the published one; it is then deleted."""
    if (actual := sha256_of(staged)) != asset.sha256:
        staged.unlink()
        raise CheckpointError(
            "{file} was downloaded, but is not the published file (SHA-256 {actual}... instead of {published}...), and "
            "was removed. Try again later or from another mirror, or {by_hand}.",
            file=asset.source,
            actual=actual[:12],
            published=asset.sha256[:12],
            by_hand=by_hand,
        )
