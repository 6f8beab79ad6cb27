"""Pinhole camera, rigid motion and plane homographies of the synthetic world.

World axes: X right, Y **down**, Z along the street; the ground is ``Y = 0`` and lengths are metres. Time is
counted in frames and may be fractional. Pixel ``(x, y)`` has its centre at integer coordinates.

A planar surface is given by a texture corner ``origin`` and two edge vectors ``right`` and ``down``; the
point with texture coordinates ``(s, t)`` in [0, 1]^2 is ``origin + s * right + t * down``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR = 0.2  # metres; nothing closer to the image plane is drawn


@dataclass(frozen=True)
class Sway:
    """A smooth zero-mean disturbance: ``amplitude * sin(2 pi t / period + phase)``."""

    amplitude: float
    period: float
    phase: float

    def at(self, t: float) -> float:
        return self.amplitude * float(np.sin(2 * np.pi * t / self.period + self.phase))

    @staticmethod
    def draw(rng: np.random.Generator, amplitude: float, period: float) -> Sway:
        return Sway(amplitude * rng.uniform(0.5, 1.0), period * rng.uniform(0.8, 1.25), rng.uniform(0, 2 * np.pi))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera driving along +Z. Metres, radians, ``speed`` in metres per frame."""

    height: int
    width: int
    speed: float
    lane: float
    eye: float
    lateral: Sway
    bounce: Sway
    yaw: Sway
    pitch: Sway
    roll: Sway

    @property
    def intrinsics(self) -> Array:
        """``[3, 3]``; 53 degrees of horizontal field of view, horizon a little above the middle."""
        focal = float(self.width)
        return np.array([[focal, 0, (self.width - 1) / 2], [0, focal, 0.43 * self.height], [0, 0, 1]])

    def pose(self, t: float) -> tuple[Array, Array]:
        """Rotation ``[3, 3]`` from world to camera axes and camera centre ``[3]`` in the world."""
        centre = np.array([self.lane + self.lateral.at(t), -self.eye + self.bounce.at(t), self.speed * t])
        yaw, pitch, roll = self.yaw.at(t), self.pitch.at(t), self.roll.at(t)
        return rotation_z(roll) @ rotation_x(pitch) @ rotation_y(yaw), centre

    @staticmethod
    def draw(rng: np.random.Generator, height: int, width: int, lane: float) -> Camera:
        return Camera(
            height=height,
            width=width,
            speed=float(rng.uniform(0.25, 0.55)),
            lane=lane,
            eye=float(rng.uniform(1.25, 1.45)),
            lateral=Sway.draw(rng, 0.25, 60),
            bounce=Sway.draw(rng, 0.015, 9),
            yaw=Sway.draw(rng, 0.04, 70),
            pitch=Sway.draw(rng, 0.004, 11),
            roll=Sway.draw(rng, 0.006, 17),
        )


def rotation_x(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rotation_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Body:
    """Rigid motion of one object: constant velocity, and for limbs a swing in the plane of the object.

    ``x, z`` is the place on the ground at frame 0, ``yaw`` turns local +Z towards +X, ``vx, vz`` are metres
    a frame. A limb swings about its joint ``pivot = (x, height)`` in local coordinates.
    """

    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    vx: float = 0.0
    vz: float = 0.0
    swing: Sway | None = None
    pivot: tuple[float, float] = (0.0, 0.0)

    def pose(self, t: float) -> tuple[Array, Array]:
        """Rotation ``[3, 3]`` and translation ``[3]`` from local to world coordinates."""
        rotation, shift = rotation_y(self.yaw), np.zeros(3)
        if self.swing is not None:
            joint = np.array([self.pivot[0], -self.pivot[1], 0.0])
            turn = rotation_z(self.swing.at(t))
            rotation, shift = rotation @ turn, rotation @ (joint - turn @ joint)
        return rotation, shift + np.array([self.x + self.vx * t, 0.0, self.z + self.vz * t])


@dataclass(frozen=True)
class Planes:
    """All surfaces as one camera sees them at one time; ``S`` surfaces.

    ``to_image[s] @ (s, t, 1) = depth * (x, y, 1)`` and ``to_texture[s] @ (x, y, 1) = (s, t, 1) / depth``,
    so the last row of ``to_texture`` gives the inverse depth, affine in the pixel. ``corners`` are camera
    coordinates ``[S, 4, 3]`` in the order top left, top right, bottom right, bottom left. ``edge_on``
    surfaces have no inverse. ``side`` is 1 where the camera is on the side to which ``right x down``
    points, else -1.
    """

    to_image: Array
    to_texture: Array
    corners: Array
    edge_on: NDArray[np.bool_]
    side: NDArray[np.int64]


def see_planes(frames: Array, infinite: NDArray[np.bool_], camera: Camera, t: float) -> Planes:
    """All surfaces from the camera's place at ``t``.

    ``frames`` ``[S, 3, 3]`` holds ``right, down, origin`` of each surface in its columns, in world
    coordinates. For ``infinite`` surfaces the third column is a direction: the camera's position does not
    matter to them.
    """
    rotation, centre = camera.pose(t)
    seen = frames.copy()
    seen[:, :, 2] -= np.where(infinite[:, None], 0.0, centre)
    seen = rotation @ seen
    right, down, origin = seen[:, :, 0], seen[:, :, 1], seen[:, :, 2]
    corners = np.stack([origin, origin + right, origin + right + down, origin + down], axis=1)
    cofactors = np.stack([np.cross(down, origin), np.cross(origin, right), np.cross(right, down)], axis=1)
    determinant = np.einsum("si,si->s", right, cofactors[:, 0])
    size = np.linalg.norm(right, axis=1) * np.linalg.norm(down, axis=1) * np.linalg.norm(origin, axis=1)
    edge_on = np.abs(determinant) < 1e-9 * size
    inverse = cofactors / np.where(edge_on, 1.0, determinant)[:, None, None]
    intrinsics = camera.intrinsics
    side = np.where(determinant < 0, 1, -1)
    return Planes(intrinsics @ seen, inverse @ np.linalg.inv(intrinsics), corners, edge_on, side)


def clip_near(corners: Array) -> Array:
    """The part of a convex polygon ``[N, 3]`` in camera axes that lies before the near plane; maybe empty."""
    kept: list[Array] = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept).reshape(-1, 3)


def project_bounds(corners: Array, intrinsics: Array) -> tuple[Array, Array, Array, Array]:
    """Least and greatest pixel ``[S, 2]`` and depth ``[S]`` of polygons ``[S, N, 3]`` in camera coordinates.

    The pixels hold where the least depth is positive.
    """
    depth = corners[:, :, 2]
    pixels = corners @ intrinsics.T
    pixels = pixels[:, :, :2] / np.maximum(depth, 1e-6)[:, :, None]
    return pixels.min(1), pixels.max(1), depth.min(1), depth.max(1)
