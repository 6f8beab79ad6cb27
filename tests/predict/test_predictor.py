"""Prediction of frames, against a plain transcription of semseg's test script in NumPy and OpenCV."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from etc.config import load_settings
from etc.data.transform import MEAN, STD
from etc.errors import UserError
from etc.predict.predictor import Predictor, predictor_from, window_starts
from model import build_model
from model.external import ExternalNetwork

CLASSES = 5


def random_frames(*shape: int, count: int = 1, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(count)]


def conv_network(side: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv2d(3, CLASSES, side, padding=side // 2).requires_grad_(False)


class Positional(nn.Module):
    """A convolution plus a ramp: it notices where in its input a pixel lies, as networks that pool do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_network(3)

    def forward(self, image):
        y, x = (torch.linspace(-1, 1, side) for side in image.shape[-2:])
        ramp = torch.arange(CLASSES).view(-1, 1, 1) * (y[:, None] + 0.5 * x)
        return self.conv(image) + ramp


def predictor(network: nn.Module, **settings) -> Predictor:
    return Predictor(network, classes=CLASSES, device="cpu", **settings)


def semseg(network, frame, *, scales, flip, window=None, overlap=1 / 3, base_size=0) -> np.ndarray:
    """semseg's tool/test.py, written out for one frame: probabilities [K, H, W]. Without window: the whole image."""
    height, width = frame.shape[:2]
    image = (frame.astype(np.float32) - MEAN) / STD  # the mean colour is 0, what is padded with below

    def probabilities(crop):
        logits = network(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None])[0].double()
        exponentials = np.exp(logits.numpy() - logits.numpy().max(0))
        return (exponentials / exponentials.sum(0)).transpose(1, 2, 0)

    def both(crop):
        return (probabilities(crop) + probabilities(crop[:, ::-1])[:, ::-1]) / 2 if flip else probabilities(crop)

    total = np.zeros((height, width, CLASSES))
    for scale in scales:
        long_size = round(scale * (base_size or max(height, width)))
        new_h, new_w = long_size, long_size
        if height > width:
            new_w = round(long_size / height * width)
        else:
            new_h = round(long_size / width * height)
        scaled = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        if window is None:
            total += cv2.resize(both(scaled), (width, height), interpolation=cv2.INTER_LINEAR)
            continue
        crop_h, crop_w = window
        pad_h, pad_w = max(crop_h - new_h, 0), max(crop_w - new_w, 0)
        top, left = pad_h // 2, pad_w // 2
        padded = cv2.copyMakeBorder(scaled, top, pad_h - top, left, pad_w - left, cv2.BORDER_CONSTANT, value=(0,) * 4)
        full_h, full_w = padded.shape[:2]
        stride_h, stride_w = (math.ceil(round(side * (1 - overlap), 6)) for side in window)
        summed, count = np.zeros((full_h, full_w, CLASSES)), np.zeros((full_h, full_w, 1))
        for row in range(math.ceil((full_h - crop_h) / stride_h) + 1):
            for column in range(math.ceil((full_w - crop_w) / stride_w) + 1):
                end_h = min(row * stride_h + crop_h, full_h)
                end_w = min(column * stride_w + crop_w, full_w)
                part = (slice(end_h - crop_h, end_h), slice(end_w - crop_w, end_w))
                summed[part] += both(padded[part])
                count[part] += 1
        mean = (summed / count)[top : top + new_h, left : left + new_w]
        total += cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
    return (total / len(scales)).transpose(2, 0, 1)


def test_the_plain_prediction_is_the_argmax_of_the_logits_of_every_frame():
    frames, network = random_frames(13, 17, count=3), conv_network(3)
    images = np.stack([((frame - MEAN) / STD).transpose(2, 0, 1) for frame in frames]).astype(np.float32)
    expected = network(torch.from_numpy(images)).numpy().argmax(1)
    ids = predictor(network)(frames)
    assert ids.dtype == np.uint8 and ids.shape == (3, 13, 17)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("shape", [(24, 40), (41, 23)])
