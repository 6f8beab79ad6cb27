"""The clip transform against a pixel-by-pixel inverse map and against semseg's order of steps."""

import math

import cv2
import numpy as np
import pytest

from etc.data.transform import (
    MEAN,
    STD,
    ClipTransform,
    CropMap,
    crop_flow,
    crop_image,
    crop_label,
    normalise,
    padding_of,
)

HEIGHT, WIDTH = 30, 44


@pytest.fixture
def image():
    """Smooth, so that the interpolation's own precision does not matter, and different in every channel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tensors = [128 + 100 * np.sin(x / a + y / b) for a, b in ((5, 9), (8, -6), (-7, 11))]
    return np.stack(tensors, axis=-1).astype(np.uint8)


@pytest.fixture
def label():
    return np.random.default_rng(0).integers(0, 19, (HEIGHT, WIDTH), dtype=np.uint8)


def draws(count: int, **changes) -> list[CropMap]:
    settings = {"size": (23, 31), "blur": 0.0} | changes
    return [ClipTransform(**settings).draw(np.random.default_rng(seed), HEIGHT, WIDTH) for seed in range(count)]


def sources(crop: CropMap) -> tuple[np.ndarray, np.ndarray]:
    """The source point of every crop pixel, by inverting the map one pixel at a time."""
    a, b, tx, c, d, ty = crop.matrix.ravel()
    determinant = a * d - b * c
    x, y = np.empty(crop.size), np.empty(crop.size)
    for i in range(crop.size[0]):
        for j in range(crop.size[1]):
            x[i, j] = (d * (j - tx) - b * (i - ty)) / determinant
            y[i, j] = (-c * (j - tx) + a * (i - ty)) / determinant
    return x, y


def bilinear(tensor: np.ndarray, x: float, y: float) -> float:
    """A sample with clamped corners."""
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            total += row_weight * weight * float(tensor[min(max(row, 0), HEIGHT - 1), min(max(column, 0), WIDTH - 1)])
    return total


def near_border(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Source points within 1/32 px of where padding begins: rounding decides there."""
    near = np.zeros(x.shape, bool)
    for position, length in ((x, WIDTH), (y, HEIGHT)):
        near |= (np.abs(position + 0.5) < 1 / 32) | (np.abs(position - length + 0.5) < 1 / 32)
    return near


def outside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x < -0.5) | (x > WIDTH - 0.5) | (y < -0.5) | (y > HEIGHT - 0.5)


def raw(normalised: np.ndarray) -> np.ndarray:
    return normalised * STD[:, None, None] + MEAN[:, None, None]


IDENTITY = {"size": (HEIGHT, WIDTH), "scale": (1.0, 1.0), "rotate": (0.0, 0.0), "blur": 0.0, "flip": 0.0}


def test_the_identity_changes_no_value(image, label):
    (crop,) = draws(1, **IDENTITY)
    assert np.array_equal(crop.matrix, np.eye(2, 3))
    padding = padding_of(crop, image.shape[:2])
    assert not padding.any()
    assert np.array_equal(crop_image(image, crop, padding), normalise(image))
    assert np.array_equal(crop_label(label, crop), label)
    flow = np.random.default_rng(1).normal(0, 20, (2, HEIGHT, WIDTH)).astype(np.float32)
    assert np.array_equal(crop_flow(flow, crop), flow)


