"""The losses of training steps, kept on their device until somebody needs them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class KeptLosses:
    """Losses of the steps since the last reading; reading each step would make the host wait for the device."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._kept: dict[int, Tensor] = {}

    def keep(self, step: int, result: Mapping[str, Tensor]) -> None:
        """Keep the scalars among the results of a step; all steps have the same."""
        terms = {name: value.detach().float() for name, value in result.items() if value.ndim == 0}
        self._names = tuple(terms)
        self._kept[step] = torch.stack(list(terms.values()))

    def read(self) -> dict[int, dict[str, float]]:
        """The losses of each step since the last reading, by step and name, in their order."""
        if not self._kept:
            return {}
        values = torch.stack(list(self._kept.values())).tolist()
        rows = (dict(zip(self._names, row, strict=True)) for row in values)
        read = dict(zip(self._kept, rows, strict=True))
        self._kept.clear()
        return read
