"""Drawing planes: depth, transparency, filtering and clipping on scenes of one or two surfaces."""

import numpy as np
import pytest

from etc.data.world.geometry import Sway, clip_near, see_planes
from etc.data.world.raster import Canvas
from etc.data.world.textures import Texture

SIZE = 40


class FixedCamera:
    """Looks along +Z from the origin, one pixel a unit at depth ``SIZE``."""

    intrinsics = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])

    def pose(self, t):
        return np.eye(3), np.zeros(3)


def opaque(colour, label=1):
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[..., :3] = colour
    return Texture(rgba, label)


def frontal(depth, half=1.0):
    """right, down, origin of a square facing the camera."""
    return np.array([[2 * half, 0, -half], [0, 2 * half, -half], [0, 0, depth]], float)


def slanted():
    """A square crossing the frontal one at depth 4: its left edge is at depth 3, its right edge at 5."""
    return np.array([[2.0, 0, -1], [0, 2, -1], [2, 0, 3]])


def draw(*planes):
    canvas = Canvas(SIZE, SIZE)
    seen = see_planes(np.stack([p for p, _ in planes]), np.zeros(len(planes), bool), FixedCamera(), 0)
    for i, (_, texture) in enumerate(planes):
        depths = float(seen.corners[i, :, 2].min()), float(seen.corners[i, :, 2].max())
        canvas.draw(i, texture, to_texture=seen.to_texture[i], window=(0, 0, SIZE, SIZE), depths=depths)
    return canvas


def test_a_frontal_square_covers_the_pixels_whose_centres_it_covers():
    canvas = draw((frontal(4.0), opaque(200, label=9)))
    x = (np.arange(SIZE) - SIZE / 2) * 4.0 / SIZE
    inside = np.abs(x) < 1
    edge = np.isclose(np.abs(x), 1)
    expected = inside[:, None] & inside
    decided = ~(edge[:, None] | edge)
    np.testing.assert_array_equal((canvas.label == 9)[decided], expected[decided])
    np.testing.assert_allclose(1 / canvas.nearness[canvas.label == 9], 4.0, rtol=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_crossing_planes_each_pixel_shows_the_nearer(order):
    planes = [(frontal(4.0, half=2), opaque(50, label=1)), (slanted(), opaque(200, label=2))]
    label = draw(*(planes[i] for i in order)).label
    middle = label[SIZE // 2]
    assert (middle[10 : SIZE // 2 - 1] == 2).all()  # the slanted one comes forward on the left
    assert (middle[SIZE // 2 + 1 : 28] == 1).all()


def test_one_sees_through_the_holes_of_a_cut_out():
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[:, :8, 3] = 0
    canvas = draw((frontal(5.0, half=3), opaque(50, label=1)), (frontal(4.0), Texture(rgba, 2)))
    row = canvas.label[SIZE // 2]
    assert set(row[11:19]) == {1}
    assert set(row[21:29]) == {2}
    np.testing.assert_array_equal(canvas.image[SIZE // 2, 12:18, 0], 50)


def test_the_colour_of_transparent_texels_never_shows():
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., :3] = (0, 255, 0)
    rgba[16:48, 16:48] = (200, 0, 0, 255)
    canvas = draw((frontal(9.0, half=9), opaque(0, label=1)), (frontal(8.0), Texture(rgba, 2)))
    assert canvas.image[..., 1].max() <= 1


def test_a_far_fine_pattern_fades_to_its_mean_instead_of_shimmering():
    rgba = np.full((256, 256, 4), 255, np.uint8)
    rgba[..., :3] = (np.indices((256, 256)).sum(0) % 2 * 255)[..., None]
    canvas = draw((frontal(8.0), Texture(rgba, 3)))
    inner = canvas.image[17:24, 17:24, 0].astype(int)
    assert np.abs(inner - 127).max() <= 3


def test_a_plane_behind_the_camera_or_before_the_near_plane_is_clipped_away():
    behind = np.array([[-1, 0, -1], [1, 0, -1], [1, 1, -1], [-1, 1, -1]], float)
    assert len(clip_near(behind)) == 0
    crossing = np.array([[0, 0, -1], [0, 0, 1], [1, 0, 1], [1, 0, -1]], float)
    clipped = clip_near(crossing)
    assert len(clipped) == 4
    assert clipped[:, 2].min() == pytest.approx(0.2)
    assert clipped[:, 2].max() == 1


def test_a_plane_seen_edge_on_is_marked_and_has_finite_matrices():
    edge_on = np.array([[0, 0, 0.0], [0, 2, -1], [2, 0, 3]])  # contains the camera
    seen = see_planes(edge_on[None], np.zeros(1, bool), FixedCamera(), 0)
    assert seen.edge_on.all()
    assert np.isfinite(seen.to_texture).all()


def test_sway_has_no_mean_and_repeats_after_its_period():
    sway = Sway(amplitude=0.3, period=12.0, phase=0.7)
    values = [sway.at(t) for t in range(12)]
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert sway.at(3) == pytest.approx(sway.at(15))
