"""The flow that a data set brings along."""

import cv2
import numpy as np
import pytest

from etc.config import load_settings
from etc.data.images import write_png
from etc.data.transform import CropMap, crop_flow
from etc.errors import UserError
from etc.flow.build import flow_estimator, flow_source
from etc.flow.dataset import DatasetFlow
from etc.flow.files import write_flo, write_kitti


def write_frames(folder, *names: str) -> list:
    paths = [folder / f"{name}.png" for name in names]
    for path in paths:
        write_png(path, np.zeros((48, 64, 3), np.uint8))
    return paths


def test_flow_of_the_data_set_is_read_with_its_validity(tmp_path):
    frames = write_frames(tmp_path, "s_01", "s_02")
    flow = np.random.default_rng(0).integers(-640, 640, (2, 48, 64)).astype(np.float32) / 64
    valid = np.random.default_rng(1).random((48, 64)) < 0.5
    write_kitti(tmp_path / "flow" / "s_01_to_02_flow.png", flow, valid)
    own = DatasetFlow()
    result, result_valid = own.with_validity(*frames, (48, 64))
    assert np.array_equal(result, flow) and np.array_equal(result_valid, valid)
    assert np.array_equal(own(*frames, (48, 64)), flow)  # given though it is marked, as that of occluded pixels is
    assert own.available(*frames) and not own.available(*frames[::-1])


@pytest.mark.parametrize("kind", ["png", "flo"])
def test_pixels_whose_flow_is_unknown_lead_out_of_the_frame(tmp_path, kind):
    """KITTI's files hold zeros where nothing was measured, which read as a motion of -512 pixels; .flo holds 1e9."""
    frames, file = write_frames(tmp_path, "s_01", "s_02"), tmp_path / f"flow/s_01_to_02_flow.{kind}"
    if kind == "png":
        encoded = np.full((48, 64, 3), 2**15, np.uint16)
        encoded[:12] = 0
        write_png(file, encoded)
    else:
        flow = np.zeros((2, 48, 64), np.float32)
        flow[:, :12] = 1e9
        write_flo(file, flow)
    flow = DatasetFlow()(*frames, (48, 64))
    assert np.array_equal(flow[:, 12:], np.zeros((2, 36, 64)))
    assert (np.abs(flow[:, :12]) > 1000).all()
    turned = CropMap(cv2.getRotationMatrix2D((32, 24), 45, 1.7), (48, 64), blur=False)
    lengths = np.hypot(*crop_flow(flow, turned))
    assert ((lengths == 0) | (lengths > 1000)).all() and (lengths == 0).any() and (lengths > 1000).any()
    assert not DatasetFlow().checked(*frames, (48, 64)).visible[:12].any()


@pytest.mark.parametrize("kind", ["kitti", "flo", "flo with an unknown pixel"])
def test_pixels_that_a_file_knows_are_visible_where_the_way_back_agrees(tmp_path, kind):
    frames = write_frames(tmp_path, "s_01", "s_02")
    there, back = np.zeros((2, 2, 48, 64), np.float32)
    back[0, :, :20] = 5  # what is there in frame k comes from elsewhere
    for name, flow in (("s_01_to_02", there), ("s_02_to_01", back)):
        if kind == "kitti":
            write_kitti(tmp_path / f"flow/{name}_flow.png", flow)
        else:
            flow[:, 0, 63] = 1e10 if "unknown" in kind else 0
            write_flo(tmp_path / f"flow/{name}_flow.flo", flow)
    pair = DatasetFlow().checked(*frames, (48, 64))
    assert pair.is_checked and not pair.visible[1:, :20].any() and pair.visible[1:, 20:].all()
    assert pair.visible[0, 63] == ("unknown" not in kind)


def test_pixels_that_a_file_marks_though_it_gives_their_flow_are_occluded(tmp_path):
    frames = write_frames(tmp_path, "s_01", "s_02")
    valid = np.ones((48, 64), bool)
    valid[:, :20] = False
    encoded = np.full((48, 64, 3), 2**15, np.uint16)
    encoded[..., 2] = valid
    write_png(tmp_path / "flow/s_01_to_02_flow.png", encoded)
    write_kitti(tmp_path / "flow/s_02_to_01_flow.png", np.full((2, 48, 64), 30, np.float32))
    pair = DatasetFlow().checked(*frames, (48, 64))
    assert np.array_equal(pair.visible, valid) and not pair.is_checked


def test_missing_or_misfitting_flow_of_the_data_set_is_named(tmp_path):
    frames = write_frames(tmp_path, "s_01", "s_02")
    own = DatasetFlow()
    with pytest.raises(UserError, match=r"no flow file beside .*s_01\.png for s_02\.png"):
        own(*frames, (48, 64))
    write_flo(tmp_path / "flow" / "s_01_to_02_flow.flo", np.zeros((2, 24, 32), np.float32))
    with pytest.raises(UserError, match=r"s_01_to_02_flow\.flo: flow is 32x24, its frames are 64x48"):
        own(*frames, (48, 64))


@pytest.mark.parametrize("name", ["dataset", "stored"])
def test_the_settings_name_it_under_its_old_name_too(name):
    settings = load_settings(None, [f"FLOW.name={name}"])
    assert isinstance(flow_source(settings), DatasetFlow)
    with pytest.raises(UserError, match="reads the data set's own flow files: name an estimator"):
        flow_estimator(settings)


def test_flow_that_is_read_cannot_be_scaled():
    settings = load_settings(None, ["FLOW.name=dataset", "FLOW.scale=0.5"])
    with pytest.raises(UserError, match=r"FLOW\.name dataset reads flow as it is"):
        flow_source(settings)
