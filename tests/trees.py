"""Tiny data sets in the official layouts: a textured plane that moves to the right, with labels by column and row."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 96
STEP = 2  # pixels from frame to frame
VSPW_NAMES = {"others": "0", **{f"thing_{value}": str(value) for value in range(124, 0, -1)}}
TRAIN, VAL = ("aa", "bb"), ("cc",)  # clips
FRAMES = 4  # per clip

Encode = Callable[[np.ndarray], Image.Image]


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def frame(number: int, clip: str) -> Image.Image:
    """A frame of a clip: a part of one wide texture."""
    generator = np.random.default_rng(len(clip) + sum(map(ord, clip)))
    coarse = generator.integers(0, 256, (HEIGHT // 4, WIDTH // 2, 3), np.uint8)
    plane = np.asarray(Image.fromarray(coarse).resize((2 * WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    start = STEP * number
    return Image.fromarray(plane[:, start : start + WIDTH])


def ids(number: int, classes: int) -> np.ndarray:
    """The true classes of a frame, uint8 ``[H, W]``: stripes of 24 columns that move with the texture; 255 above."""
    columns = (np.arange(WIDTH) + STEP * number) // 24 % classes
    label = np.tile(columns.astype(np.uint8), (HEIGHT, 1))
    label[:4] = 255
    return label


def gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


def vspw_mask(label: np.ndarray) -> Image.Image:
    """Class k as k + 1; the void rows half "others" (0), half 255."""
    values = np.where(label == 255, 0, label + 1).astype(np.uint8)
    values[:2] = 255
    return Image.fromarray(values)


def step_mask(label: np.ndarray) -> Image.Image:
    """The class in red, the number of an instance in green and blue."""
    instance = np.arange(label.size).reshape(label.shape) % 300
    return Image.fromarray(np.stack([label, instance // 256, instance % 256], -1).astype(np.uint8))


def davis_mask(label: np.ndarray) -> Image.Image:
    """Objects 1, 2, ... as palette indices; what is void is background here."""
    image = Image.fromarray(np.where(label == 255, 0, label))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return image


def cityscapes_mask(label: np.ndarray) -> Image.Image:
    """Train ids 0, 1, 2 as the label ids 7, 8, 11."""
    return Image.fromarray(np.select([label == k for k in range(3)], [7, 8, 11], 0).astype(np.uint8))


def plant(root: Path, frames: str, labels: str | None, clips: tuple[str, ...], encode: Encode, classes: int) -> None:
    """Write clips by two format strings with ``clip`` and ``number``."""
    for clip in clips:
        for number in range(FRAMES):
            write(root / frames.format(clip=clip, number=number), frame(number, clip))
            if labels:
                write(root / labels.format(clip=clip, number=number), encode(ids(number, classes)))


def vspw(root: Path) -> None:
    names = "data/{clip}/origin/{number:08d}.jpg", "data/{clip}/mask/{number:08d}.png"
    plant(root, *names, (*TRAIN, *VAL), vspw_mask, 124)
    plant(root, names[0], None, ("dd",), vspw_mask, 124)
    for split, clips in (("train", TRAIN), ("val", VAL), ("test", ("dd",))):
        (root / f"{split}.txt").write_text("\n".join(clips) + "\n")
    (root / "label_num_dic_final.json").write_text(json.dumps(VSPW_NAMES))


def kitti_step(root: Path) -> None:
    for split, clips in (("train", ("0000", "0001")), ("val", ("0002",))):
        labels = f"panoptic_maps/{split}/{{clip}}/{{number:06d}}.png"
        plant(root, "training/image_02/{clip}/{number:06d}.png", labels, clips, step_mask, 19)


def davis(root: Path) -> None:
    frames, labels = "JPEGImages/480p/{clip}/{number:05d}.jpg", "Annotations/480p/{clip}/{number:05d}.png"
    plant(root, frames, labels, (*TRAIN, *VAL), davis_mask, 4)
    (root / "ImageSets/2017").mkdir(parents=True)
    for split, clips in (("train", TRAIN), ("val", VAL)):
        (root / f"ImageSets/2017/{split}.txt").write_text("\n".join(clips) + "\n")


def camvid(root: Path) -> None:
    for split, clips in (("train", TRAIN), ("val", VAL)):
        for clip in clips:
            for number in range(FRAMES):
                stem = f"{clip}_{2 * number:05d}"
                write(root / f"{split}/{stem}.png", frame(number, clip))
                write(root / f"{split}annot/{stem}.png", gray(np.minimum(ids(number, 4), 11)))


def cityscapes(root: Path) -> None:
    for split, cities in (("train", TRAIN), ("val", VAL)):
        for city in cities:
            for number in range(FRAMES):
                stem = f"{split}/{city}/{city}_000000_{number:06d}"
                write(root / f"leftImg8bit/{stem}_leftImg8bit.png", frame(number, city))
                write(root / f"gtFine/{stem}_gtFine_labelIds.png", cityscapes_mask(ids(number, 3)))


def folder(root: Path) -> None:
    plant(root, "{clip}/{number}.png", None, (*TRAIN, *VAL), gray, 4)


def parallel(root: Path) -> None:
    plant(root, "{clip}/rgb/{number}.jpg", "{clip}/ids/{number}.png", (*TRAIN, *VAL), gray, 4)
    for split, clips in (("train", TRAIN), ("val", VAL)):
        (root / f"{split}.txt").write_text("\n".join(clips) + "\n")


def listed(root: Path) -> list[str]:
    """All files below a folder."""
    return sorted(os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names)
