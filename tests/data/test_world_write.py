"""The written world: layout, contents read back by other means, and nothing half-written."""

import cv2
import numpy as np
import pytest

from etc.data.world import World, WorldFlow, write_world
from etc.data.world.write import encode_flow

SMALL = {"height": 48, "width": 96, "frames": 5, "labelled": (0, 2), "frame_gap": 2}


def stems(folder, suffix):
    return sorted(p.name.removesuffix(suffix) for p in folder.rglob(f"*{suffix}"))


def decode_kitti(path):
    """As the KITTI development kit reads it."""
    png = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert png.dtype == np.uint16
    return np.stack([(png[..., i].astype(float) - 2**15) / 64 for i in (0, 1)]), png[..., 2] == 1


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "nested" / "synthetic"
    calls = []
    write_world(root, train_snippets=2, val_snippets=1, progress=lambda *state: calls.append(state), **SMALL)
    return root, calls


def test_every_frame_has_an_image_and_a_label_in_the_cityscapes_layout(written):
    root, calls = written
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert sorted(p.name for p in root.iterdir()) == ["flow", "gtFine", "leftImg8bit"]
    for split, snippets in (("train", 2), ("val", 1)):
        images = stems(root / "leftImg8bit" / split, "_leftImg8bit.png")
        assert images == stems(root / "gtFine" / split, "_gtFine_labelIds.png")
        assert len(images) == snippets * SMALL["frames"]
        for name in images:
            city, sequence, frame = name.rsplit("_", 2)
            assert (root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png").is_file()
            assert len(sequence) == len(frame) == 6


def test_flow_exists_for_the_promised_pairs(written):
    root, _ = written

    def pairs(split):
        return {tuple(map(int, n.split("_")[2::2])) for n in stems(root / "flow" / split, "_flow.png")}

    assert pairs("val") == {(t, t + 1) for t in range(4)} | {(t + 1, t) for t in range(4)}
    assert pairs("train") == {(0, 1), (0, 2), (2, 0), (2, 1), (2, 3), (2, 4)}


def test_train_and_val_share_no_city_and_no_picture(written):
    root, _ = written
    cities = {split: {p.name for p in (root / "leftImg8bit" / split).iterdir()} for split in ("train", "val")}
    assert len(cities["train"]) == 2
    assert not cities["train"] & cities["val"]
    first = [cv2.imread(str(p)).tobytes() for p in sorted((root / "leftImg8bit").rglob("*_000000_leftImg8bit.png"))]
    assert len(set(first)) == 3


def test_files_read_back_are_what_the_world_rendered(written):
    root, _ = written
    world = World(seed=0, style_seed=0, height=48, width=96, frames=5)
    frame, (flow, visible) = world.render(2), world.flow(2, 3)
    stem = "ardenford/ardenford_000000_000002"
    image = cv2.imread(str(root / "leftImg8bit/train" / f"{stem}_leftImg8bit.png"))[..., ::-1]
    label = cv2.imread(str(root / "gtFine/train" / f"{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, frame.image)
    np.testing.assert_array_equal(label, frame.label)
    read, valid = decode_kitti(root / "flow/train" / f"{stem}_to_000003_flow.png")
    assert np.abs(read - flow).max() <= 1 / 128 + 1e-5
    rows, columns = np.nonzero(visible)
    landed = np.floor(np.stack([rows, columns]) + read[::-1, rows, columns] + 0.5).astype(int)
    inside = (landed >= 0).all(0) & (landed[0] < 48) & (landed[1] < 96)
    same = [
        label[r, c] == world.label(3)[y, x] for r, c, y, x in zip(rows, columns, *landed % [[48], [96]], strict=True)
    ]
    np.testing.assert_array_equal(valid[rows, columns], inside & same)
    assert not valid[~visible].any()
    assert valid.sum() > 0.97 * visible.sum()


def test_flow_beyond_the_range_of_the_format_is_invalid():
    flow = np.zeros((2, 1, 4), np.float32)
    flow[0, 0] = (511, -511, 511.5, 3)
    label = np.zeros((1, 600), np.uint8)
    flow = np.pad(flow, ((0, 0), (0, 0), (0, 596)))
    visible = np.ones((1, 600), bool)
    visible[0, 3] = False
    png = encode_flow(WorldFlow(flow, visible), label, label)
    np.testing.assert_array_equal(png[0, :4, 2], [1, 0, 0, 0])  # 511 right stays inside, 511 left does not
    np.testing.assert_array_equal(png[0, :4, 0], [2**15 + 511 * 64, 2**15 - 511 * 64, 0, 2**15 + 3 * 64])


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", train_snippets=1, val_snippets=0, progress=interrupt, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_world(tmp_path, train_snippets=1, val_snippets=1)
    assert (tmp_path / "mine").read_text() == "precious"


def test_two_processes_write_the_same_bytes(written, tmp_path):
    root, _ = written
    write_world(tmp_path / "world", train_snippets=2, val_snippets=1, workers=2, **SMALL)
    ours = {p.relative_to(root): p.read_bytes() for p in root.rglob("*.png")}
    theirs = {p.relative_to(tmp_path / "world"): p.read_bytes() for p in (tmp_path / "world").rglob("*.png")}
    assert ours == theirs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_snippets": 0, "val_snippets": 0}, "got 0, 0"),
        ({"labelled": (4, 30)}, r"\(4, 30\).*30 frames"),
        ({"workers": 0}, "workers"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_world(tmp_path / "world", **{"train_snippets": 1, "val_snippets": 1, **wrong})
    assert list(tmp_path.iterdir()) == []
