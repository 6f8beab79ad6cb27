"""ImageNet weights of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.models import WeightsEnum


class WeightsUnavailable(OSError):
    """Pretrained weights could not be fetched; the message says what to do."""


def fetch(weights: WeightsEnum) -> dict[str, Any]:
    """A network's weights, from torchvision's cache folder or else by download.

    Raises:
        WeightsUnavailable: the download failed.
    """
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise WeightsUnavailable(
            f"cannot download the ImageNet weights ({error}): place {weights.url} at {place}, "
            "or set pretrained to false"
        ) from error
