"""Names of files in the Cityscapes layout."""

from pathlib import Path

import pytest

from etc.data.cityscapes import flow_folder, frame_folder, frame_id, frame_name, label_path, submission_name

ID = "bad-honnef_000012_000019"


def test_the_names_of_an_id_lead_back_to_it():
    assert frame_name(ID) == f"{ID}_leftImg8bit.png"
    assert frame_id(f"some/folder/{frame_name(ID)}") == ID
    assert submission_name(frame_name(ID)) == f"{ID}_pred_labelIds.png"


@pytest.mark.parametrize("folder", ["leftImg8bit", "leftImg8bit_sequence"])
@pytest.mark.parametrize("root", ["", "/data/leftImg8bit/copy", "data"])
def test_a_frame_has_its_label_in_the_parallel_folder(folder, root):
    image = Path(root) / folder / "val/bad-honnef" / f"{ID}_leftImg8bit.jpg"
    assert label_path(image) == Path(root) / "gtFine/val/bad-honnef" / f"{ID}_gtFine_labelIds.png"


def test_a_frame_outside_the_layout_has_none():
    assert label_path(Path(f"frames/{ID}_leftImg8bit.png")) is None
    assert flow_folder(Path("frames/flow")) is None
    assert frame_folder(Path("frames/leftImg8bit")) is None


def test_frames_and_flow_lie_in_parallel_folders():
    frames, flow = Path("/flow/leftImg8bit/x/leftImg8bit/val/a"), Path("/flow/leftImg8bit/x/flow/val/a")
    assert flow_folder(frames) == flow
    assert frame_folder(flow) == frames
