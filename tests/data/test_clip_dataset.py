"""The training data set and the order of its samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etc.data.clip_dataset import ClipDataset, EpochSampler
from etc.data.images import write_png
from etc.data.labels import label_table
from etc.data.layouts import LAYOUTS
from etc.data.lists import Frame
from etc.data.transform import ClipTransform, normalise
from etc.errors import UserError
from etc.train.build import _start_worker

HEIGHT, WIDTH = 20, 32
IDENTITY = {"size": (HEIGHT, WIDTH), "scale": (1.0, 1.0), "rotate": (0.0, 0.0), "blur": 0.0, "flip": 0.0}


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def labels(number: int) -> np.ndarray:
    return np.random.default_rng(100 + number).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for number in range(7):
        write_png(root / f"s_{number:03d}.png", pixels(number))
        write_png(root / f"s_{number:03d}_label.png", labels(number))
    return root


def flow_between(path_t: Path, path_k: Path, shape: tuple[int, int]) -> np.ndarray:
    """A constant flow that tells which frames it was asked for."""
    t, k = (int(path.stem.split("_")[1]) for path in (path_t, path_k))
    return np.broadcast_to(np.array([t, k], np.float32)[:, None, None], (2, *shape))


def data_set(root: Path, **changes) -> ClipDataset:
    frames = [Frame(f"s_{number:03d}.png", f"s_{number:03d}_label.png") for number in range(7)]
    settings = {
        "frames": frames,
        "offsets": [[o for o in (-3, -2, -1, 1, 2, 3) if 0 <= number + o < 7] for number in range(7)],
        "data_root": root,
        "layout": LAYOUTS["camvid"],
        "frame_step": 1,
        "transform": ClipTransform(size=(17, 25), scale=(0.7, 1.4)),
        "label_table": label_table("none", 5, 255),
        "flow": flow_between,
        "with_neighbour": True,
        "seed": 5,
    }
    return ClipDataset(**(settings | changes))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_sample_holds_the_frame_its_label_a_neighbour_and_the_flow_between_them(root):
    data = data_set(root, transform=ClipTransform(**IDENTITY))
    sample = data[0, 3]
    t, k = (int(n) for n in sample["flow"][:, 0, 0])
    assert t == 3 and k != 3
    assert torch.equal(sample["image"], torch.from_numpy(normalise(pixels(3))))
    assert torch.equal(sample["neighbour"], torch.from_numpy(normalise(pixels(k))))
    assert torch.equal(sample["label"], torch.from_numpy(labels(3)).long())
    assert sample["has_neighbour"].dtype == torch.bool and sample["has_neighbour"].item()
    assert {key: (value.dtype, tuple(value.shape)) for key, value in sample.items()} == {
        "image": (torch.float32, (3, HEIGHT, WIDTH)),
        "label": (torch.int64, (HEIGHT, WIDTH)),
        "labelled": (torch.bool, ()),
        "has_neighbour": (torch.bool, ()),
        "neighbour": (torch.float32, (3, HEIGHT, WIDTH)),
        "flow": (torch.float32, (2, HEIGHT, WIDTH)),
    }


def test_frame_neighbour_and_label_go_through_the_same_map(tmp_path):
    """One picture of flat blocks is written three times: as frame, as neighbour and as label."""
    blocks = np.random.default_rng(0).integers(0, 5, (HEIGHT // 4, WIDTH // 4), dtype=np.uint8)
    gray = np.kron(blocks, np.ones((4, 4), np.uint8))
    for number in (0, 1):
        write_png(tmp_path / f"s_{number:03d}.png", np.repeat(gray[:, :, None] * 50, 3, axis=2))
    write_png(tmp_path / "label.png", gray)
    transform = ClipTransform(size=(17, 25), scale=(2.0, 3.0), blur=0.0)
    data = data_set(tmp_path, frames=[Frame("s_000.png", "label.png")], offsets=[[1]], transform=transform)
    for epoch in range(6):
        sample = data[epoch, 0]
        assert torch.equal(sample["image"], sample["neighbour"])
        padded = (sample["image"] == 0).all(0)
        assert torch.equal(padded, sample["label"] == 255)
        # Inside the enlarged blocks the image is the label.
        values = sample["image"][0] * 0.229 * 255 + 0.485 * 255
        close = (values - 50 * sample["label"]).abs() < 1.5
        assert close[~padded].float().mean() > 0.5  # elsewhere a fifth agrees by chance


def test_the_flow_of_a_sample_is_scaled_and_mirrored_with_it(root):
    transform = ClipTransform(**(IDENTITY | {"scale": (2.0, 2.0), "flip": 1.0}))
    data = data_set(root, transform=transform, offsets=[[1]] * 7)
    flow = data[0, 3]["flow"]  # 3 px to the right, 4 px down
    torch.testing.assert_close(flow, torch.tensor([-6.0, 8.0])[:, None, None].expand_as(flow), rtol=0, atol=1e-5)


def test_the_baseline_sees_the_same_crops_and_neither_neighbour_nor_flow(root):
    baseline, motion = data_set(root, with_neighbour=False, flow=None), data_set(root)
    for index in range(7):
        sample, other = baseline[2, index], motion[2, index]
        assert sample.keys() == {"image", "label", "labelled"}
        assert torch.equal(sample["image"], other["image"]) and torch.equal(sample["label"], other["label"])


def test_the_crops_do_not_depend_on_which_neighbours_there_are(root):
    alone, paired = data_set(root, offsets=[[]] * 7), data_set(root)
    assert all(torch.equal(alone[1, i]["image"], paired[1, i]["image"]) for i in range(7))


def test_a_frame_without_neighbour_is_a_single_with_empty_planes(root):
    sample = data_set(root, offsets=[[]] * 7)[0, 0]
    assert not sample["has_neighbour"].item()
    assert not sample["neighbour"].any() and not sample["flow"].any()
    other = data_set(root)[0, 0]
    assert {k: (v.dtype, v.shape) for k, v in sample.items()} == {k: (v.dtype, v.shape) for k, v in other.items()}


def test_without_a_flow_reader_the_step_computes_it(root):
    names = {"image", "label", "labelled", "has_neighbour", "neighbour"}
    assert data_set(root, flow=None)[0, 0].keys() == names
    assert data_set(root, flow=None, offsets=[[]] * 7)[0, 0].keys() == names


def test_a_third_frame_lies_as_far_on_the_other_side(root):
    opposite = [[o for o in (-3, -2, -1, 1, 2, 3) if 0 <= number + o < 7] for number in range(7)]
    data = data_set(root, opposite=opposite, transform=ClipTransform(**IDENTITY))
    for epoch in range(20):
        sample = data[epoch, 2]
        neighbour = int(sample["flow"][1, 0, 0])
        third = 4 - neighbour
        assert sample["has_third"].item() == (0 <= third < 7)
        expected = normalise(pixels(third)) if 0 <= third < 7 else np.zeros((3, HEIGHT, WIDTH))
        np.testing.assert_allclose(sample["third"], expected, atol=1e-6)


def test_a_third_frame_changes_nothing_else(root):
    without, with_third = data_set(root)[1, 3], data_set(root, opposite=[[-3, -2, -1, 1, 2, 3]] * 7)[1, 3]
    assert with_third.keys() - without.keys() == {"third", "has_third"}
    assert all(torch.equal(with_third[name], plane) for name, plane in without.items())


def test_a_frame_without_label_is_ignored_everywhere(root):
    sample = data_set(root, frames=[Frame("s_003.png")], offsets=[[1]])[0, 0]
    assert (sample["label"] == 255).all() and sample["label"].dtype == torch.int64
    assert not sample["labelled"] and data_set(root)[0, 0]["labelled"]


def test_a_sample_depends_on_seed_epoch_and_index_alone(root):
    data = data_set(root)
    first = data[4, 2]
    torch.manual_seed(99)
    np.random.seed(99)
    data[0, 1], data[1, 2]
    assert equal(data[4, 2], first)
    assert equal(data_set(root)[4, 2], first)
    assert not torch.equal(data[5, 2]["image"], first["image"])
    assert not torch.equal(data_set(root, seed=6)[4, 2]["image"], first["image"])


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_number_of_loading_processes_changes_nothing(root, epoch):
    def batches(workers: int) -> list[dict]:
        sampler = EpochSampler(7, batch_size=2, seed=1)
        sampler.epoch = epoch
        data = data_set(root)
        return list(DataLoader(data, 2, sampler=sampler, num_workers=workers, worker_init_fn=_start_worker))

    alone, shared = batches(0), batches(2)
    assert len(alone) == 3
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_singles_and_pairs_share_a_batch(root):
    loader = DataLoader(data_set(root, offsets=[[1]] * 3 + [[]] * 4), batch_size=7, sampler=[(0, i) for i in range(7)])
    (batch,) = loader
    assert batch["has_neighbour"].tolist() == [True] * 3 + [False] * 4
    assert batch["flow"].shape == (7, 2, 17, 25)


def test_offsets_are_drawn_uniformly_in_both_directions(root):
    offsets = [-3, -2, -1, 1, 2, 3]
    data = data_set(root, offsets=[offsets] * 7, transform=ClipTransform(**IDENTITY))
    drawn = [int(data[epoch, 3]["flow"][1, 0, 0]) - 3 for epoch in range(1200)]
    counts = np.array([drawn.count(offset) for offset in offsets])
    assert counts.sum() == 1200
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # chi square, 5 degrees of freedom, p = 0.001


def test_neighbours_that_are_drawn_are_those_that_are_read(root):
    data = data_set(root, transform=ClipTransform(**IDENTITY))
    seen = {int(data[epoch, 2]["flow"][1, 0, 0]) for epoch in range(60)}
    assert seen == {0, 1, 3, 4, 5}


def test_a_neighbour_of_another_size_is_named(root, tmp_path):
    write_png(tmp_path / "s_000.png", pixels(0))
    write_png(tmp_path / "s_001.png", pixels(1)[:-1])
    data = data_set(tmp_path, frames=[Frame("s_000.png")], offsets=[[1]])
    with pytest.raises(UserError, match=r"s_001\.png is 32x19, its neighbour s_000\.png is 32x20"):
        data[0, 0]


def test_a_label_of_another_size_is_named(root, tmp_path):
    write_png(tmp_path / "s_000.png", pixels(0))
    write_png(tmp_path / "l.png", labels(0)[:-1])
    with pytest.raises(UserError, match=r"l\.png: label is 32x19, its frame is 32x20"):
        data_set(tmp_path, frames=[Frame("s_000.png", "l.png")], offsets=[[]])[0, 0]


def keys(length: int, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1) -> list:
    sampler = EpochSampler(length, batch_size=batch_size, seed=seed, rank=rank, world=world)
    sampler.epoch = epoch
    result = list(sampler)
    assert len(result) == len(sampler) == sampler.steps * batch_size
    return result


def test_an_epoch_visits_samples_once_in_an_order_of_its_own():
    first, second = keys(10, 2, epoch=0), keys(10, 2, epoch=1)
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(10))
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    assert keys(10, 2) == first and keys(10, 2, seed=1) != first


def test_an_incomplete_step_is_dropped():
    assert len({index for _, index in keys(11, 4)}) == 8
    assert len({index for rank in range(2) for _, index in keys(11, 2, rank=rank, world=2)}) == 8


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_every_step_of_the_single_process_order(world):
    alone = keys(19, 4)
    shards = [keys(19, 4 // world, rank=rank, world=world) for rank in range(world)]
    per_process = 4 // world
    for step in range(4):
        own = [set(shard[step * per_process : (step + 1) * per_process]) for shard in shards]
        assert set.union(*own) == set(alone[step * 4 : step * 4 + 4])
        assert sum(len(part) for part in own) == 4


@pytest.mark.parametrize(("length", "batch", "world"), [(3, 4, 1), (7, 4, 2), (0, 1, 1)])
def test_too_few_samples_for_one_step_are_an_error(length, batch, world):
    with pytest.raises(UserError, match=f"{length} training samples do not fill one batch of {batch * world}"):
        EpochSampler(length, batch_size=batch, seed=0, world=world)


def test_visible_pixels_come_with_the_flow_and_are_cropped_like_it(root):
    seen = np.random.default_rng(4).random((HEIGHT, WIDTH)) > 0.4

    def visible_flow(path_t, path_k, shape):
        return flow_between(path_t, path_k, shape), seen

    sample = data_set(root, visible_flow=visible_flow, transform=ClipTransform(**IDENTITY))[0, 3]
    assert torch.equal(sample["visible"], torch.from_numpy(seen))
    assert torch.equal(sample["flow"], data_set(root, transform=ClipTransform(**IDENTITY))[0, 3]["flow"])
    small = data_set(root, visible_flow=visible_flow, transform=ClipTransform(**(IDENTITY | {"size": (30, 40)})))
    padded = small[0, 3]
    assert padded["visible"].sum() == seen.sum()  # padding is not visible
    alone = data_set(root, visible_flow=visible_flow, offsets=[[]] * 7)[0, 3]
    assert not alone["visible"].any()
