"""A device list that is filled when the page opens."""

from typing import Any

import gradio as gr

from lib.devices import list_devices
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.runners import ALL_GPUS
from web.services import Services


def device_choice(t: Translator, services: Services, elem_id: str, *, together: bool = False) -> Any:
    """A drop-down of this machine's devices; `together` offers all GPUs at once, too."""
    chosen = gr.Dropdown(
        label=t("train.device"), choices=[services.device], value=services.device, allow_custom_value=True,
        elem_id=elem_id,
    )  # fmt: skip

    def refresh() -> Any:
        """Listing devices takes seconds, so the page does not wait for it."""
        devices = list_devices()
        several = [name for name, _ in devices if name.startswith("cuda:")]
        if together and len(several) > 1:
            devices = [*devices, (ALL_GPUS, ", ".join(several))]
        return gr.update(choices=[(f"{name}: {translated(t, reason)}", name) for name, reason in devices])

    gr.on(None, refresh, outputs=chosen, show_progress="hidden", api_visibility="private")
    return chosen
