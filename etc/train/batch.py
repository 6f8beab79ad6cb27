"""A batch of clips, packed into one pass of the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_MASKS = ("labelled", "has_neighbour", "has_third")


@dataclass(frozen=True)
class Choice:
    """Some of the rows of a batch.

    The host chooses: a mask on the device would be read back to learn how many rows it selects.

    Attributes:
        size: how many.
        rows: which, int64 ``[size]`` on the device; ``None``: all of them, so that nothing has to be copied.
    """

    size: int
    rows: Tensor | None

    def of(self, x: Tensor) -> Tensor:
        """The chosen rows of ``x``."""
        return x if self.rows is None else x[self.rows]


def _choice(mask: list[bool], device: torch.device) -> Choice:
    rows = [row for row, chosen in enumerate(mask) if chosen]
    if len(rows) == len(mask):
        return Choice(len(rows), None)
    index = torch.tensor(rows, dtype=torch.int64, device="cpu")
    # From memory that is not pinned, the copy would wait for the device.
    index = index.pin_memory() if device.type == "cuda" else index
    return Choice(len(rows), index.to(device, non_blocking=True))


class ClipBatch:
    """N clips of one to three frames, packed into one pass; no other code depends on the order of the pass.

    The pass holds the N frames t, then the neighbours k of the M clips that have one, then the third frames of the
    L clips that have one, each in the order of the clips: ``[t_1 .. t_N, k .. k, third .. third]``. Frames that do
    not exist take no place. One pass over all frames means one DDP synchronisation, and batch norm sees whole clips.

    Args:
        samples: collated samples of :class:`etc.data.clip_dataset.ClipDataset`.
        device: where to compute. The masks stay on the host: choosing frames never waits for the device.

    Attributes:
        images: the frames of the pass, normalised RGB, float ``[N + M + L, 3, H, W]``.
        label: train ids of the frames t, int64 ``[N, H, W]``.
        unlabelled: which frames t have no label.
        flow: flow t -> k of the pairs, float ``[M, 2, H, W]``; ``None``: the samples bring none.
        visible: which pixels of the frames t of the pairs are visible in their neighbours, bool ``[M, 1, H, W]``;
            ``None``: the samples do not say.
        teacher_logits: a teacher's logits for the frames of the pass, float ``[N + M + L, K, h, w]``; ``None``: the
            samples bring none.
    """

    def __init__(self, samples: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        values = {k: v.to(device, non_blocking=True) for k, v in samples.items() if k not in _MASKS}
        self.count = len(values["image"])
        none = [False] * self.count
        paired, third = (samples[name].tolist() if name in samples else none for name in _MASKS[1:])
        self.label = values["label"]
        self.unlabelled = _choice([not known for known in samples["labelled"].tolist()], device)
        self._with_neighbour, self._with_third = _choice(paired, device), _choice(third, device)
        # Which of the pairs belong to clips that have a third frame too.
        self._pairs_with_third = _choice([t for t, pair in zip(third, paired, strict=True) if pair], device)
        self.images = self._packed(values, ("image", "neighbour", "third"))
        self.flow = self._with_neighbour.of(values["flow"]) if "flow" in values else None
        self.visible = self._with_neighbour.of(values["visible"])[:, None] if "visible" in values else None
        self.teacher_logits = None
        if "teacher_logits" in values:
            names = ("teacher_logits", "teacher_logits_neighbour", "teacher_logits_third")
            self.teacher_logits = self._packed(values, names)

    def _packed(self, values: Mapping[str, Tensor], names: tuple[str, str, str]) -> Tensor:
        t, neighbour, third = names
        parts = [values[t]]
        if neighbour in values:
            parts.append(self._with_neighbour.of(values[neighbour]))
        if third in values:
            parts.append(self._with_third.of(values[third]))
        return torch.cat(parts)

    @property
    def pair_count(self) -> int:
        """M, the number of clips with a neighbour."""
        return self._with_neighbour.size

    @property
    def triple_count(self) -> int:
        """L, the number of clips with a third frame."""
        return self._with_third.size

    def frames_t(self, x: Tensor) -> Tensor:
        """Frames t of a pass: ``[N + M + L, ...]`` -> ``[N, ...]``."""
        return x[: self.count]

    def neighbours(self, x: Tensor) -> Tensor:
        """Neighbours of a pass: ``[N + M + L, ...]`` -> ``[M, ...]``."""
        return x[self.count : self.count + self.pair_count]

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames t that have a neighbour, and those neighbours: ``[N + M + L, ...]`` -> twice ``[M, ...]``."""
        return self._with_neighbour.of(self.frames_t(x)), self.neighbours(x)

    def with_frames_t(self, x: Tensor, replacement: Tensor) -> Tensor:
        """A copy of a pass ``[N + M + L, ...]`` with other frames t of the pairs, ``replacement`` ``[M, ...]``."""
        if self._with_neighbour.rows is None:
            return torch.cat([replacement.to(x.dtype), x[self.count :]])
        return x.index_copy(0, self._with_neighbour.rows, replacement.to(x.dtype))

    def triples(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Third frames, their neighbours k and their frames t: ``[N + M + L, ...]`` -> three times ``[L, ...]``."""
        third = x[self.count + self.pair_count :]
        return third, self._pairs_with_third.of(self.neighbours(x)), self._with_third.of(self.frames_t(x))

    def tensors(self) -> Iterator[Tensor]:
        """All that lies on the device."""
        choices = (self.unlabelled, self._with_neighbour, self._with_third, self._pairs_with_third)
        held = (self.images, self.label, self.flow, self.visible, self.teacher_logits, *(c.rows for c in choices))
        yield from (tensor for tensor in held if tensor is not None)


def on_device(batches: Iterable[Mapping[str, Tensor]], device: torch.device) -> Iterator[ClipBatch]:
    """Batches of collated samples on their device; on a GPU each is transferred while the step before it is computed.

    The transfer has a stream of its own, because in that of the training it would come after the steps that are still
    to be computed.
    """
    if device.type != "cuda":
        yield from (ClipBatch(samples, device) for samples in batches)
        return
    transfer = torch.cuda.Stream(device)
    for samples in batches:
        with torch.cuda.stream(transfer):
            batch = ClipBatch(samples, device)
        training = torch.cuda.current_stream(device)
        training.wait_stream(transfer)
        for tensor in batch.tensors():
            tensor.record_stream(training)  # its memory belongs to the other stream, and is freed in this one
        yield batch
