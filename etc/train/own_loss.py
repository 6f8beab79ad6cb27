"""A segmentation loss of the user's own, ``TRAIN.loss package.module:factory``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from etc.errors import UserError
from model.repository import Repository, made, running
from utils.crit import entry, full_precision, resize


class OwnLoss(nn.Module):
    """The loss of the main head, plus ``aux_weight`` times that of the auxiliary head where the network has one.

    Args:
        loss: called as ``loss(logits, labels)`` with logits of the size of the labels, float32 ``[N, K, H, W]``, and
            labels, int64 ``[N, H, W]`` with 0..K-1 and 255 where there is no class; returns a scalar.
        name: what the user calls it.
        aux_weight: of the auxiliary head.
        home: the repository that its code comes from, whose modules it may import late; ``None``: none.
    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], name: str, *, aux_weight: float, home: Repository | None = None
    ) -> None:
        super().__init__()
        self.loss, self.name, self.aux_weight, self.home = loss, name, aux_weight, home

    def forward(self, preds: Any, target: Tensor) -> Tensor:
        """The loss of the outputs of a network, as of :class:`utils.crit.CriterionDSN`.

        Raises:
            UserError: it returned something else than a scalar, or one without gradient.
        """
        total = self._of(preds, "logits", target)
        if not isinstance(preds, Tensor) and "dsn" in preds:
            total = total + self.aux_weight * self._of(preds, "dsn", target)
        return total

    def _of(self, preds: Any, head: str, target: Tensor) -> Tensor:
        logits = resize(full_precision(entry(preds, head)), target.shape[-2:])
        with running(self.home, f"TRAIN.loss {self.name}"), torch.autocast(logits.device.type, enabled=False):
            value = self.loss(logits, target.long())
        if not isinstance(value, Tensor) or value.dim():
            what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserError(
                f"TRAIN.loss {self.name} returned {what}, expected a scalar tensor: the mean over the pixels"
            )
        if logits.requires_grad and not value.requires_grad:
            raise UserError(
                f"TRAIN.loss {self.name} returned a {value.dtype} without gradient, so the network would learn nothing "
                "from the labels: expected a mean of differentiable functions of the logits"
            )
        return value


def imported_loss(name: str, *, aux_weight: float) -> OwnLoss:
    """The loss that ``package.module:factory`` or ``path/to/repository:package.module:factory`` makes.

    Raises:
        UserError: nothing to import there, a factory that needs arguments, or what it makes cannot be called.
    """
    try:
        home, loss = made(name)
    except ValueError as error:
        raise UserError(f"TRAIN.loss {name}: {error}") from error.__cause__ or error
    if not callable(loss):
        raise UserError(
            f"TRAIN.loss {name} made a {type(loss).__name__}, expected something to call as loss(logits, labels)"
        )
    return OwnLoss(loss, name, aux_weight=aux_weight, home=home)
