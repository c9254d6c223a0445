"""Uploads a voice with a model card to the user's own account on the Hugging Face Hub.

The token is used for this upload and is neither stored nor logged. A new repository is created, private unless
requested otherwise; an existing one is never changed.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants

from lib.errors import ConfigError, LinkError
from lib.index import index_names
from lib.messages import Message
from lib.progress import Progress, no_progress
from lib.voice.archive import checked_index
from lib.voice.facts import VoiceFacts, facts_of
from lib.voice.model_file import VoiceModel, checked_text, read_voice_model, training_range

LICENCES = (  # of those that the hub knows, which voices are published under; others become "other" with their name
    "mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0", "openrail",
)  # fmt: skip
MAX_LICENCE = 100  # characters
_REPOSITORY = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class Publication:
    """Where and how a voice is published. `consent` states that the speaker has consented."""

    repository: str  # owner/name, or the name of a repository of the token's account
    licence: str
    consent: bool = False
    private: bool = True
    f0_method: str = "rmvpe"  # recommended for conversions
    notes: str = ""  # Markdown


def publish_voice(
    voice: Path, index: Path | None, publication: Publication, token: str, progress: Progress = no_progress
) -> str:
    """Upload a voice, its index and a card in one commit; return the URL of the new repository.

    Raises ConfigError if the licence, consent or token is missing or the name is not allowed, CheckpointError if a file
    is damaged, and LinkError if the Hub refuses the upload, for example because the repository exists or the token
    lacks write permission.
    """
    _check(publication, token)
    model = read_voice_model(voice)
    name = publication.repository.rpartition("/")[2]
    files = {f"{name}{voice.suffix.lower()}": voice}
    if index is not None:
        files[index_names(name, model.family, checked_index(index, model).n_cells)[1]] = index
    what = Message("uploading {file}", file=voice.name)
    hub = huggingface_hub.HfApi(token=token.strip())
    try:
        progress(0, 1, what)
        made = hub.create_repo(publication.repository, private=publication.private, exist_ok=False)
        try:
            card = model_card(made.repo_id, model, publication, list(files))
            contents: dict[str, bytes | Path] = {"README.md": card.encode(), **files}
            operations = [huggingface_hub.CommitOperationAdd(target, source) for target, source in contents.items()]
            hub.create_commit(made.repo_id, operations, commit_message=f"Add the voice {name}")
        except BaseException:  # also Ctrl-C and cancelling: a repository without its files must not stay
            with contextlib.suppress(OSError, ValueError, httpx2.HTTPError):
                hub.delete_repo(made.repo_id)  # it was made above and is empty
            raise
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
        raise LinkError(
            "{repository} (Hugging Face Hub) could not be uploaded ({reason}). Check the name, the connection and "
            "the write permission of the token; an existing repository is not changed.",
            repository=publication.repository, reason=reason.replace(token.strip(), "…"),
        ) from None  # fmt: skip
    progress(1, 1, what)
    return str(made)


def _check(publication: Publication, token: str) -> None:
    """Raise ConfigError if a required entry is missing."""
    if not _REPOSITORY.fullmatch(publication.repository):
        raise ConfigError(
            "{name!r} cannot be the name of a repository. Use letters, digits, '-', '_' and '.'.",
            name=publication.repository,
        )
    if not publication.licence.strip():
        raise ConfigError("Choose the licence under which others may use the voice.")
    checked_text("licence", publication.licence, MAX_LICENCE)
    checked_text("info", publication.notes)
    if not publication.consent:
        raise ConfigError("Confirm that the speaker has consented to publication.")
    if not token.strip():
        raise ConfigError("A Hugging Face access token with write permission is needed (Settings, Access Tokens).")


def model_card(repository: str, voice: VoiceModel, publication: Publication, files: list[str]) -> str:
    """Return the model card (README.md): the Hub's metadata, description, use, and the consent statement.

    `repository` is owner/name; `files` are the files of the voice in it.
    """
    facts = facts_of(voice.extra)
    table = [f"| {label} | {_cell(value)} |" for label, value in _rows(voice, publication, facts).items() if value]
    notes, name = publication.notes.strip(), repository.rpartition("/")[2]
    method = f" --pitch-method {publication.f0_method}" if voice.config.has_f0 else ""
    others = "" if voice.family == "lite" else " Other programs that use RVC models load the files, too."
    parts = [
        _metadata(voice, publication, facts),
        f"# {_cell(facts.display_name or name)}\n\nA voice for voice conversion.",
        "\n".join(["| | |", "|---|---|", *table]),
        *([notes] if notes else []),
        f"## Use\n\nFiles: {', '.join(f'`{file}`' for file in files)}.",
        f"```sh\npython -m train ckpt import {constants.ENDPOINT}/{repository}\n"
        f"python -m infer input.wav --voice {name}{method}\n```",
        f"Or paste the link of this page under *Add a voice* in the web UI of Revoice.{others}",
        "## Consent\n\nThe publisher states that the speaker has consented to publication. Ask the speaker "
        "before you publish conversions, say that they are converted, and deceive nobody with them.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(voice: VoiceModel, publication: Publication, facts: VoiceFacts) -> str:
    """Return the YAML block at the beginning. JSON strings are valid YAML, whatever they contain."""
    licence, lines = publication.licence.strip(), ["---"]
    if licence.lower() in LICENCES:
        lines.append(f"license: {licence.lower()}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(licence, ensure_ascii=False)}"]
    code = facts.language.lower().replace("_", "-").partition("-")[0]
    if _LANGUAGE.fullmatch(code):
        lines += ["language:", f"- {json.dumps(code)}"]  # "no" without quotes would be false
    lines += ["pipeline_tag: audio-to-audio", "tags:", "- voice-conversion"]
    lines += ["- revoice"] if voice.family == "lite" else ["- rvc", "- revoice"]
    return "\n".join([*lines, "---"])


def _rows(voice: VoiceModel, publication: Publication, facts: VoiceFacts) -> dict[str, object]:
    """Return what is known about the voice, keyed by label; empty if unknown."""
    rows: dict[str, object] = {
        "language": facts.language,
        "speaker": facts.reader,
        "family": "Revoice lite" if voice.family == "lite" else f"RVC {voice.family}",
        "sample rate": f"{voice.config.sample_rate} Hz",
        "F0": f"yes; recommended method: {publication.f0_method}" if voice.config.has_f0 else "no",
    }
    if found := training_range(voice):
        rows["F0 of the recordings"] = f"{found[0]:.0f} to {found[2]:.0f} Hz, median {found[1]:.0f} Hz"
    entries = {"epochs": "epoch", "length of the recordings": "dataset_length", "author": "author"}
    rows |= {label: voice.extra.get(entry, "") for label, entry in entries.items()}
    return rows | {"licence": publication.licence.strip()}


def _cell(value: object) -> str:
    """A value in one cell of a table, without Markdown or HTML of its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
