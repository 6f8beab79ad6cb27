"""A batch of clips, packed into one pass of the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_MASKS = ("labelled", "has_neighbour", "has_third")


class ClipBatch:
    """N clips of one to three frames, packed into one pass; no other code depends on the order of the pass.

    The pass holds the N frames t, then the neighbours k of the M clips that have one, then the third frames of the
    L clips that have one, each in the order of the clips: ``[t_1 .. t_N, k .. k, third .. third]``. Frames that do
    not exist take no place. One pass over all frames means one DDP synchronisation, and batch norm sees whole clips.

    Args:
        samples: collated samples of :class:`etc.data.clip_dataset.ClipDataset`.
        device: where to compute. The masks stay on the CPU: choosing frames never waits for the device.

    Attributes:
        images: the frames of the pass, normalised RGB, float ``[N + M + L, 3, H, W]``.
        label: train ids of the frames t, int64 ``[N, H, W]``.
        labelled: which frames t have a label, bool ``[N]`` on the CPU.
        has_neighbour: which have a neighbour, bool ``[N]`` on the CPU.
        has_third: which have a third frame, bool ``[N]`` on the CPU.
        flow: flow t -> k of the pairs, float ``[M, 2, H, W]``; ``None``: the samples bring none.
        visible: which pixels of the frames t of the pairs are visible in their neighbours, bool ``[M, 1, H, W]``;
            ``None``: the samples do not say.
        teacher_logits: a teacher's logits for the frames of the pass, float ``[N + M + L, K, h, w]``; ``None``: the
            samples bring none.
    """

    def __init__(self, samples: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        values = {k: v if k in _MASKS else v.to(device, non_blocking=True) for k, v in samples.items()}
        self.count = len(values["image"])
        none = torch.zeros(self.count, dtype=torch.bool)
        self.label, self.labelled = values["label"], values["labelled"]
        self.has_neighbour, self.has_third = values.get("has_neighbour", none), values.get("has_third", none)
        # Index tensors: a mask on the device would be read back to learn how many frames it selects.
        self._with_neighbour, self._with_third = (
            mask.nonzero()[:, 0].to(device, non_blocking=True) for mask in (self.has_neighbour, self.has_third)
        )
        # Which of the pairs belong to clips that have a third frame too.
        self._pairs_with_third = self.has_third[self.has_neighbour].nonzero()[:, 0].to(device, non_blocking=True)
        self.images = self._packed(values, ("image", "neighbour", "third"))
        self.flow = values["flow"][self._with_neighbour] if "flow" in values else None
        self.visible = values["visible"][self._with_neighbour][:, None] if "visible" in values else None
        self.teacher_logits = None
        if "teacher_logits" in values:
            names = ("teacher_logits", "teacher_logits_neighbour", "teacher_logits_third")
            self.teacher_logits = self._packed(values, names)

    def _packed(self, values: Mapping[str, Tensor], names: tuple[str, str, str]) -> Tensor:
        t, neighbour, third = names
        parts = [values[t]]
        if neighbour in values:
            parts.append(values[neighbour][self._with_neighbour])
        if third in values:
            parts.append(values[third][self._with_third])
        return torch.cat(parts)

    @property
    def pair_count(self) -> int:
        """M, the number of clips with a neighbour."""
        return len(self._with_neighbour)

    @property
    def triple_count(self) -> int:
        """L, the number of clips with a third frame."""
        return len(self._with_third)

    def frames_t(self, x: Tensor) -> Tensor:
        """Frames t of a pass: ``[N + M + L, ...]`` -> ``[N, ...]``."""
        return x[: self.count]

    def neighbours(self, x: Tensor) -> Tensor:
        """Neighbours of a pass: ``[N + M + L, ...]`` -> ``[M, ...]``."""
        return x[self.count : self.count + self.pair_count]

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames t that have a neighbour, and those neighbours: ``[N + M + L, ...]`` -> twice ``[M, ...]``."""
        return self.frames_t(x)[self._with_neighbour], self.neighbours(x)

    def with_frames_t(self, x: Tensor, replacement: Tensor) -> Tensor:
        """A copy of a pass ``[N + M + L, ...]`` with other frames t of the pairs, ``replacement`` ``[M, ...]``."""
        return x.index_copy(0, self._with_neighbour, replacement.to(x.dtype))

    def triples(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Third frames, their neighbours k and their frames t: ``[N + M + L, ...]`` -> three times ``[L, ...]``."""
        third = x[self.count + self.pair_count :]
        return third, self.neighbours(x)[self._pairs_with_third], self.frames_t(x)[self._with_third]
