"""What a run of benchmarks shares: its sizes, its folder, and the frames that it works on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2

from etc.data.cityscapes import CITYSCAPES, FRAMES, LABELS, SEQUENCES, label_path
from etc.data.clip_dataset import ClipDataset, FlowReader
from etc.data.frame_names import frame_number, images_in
from etc.data.images import read_image, read_label, write_png
from etc.data.labels import label_table
from etc.data.lists import Frame
from etc.data.transform import ClipTransform
from etc.data.world import write_world
from etc.errors import UserError

Size = TypeVar("Size")


class BenchClip(NamedTuple):
    """Consecutive PNG frames in the Cityscapes layout, relative to ``root``; one before the last has a label."""

    root: Path
    frames: list[Frame]


@dataclass
class Bench:
    """One run.

    Attributes:
        folder: for everything that is written.
        quick: tiny sizes, which show that everything runs; the figures then mean nothing.
        data: a folder in the Cityscapes layout; ``None`` renders the synthetic world.
    """

    folder: Path
    quick: bool = False
    data: Path | None = None
    _clips: dict[tuple[int, int, int], BenchClip] = field(default_factory=dict)

    def size(self, full: Size, quick: Size) -> Size:
        """The size of this run."""
        return quick if self.quick else full

    def rounds(self, full: int) -> int:
        """How often a measurement is repeated."""
        return self.size(full, 1)

    def clip(self, height: int, width: int, count: int) -> BenchClip:
        """A clip of ``count`` frames of this size, made once.

        Raises:
            UserError: ``data`` holds no such clip with a labelled frame.
        """
        key = (height, width, count)
        if key not in self._clips:
            root = self.folder / f"clip-{width}x{height}-{count}"
            if self.data is None:
                self._clips[key] = _rendered(root, *key)
            else:
                self._clips[key] = _copied(self.data, root, *key)
        return self._clips[key]

    def samples(self, crop: int, flow: FlowReader | None) -> ClipDataset:
        """Training samples as published (Cityscapes labels, crops of ``crop``) of one frame and its next."""
        clip = self.clip(*self.size((1024, 2048), (128, 256)), 2)
        return ClipDataset(
            [frame for frame in clip.frames if frame.label],
            [[1]],
            data_root=clip.root,
            layout=CITYSCAPES,
            frame_step=1,
            transform=ClipTransform(size=(crop, crop)),
            label_table=label_table("cityscapes", 19, 255),
            flow=flow,
            with_neighbour=True,
            seed=0,
        )


def _rendered(root: Path, height: int, width: int, count: int) -> BenchClip:
    write_world(root, train_snippets=0, val_snippets=1, height=height, width=width, frames=count, labelled=(0,))
    images = sorted(root.glob(f"{FRAMES}/val/*/*.png"))
    return _clip(root, images, [_label(image) for image in images[:1]])


def _copied(data: Path, root: Path, height: int, width: int, count: int) -> BenchClip:
    images = _labelled_clip(data, count)
    copies, labels = [], []
    for image in images:
        copy = root / FRAMES / "val" / image.parent.name / f"{image.stem}.png"
        write_png(copy, cv2.resize(read_image(image), (width, height), interpolation=cv2.INTER_AREA))
        copies.append(copy)
        if _label(image).is_file():
            labels.append(_label(copy))
            label = read_label(_label(image))
            write_png(labels[-1], cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST))
    return _clip(root, copies, labels)


def _clip(root: Path, images: list[Path], labels: list[Path]) -> BenchClip:
    frames = [
        Frame(str(image.relative_to(root)), str(label.relative_to(root)) if label in labels else None)
        for image, label in ((image, _label(image)) for image in images)
    ]
    return BenchClip(root, frames)


def _label(image: Path) -> Path:
    """Where the label map of a frame belongs."""
    label = label_path(image)
    assert label is not None, f"{image} lies in neither {SEQUENCES} nor {FRAMES}, where every frame here is found"
    return label


def _labelled_clip(data: Path, count: int) -> list[Path]:
    """``count`` frames of one snippet in a row, a labelled one among them that is not the last."""
    for kind in (SEQUENCES, FRAMES):
        for folder in sorted(data.glob(f"{kind}/*/*")):
            snippets = defaultdict(list)
            for image in images_in(folder):
                number = frame_number(image, CITYSCAPES)
                if number:
                    snippets[number.head].append(image)
            for images in snippets.values():
                for index, image in enumerate(images[:-1]):
                    if len(images) >= count and _label(image).is_file():
                        start = min(index, len(images) - count)
                        return images[start : start + count]
    raise UserError(f"{data} holds no labelled Cityscapes snippet of {count} frames ({SEQUENCES}, {LABELS})")
