"""Flow estimators, and the store of what they computed."""

import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import optical_flow
from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

from etc.benchmark.host_reads import host_reads
from etc.config.schema import FLOW_ESTIMATORS
from etc.data.images import read_image, write_png
from etc.data.transform import MEAN, STD
from etc.errors import UserError
from etc.flow.cache import CachedFlow
from etc.flow.estimators import CONSTRUCTORS, DisFlow, build_flow
from etc.flow.files import read_flow, write_flo, write_kitti
from etc.motion import MotionLoss
from tests.scripts import load_script


def scene(height: int, width: int, dx: int = 0, dy: int = 0) -> np.ndarray:
    """A smooth random texture; ``dx, dy`` moves its content to the right and down."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (height + 32, width + 32, 3), dtype=np.uint8), (0, 0), 1.5)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    return np.ascontiguousarray(texture[16 - dy : 16 - dy + height, 16 - dx : 16 - dx + width])


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def write_frames(folder: Path, *names: str, size: tuple[int, int] = (48, 64)) -> list[Path]:
    """Frames in which the scene moves by 3 pixels to the right, from one to the next."""
    paths = [folder / f"{name}.png" for name in names]
    for index, path in enumerate(paths):
        write_png(path, scene(*size, dx=3 * index))
    return paths


class Counting:
    """A constant estimator that counts its calls."""

    def __init__(self, *, name: str = "counting", key: str = "counting-1", value: float = 1.3) -> None:
        self.name, self.key, self.value, self.calls = name, key, value, 0

    def estimate(self, rgb_t: torch.Tensor, rgb_k: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.full((rgb_t.shape[0], 2, *rgb_t.shape[2:]), self.value)


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), path)
    return path


# ------------------------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_a_known_motion_with_its_sign_and_axes(preset):
    flow = build_flow("dis", preset=preset).estimate(tensor(scene(120, 160)), tensor(scene(120, 160, dx=4, dy=-2)))
    assert flow.shape == (1, 2, 120, 160) and flow.dtype == torch.float32
    inner = flow[0, :, 16:-16, 16:-16]
    torch.testing.assert_close(inner.mean((1, 2)), torch.tensor([4.0, -2.0]), rtol=0, atol=0.1)


def test_dis_on_flyingchairs_is_as_good_as_the_method_is_known_to_be(real_data):
    folder = real_data / "flow_gt" / "flyingchairs"
    truth, _ = read_flow(folder / "00001_flow.flo")
    pair = [tensor(read_image(folder / f"00001_img{i}.ppm")) for i in (1, 2)]
    flow = build_flow("dis").estimate(*pair)[0].numpy()
    error = np.sqrt(((flow - truth) ** 2).sum(0)).mean()
    assert 2.3 < error < 3.1  # 2.70 px measured
    assert np.sqrt(((flow + truth) ** 2).sum(0)).mean() > 2 * error


def test_dis_of_a_batch_is_dis_of_its_pairs():
    pairs = [(scene(96, 128), scene(96, 128, dx=2)), (scene(96, 128, dy=1), scene(96, 128))]
    together = DisFlow().estimate(*(torch.cat([tensor(p[i]) for p in pairs]) for i in (0, 1)))
    alone = torch.cat([DisFlow().estimate(*map(tensor, p)) for p in pairs])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("size", [(16, 16), (16, 300), (300, 16), (17, 95)])
@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_takes_small_and_narrow_images(size, preset):
    flow = DisFlow(preset=preset).estimate(tensor(scene(*size)), tensor(scene(*size, dx=1)))
    assert flow.shape == (1, 2, *size) and flow.isfinite().all()


def test_every_estimator_of_the_settings_has_a_constructor_and_is_named_in_help_and_error(capsys):
    assert {*CONSTRUCTORS, "package.module:factory"} == set(FLOW_ESTIMATORS)
    with pytest.raises(SystemExit):
        load_script("eval_flow").main(["--help"])
    shown = capsys.readouterr().out
    with pytest.raises(UserError) as caught:
        build_flow("unknown")
    for name, what in FLOW_ESTIMATORS.items():
        assert name in str(caught.value) and f"{name}: {what}" in shown


def test_presets_have_keys_of_their_own():
    assert len({build_flow("dis", preset=preset).key for preset in ("ultrafast", "fast", "medium")}) == 3


@pytest.mark.parametrize("size", [(33, 70), (135, 129)])
def test_raft_takes_odd_sizes_and_batches(raft_weights, size):
    estimator = build_flow("raft_small", weights=raft_weights)
    image_t, image_k = tensor(scene(*size)), tensor(scene(*size, dx=2))
    alone = estimator.estimate(image_t, image_k)
    assert alone.shape == (1, 2, *size) and alone.dtype == torch.float32 and alone.isfinite().all()
    both = estimator.estimate(torch.cat([image_k, image_t]), torch.cat([image_t, image_k]))
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-2)


def test_raft_is_fed_minus_one_to_one_and_gives_the_last_iteration(raft_weights):
    network = raft_small()
    network.load_state_dict(torch.load(raft_weights, weights_only=True))
    image_t, image_k = tensor(scene(128, 136)), tensor(scene(128, 136, dx=2))
    with torch.no_grad():
        expected = network.eval()(image_t / 255 * 2 - 1, image_k / 255 * 2 - 1)[-1]
    flow = build_flow("raft_small", weights=raft_weights).estimate(image_t, image_k)
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-3)


def test_the_flow_of_a_network_can_be_trained_with(raft_weights):
    estimator = build_flow("raft_small", weights=raft_weights)
    image_t, image_k = tensor(scene(32, 48)), tensor(scene(32, 48, dx=2))
    logits = torch.zeros(1, 3, 32, 48, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = estimator.estimate(image_t, image_k)
    frames = [(image - 128) / 60 for image in (image_t, image_k)]
    MotionLoss(weight=1.0)(*frames, logits, logits + 1, flow).backward()
    assert logits.grad is not None and not flow.requires_grad
    # mixed precision of the training does not reach the flow
    assert torch.equal(flow, estimator.estimate(image_t, image_k))


def test_weights_that_are_missing_foreign_or_of_another_network_are_named(raft_weights, tmp_path):
    cases = {
        "missing.pth": None,
        "text.pth": b"hello",
        "list.pth": [1, 2],
        "other.pth": {"conv.weight": torch.zeros(1)},
    }
    for name, content in cases.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UserError, match=name) as caught:
            build_flow("raft_small", weights=path)
        assert "FLOW.weights" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"raft_small\.pth does not fit .*FLOW\.name raft_large"):
        build_flow("raft_large", weights=raft_weights)


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), RuntimeError("invalid hash value"), TimeoutError("slow")]
)
def test_a_download_that_fails_says_what_to_fetch_and_where_to_put_it(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError) as caught:
        build_flow("raft_small")
    message = str(caught.value)
    assert Raft_Small_Weights.DEFAULT.url in message and "FLOW.weights" in message


class TinyFlowNet(nn.Module):
    """Stands in for the 160 million weights of the real one, which tests of its own cover."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image_t, image_k):
        return self.gain * torch.stack([image_t.mean(1), image_k.mean(1)], 1)


