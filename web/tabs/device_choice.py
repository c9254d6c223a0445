"""A device list that is filled when the web UI opens."""

from typing import Any

import gradio as gr

from lib.devices import list_devices
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.runners import ALL_GPUS
from web.services import Services


def device_choice(t: Translator, services: Services, elem_id: str, *, together: bool = False) -> Any:
    """Lay out a drop-down list of this machine's devices; `together` adds an entry for all GPUs at once."""
    chosen = gr.Dropdown(
        label=t("train.device"), choices=[services.device], value=services.device, allow_custom_value=True,
        elem_id=elem_id,
    )  # fmt: skip

    def refresh() -> Any:
        """List the devices. This takes seconds, so it runs after the web UI has opened."""
        devices = list_devices()
        several = [name for name, _ in devices if name.startswith("cuda:")]
        if together and len(several) > 1:
            devices = [*devices, (ALL_GPUS, ", ".join(several))]
        return gr.update(choices=[(f"{name}: {translated(t, reason)}", name) for name, reason in devices])

    gr.on(None, refresh, outputs=chosen, show_progress="hidden", api_visibility="private")
    return chosen
