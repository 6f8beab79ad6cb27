"""The synthetic world: its flow, labels and visibility against what the pictures and closed forms say."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from etc.data.world import World
from etc.data.world.sensor import Sensor

HEIGHT, WIDTH = 256, 512
ROAD, SKY = 7, 23
X, Y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
CITYSCAPES_TRAIN_CLASSES = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
PAIRS = [(2, 3), (3, 2), (2, 5)]


def world(seed, **kwargs):
    return World(seed=seed, height=HEIGHT, width=WIDTH, frames=12, **kwargs)


@pytest.fixture(scope="module")
def clean_worlds():
    return [world(seed, noise=False) for seed in range(3)]


def bilinear(values, flow):
    return cv2.remap(values.astype(np.float32), X + flow[0], Y + flow[1], cv2.INTER_LINEAR)


def nearest(values, flow):
    columns = np.clip(np.floor(X + flow[0] + 0.5), 0, WIDTH - 1).astype(int)
    rows = np.clip(np.floor(Y + flow[1] + 0.5), 0, HEIGHT - 1).astype(int)
    return values[rows, columns]


def camera_matrices(camera, t):
    """K, R and C from the camera's parameters, without its own matrix code."""

    def wave(sway):
        return sway.amplitude * np.sin(2 * np.pi * t / sway.period + sway.phase)

    angles = [wave(camera.roll), wave(camera.pitch), wave(camera.yaw)]
    rotation = Rotation.from_euler("ZXY", angles).as_matrix()
    centre = [camera.lane + wave(camera.lateral), wave(camera.bounce) - camera.eye, camera.speed * t]
    intrinsics = [[WIDTH, 0, (WIDTH - 1) / 2], [0, WIDTH, 0.43 * HEIGHT], [0, 0, 1]]
    return np.array(intrinsics, float), rotation, np.array(centre)


def landing(world, t, k, pixel, *, at_infinity):
    """Where a point of the ground plane Y = 0 (or of the sky) seen at ``pixel`` of frame t is in frame k."""
    intrinsics, rotation, centre = camera_matrices(world.camera, t)
    ray = rotation.T @ np.linalg.inv(intrinsics) @ [*pixel, 1.0]
    intrinsics_k, rotation_k, centre_k = camera_matrices(world.camera, k)
    from_k = ray if at_infinity else centre - ray * centre[1] / ray[1] - centre_k
    image = intrinsics_k @ rotation_k @ from_k
    return image[:2] / image[2]


@pytest.mark.parametrize(("t", "k"), PAIRS)
def test_warping_by_the_flow_reproduces_the_picture(clean_worlds, t, k):
    for w in clean_worlds:
        here, there, (flow, visible) = w.render(t), w.render(k), w.flow(t, k)
        error = np.abs(bilinear(there.image, flow) - here.image).mean(2)
        unwarped = np.abs(there.image.astype(float) - here.image).mean(2)
        limit = 2.0 if abs(k - t) == 1 else 2.8  # filtering differs more, the more the distance changes
        assert error[visible].mean() <= limit
        assert error[visible].mean() < 0.3 * unwarped[visible].mean()


@pytest.mark.parametrize(("t", "k"), PAIRS)
def test_labels_agree_where_the_surface_stays_in_sight(clean_worlds, t, k):
    """By surfaces alone: what is visible also looks at the labels, and would agree by definition."""
    for w in clean_worlds:
        here, there, (flow, visible) = w.render(t), w.render(k), w.flow(t, k)
        agree = nearest(there.label, flow) == here.label
        x, y = X + flow[0], Y + flow[1]
        inside = (x >= -0.5) & (x < WIDTH - 0.5) & (y >= -0.5) & (y < HEIGHT - 0.5)
        in_sight = inside & (nearest(there.surface, flow) == here.surface)
        assert agree[in_sight].mean() >= 0.995
        assert not visible[~agree].any()
        assert visible.mean() > (0.75 if abs(k - t) == 1 else 0.55)


def test_hidden_pixels_are_those_whose_surface_is_gone(clean_worlds):
    w = clean_worlds[0]
    here, there, (flow, visible) = w.render(2), w.render(3), w.flow(2, 3)
    x, y = X + flow[0], Y + flow[1]
    inside = (x >= -0.5) & (x < WIDTH - 0.5) & (y >= -0.5) & (y < HEIGHT - 0.5)
    same_surface = nearest(there.surface, flow) == here.surface
    assert not visible[~inside].any()
    assert not visible[~same_surface].any()
    assert visible[inside & same_surface].mean() > 0.99  # the rest: another class of the same surface