@pytest.mark.parametrize(("normalized", "resize_mode"), [(False, "scaled"), (True, "published")])
def test_flownet2_gets_its_weights_its_variant_and_rgb(monkeypatch, tmp_path, normalized, resize_mode):
    asked = []

    def load(path, *, data, variant, resize_mode):
        asked.append((path, data, variant, resize_mode))
        return TinyFlowNet()

    monkeypatch.setattr("etc.flow.estimators.load_flownet2", load)
    weights = tmp_path / "flownet2.pth"
    weights.write_bytes(b"1")
    estimator = build_flow("flownet2-cs", weights=weights, normalized=normalized)
    assert asked == [(weights, b"1", "flownet2-cs", resize_mode)]
    flow = estimator.estimate(torch.full((1, 3, 64, 64), 255.0), torch.zeros(1, 3, 64, 64))
    expected = [(255 - MEAN) / STD, -MEAN / STD] if normalized else [[255.0], [0.0]]
    torch.testing.assert_close(flow[0, :, 0, 0], torch.tensor([float(np.mean(e)) for e in expected]), rtol=1e-5, atol=0)
    assert not flow.requires_grad and estimator.key.startswith("flownet2-cs-")
    with pytest.raises(ValueError, match="too small for flow: 64"):
        estimator.estimate(torch.zeros(1, 3, 63, 64), torch.zeros(1, 3, 63, 64))


