"""How many clips a step takes on a device if nobody says."""

from typing import TYPE_CHECKING

from lib.config import FamilyConfig

if TYPE_CHECKING:
    import torch

BYTES_PER_CLIP = 2e9  # the ecosystem's rule: half the number of gigabytes
MOST = 40  # the ecosystem's largest batch; beyond it a small set of clips only repeats itself


def default_batch_size(config: FamilyConfig, device: "torch.device") -> int:
    """Clips per step: on a GPU half its free memory in GB, at least 1; elsewhere the family's."""
    if device.type != "cuda":
        return config.train.batch_size
    import torch

    return clips_for(torch.cuda.mem_get_info(device)[0])


def clips_for(memory: float) -> int:
    """Clips per step for a GPU with so many bytes free."""
    return min(max(int(memory / BYTES_PER_CLIP), 1), MOST)
