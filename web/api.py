"""The API description of the endpoints: names of results, and defaults that differ from those of the web UI's controls.

Gradio describes endpoints in terms of the components of the web UI. Results get names here; parameters whose value
depends on the voice or on other parameters are optional and None.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

RETURNS: Mapping[str, tuple[str, ...]] = {
    "add_link": ("message",),
    "add_voices": ("message", "files"),
    "bug_report": ("file",),
    "cancel_job": ("job",),
    "check_installation": ("table",),
    "check_recordings": ("report",),
    "compare_index_rates": ("index_rate_0", "index_rate_0_5", "index_rate_1"),
    "convert": ("result", "report"),
    "convert_batch": ("table", "archive"),
    "delete_voice": ("message",),
    "download_weights": ("weights", "missing", "message"),
    "draw_spectrograms": ("picture",),
    "edit_voice": ("message",),
    "export_voice": ("archive",),
    "extract_voice": ("message",),
    "import_preset": ("presets", "file"),
    "import_voice": ("message", "file"),
    "job_status": ("job",),
    "list_jobs": ("jobs",),
    "list_voices": ("voices",),
    "measure_speed": ("table",),
    "merge_voices": ("message",),
    "remove_folder": ("folders",),
    "resume_job": ("job",),
    "save_preset": ("presets",),
    "suggest_pitch_shift": ("pitch_shift",),
    "train": ("message", "files", "job_id"),
    "undo_delete": ("message",),
    "use_folder": ("folder", "folders"),
    "voice_info": ("info",),
}
OPTIONAL = frozenset({"index_rate"})  # None: the voice's recommendation
REQUIRED = {name: frozenset({"voice"}) for name in ("delete_voice", "edit_voice")}  # though the web UI has chosen one
OPTIONAL_OF = {"train": frozenset({"sample_rate"})}  # None: the usual one of the family


def describe_api(app: gr.Blocks) -> None:
    """Add these names and defaults to the API description of the web UI."""
    described = app.get_api_info

    def get_api_info(*arguments: Any, **keywords: Any) -> Any:
        info = described(*arguments, **keywords)
        saved = info["named_endpoints"].get("/save_preset", {"parameters": []})["parameters"]
        options = tuple(parameter["parameter_name"] for parameter in saved[1:])
        for path, endpoint in info["named_endpoints"].items():
            name = path.removeprefix("/")
            names = (*options, "file") if name == "load_preset" else RETURNS.get(name)
            _describe_returns(names, endpoint["returns"])
            _describe_parameters(name, endpoint["parameters"])
        return info

    app.get_api_info = get_api_info


def _describe_returns(names: tuple[str, ...] | None, returns: list[dict[str, Any]]) -> None:
    """Name the results of an endpoint; those without names are named after their components."""
    names = names or tuple(str(described["component"]).lower() for described in returns)
    for name, described in zip(names, returns, strict=True):
        described["label"] = name


def _describe_parameters(endpoint: str, parameters: list[dict[str, Any]]) -> None:
    """Correct which parameters Gradio describes as optional or required."""
    optional = OPTIONAL | OPTIONAL_OF.get(endpoint, frozenset())
    for parameter in parameters:
        if parameter["parameter_name"] in optional:
            parameter |= {"parameter_has_default": True, "parameter_default": None}
        elif parameter["parameter_name"] in REQUIRED.get(endpoint, frozenset()):
            parameter |= {"parameter_has_default": False, "parameter_default": None}