def test_flownet2_without_weights_or_with_others_is_a_user_error(raft_weights, tmp_path):
    with pytest.raises(UserError, match=r"FLOW\.name flownet2 needs its weights in FLOW\.weights"):
        build_flow("flownet2")
    with pytest.raises(UserError, match=r"FLOW\.weights: .*nowhere\.pth"):
        build_flow("flownet2", weights=tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"FLOW\.weights: .*raft_small\.pth"):
        build_flow("flownet2-s", weights=raft_weights)


@pytest.mark.parametrize("name", ["raft_small", "flownet2-s"])
def test_weights_with_a_flipped_bit_are_refused(raft_weights, tmp_path, name):
    damaged = bytearray(raft_weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "net.pth").write_bytes(damaged)
    with pytest.raises(UserError, match=r"^FLOW\.weights: .*net\.pth is truncated, damaged or no checkpoint"):
        build_flow(name, weights=tmp_path / "net.pth")


def test_weights_that_are_not_finite_are_refused(raft_weights, tmp_path):
    state = torch.load(raft_weights, weights_only=True)
    name = next(iter(state))
    state[name] *= float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=rf"^FLOW\.weights: .*net\.pth: .* values of {name} are NaN or infinite"):
        build_flow("raft_small", weights=tmp_path / "net.pth")


@pytest.mark.parametrize("wrapped", ["module.", "model.", "net.module."])
def test_weights_of_a_wrapped_raft_are_loaded(raft_weights, tmp_path, wrapped):
    state = torch.load(raft_weights, weights_only=True)
    torch.save({"epoch": 3, "model_state_dict": {wrapped + key: value for key, value in state.items()}}, tmp_path / "a")
    pair = [tensor(scene(128, 136)), tensor(scene(128, 136, dx=3, dy=1))]
    flows = [build_flow("raft_small", weights=path).estimate(*pair) for path in (raft_weights, tmp_path / "a")]
    assert torch.equal(*flows)


def test_the_key_names_the_weights(raft_weights, tmp_path):
    state = torch.load(raft_weights, weights_only=True)
    state[next(iter(state))] += 1
    torch.save(state, tmp_path / "other.pth")
    (tmp_path / "copy.pth").write_bytes(raft_weights.read_bytes())
    keys = [
        build_flow("raft_small", weights=w).key for w in (raft_weights, tmp_path / "other.pth", tmp_path / "copy.pth")
    ]
    assert keys[0] != keys[1] and keys[0] == keys[2]
    assert build_flow("dis", normalized=True).key != build_flow("dis").key


