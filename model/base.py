"""What every segmentation network of this folder has in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationNetwork(nn.Module):
    """A network with named outputs in training and plain logits in evaluation.

    ``forward`` returns ``outputs(image)`` in training mode, and in evaluation mode the logits alone,
    float ``[N, classes, H, W]`` at the size of the image.
    """

    #: Names of the submodules that do not come from a pretrained backbone; they learn faster.
    new_layers: tuple[str, ...] = ()

    #: SHA-256 of the checkpoint, computed from the same bytes that the weights were read from; ``None``: no checkpoint
    #: was loaded.
    weights_sha256: str | None = None

    def checkpoint_key(self, key: str) -> str:
        """The key in this network's state dict of a tensor that a checkpoint may hold under another one, too."""
        return key

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Everything that losses and distillation read, at the network's own resolution, in either mode.

        Args:
            image: normalised RGB, float ``[N, 3, H, W]``.

        Returns:
            ``"logits"`` ``[N, classes, h, w]``, ``"fea"`` ``[N, C, h, w]`` where the network has a feature
            map to distil from, and in training mode ``"dsn"`` (logits of the auxiliary head) where it
            has such a head.
        """
        raise NotImplementedError

    def forward(self, image: Tensor) -> dict[str, Tensor] | Tensor:
        outputs = self.outputs(image)
        return outputs if self.training else resize(outputs["logits"], image.shape[-2:])


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners aligned: what the published weights were trained with."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class OneValuePerChannel(ValueError):
    """A training batch of one image, which batch norm over a globally pooled map cannot normalise."""


def normalisation_error(image: Tensor) -> OneValuePerChannel:
    """The error for a training batch that batch norm over a globally pooled map cannot normalise."""
    return OneValuePerChannel(
        f"cannot train on a batch of {image.shape[0]} image per process: batch norm after global pooling "
        "needs at least 2 values per channel; raise the batch size or use synchronised batch norm"
    )
