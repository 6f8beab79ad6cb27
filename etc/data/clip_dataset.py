"""The training data set: clips of a frame, one of its neighbours, the flow between them, and a third frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from etc.data.frame_names import Layout, neighbour
from etc.data.images import read_image
from etc.data.labels import IGNORE, LabelTable, read_train_ids
from etc.data.lists import Frame
from etc.data.photometric import add_noise, draw_color_change
from etc.data.transform import (
    ClipTransform,
    CropMap,
    crop_flow,
    crop_image,
    crop_label,
    crop_logits,
    crop_mask,
    padding_of,
)
from etc.errors import UserError

Sample = dict[str, Tensor]
# (path of frame t, path of frame k, height and width) -> flow t -> k, float32 [2, H, W]
FlowReader = Callable[[Path, Path, tuple[int, int]], np.ndarray]
# The same -> that flow, and which pixels of frame t are visible in frame k, bool [H, W]
VisibleFlowReader = Callable[[Path, Path, tuple[int, int]], tuple[np.ndarray, np.ndarray]]
Change = Callable[[np.ndarray], np.ndarray]  # RGB uint8 [h, w, 3] -> the same shape


class ClipDataset(Dataset):
    """Clips of a frame t, a neighbour k, the flow t -> k and a third frame, all through one random affine map.

    The key of an item is ``(epoch, index)``: every random number of a sample comes from ``(seed, epoch, index)``, so
    that neither the number of workers nor resuming changes a sample.

    Args:
        frames: labelled or unlabelled frames.
        offsets: for every frame t the offsets of the neighbours to draw from, in frames; an empty list: frame t has
            no neighbour.
        data_root: folder that the frames are relative to.
        layout: naming of the frames.
        frame_step: difference of the numbers of consecutive frames.
        transform: the random geometry.
        label_table: what label files hold, as :func:`etc.data.labels.label_table_of` makes it.
        flow: reads or computes the flow of a pair; ``None``: the training step computes it from the crops.
        visible_flow: reads the flow together with the visible pixels, in place of ``flow``; ``None``: samples do not
            say which pixels are visible.
        with_neighbour: ``False`` leaves the neighbour out, with the same draws for everything else.
        opposite: for every frame t the offsets at which a third frame exists. It lies on the other side of frame t
            than the neighbour, at the same distance; ``None``: clips of two frames.
        teacher_logits: reads a teacher's logits of a whole frame, float ``[K, h, w]``; ``None``: the training step
            runs the teacher.
        jitter: probability of :func:`etc.data.photometric.draw_color_change`.
        jitter_clip: ``True`` changes all frames of a clip alike, ``False`` frame t alone.
        noise: standard deviation of Gaussian noise on every frame, in 0..255.
        seed: seed of the draws.

    A sample is a dict of tensors of its own; :class:`etc.train.batch.ClipBatch` arranges a batch of them:

    - ``"image"`` float ``[3, h, w]``, normalised; ``"label"`` int64 ``[h, w]``; ``"labelled"`` bool ``[]``,
    - ``"neighbour"`` like ``"image"``, ``"has_neighbour"`` bool ``[]``, ``"flow"`` float ``[2, h, w]`` in crop pixels,
      ``"visible"`` bool ``[h, w]``,
    - ``"third"`` like ``"image"``, ``"has_third"`` bool ``[]``,
    - ``"teacher_logits"``, ``"teacher_logits_neighbour"``, ``"teacher_logits_third"``: the teacher's logits for the
      crops, float ``[K, (h - 1) // 8 + 1, (w - 1) // 8 + 1]``.

    A frame that does not exist is 0 everywhere, and so is its flow. Entries that were not asked for are absent.
    """

    def __init__(
        self,
        frames: list[Frame],
        offsets: list[list[int]],
        *,
        data_root: str | Path,
        layout: Layout,
        frame_step: int,
        transform: ClipTransform,
        label_table: LabelTable,
        flow: FlowReader | None,
        visible_flow: VisibleFlowReader | None = None,
        with_neighbour: bool,
        opposite: list[list[int]] | None = None,
        teacher_logits: Callable[[Path], np.ndarray] | None = None,
        jitter: float = 0.0,
        jitter_clip: bool = True,
        noise: float = 0.0,
        seed: int,
    ) -> None:
        self.frames = frames
        self.offsets = offsets
        self.data_root = Path(data_root)
        self.layout: Layout = layout
        self.frame_step = frame_step
        self.transform = transform
        self.label_table = label_table
        self.flow = flow
        self.visible_flow = visible_flow
        self.with_neighbour = with_neighbour
        self.opposite = opposite
        self.teacher_logits = teacher_logits
        self.jitter, self.jitter_clip, self.noise = jitter, jitter_clip, noise
        self.seed = seed

    def __len__(self) -> int:
        return len(self.frames)

    def image_files(self) -> Iterator[Path]:
        """Path of every frame that a sample may read; some come more than once."""
        for index, frame in enumerate(self.frames):
            path = self.data_root / frame.image
            yield path
            offsets = self.offsets[index] if self.with_neighbour else []
            opposite = self.opposite[index] if self.opposite is not None else []
            others = (self._path_at(path, offset) for offset in {*offsets, *opposite})
            yield from (other for other in others if other is not None)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        frame, offsets = self.frames[index], self.offsets[index]
        path = self.data_root / frame.image
        image = read_image(path)
        shape = image.shape[:2]
        draw = rng.random()
        crop = self.transform.draw(rng, *shape)
        padding = padding_of(crop, shape)
        change_t, change_others = self._color_changes(epoch, index)
        if frame.label is None:
            label = np.full(crop.size, IGNORE, np.int64)
        else:
            label = crop_label(read_train_ids(self.data_root / frame.label, self.label_table, shape), crop)
        sample = {
            "image": torch.from_numpy(crop_image(image, crop, padding, change_t)),
            "label": torch.from_numpy(label),
            "labelled": torch.tensor(frame.label is not None),
        }
        paths: dict[str, Path | None] = {"teacher_logits": path}
        if self.with_neighbour:
            offset = offsets[int(draw * len(offsets))] if offsets else None
            path_k = paths["teacher_logits_neighbour"] = self._path_at(path, offset)
            sample |= {"has_neighbour": torch.tensor(offset is not None)}
            sample |= {"neighbour": self._image_at(path_k, path, shape, crop, padding, change_others)}
            sample |= self._flow_sample(path, path_k, shape, crop)
            if self.opposite is not None:
                other = None if offset is None or -offset not in self.opposite[index] else -offset
                path_o = paths["teacher_logits_third"] = self._path_at(path, other)
                sample |= {"has_third": torch.tensor(other is not None)}
                sample |= {"third": self._image_at(path_o, path, shape, crop, padding, change_others)}
        if self.teacher_logits is not None:
            # All samples have the same shapes: a missing frame gets the logits of frame t, which are not read.
            known = {name: self.teacher_logits(p or path) for name, p in paths.items()}
            sample |= {name: torch.from_numpy(crop_logits(x, shape, crop)) for name, x in known.items()}
        return sample

    def _color_changes(self, epoch: int, index: int) -> tuple[Change | None, Change | None]:
        """How the colours of frame t and those of the other frames of its clip change."""
        # A generator of its own: the geometry of a sample does not depend on these settings.
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        change = draw_color_change(rng, self.jitter)
        return self._with_noise(change, rng), self._with_noise(change if self.jitter_clip else None, rng)

    def _with_noise(self, change: Change | None, rng: np.random.Generator) -> Change | None:
        if not self.noise:
            return change
        return lambda pixels: add_noise(pixels if change is None else change(pixels), self.noise, rng)

    def _flow_sample(
        self, path_t: Path, path_k: Path | None, shape: tuple[int, int], crop: CropMap
    ) -> dict[str, Tensor]:
        """The entries ``"flow"`` and ``"visible"`` of a sample, those that were asked for."""
        flow, visible = np.zeros((2, *shape), np.float32), np.zeros(shape, bool)
        if self.visible_flow is not None:
            if path_k is not None:
                flow, visible = self.visible_flow(path_t, path_k, shape)
            flow, visible = crop_flow(flow, crop), crop_mask(visible, crop)
            return {"flow": torch.from_numpy(flow), "visible": torch.from_numpy(visible)}
        if self.flow is None:
            return {}
        if path_k is not None:
            flow = self.flow(path_t, path_k, shape)
        return {"flow": torch.from_numpy(crop_flow(flow, crop))}

    def _path_at(self, path: Path, offset: int | None) -> Path | None:
        if offset is None:
            return None
        return neighbour(path, offset, layout=self.layout, frame_step=self.frame_step)

    def _image_at(
        self,
        path: Path | None,
        path_t: Path,
        shape: tuple[int, int],
        crop: CropMap,
        padding: np.ndarray,
        change: Change | None,
    ) -> Tensor:
        """The crop of another frame of the clip, float32 ``[3, h, w]``; 0 where it does not exist (no path)."""
        if path is None:
            return torch.zeros(3, *crop.size)
        image = read_image(path)
        if image.shape[:2] != shape:
            raise UserError(
                f"{path} is {image.shape[1]}x{image.shape[0]}, its neighbour {path_t.name} is {shape[1]}x{shape[0]}: "
                "the frames of a clip must have one size"
            )
        return torch.from_numpy(crop_image(image, crop, padding, change))


class EpochSampler(Sampler):
    """Shuffled ``(epoch, index)`` keys for one process; the order depends on ``(seed, epoch)`` alone.

    Set ``epoch`` before each epoch.

    Args:
        length: number of samples.
        batch_size: samples per step and process; an incomplete last step is dropped.
        seed: seed of the order.
        rank: number of this process.
        world: number of processes.

    Raises:
        UserError: fewer samples than one step needs.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        if not self.steps:
            raise UserError(
                f"DATA.train_list: {length} training samples do not fill one batch of {batch_size * world}; "
                "list more frames, or lower TRAIN.batch_size"
            )

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.length // (self.batch_size * self.world)

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        own = order[self.rank : self.steps * self.batch_size * self.world : self.world]
        return iter([(self.epoch, int(index)) for index in own])