@pytest.fixture
def outside_module(tmp_path, monkeypatch):
    """A module of somebody else's on PYTHONPATH."""
    (tmp_path / "my_flow_package.py").write_text(
        "import torch\n"
        "class Mine:\n"
        "    def estimate(self, rgb_t, rgb_k):\n"
        "        return torch.stack([rgb_t[:, 0], rgb_k[:, 1]], 1)\n"
        "def without_method(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_flow_package"
    sys.modules.pop("my_flow_package", None)


def test_an_estimator_of_somebody_else_is_imported(outside_module):
    estimator = build_flow(f"{outside_module}:Mine")
    image_t, image_k = torch.rand(1, 3, 4, 5) * 255, torch.rand(1, 3, 4, 5) * 255
    assert torch.equal(estimator.estimate(image_t, image_k), torch.stack([image_t[:, 0], image_k[:, 1]], 1))
    assert estimator.name == f"{outside_module}.Mine"
    assert re.fullmatch(rf"{outside_module}\.Mine-[0-9a-f]{{12}}", estimator.key), (
        "the key holds the hash of its source"
    )


def test_normalised_input_is_what_the_published_code_fed(outside_module):
    image = torch.rand(2, 3, 4, 5) * 255
    flow = build_flow(f"{outside_module}:Mine", normalized=True).estimate(image, image)
    torch.testing.assert_close(flow[:, 0], (image[:, 0] / 255 - 0.485) / 0.229, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow[:, 1], (image[:, 1] / 255 - 0.456) / 0.224, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("farneback", f"flow estimator 'farneback' is none of {', '.join(FLOW_ESTIMATORS)}"),
        ("nobody_has_this:X", "nobody_has_this"),
        ("my_flow_package:Other", "Other"),
        ("my_flow_package:without_method", "int has no method estimate"),
    ],
)
def test_a_name_that_stands_for_nothing_is_a_user_error(outside_module, name, named):
    with pytest.raises(UserError) as caught:
        build_flow(name)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "shapes", [[(1, 3, 32, 32), (1, 3, 32, 40)], [(1, 1, 32, 32)] * 2, [(3, 32, 32)] * 2, [(1, 3, 15, 40)] * 2]
)
def test_images_that_cannot_be_handled_are_a_value_error(raft_weights, shapes):
    for estimator in (build_flow("dis"), build_flow("raft_small", weights=raft_weights)):
        with pytest.raises(ValueError, match=r"\d+, \d+"):
            estimator.estimate(*(torch.zeros(shape) for shape in shapes))


# ------------------------------------------------------------------------------------------------------------ store


def test_the_first_use_computes_and_the_second_reads(tmp_path):
    frames, estimator = write_frames(tmp_path, "a_1", "a_2"), Counting()
    store = CachedFlow(estimator, tmp_path / "store")
    first = store(*frames, (48, 64))
    again = CachedFlow(estimator, tmp_path / "store")(*frames, (48, 64))
    assert estimator.calls == 1
    assert np.array_equal(first, again) and first.shape == (2, 48, 64) and first.dtype == np.float32
    assert np.abs(first - 1.3).max() <= 1 / 128
    assert store.with_validity(*frames, (48, 64))[1] is None
    assert [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()] == ["a_1__a_2.b2flow"]


def test_stored_dis_flow_is_the_estimators_within_half_a_step(tmp_path):
    frames = write_frames(tmp_path, "a_1", "a_2", size=(96, 128))
    direct = DisFlow().estimate(*(tensor(read_image(path)) for path in frames))[0].numpy()
    kept = CachedFlow(DisFlow(), tmp_path / "store")(*frames, (96, 128))
    assert np.abs(kept - direct).max() <= 1 / 128
    assert abs(kept[0, 16:-16, 16:-16].mean() - 3) < 0.1 and abs(kept[1, 16:-16, 16:-16].mean()) < 0.1


def test_backward_flow_and_other_estimators_have_files_of_their_own(tmp_path):
    t, k = write_frames(tmp_path, "a_1", "a_2")
    for estimator in (Counting(key="one", value=1.0), Counting(key="two", value=2.0)):
        store = CachedFlow(estimator, tmp_path / "store")
        assert store(t, k, (48, 64)).max() == estimator.value and store(k, t, (48, 64)).max() == estimator.value
        assert estimator.calls == 2


def test_equal_stems_in_different_folders_do_not_collide(tmp_path):
    estimator = Counting()
    store = CachedFlow(estimator, tmp_path / "store")
    for index, folder in enumerate(("x/clip", "y/clip", "z")):
        estimator.value = float(index)
        frames = write_frames(tmp_path / folder, "000001", "000002")
        assert store(*frames, (48, 64)).max() == index
    estimator.value = 9.0
    for index, folder in enumerate(("x/clip", "y/clip", "z")):
        pair = [tmp_path / folder / name for name in ("000001.png", "000002.png")]
        assert store(*pair, (48, 64)).max() == index


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_foreign(path: Path) -> None:
    write_png(path, scene(48, 64))


