"""Publishing a voice: a card with licence and consent, a new private repository, and a token that goes nowhere else."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx2
import huggingface_hub
import pytest

from lib.errors import ConfigError, LinkError
from lib.voice.model_file import write_voice_model
from lib.voice.publish import Publication, model_card, publish_voice
from tests.test_intake import save_index
from tests.test_web import FakeConverter
from tests.tiny_files import small_voice
from train.ckpt.cli import Publish, use
from web.app import build_app
from web.i18n.translator import Translator

TOKEN = "hf_secret"
GOOD = Publication("anna", "cc-by-4.0", consent=True)


class FakeHub:
    """Stands for the hub with an account named me; it holds what was committed."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.private: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.failure: Exception | None = None

    def login(self, token: str) -> "FakeHub":
        """The client of a token."""
        self.tokens.append(token)
        return self

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> Any:
        """A new repository of the account."""
        full = repository if "/" in repository else f"me/{repository}"
        if full in self.private and not exist_ok:
            raise httpx2.HTTPError("409 Conflict\nYou already created this model repo.")
        self.private[full] = private

        class Address(str):
            repo_id = full

        return Address(f"https://huggingface.co/{full}")

    def create_commit(self, repository: str, operations: Any, *, commit_message: str) -> None:
        """Keep the files."""
        if self.failure:
            raise self.failure
        assert repository in self.private and commit_message
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()

    def delete_repo(self, repository: str) -> None:
        """Forget a repository."""
        del self.private[repository]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.login)
    return fake


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    path = tmp_path / "voice one.pth"
    made = small_voice("v2", "40k")
    made.extra.update(display_name="Anna | <b>", language="no", reader="woman", epoch=200, training_f0=[100, 200, 400])
    write_voice_model(path, made)
    return path


def test_voice_index_and_card_are_uploaded_privately(hub: FakeHub, voice: Path, tmp_path: Path) -> None:
    index = save_index(tmp_path / "any.index", 768)
    assert publish_voice(voice, index, GOOD, f" {TOKEN}\n") == "https://huggingface.co/me/anna"
    assert hub.private == {"me/anna": True} and hub.tokens == [TOKEN]
    card = hub.files.pop("README.md").decode()
    assert hub.files.pop("anna.pth") == voice.read_bytes()
    (name,) = hub.files
    assert name.startswith("added_IVF") and name.endswith("_anna_v2.index") and hub.files[name] == index.read_bytes()
    assert card.startswith('---\nlicense: cc-by-4.0\nlanguage:\n- "no"\npipeline_tag: audio-to-audio\n')
    for part in ("RVC v2", "40000 Hz", "method: rmvpe", "100 to 400 Hz, median 200 Hz", "woman", "| epochs | 200 |",
                 "import https://huggingface.co/me/anna", "--voice anna --pitch-method rmvpe", "has consented",
                 f"`{name}`", r"# Anna \| \<b\>"):  # fmt: skip
        assert part in card, part
    assert TOKEN not in card
    publish_voice(voice, None, Publication("org/open", 'My terms: "ask"', consent=True, private=False), TOKEN)
    assert hub.private["org/open"] is False
    assert 'license: other\nlicense_name: "My terms: \\"ask\\""\n' in hub.files["README.md"].decode()


@pytest.mark.parametrize(("publication", "token", "says"), [
    (Publication("anna", " ", consent=True), TOKEN, "Choose the licence"),
    (Publication("anna", "mit"), TOKEN, "consented to publication"),
    (Publication("an na", "mit", consent=True), TOKEN, "cannot be the name of a repository"),
    (Publication("a/b/c", "mit", consent=True), TOKEN, "cannot be the name of a repository"),
    (Publication("anna", "x" * 101, consent=True), TOKEN, "too long"), (GOOD, " ", "Hugging Face access token"),
])  # fmt: skip
def test_what_is_missing_is_said_before_anything_is_sent(
    hub: FakeHub, voice: Path, publication: Publication, token: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        publish_voice(voice, None, publication, token)
    assert not hub.tokens


def test_a_repository_that_exists_is_not_changed(hub: FakeHub, voice: Path) -> None:
    hub.private["me/anna"] = False
    with pytest.raises(LinkError, match=r"anna \(Hugging Face Hub\) could not be uploaded \(You already created"):
        publish_voice(voice, None, GOOD, TOKEN)
    assert hub.private == {"me/anna": False} and not hub.files


def test_a_failed_upload_leaves_no_repository_and_no_token_in_the_message(
    hub: FakeHub, voice: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failure = httpx2.ConnectError(f"no route for {TOKEN}")
    with caplog.at_level(logging.DEBUG), pytest.raises(LinkError, match="no route for …") as caught:
        publish_voice(voice, None, GOOD, TOKEN)
    assert not hub.private and TOKEN not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None


def test_voices_without_pitch_and_of_lite_have_a_true_card() -> None:
    card = model_card("me/a", small_voice("v2", "32k", has_f0=False), GOOD, ["a.pth"])
    assert "| F0 | no |" in card and "--pitch-method" not in card and "language" not in card


def test_the_command_uploads_with_the_token_of_the_account(
    hub: FakeHub, voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    tool = Publish(voice=str(voice), repository="anna", licence="mit", consent=True, public=True)
    assert [*use(tool)] == ["uploaded to https://huggingface.co/me/anna"]
    assert hub.private == {"me/anna": False}
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(ConfigError, match="token"):
        list(use(tool))


@pytest.mark.slow
def test_the_page_uses_the_token_once_and_offers_no_endpoint_for_it(tmp_path: Path) -> None:
    given: list[Any] = []

    def publish(name: str, publication: Publication, token: str) -> str:
        given.extend([name, publication, token])
        return "https://huggingface.co/me/a"

    services = replace(FakeConverter().services(tmp_path), publish=publish)
    app = build_app(services, Translator())
    services.registry.close()
    names = {f.fn.__qualname__: f.fn for f in app.fns.values() if f.fn}
    upload = names["build_publish.<locals>.publish"]
    said, token = upload("alice", " a ", "mit", "fcpe", "notes", False, True, TOKEN)
    assert given == ["alice", Publication("a", "mit", True, False, "fcpe", "notes"), TOKEN]
    assert token == "" and 'href="https://huggingface.co/me/a"' in said and TOKEN not in said
    with pytest.raises(gr.Error, match="voice"):
        upload("nobody", "a", "mit", "fcpe", "", True, True, TOKEN)
    assert not any("publish" in name for name in app.get_api_info()["named_endpoints"])