@pytest.mark.parametrize(
    "settings",
    [
        {"flip": True},
        {"scales": (0.5, 1.0, 1.75)},
        {"scales": (0.75, 1.25), "flip": True, "base_size": 33},
        {"window": (16, 15), "overlap": 1 / 3},
        {"window": (16, 15), "overlap": 0.0, "flip": True, "scales": (0.6, 1.3)},
        {"window": (64, 64)},
        {"window": (31, 90), "overlap": 0.5, "base_size": 50},
    ],
)
def test_averages_equal_semsegs_steps(shape, settings):
    frame, network = random_frames(*shape)[0], Positional()
    mode = "slide" if "window" in settings else "whole"
    tested = predictor(network, mode=mode, **settings)
    expected = semseg(network, frame, **{"scales": (1.0,), "flip": False} | settings)
    probabilities = tested.probabilities([frame])
    assert probabilities.dtype == torch.float32
    np.testing.assert_allclose(probabilities[0].numpy(), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(tested([frame])[0], probabilities[0].argmax(0).numpy())


@pytest.mark.parametrize("settings", [{"flip": True}, {"scales": (1.0, 0.5)}, {"mode": "slide", "window": (16, 16)}])
def test_probabilities_are_not_averaged_as_logits(settings):
    network = ExternalNetwork(nn.Sequential(conv_network(1), nn.Softmax(1)), classes=CLASSES)
    frames = random_frames(24, 32)
    predictor(network)(frames)  # their argmax is a prediction all the same
    for call in (predictor(network, **settings), predictor(network).probabilities):
        with pytest.raises(UserError, match="the network returns probabilities, expected logits"):
            call(frames)


def test_a_base_size_alone_resizes_the_logits_back():
    frame, network = random_frames(20, 30)[0], conv_network(3)
    image = ((frame - MEAN) / STD).astype(np.float32)
    small = cv2.resize(image, (15, 10), interpolation=cv2.INTER_LINEAR)
    logits = network(torch.from_numpy(small.transpose(2, 0, 1).copy())[None])[0].numpy().transpose(1, 2, 0)
    logits = cv2.resize(logits, (30, 20), interpolation=cv2.INTER_LINEAR)
    tested = predictor(network, base_size=15)
    expected = torch.from_numpy(logits.transpose(2, 0, 1)).softmax(0)
    torch.testing.assert_close(tested.probabilities([frame])[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(tested([frame])[0], tested.probabilities([frame])[0].argmax(0).numpy())


def test_windows_do_not_matter_to_a_network_that_sees_single_pixels():
    frames, network = random_frames(37, 51, count=2), conv_network(1)
    whole = predictor(network).probabilities(frames)
    slide = predictor(network, mode="slide", window=(16, 20), overlap=0.4).probabilities(frames)
    torch.testing.assert_close(slide, whole, rtol=0, atol=1e-6)


def test_a_batch_equals_its_frames_one_by_one():
    frames, network = random_frames(24, 32, count=3), conv_network(3)
    tested = predictor(network, mode="slide", window=(16, 16), flip=True, scales=(1.0, 1.5))
    np.testing.assert_array_equal(tested(frames), np.concatenate([tested([frame]) for frame in frames]))


def test_pspnet_predicts_frames_of_odd_size():
    torch.manual_seed(0)
    network = build_model("psp18", classes=CLASSES)  # in training mode: the predictor switches it
    assert predictor(network)(random_frames(61, 83)).shape == (1, 61, 83)
    assert not network.training


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (10, 10, 0.5, [0]),
        (10, 3, 0.0, [0, 3, 6, 7]),
        (9, 3, 1 / 3, [0, 2, 4, 6]),  # 2/3 of 3 pixels are 2, not 2.0000000000000004
        (5, 4, 0.99, [0, 1]),
    ],
)
def test_windows_cover_the_axis_and_end_at_its_border(length, window, overlap, starts):
    assert window_starts(length, window, overlap) == starts


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
    ],
    ids=["none", "gray", "float", "two sizes"],
)
def test_what_is_no_batch_of_frames_is_refused(frames):
    with pytest.raises(ValueError, match=r"expected RGB uint8 frames \[H, W, 3\] of one size"):
        predictor(conv_network(1))(frames)