def damage_flo(path: Path) -> None:
    write_flo(path, np.zeros((2, 48, 64), np.float32))


def damage_size(path: Path) -> None:
    write_kitti(path, np.zeros((2, 48, 63), np.float32))


def damage_folder(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage", [damage_truncated, damage_empty, damage_foreign, damage_flo, damage_size, damage_folder]
)
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    frames, estimator = write_frames(tmp_path, "a_1", "a_2"), Counting()
    store = CachedFlow(estimator, tmp_path / "store")
    expected = store(*frames, (48, 64))
    damage(store.path(*frames, (48, 64)))
    assert np.array_equal(store(*frames, (48, 64)), expected)
    assert estimator.calls == 2
    store(*frames, (48, 64))
    assert estimator.calls == 2  # and it was repaired


@pytest.mark.parametrize("changed", [0, 1])
def test_flow_of_a_frame_that_was_replaced_is_computed_again_whatever_its_times(tmp_path, changed):
    frames, estimator = write_frames(tmp_path, "a_1", "a_2"), Counting()
    store = CachedFlow(estimator, tmp_path / "store")
    store(*frames, (48, 64))
    picture = read_image(frames[changed])
    write_png(frames[changed], 255 - picture)
    os.utime(frames[changed], (1, 1))  # as cp -p, rsync and tar restore it
    store(*frames, (48, 64))
    assert estimator.calls == 2
    store(*frames, (48, 64))
    assert estimator.calls == 2, "computed once"


@pytest.mark.parametrize("seconds", [-1e9, 1e9], ids=["past", "future"])
def test_flow_of_a_frame_whose_time_alone_changed_is_kept(tmp_path, seconds):
    frames, estimator = write_frames(tmp_path, "a_1", "a_2"), Counting()
    store = CachedFlow(estimator, tmp_path / "store")
    store(*frames, (48, 64))
    os.utime(frames[0], (frames[0].stat().st_mtime + seconds,) * 2)
    store(*frames, (48, 64))
    assert estimator.calls == 1


def test_an_estimator_that_fails_leaves_nothing_in_the_store(tmp_path):
    class Failing(Counting):
        def estimate(self, rgb_t, rgb_k):
            raise RuntimeError("a bug")

    frames = write_frames(tmp_path, "a_1", "a_2")
    with pytest.raises(RuntimeError):
        CachedFlow(Failing(), tmp_path / "store")(*frames, (48, 64))
    assert not (tmp_path / "store").exists()


def test_frames_of_another_size_than_wanted_are_named_with_both_sizes(tmp_path):
    frames = write_frames(tmp_path, "a_1", "a_2")
    store = CachedFlow(Counting(), tmp_path / "store")
    with pytest.raises(UserError, match=r"a_1\.png is 64x48, its flow is wanted at 32x24"):
        store(*frames, (24, 32))
    write_png(frames[1], scene(48, 60))
    with pytest.raises(UserError, match=r"a_2\.png is 60x48, its flow is wanted at 64x48"):
        store(*frames, (48, 64))


def test_frames_too_small_for_the_estimator_are_a_user_error(tmp_path):
    frames = write_frames(tmp_path, "a_1", "a_2", size=(12, 64))
    with pytest.raises(UserError, match=r"FLOW\.name dis, .*a_1\.png to a_2\.png: .*too small"):
        CachedFlow(DisFlow(), tmp_path / "store")(*frames, (12, 64))


def test_an_estimator_that_gives_another_size_is_a_user_error(tmp_path):
    class Halving(Counting):
        def estimate(self, rgb_t, rgb_k):
            return torch.zeros(1, 2, 24, 32)

    frames = write_frames(tmp_path, "a_1", "a_2")
    with pytest.raises(UserError, match=r"gave a flow \(1, 2, 24, 32\)"):
        CachedFlow(Halving(), tmp_path / "store")(*frames, (48, 64))


