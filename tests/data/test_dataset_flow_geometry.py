"""Stored flow through the clip transform, against the exact geometry of the synthetic world."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from etc.data.clip_dataset import ClipDataset
from etc.data.images import write_png
from etc.data.labels import label_table
from etc.data.layouts import LAYOUTS
from etc.data.lists import Frame
from etc.data.transform import ClipTransform
from etc.data.world import World
from etc.flow.dataset import DatasetFlow
from etc.flow.files import write_kitti

HEIGHT, WIDTH, CROP = 256, 512, (193, 257)
ROAD, SKY = 7, 23
T, K = 4, 5


class Recording(ClipTransform):
    """Remembers the last map that was drawn."""

    def draw(self, rng, height, width):
        self.last = super().draw(rng, height, width)
        return self.last


def projection(camera, t):
    """Intrinsics, rotation and centre at frame t from the camera's parameters."""

    def wave(sway):
        return sway.amplitude * np.sin(2 * np.pi * t / sway.period + sway.phase)

    rotation = Rotation.from_euler("ZXY", [wave(s) for s in (camera.roll, camera.pitch, camera.yaw)]).as_matrix()
    centre = np.array([camera.lane + wave(camera.lateral), wave(camera.bounce) - camera.eye, camera.speed * t])
    return np.array([[WIDTH, 0, (WIDTH - 1) / 2], [0, WIDTH, 0.43 * HEIGHT], [0, 0, 1]]), rotation, centre


def landing(camera, points, sky):
    """Where points ``[2, N]`` of frame T, anywhere between the pixels, are in frame K: ground plane Y = 0, or sky."""
    (intrinsics, rotation, centre), (intrinsics_k, rotation_k, centre_k) = (projection(camera, t) for t in (T, K))
    rays = rotation.T @ np.linalg.inv(intrinsics) @ np.vstack([points, np.ones(points.shape[1])])
    from_k = rays if sky else (centre - centre_k)[:, None] - rays * centre[1] / rays[1]
    image = intrinsics_k @ rotation_k @ from_k
    return image[:2] / image[2]


@pytest.fixture(scope="module")
def world():
    return World(seed=0, height=HEIGHT, width=WIDTH, frames=6, noise=False)


@pytest.fixture
def data(world, tmp_path) -> ClipDataset:
    """One pair of the world with its flow stored in 16 bits beside it."""
    for t in (T, K):
        write_png(tmp_path / f"s_{t:03d}.png", world.render(t).image)
    write_kitti(tmp_path / "flow" / f"s_{T:03d}_to_{K:03d}_flow.png", world.flow(T, K).flow)
    return ClipDataset(
        [Frame(f"s_{T:03d}.png")],
        [[K - T]],
        data_root=tmp_path,
        layout=LAYOUTS["camvid"],
        frame_step=1,
        transform=Recording(size=CROP, scale=(0.75, 2.0)),
        label_table=label_table("cityscapes", 19, 255),
        flow=DatasetFlow(),
        with_neighbour=True,
        seed=0,
    )


def test_transformed_stored_flow_is_the_flow_of_the_transformed_geometry(data, world):
    label, linear, seen = world.render(T).label, [], 0
    for epoch in range(8):
        flow = data[epoch, 0]["flow"].numpy().astype(np.float64)
        matrix = data.transform.last.matrix
        linear.append(matrix[:, :2])
        q = np.indices(CROP)[::-1].reshape(2, -1).astype(np.float64)  # x, y of every crop pixel
        p = np.linalg.inv(matrix[:, :2]) @ (q - matrix[:, 2:])
        for kind in (ROAD, SKY):
            # off the borders: where the points that are interpolated between belong to the same surface
            inner = cv2.erode((label == kind).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
            x, y = np.rint(p).astype(int)
            inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
            chosen = inside & (inner[np.where(inside, y, 0), np.where(inside, x, 0)] > 0)
            seen += chosen.sum()
            if not chosen.any():
                continue
            expected = matrix[:, :2] @ landing(world.camera, p[:, chosen], kind == SKY) + matrix[:, 2:] - q[:, chosen]
            error = np.linalg.norm(flow.reshape(2, -1)[:, chosen] - expected, axis=0)
            assert error.mean() <= 0.02
            assert np.linalg.norm(expected, axis=0).mean() > 0.5  # so that 0.02 says something
    assert seen > 20_000
    assert any(m[0, 0] < 0 for m in linear) and any(abs(m[1, 0]) > 0.02 for m in linear)  # mirrored, turned
