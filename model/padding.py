"""Images padded to the multiple that a network needs, and what it returns cut to their size again."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.base import resize
from model.repository import Repository

logger = logging.getLogger(__name__)

# torch 2.6 does not tell export and compile apart: there, compiled networks give logits of the size of the image.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 14, 24, 48)  # that the sides of images are tried with


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and the lower border until both sides are multiples; the image itself where they are."""
    if multiple == 1:
        return image
    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    # A branch on the sizes would hold the exported network to sizes that take the same one.
    if _is_exporting() or down or right:
        return F.pad(image, (0, right, 0, down), mode="replicate")
    return image


def without_padding(outputs: dict[str, Tensor], padded: Tensor, image: Tensor) -> dict[str, Tensor]:
    """The maps of a padded image, ``[N, C, h, w]``, cut to the image; the maps themselves where nothing was padded.

    Logits are brought to the size of the image, so that their corners are those of the image. Features keep their
    resolution, in which their many channels fit into the memory: those of the cells that the image reaches.
    """
    if padded is image:
        return outputs
    height, width = image.shape[-2:]
    cut = {name: resize(x, padded.shape[-2:])[..., :height, :width] for name, x in outputs.items() if name != "fea"}
    if "fea" in outputs:
        fea = outputs["fea"]
        rows, columns = (
            -(-side * cells // whole)
            for side, cells, whole in zip((height, width), fea.shape[-2:], padded.shape[-2:], strict=True)
        )
        cut["fea"] = fea[..., :rows, :columns]
    return cut


def needed_multiple(network: nn.Module, home: Repository | None = None) -> int:
    """The multiple that the sides of images must have for a network to run, found by trying; 1 where nothing helps."""
    training, last = network.training, ""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), home.active() if home else nullcontext():
            for multiple in MULTIPLES:
                # A hundred pixels or so. Odd counts of it that follow each other: no larger number divides both sides.
                count = 2 * (96 // (2 * multiple)) + 1
                size = multiple * count, multiple * (count + 2)
                try:
                    network(torch.zeros(1, 3, *size, device=device))
                except Exception as error:  # whatever its code raises for a size that it cannot take
                    last = (str(error).splitlines() or [type(error).__name__])[0]
                else:
                    return multiple
    finally:
        network.train(training)
    logger.warning(
        "%s runs on images of no size that was tried (%s): set TEST.pad_to if it needs sides of a certain multiple",
        type(network).__name__,
        last,
    )
    return 1