def test_a_truncated_frame_is_named(tmp_path):
    frames = write_frames(tmp_path, "a_1", "a_2")
    frames[1].write_bytes(frames[1].read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a_2\.png is truncated"):
        CachedFlow(DisFlow(), tmp_path / "store")(*frames, (48, 64))


def test_images_in_0_to_1_and_normalised_ones_are_refused():
    image_t, image_k = tensor(scene(96, 128)), tensor(scene(96, 128, dx=2))
    with pytest.raises(ValueError, match=r"RGB in 0\.\.255, these images lie in 0\.\d+\.\..*: multiply them by 255"):
        build_flow("dis").estimate(image_t / 255, image_k / 255)
    normalised = [(image - 120) / 58 for image in (image_t, image_k)]
    with pytest.raises(ValueError, match=r"these images lie in -.*, mean/std-normalised: give x \* std \+ mean"):
        build_flow("dis").estimate(*normalised)
    # The published mistake can still be asked for.
    assert build_flow("dis", normalized=True).estimate(image_t, image_k).shape == (1, 2, 96, 128)


def test_black_frames_are_no_frames_in_0_to_1():
    black = torch.zeros(1, 3, 96, 128)
    noise = torch.randint(0, 2, (1, 3, 96, 128), generator=torch.Generator().manual_seed(0)).float()
    estimator = build_flow("dis")
    for image in (black, black + 1e-5, noise, noise + 1e-4, tensor(scene(96, 128))):
        estimator.estimate(image, image)
        estimator.estimate(image, black)
    # A black frame with a little noise, reduced: fractions below 1, of images that were whole numbers.
    build_flow("dis", scale=0.5).estimate(noise, noise)


@pytest.mark.parametrize(
    ("change_t", "change_k", "message"),
    [
        (lambda x: x * 257, lambda x: x * 257, r"these images lie in .*: white must be 255 \(divide .* 16 bits by 257"),
        (lambda x: x - 120, lambda x: x - 120, r"lie in -.*: add the offset that was subtracted"),
        (lambda x: x, lambda x: x / 255, r"these images lie in .* and 0\..*, on different scales"),
        (lambda x: x * 257, lambda x: x, r"on different scales"),
        (lambda x: (x - 120) / 58, lambda x: x, r"on different scales"),
        (lambda x: x * 0, lambda x: x / 255, r"multiply them by 255"),
        (lambda x: x * float("nan"), lambda x: x * float("nan"), r"white must be 255"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_every_pair_is_looked_at_and_both_of_its_images(change_t, change_k, message, scale):
    image_t, image_k = tensor(scene(96, 128)), tensor(scene(96, 128, dx=2))
    estimator = build_flow("dis", scale=scale)
    estimator.estimate(image_t, image_k)
    batches = [torch.cat([good, change(good)]) for good, change in ((image_t, change_t), (image_k, change_k))]
    for pair in ((change_t(image_t), change_k(image_k)), batches):
        with pytest.raises(ValueError, match=message):
            estimator.estimate(*pair)


@pytest.mark.parametrize("name", ["raft_small", pytest.param("raft_large", marks=pytest.mark.slow)])
def test_raft_makes_what_it_needs_on_its_device(name, tmp_path, monkeypatch):
    """torchvision's own code makes a tensor on the host in each of its updates, whose copy is waited for."""
    device = torch.device("meta")  # holds no values, so that it shows every copy
    torch.save(getattr(optical_flow, name)().state_dict(), tmp_path / "raft.pth")
    estimator = build_flow(name, weights=tmp_path / "raft.pth", device=device, check=False)
    pair = torch.zeros(2, 1, 3, 128, 128, device=device)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    estimator.estimate(*pair)
    with host_reads() as found:
        estimator.estimate(*pair)
    assert len(found) == 2, "two grids of positions, which torchvision makes on the host whatever the default is"
