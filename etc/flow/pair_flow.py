"""The flow of a pair of frames together with what is known of occlusion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PairFlow(NamedTuple):
    """Flow between two frames t and k.

    Attributes:
        forward: flow t -> k, float32 ``[2, H, W]``, pixels.
        valid: where the data set itself says that the flow is valid, bool ``[H, W]``; ``None``: it does not say.
        visible: which pixels of t are visible in k, bool ``[H, W]``: ``valid`` itself, or those that pass the
            forward-backward check (:func:`etc.metrics.warping.visible_pixels`), too; ``None``: not known.
        made_from: hashes of the flow t -> k and k -> t that was checked, where it is in a cache; otherwise empty.
    """

    forward: np.ndarray
    valid: np.ndarray | None = None
    visible: np.ndarray | None = None
    made_from: tuple[str, ...] = ()

    @property
    def is_checked(self) -> bool:
        """Whether a backward flow decided which pixels are visible."""
        return self.visible is not None and self.visible is not self.valid