@pytest.mark.parametrize(
    "settings",
    [{"overlap": 1.0}, {"window": (0, 5)}, {"scales": ()}, {"scales": (0.0,)}, {"base_size": -1}, {"mode": "tiles"}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        predictor(conv_network(1), **settings)


@pytest.mark.parametrize(("classes", "stride"), [(CLASSES + 1, 1), (CLASSES, 2)], ids=["classes", "size"])
def test_a_network_whose_output_does_not_fit_is_named(classes, stride):
    network = nn.Conv2d(3, classes, 1, stride=stride)
    with pytest.raises(UserError, match=rf"returned \[1, {classes}, .*expected logits \[1, {CLASSES}, 8, 8\]"):
        predictor(network)(random_frames(8, 8))


def test_settings_reach_the_predictor():
    words = ["TEST.mode=slide", "TEST.test_h=33", "TEST.test_w=65", "TEST.overlap=0.25", "TEST.flip=true"]
    words += ["TEST.scales=[0.5, 2.0]", "TEST.base_size=99", f"DATA.classes={CLASSES}", "DATA.label_map=none"]
    made = predictor_from(load_settings(None, words), network=conv_network(1), device=torch.device("cpu"))
    assert (made.mode, made.window, made.overlap, made.flip) == ("slide", (33, 65), 0.25, True)
    assert (made.scales, made.base_size, made.classes) == ((0.5, 2.0), 99, CLASSES)


class Spoilt(nn.Module):
    """A network whose pixel (2, 3) is ``value`` in the given classes."""

    def __init__(self, value: float, classes: list[int]) -> None:
        super().__init__()
        self.value, self.classes = value, classes

    def forward(self, image):
        logits = image[:, :1].expand(-1, CLASSES, -1, -1).clone()
        logits[:, self.classes, 2, 3] = self.value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"mode": "slide", "window": (8, 8)}])
def test_an_output_that_is_not_finite_is_refused_in_the_first_batch(value, settings):
    for method in ("__call__", "probabilities"):
        tested = predictor(Spoilt(value, [1]), source="TEST.ckpt_path exp/best.pth", **settings)
        with pytest.raises(UserError, match=r"^TEST\.ckpt_path exp/best\.pth: .* NaN or infinite in 1 of") as caught:
            getattr(tested, method)(random_frames(10, 10))
        assert "TRAIN.amp" in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_may_exclude_classes_by_minus_infinity_but_not_all():
    assert predictor(Spoilt(-math.inf, [0, 1]))(random_frames(10, 10))[0, 2, 3] == 2
    with pytest.raises(UserError, match="NaN or infinite"):
        predictor(Spoilt(-math.inf, list(range(CLASSES))))(random_frames(10, 10))


@pytest.mark.parametrize("count", [1, 2])
def test_frames_are_normalised_to_the_very_numbers_of_subtraction_and_division(count):
    frames = random_frames(7, 9, count=count)
    frames[0][0, :, 0], frames[0][0, :, 2] = 0, 255
    seen = []

    class Recorder(nn.Module):
        def forward(self, image):
            seen.append(image.clone())
            return image.new_zeros(len(image), CLASSES, *image.shape[-2:])

    predictor(Recorder())(frames)
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
    mean, std = (torch.from_numpy(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    assert torch.equal(seen[0], (pixels - mean) / std)


def test_mixed_precision_runs_the_network_in_its_type_and_predicts_nearly_the_same():
    dtypes = []
    network = conv_network(3)
    network.register_forward_hook(lambda module, images, output: dtypes.append(output.dtype))
    frames = random_frames(16, 20)
    exact = predictor(network).probabilities(frames)
    rounded = predictor(network, dtype=torch.bfloat16).probabilities(frames)
    assert dtypes == [torch.float32, torch.bfloat16]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)
