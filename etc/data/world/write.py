"""Writes the synthetic world to disk in the Cityscapes layout, with exact flow in KITTI's 16-bit format."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from etc.data.cityscapes import FLOW, FRAMES, LABELS, frame_name, label_name
from etc.data.world.render import World, WorldFlow
from etc.interrupts import interrupts_held
from utils.files import new_folder
from utils.workers import end_with_parent

# Each city has textures and colours of its own: a network that has seen few of them does not know the next.
CITIES = {
    "train": (
        *("ardenford", "brookhaven", "castellan", "fairmouth", "glenwick", "harrowgate"),
        *("inverlea", "kingsbourne", "larkhill", "millbrook", "norwick", "oakhurst"),
    ),
    "val": ("dunmore", "eastvale", "penrose"),
}
FLOW_LIMIT = 511.0  # pixels; what 16 bits at 1/64 pixel hold
PNG_EFFORT = (cv2.IMWRITE_PNG_COMPRESSION, 1)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Snippet:
    """One clip to be written; plain values, so that it can travel to another process."""

    root: str
    split: str
    city: str
    sequence: int
    seed: int
    style_seed: int
    height: int
    width: int
    frames: int
    pairs: tuple[tuple[int, int], ...]


def write_world(
    root: Path,
    *,
    train_snippets: int,
    val_snippets: int,
    height: int = 256,
    width: int = 512,
    seed: int = 0,
    frames: int = 30,
    frame_gap: int = 2,
    labelled: Sequence[int] = (4, 9, 14, 19, 24),
    workers: int = 1,
    progress: Progress | None = None,
    complete: Callable[[Path], None] | None = None,
) -> None:
    """Render snippets of ``frames`` frames under ``root``, which appears only when all of it is written.

    ``leftImg8bit/{split}/{city}/{city}_{seq:06d}_{frame:06d}_leftImg8bit.png`` and
    ``gtFine/.../..._gtFine_labelIds.png`` exist for every frame.
    ``flow/{split}/{city}/{city}_{seq:06d}_{t:06d}_to_{k:06d}_flow.png`` exists in val for neighbours in
    both directions, in train from each ``labelled`` frame to those at most ``frame_gap`` away. Train and
    val share neither city names nor streets nor textures.

    Args:
        seed: another seed gives other streets and other textures.
        workers: processes; each renders whole snippets.
        progress: called with (snippets done, snippets in all).
        complete: called with the folder before it gets its name, to add files of its own.

    Raises:
        FileExistsError: ``root`` exists.
        ValueError: a count or a frame number out of range.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root} exists already; remove it to render the world anew")
    if min(train_snippets, val_snippets, frame_gap) < 0 or train_snippets + val_snippets < 1 or workers < 1:
        raise ValueError(
            f"need train_snippets + val_snippets >= 1, frame_gap >= 0 and workers >= 1, "
            f"got {train_snippets}, {val_snippets}, {frame_gap}, {workers}"
        )
    if any(not 0 <= t < frames for t in labelled):
        raise ValueError(f"labelled frames {tuple(labelled)} outside a clip of {frames} frames")
    with new_folder(root) as building:
        pairs = {"train": _train_pairs(frames, frame_gap, labelled), "val": _val_pairs(frames)}
        counts = {"train": train_snippets, "val": val_snippets}
        snippets = [
            _Snippet(str(building), split, city, sequence, street, style, height, width, frames, pairs[split])
            for split, count in counts.items()
            for city, sequence, street, style in _plan(split, count, seed)
        ]
        for done, _ in enumerate(_write_all(snippets, workers), start=1):
            if progress is not None:
                progress(done, len(snippets))
        if complete is not None:
            complete(building)


def encode_flow(flow: WorldFlow, label: NDArray[np.uint8], label_k: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """KITTI's PNG, uint16 ``[H, W, 3]`` of u, v, valid: ``64 * flow + 2**15``.

    Valid is a pixel that is visible in frame k, and that the flow as written (rounded to 1/64 px) takes to a pixel of
    the same label: a scorer that reads the file and takes the nearest pixel then finds the ground truth consistent.
    The vector of a pixel that is not valid is exact as well, except where it does not fit the format: there it is 0.

    Args:
        flow: t -> k.
        label, label_k: labels of the two frames, uint8 ``[H, W]``.
    """
    height, width = label.shape
    fits = (np.abs(flow.flow) <= FLOW_LIMIT).all(0)
    steps = np.rint(np.where(fits, flow.flow, 0) * 64)
    column = np.floor(np.arange(width) + steps[0] / 64 + 0.5).astype(np.int64)
    row = np.floor(np.arange(height)[:, None] + steps[1] / 64 + 0.5).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    same = label_k[np.where(inside, row, 0), np.where(inside, column, 0)] == label
    stored = np.where(fits, steps + 2**15, 0)
    return np.dstack([*stored, flow.visible & fits & inside & same]).astype(np.uint16)


def _plan(split: str, count: int, seed: int) -> Iterator[tuple[str, int, int, int]]:
    """City, sequence number, street seed and style seed of each snippet; the cities take turns."""
    cities, first = CITIES[split], 0 if split == "train" else 500_000
    for i in range(count):
        turn = i % len(cities)
        style = 100 * seed + turn + (0 if split == "train" else 50)
        yield cities[turn], i // len(cities), 1_000_000 * seed + first + i, style


def _train_pairs(frames: int, frame_gap: int, labelled: Sequence[int]) -> tuple[tuple[int, int], ...]:
    offsets = [o for o in range(-frame_gap, frame_gap + 1) if o != 0]
    return tuple((t, t + o) for t in sorted(set(labelled)) for o in offsets if 0 <= t + o < frames)


def _val_pairs(frames: int) -> tuple[tuple[int, int], ...]:
    return tuple(pair for t in range(frames - 1) for pair in ((t, t + 1), (t + 1, t)))


def _write_all(snippets: Sequence[_Snippet], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(_write_snippet, snippets)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the caller's threads' locks
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        with interrupts_held():
            futures = [pool.submit(_write_snippet, snippet) for snippet in snippets]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)  # the workers share the cores already


def _write_snippet(snippet: _Snippet) -> None:
    s = snippet
    world = World(seed=s.seed, style_seed=s.style_seed, height=s.height, width=s.width, frames=s.frames)
    images, labels, flows = (Path(s.root) / kind / s.split / s.city for kind in (FRAMES, LABELS, FLOW))
    for folder in (images, labels, flows):
        folder.mkdir(parents=True, exist_ok=True)
    stem = f"{s.city}_{s.sequence:06d}"
    targets: dict[int, list[int]] = {}
    for t, k in s.pairs:
        targets.setdefault(t, []).append(k)
    for t in range(s.frames):
        frame = world.render(t)
        _write_png(images / frame_name(f"{stem}_{t:06d}"), frame.image[..., ::-1])
        _write_png(labels / label_name(f"{stem}_{t:06d}"), frame.label)
        for k in targets.get(t, ()):
            flow = encode_flow(world.flow(t, k), frame.label, world.label(k))
            _write_png(flows / f"{stem}_{t:06d}_to_{k:06d}_flow.png", flow[..., ::-1])


def _write_png(path: Path, image: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image), PNG_EFFORT):
        raise OSError(f"could not write {path}")
