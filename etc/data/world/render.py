"""Renders the synthetic world: image, labels, and exact optical flow with exact visibility."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etc.data.world.geometry import NEAR, Array, Planes, clip_near, project_bounds, see_planes
from etc.data.world.raster import Canvas
from etc.data.world.scene import build_street
from etc.data.world.sensor import Sensor

REMEMBERED_FRAMES = 8  # label and surface maps kept for flow: pairs are asked for in runs
SLIVER = 0.35  # pixels; anything narrower is not drawn
HAZE = 260.0  # metres after which the air has swallowed 63% of the contrast
MIN_ADVANCE = 1e-2  # smallest depth ratio of a followed point: keeps the flow finite behind the camera

Window = tuple[int, int, int, int]


class Frame(NamedTuple):
    """image uint8 ``[H, W, 3]`` RGB; label uint8 ``[H, W]`` Cityscapes labelIds; surface int32 ``[H, W]``."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    surface: NDArray[np.int32]


class WorldFlow(NamedTuple):
    """flow float32 ``[2, H, W]`` in pixels (x right, y down); visible bool ``[H, W]``."""

    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


class World:
    """A street filmed from a moving car. Everything is planar and rigid, so labels and flow are exact.

    Args:
        seed: layout of the street and all motion.
        height, width: frame size in pixels.
        frames: length of the clip; the street is long enough for it.
        style_seed: textures and colours (the "city"); default: ``seed``.
        noise: ``False`` leaves out sensor noise, lighting drift and motion blur.

    Raises:
        ValueError: a size or a frame number out of range.

    Frames are independent of the order in which they are rendered, bit for bit.
    """

    def __init__(
        self,
        *,
        seed: int,
        height: int = 256,
        width: int = 512,
        frames: int = 30,
        style_seed: int | None = None,
        noise: bool = True,
    ) -> None:
        if height < 32 or width < 32 or frames < 1:
            raise ValueError(f"need height and width >= 32 and frames >= 1, got {height}x{width}, {frames} frames")
        self.height, self.width, self.frames = height, width, frames
        style = seed if style_seed is None else style_seed
        self._scene = build_street(seed=seed, style_seed=style, height=height, width=width, frames=frames)
        self.camera = self._scene.camera
        self._sensor = Sensor.draw(seed) if noise else None
        surfaces = self._scene.surfaces
        self._local = np.stack([np.stack([s.right, s.down, s.origin], axis=1) for s in surfaces])
        self._body = np.array([s.body for s in surfaces])
        self._infinite = np.array([s.infinite for s in surfaces])
        self._layer = np.array([s.layer for s in surfaces])
        self._facing = np.array([s.facing for s in surfaces])
        self._columns = np.arange(width, dtype=np.float32)
        self._rows = np.arange(height, dtype=np.float32)[:, None]
        self._drawn: OrderedDict[int, Frame] = OrderedDict()

    def render(self, t: int) -> Frame:
        """Frame ``t`` in ``0 .. frames - 1``."""
        self._check(t)
        clean = self._clean(t)
        if self._sensor is None:
            return clean
        shutter = self._sensor.shutter
        motion, _ = self._follow(clean.surface, self._planes(t), self._planes(t + shutter))
        return clean._replace(image=self._sensor.expose(clean.image, motion, t))

    def label(self, t: int) -> NDArray[np.uint8]:
        """The labels of frame ``t`` alone, without the cost of the sensor: labelIds, uint8 ``[H, W]``."""
        self._check(t)
        return self._clean(t).label

    def flow(self, t: int, k: int) -> WorldFlow:
        """Where each pixel of frame ``t`` is in frame ``k``, and whether it is seen there.

        The flow follows the surface point at the pixel's centre; also where that point is hidden in ``k``.
        Visibility is a sampled definition: a pixel is visible iff its flow lands inside frame ``k`` (``-0.5 <= x <
        W - 0.5``, same for y) and the pixel it lands on, ``floor(x + 0.5)``, shows the same surface and the same
        class: the ground is one surface, and the kerb between road and pavement is an edge of it. The ground truth
        is therefore consistent over visible pixels by definition; what the rounding at edges costs a scorer
        without this mask is a property of nearest warping, not of the world. A point behind the camera of ``k`` is
        not visible; its flow leads out of the frame.
        """
        self._check(t)
        self._check(k)
        here, there = self._clean(t), self._clean(k)
        flow, ahead = self._follow(here.surface, self._planes(t), self._planes(k))
        column = np.floor(flow[0] + self._columns + np.float32(0.5))
        row = np.floor(flow[1] + self._rows + np.float32(0.5))
        inside = ahead & (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        landed = np.where(inside, row * self.width + column, 0).astype(np.int64)
        same = there.surface.ravel()[landed] == here.surface
        same &= there.label.ravel()[landed] == here.label
        return WorldFlow(flow, inside & same)

    def _check(self, t: int) -> None:
        if not 0 <= t < self.frames:
            raise ValueError(f"frame {t} outside the clip of {self.frames} frames")

    def _planes(self, t: float) -> Planes:
        poses = [body.pose(t) for body in self._scene.bodies]
        rotations, shifts = (np.stack(parts) for parts in zip(*poses, strict=True))
        frames = rotations[self._body] @ self._local
        frames[:, :, 2] += np.where(self._infinite[:, None], 0.0, shifts[self._body])
        return see_planes(frames, self._infinite, self.camera, t)

    def _clean(self, t: int) -> Frame:
        """The frame without sensor effects."""
        if t in self._drawn:
            self._drawn.move_to_end(t)
            return self._drawn[t]
        planes, canvas = self._planes(t), Canvas(self.height, self.width)
        for index, window, depths in self._painting_order(planes):
            canvas.draw(
                index,
                self._scene.surfaces[index].texture,
                to_texture=planes.to_texture[index],
                window=window,
                depths=None if self._infinite[index] else depths,
            )
        clarity = np.exp(np.float32(-1 / HAZE) / np.maximum(canvas.nearness, np.float32(1e-4)))
        clarity[canvas.nearness <= 0] = 1  # the sky is painted as seen through the air
        air = self._scene.haze.astype(np.float32)
        image = canvas.image[..., :3] * clarity[..., None] + air * (1 - clarity[..., None])
        frame = Frame((image + np.float32(0.5)).astype(np.uint8), canvas.label, canvas.surface)
        self._drawn[t] = frame
        if len(self._drawn) > REMEMBERED_FRAMES:
            self._drawn.popitem(last=False)
        return frame

    def _painting_order(self, planes: Planes) -> Iterator[tuple[int, Window, tuple[float, float]]]:
        """Surfaces that may be seen, layer by layer from far to near, with their windows and depth ranges."""
        intrinsics, limits = self.camera.intrinsics, (self.width, self.height)
        low, high, near, far = project_bounds(planes.corners, intrinsics)
        for index in np.flatnonzero((near < NEAR) & (far > NEAR)):  # reaches behind the camera
            one = slice(index, index + 1)
            low[one], high[one], near[one], far[one] = project_bounds(
                clip_near(planes.corners[index])[None], intrinsics
            )
        start = np.maximum(np.floor(low), 0).astype(int)
        stop = np.minimum(np.ceil(high) + 1, limits).astype(int)
        shown = (start < stop).all(1) & (high - low > SLIVER).all(1) & (far > NEAR) & ~planes.edge_on
        shown &= self._facing * planes.side >= 0
        windows = np.concatenate([start, stop], axis=1).tolist()
        for index in np.lexsort((-far, self._layer)):
            if shown[index]:
                yield int(index), tuple(windows[index]), (float(near[index]), float(far[index]))

    def _follow(
        self, surface: NDArray[np.int32], here: Planes, there: Planes
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Flow ``[2, H, W]`` of the points under the pixels, and where they stay before the camera."""
        homographies: Array = there.to_image @ here.to_texture
        table = np.ascontiguousarray(homographies.reshape(-1, 9).T)
        a, b, c, d, e, f, g, h, i = (row[surface] for row in table)
        x, y = self._columns.astype(np.float64), self._rows.astype(np.float64)
        advance = g * x + h * y + i  # depth there / depth here
        ahead = advance > MIN_ADVANCE
        scale = 1 / np.maximum(advance, MIN_ADVANCE)
        flow = np.empty((2, self.height, self.width), np.float32)
        flow[0] = (a * x + b * y + c) * scale - x
        flow[1] = (d * x + e * y + f) * scale - y
        return flow, ahead
