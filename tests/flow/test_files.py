"""Flow files against their formats, byte by byte."""

import struct

import cv2
import numpy as np
import pytest

from etc.errors import UserError
from etc.flow.codec import REACH
from etc.flow.files import data_set_flow, read_flow, write_flo, write_kitti

HEIGHT, WIDTH = 3, 5


@pytest.fixture
def flow():
    return np.random.default_rng(0).normal(0, 30, (2, HEIGHT, WIDTH)).astype(np.float32)


def flo_bytes(flow: np.ndarray) -> bytes:
    """Middlebury: "PIEH", width, height, then u, v of every pixel, row by row, all little-endian."""
    values = [float(flow[c, i, j]) for i in range(HEIGHT) for j in range(WIDTH) for c in range(2)]
    return b"PIEH" + struct.pack("<ii", WIDTH, HEIGHT) + struct.pack(f"<{len(values)}f", *values)


def test_flo_is_written_byte_for_byte(tmp_path, flow):
    write_flo(tmp_path / "x.flo", flow)
    assert (tmp_path / "x.flo").read_bytes() == flo_bytes(flow)


def test_flo_is_read_bit_for_bit(tmp_path, flow):
    (tmp_path / "x.flo").write_bytes(flo_bytes(flow))
    result, valid = read_flow(tmp_path / "x.flo")
    assert np.array_equal(result, flow) and result.dtype == np.float32 and result.flags.c_contiguous
    assert valid.all() and valid.shape == (HEIGHT, WIDTH)


def test_unknown_flow_of_a_flo_file_is_invalid(tmp_path, flow):
    flow[0, 1, 2], flow[1, 2, 4] = 1.7e9, np.nan
    (tmp_path / "x.flo").write_bytes(flo_bytes(flow))
    _, valid = read_flow(tmp_path / "x.flo")
    assert np.argwhere(~valid).tolist() == [[1, 2], [2, 4]]


@pytest.mark.parametrize("cut", [0, 3, 11, 12, 60, -1])
def test_a_truncated_flo_is_named(tmp_path, flow, cut):
    (tmp_path / "x.flo").write_bytes(flo_bytes(flow)[:cut])
    with pytest.raises(UserError, match=r"x\.flo is (truncated: \d+ bytes|not a \.flo file)"):
        read_flow(tmp_path / "x.flo")


@pytest.mark.parametrize("content", [b"HEIP" + bytes(200), b"PIEH" + struct.pack("<ii", -5, -3) + bytes(120)])
def test_another_file_called_flo_is_named(tmp_path, content):
    (tmp_path / "x.flo").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.flo"):
        read_flow(tmp_path / "x.flo")


def test_kitti_png_holds_what_the_format_says(tmp_path, flow):
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[0, 3] = False
    write_kitti(tmp_path / "x.png", flow, valid)
    stored = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)  # B, G, R
    assert stored.dtype == np.uint16 and stored.shape == (HEIGHT, WIDTH, 3)
    for i in range(HEIGHT):
        for j in range(WIDTH):
            v_is_valid, v, u = map(int, stored[i, j])
            assert abs((u - 2**15) / 64 - flow[0, i, j]) <= 1 / 128
            assert abs((v - 2**15) / 64 - flow[1, i, j]) <= 1 / 128
            assert v_is_valid == valid[i, j]


def test_kitti_png_reads_back_within_half_a_step(tmp_path, flow):
    write_kitti(tmp_path / "x.png", flow)
    result, valid = read_flow(tmp_path / "x.png")
    assert np.abs(result - flow).max() <= 1 / 128 and valid.all()
    assert result.dtype == np.float32 and result.flags.c_contiguous
    write_kitti(tmp_path / "y.png", result)
    assert np.array_equal(read_flow(tmp_path / "y.png")[0], result)  # a second time nothing is lost


def test_vectors_that_do_not_fit_are_bounded_and_invalid(tmp_path):
    flow = np.zeros((2, 1, 6), np.float32)
    flow[0, 0] = [-REACH, REACH, 511.5, -600, np.inf, np.nan]
    write_kitti(tmp_path / "x.png", flow)
    result, valid = read_flow(tmp_path / "x.png")
    assert result[0, 0].tolist() == [-511, 511, 511, -511, 511, 0] and not result[1].any()
    assert valid[0].tolist() == [True, True, False, False, False, False]


def test_a_kitti_png_of_the_data_set_reads_as_its_authors_say(real_data):
    paths = sorted((real_data / "flow_gt" / "kitti").glob("*flow*.png"))
    flow, valid = read_flow(paths[0])
    stored = cv2.imread(str(paths[0]), cv2.IMREAD_UNCHANGED)
    i, j = np.argwhere(stored[:, :, 0] > 0)[1234]
    assert valid[i, j] and valid.sum() == (stored[:, :, 0] > 0).sum()
    assert flow[:, i, j].tolist() == [(float(stored[i, j, 2]) - 2**15) / 64, (float(stored[i, j, 1]) - 2**15) / 64]
    assert np.abs(flow[:, valid]).max() < 300


@pytest.mark.parametrize("name", ["x.png", "x.flo"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: No such file"):
        read_flow(tmp_path / name)


def test_an_8_bit_png_and_another_suffix_are_no_flow(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"x\.png: expected three 16-bit channels"):
        read_flow(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.npy: flow files are"):
        read_flow(tmp_path / "x.npy")


def test_flow_of_the_cityscapes_layout_lies_in_the_parallel_folder(tmp_path):
    folder = tmp_path / "flow" / "train" / "x"
    folder.mkdir(parents=True)
    frames = [tmp_path / "leftImg8bit" / "train" / "x" / f"x_000001_00000{i}_leftImg8bit.png" for i in range(3)]
    assert data_set_flow(frames[0], frames[1]) is None
    (folder / "x_000001_000000_to_000001_flow.flo").touch()
    assert data_set_flow(frames[0], frames[1]) == folder / "x_000001_000000_to_000001_flow.flo"
    (folder / "x_000001_000000_to_000001_flow.png").touch()
    assert data_set_flow(frames[0], frames[1]).suffix == ".png"
    assert data_set_flow(frames[1], frames[0]) is None and data_set_flow(frames[0], frames[2]) is None


def test_flow_of_other_layouts_lies_beside_the_frames(tmp_path):
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "0016E5_07959_to_07961_flow.png").touch()
    found = data_set_flow(tmp_path / "0016E5_07959.png", tmp_path / "0016E5_07961.png")
    assert found == tmp_path / "flow" / "0016E5_07959_to_07961_flow.png"