def test_normalising_is_subtracting_the_mean_and_dividing_by_the_deviation():
    pixel = np.array([[[0, 128, 255]]], np.uint8)
    expected = [(0 / 255 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (255 / 255 - 0.406) / 0.225]
    result = normalise(pixel)
    assert result.dtype == np.float32 and result.shape == (3, 1, 1)
    np.testing.assert_allclose(result.ravel(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("crop", draws(6))
def test_image_pixels_come_from_the_inverse_map(image, crop):
    padding = padding_of(crop, image.shape[:2])
    result = raw(crop_image(image, crop, padding))
    x, y = sources(crop)
    for i, j in np.argwhere(~padding)[::7]:
        expected = [bilinear(image[:, :, c], x[i, j], y[i, j]) for c in range(3)]
        # half a step of rounding to 8 bits, and 1/64 px of position at this image's slope
        np.testing.assert_allclose(result[:, i, j], expected, rtol=0, atol=1.0)


@pytest.mark.parametrize("crop", draws(6))
def test_label_pixels_are_the_nearest_of_the_inverse_map(label, crop):
    result = crop_label(label, crop)
    x, y = sources(crop)
    # Within 1/32 px of the middle between two pixels, either is the nearest.
    clear = (np.abs(x - np.floor(x) - 0.5) > 1 / 32) & (np.abs(y - np.floor(y) - 0.5) > 1 / 32)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = ~outside(x, y) & clear
    assert np.array_equal(result[inside], label[row[inside], column[inside]])
    assert (result[outside(x, y) & clear] == 255).all()
    assert result.dtype == np.int64 and inside.sum() > 100


@pytest.mark.parametrize("crop", draws(8, size=(61, 83), scale=(0.4, 0.8)))
def test_padding_is_zero_in_all_channels_and_nothing_else_is(image, crop):
    padding = padding_of(crop, image.shape[:2])
    x, y = sources(crop)
    clear = ~near_border(x, y)
    assert np.array_equal(padding[clear], outside(x, y)[clear])
    assert padding.any() and not padding.all()
    for blur in (False, True):
        result = crop_image(image, crop._replace(blur=blur), padding)
        assert not result[:, padding].any()
        assert (result[:, ~padding] != 0).all()


def test_no_8_bit_pixel_looks_like_padding():
    every_value = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert (np.abs(normalise(every_value)) > 1e-4).all()


@pytest.mark.parametrize("crop", draws(6, size=(61, 83)))
def test_label_padding_and_image_padding_are_the_same_pixels(label, crop):
    assert np.array_equal(crop_label(label, crop) == 255, padding_of(crop, label.shape))


@pytest.mark.parametrize("crop", draws(8))
def test_the_flow_of_an_affine_motion_maps_exactly(crop):
    # Frame t -> frame k: p -> B p + b. In crop coordinates the same motion is the conjugate of B by the crop map.
    motion = np.array([[1.05, -0.04, 2.5], [0.03, 0.97, -1.5], [0, 0, 1]])
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    points = np.stack([x, y, np.ones_like(x)])
    flow = (np.einsum("ij,jhw->ihw", motion, points) - points)[:2].astype(np.float32)
    result = crop_flow(flow, crop)
    to_crop = np.vstack([crop.matrix, [0, 0, 1]])
    in_crop = to_crop @ motion @ np.linalg.inv(to_crop)
    j, i = np.meshgrid(np.arange(crop.size[1]), np.arange(crop.size[0]))
    points = np.stack([j, i, np.ones_like(i)])
    expected = (np.einsum("ij,jhw->ihw", in_crop, points) - points)[:2]
    sx, sy = sources(crop)
    inside = (sx >= 0) & (sx <= WIDTH - 1) & (sy >= 0) & (sy <= HEIGHT - 1)
    np.testing.assert_allclose(result[:, inside], expected[:, inside], rtol=0, atol=5e-3)
    assert result.dtype == np.float32 and inside.sum() > 100


@pytest.mark.parametrize(
    ("changes", "linear"),
    [
        ({"scale": (0.5, 0.5)}, [[0.5, 0], [0, 0.5]]),
        ({"flip": 1.0}, [[-1, 0], [0, 1]]),
        # semseg rotates by cv2.getRotationMatrix2D: positive angles turn counter-clockwise on the screen
        ({"rotate": (30.0, 30.0)}, cv2.getRotationMatrix2D((0, 0), 30, 1)[:, :2]),
        ({"rotate": (30.0, 30.0), "flip": 1.0}, np.diag([-1, 1]) @ cv2.getRotationMatrix2D((0, 0), 30, 1)[:, :2]),
    ],
    ids=["scale", "flip", "rotate", "rotate, then flip"],
)
def test_the_linear_part_of_each_step(changes, linear):
    (crop,) = draws(1, **(IDENTITY | {"rotate_probability": 1.0} | changes))
    np.testing.assert_allclose(crop.matrix[:, :2], linear, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 17.0, -90.0])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_whole_frame_turns_about_its_centre(angle, flip):
    (crop,) = draws(1, **(IDENTITY | {"rotate": (angle, angle), "flip": flip, "rotate_probability": 1.0}))
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2, 1])
    np.testing.assert_allclose(crop.matrix @ centre, centre[:2], rtol=0, atol=1e-9)


def test_scaling_agrees_with_cv2_resize(image):
    scaled = (round(HEIGHT * 1.5), round(WIDTH * 1.5))
    (crop,) = draws(1, **(IDENTITY | {"scale": (1.5, 1.5), "size": scaled}))
    result = raw(crop_image(image, crop, padding_of(crop, image.shape[:2])))
    resized = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    # Rounding aside; at the outermost pixels resize extrapolates as warpAffine does, by clamping.
    np.testing.assert_allclose(result, resized.transpose(2, 0, 1), rtol=0, atol=1.5)