@pytest.mark.parametrize(("label", "at_infinity"), [(ROAD, False), (SKY, True)])
def test_flow_of_road_and_sky_equals_the_projection_by_hand(clean_worlds, label, at_infinity):
    for w in clean_worlds:
        flow = w.flow(4, 1).flow
        rows, columns = np.nonzero(w.render(4).label == label)
        for i in range(0, len(rows), max(1, len(rows) // 25)):
            x, y = int(columns[i]), int(rows[i])
            expected = landing(w, 4, 1, (x, y), at_infinity=at_infinity) - (x, y)
            np.testing.assert_allclose(flow[:, y, x], expected, atol=1e-3)


def test_flow_there_and_back_returns(clean_worlds):
    for w in clean_worlds:
        here, there = w.render(2), w.render(3)
        forward, backward = w.flow(2, 3), w.flow(3, 2)
        back = np.stack([bilinear(part, forward.flow) for part in backward.flow])
        # bilinear reading is fair only where all four neighbours lie on the surface the pixel came from
        left, top = np.floor(X + forward.flow[0]).astype(int), np.floor(Y + forward.flow[1]).astype(int)
        fair = forward.visible & (left >= 0) & (left < WIDTH - 1) & (top >= 0) & (top < HEIGHT - 1)
        left, top = np.clip(left, 0, WIDTH - 2), np.clip(top, 0, HEIGHT - 2)
        for dy, dx in np.ndindex(2, 2):
            fair &= there.surface[top + dy, left + dx] == here.surface
            fair &= backward.visible[top + dy, left + dx]
        assert fair.mean() > 0.5
        assert np.hypot(*(forward.flow + back))[fair].mean() < 0.05


def test_a_frame_to_itself_does_not_move_and_is_all_visible(clean_worlds):
    flow, visible = clean_worlds[0].flow(5, 5)
    assert visible.all()
    assert np.abs(flow).max() < 1e-3


def test_flow_of_a_driving_vehicle_equals_the_projection_by_hand(clean_worlds):
    """The ray meets the moving plane, the point rides along for three frames, the other camera sees it."""
    checked = 0
    for w in clean_worlds:
        t, k = 4, 1
        surfaces, bodies, shown = w._scene.surfaces, w._scene.bodies, w.render(t).surface
        (intrinsics, rotation, centre), after = camera_matrices(w.camera, t), camera_matrices(w.camera, k)
        flow = w.flow(t, k).flow
        for index in np.unique(shown):
            body = bodies[surfaces[index].body]
            if body.swing is not None or abs(body.vx) + abs(body.vz) < 1e-6:
                continue
            turn = Rotation.from_euler("Y", body.yaw).as_matrix()
            place = np.array([body.x + body.vx * t, 0, body.z + body.vz * t])
            corner, right, down = (turn @ getattr(surfaces[index], n) for n in ("origin", "right", "down"))
            row, column = (int(v[len(v) // 2]) for v in np.nonzero(shown == index))
            ray = rotation.T @ np.linalg.inv(intrinsics) @ [column, row, 1.0]
            normal = np.cross(right, down)
            point = centre + ray * (normal @ (corner + place - centre)) / (normal @ ray)
            moved = point + np.array([body.vx, 0, body.vz]) * (k - t)
            image = after[0] @ after[1] @ (moved - after[2])
            expected = image[:2] / image[2] - (column, row)
            np.testing.assert_allclose(flow[:, row, column], expected, rtol=1e-4, atol=2e-3)
            checked += 1
    assert checked >= 10


def test_most_cityscapes_classes_appear_and_nothing_is_unlabelled(clean_worlds):
    seen = {int(label) for w in clean_worlds for t in (0, 11) for label in np.unique(w.render(t).label)}
    assert seen <= CITYSCAPES_TRAIN_CLASSES
    assert len(seen) >= 14


def test_frames_do_not_depend_on_the_order_of_rendering():
    first, second = world(7), world(7)
    ordered = [first.render(t) for t in range(10)]
    for t in (9, 2):  # 2 was rendered and forgotten again by the first
        for a, b, c in zip(ordered[t], second.render(t), first.render(t), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_the_style_changes_looks_but_not_the_street(clean_worlds):
    restyled = world(0, style_seed=99, noise=False)
    ours, other = clean_worlds[0].render(0), restyled.render(0)
    assert (ours.label == other.label).mean() > 0.9  # tree outlines belong to the style
    assert np.abs(ours.image.astype(int) - other.image).mean() > 5


def test_another_seed_gives_another_street(clean_worlds):
    assert (clean_worlds[0].render(0).label != clean_worlds[1].render(0).label).mean() > 0.1


def test_noise_changes_the_picture_but_not_the_labels(clean_worlds):
    noisy, clean = world(0).render(3), clean_worlds[0].render(3)
    np.testing.assert_array_equal(noisy.label, clean.label)
    difference = noisy.image.astype(int) - clean.image
    assert 2 < np.abs(difference).mean() < 40


def test_a_sensor_never_takes_the_same_picture_twice_but_repeats_a_frame():
    sensor, scene = Sensor.draw(1), np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    still = np.zeros((2, HEIGHT, WIDTH), np.float32)
    a, b, again = (sensor.expose(scene, still, t).astype(float) for t in (4, 5, 4))
    np.testing.assert_array_equal(a, again)
    correlation = np.corrcoef((a - a.mean()).ravel(), (b - b.mean()).ravel())[0, 1]
    assert abs(correlation) < 0.1
    assert 3 < (a - b).std() < 25


@pytest.mark.parametrize("t", [-1, 12])
def test_a_frame_outside_the_clip_is_refused_with_its_number(clean_worlds, t):
    with pytest.raises(ValueError, match=f"frame {t} .* 12 frames"):
        clean_worlds[0].render(t)
    with pytest.raises(ValueError, match=f"frame {t}"):
        clean_worlds[0].flow(0, t)


def test_a_picture_too_small_to_show_a_street_is_refused():
    with pytest.raises(ValueError, match="16x32"):
        World(seed=0, height=16, width=32)
