"""ImageNet weights of torchvision."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


class WeightsUnavailable(OSError):
    """Pretrained weights could not be fetched; the message says what to do."""


def fetch(name: str) -> dict[str, Any]:
    """A network's weights, from torchvision's cache folder or else by download.

    Args:
        name: of :func:`torchvision.models.get_weight`, such as ``"ResNet18_Weights.IMAGENET1K_V1"``.

    Raises:
        WeightsUnavailable: the download failed, or the file in the cache folder is damaged.
    """
    from torchvision.models import get_weight  # not above: it takes seconds and memory, and scoring needs none of it

    weights = get_weight(name)
    check_cached(weights)
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise WeightsUnavailable(
            f"cannot download the ImageNet weights ({error}): place {weights.url} at {place}, "
            "or set pretrained to false"
        ) from error


def check_cached(weights: WeightsEnum) -> None:
    """Check the file of a network's weights in torchvision's cache folder, if it is there, by the hash in its name.

    torchvision compares the hash only when it downloads the file.

    Raises:
        WeightsUnavailable: the file has another hash.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if expected is None or not path.is_file():
        return
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(expected[1]):
        raise WeightsUnavailable(
            f"{path} is damaged: its SHA-256 begins with {found[:8]} instead of {expected[1]}; delete it, and it is "
            "downloaded again"
        )