def test_scale_flip_and_crop_compose_in_the_order_of_semseg(image):
    """Step by step on pixels, as semseg does it: resize, mirror, cut."""
    for crop in draws(6, scale=(1.5, 2.5), rotate=(0.0, 0.0)):
        a, d = abs(crop.matrix[0, 0]), crop.matrix[1, 1]
        scaled_w, scaled_h = round(a * WIDTH), round(d * HEIGHT)
        pixels = cv2.resize(image, (scaled_w, scaled_h), interpolation=cv2.INTER_LINEAR)
        if crop.matrix[0, 0] < 0:
            pixels = pixels[:, ::-1]
        # where source pixel (0, 0), or its mirror image, starts: a whole number of pixels
        first_x = crop.matrix[0] @ ([-0.5, -0.5, 1] if crop.matrix[0, 0] > 0 else [WIDTH - 0.5, -0.5, 1]) + 0.5
        left, top = -first_x, -(crop.matrix[1] @ [-0.5, -0.5, 1] + 0.5)
        assert abs(left - round(left)) < 1e-9 and abs(top - round(top)) < 1e-9
        left, top = round(left), round(top)
        assert 0 <= left <= scaled_w - 31 and 0 <= top <= scaled_h - 23
        expected = pixels[top : top + 23, left : left + 31].transpose(2, 0, 1)
        result = raw(crop_image(image, crop, padding_of(crop, image.shape[:2])))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1.5)


def test_a_frame_smaller_than_the_crop_stands_in_its_middle(label):
    (crop,) = draws(1, **(IDENTITY | {"size": (HEIGHT + 5, WIDTH + 8)}))
    expected = np.full(crop.size, 255)
    expected[2 : 2 + HEIGHT, 4 : 4 + WIDTH] = label  # semseg: half of the missing pixels, rounded down, come first
    assert np.array_equal(crop_label(label, crop), expected)


def test_every_position_of_the_crop_is_equally_likely():
    transform = ClipTransform(**(IDENTITY | {"size": (HEIGHT - 2, WIDTH)}))
    rng = np.random.default_rng(0)
    tops = [-round(transform.draw(rng, HEIGHT, WIDTH).matrix[1, 2]) for _ in range(600)]
    counts = np.bincount(tops, minlength=3)
    assert counts.shape == (3,) and counts.min() > 160  # 200 +- 40, more than three standard deviations


def test_scales_rotations_flips_and_blurs_follow_their_ranges_and_probabilities():
    transform = ClipTransform(size=(8, 8), scale=(0.5, 2.0), rotate=(-10.0, 10.0))
    rng = np.random.default_rng(0)
    maps = [transform.draw(rng, 400, 800) for _ in range(1000)]
    mirrored = np.array([crop.matrix[0, 0] < 0 for crop in maps])
    scales = np.array([math.sqrt(abs(np.linalg.det(crop.matrix[:, :2]))) for crop in maps])
    angles = np.array([math.degrees(math.asin(-crop.matrix[1, 0] / s)) for crop, s in zip(maps, scales, strict=True)])
    assert 440 < mirrored.sum() < 560
    assert 440 < sum(crop.blur for crop in maps) < 560
    assert 440 < (angles == 0).sum() < 560
    assert 0.499 < scales.min() < 0.52 and 1.98 < scales.max() < 2.01 and 1.2 < scales.mean() < 1.3
    assert -10.1 < angles.min() < -9 and 9 < angles.max() < 10.1
    assert abs(np.corrcoef(mirrored, [crop.blur for crop in maps])[0, 1]) < 0.1


def test_blur_is_a_5x5_gaussian_over_the_crop(image):
    (crop,) = draws(1, **IDENTITY)
    none = np.zeros(image.shape[:2], bool)
    result = raw(crop_image(image, crop._replace(blur=True), none))
    weights = np.outer(*[cv2.getGaussianKernel(5, 0).ravel()] * 2)
    for i, j in ((2, 2), (10, 20), (25, 40)):
        window = image[i - 2 : i + 3, j - 2 : j + 3].astype(float)
        expected = (window * weights[:, :, None]).sum((0, 1))
        np.testing.assert_allclose(result[:, i, j], expected, rtol=0, atol=1.0)


def test_the_number_of_draws_does_not_depend_on_what_was_drawn():
    """So that baseline and motion training, and frames of other sizes, keep the same random numbers."""
    small, large = np.random.default_rng(3), np.random.default_rng(3)
    ClipTransform(size=(8, 8), flip=0.0, blur=0.0, rotate=(0.0, 0.0)).draw(small, 400, 800)
    ClipTransform(size=(800, 800), flip=1.0, blur=1.0).draw(large, 100, 120)
    assert small.random() == large.random()
