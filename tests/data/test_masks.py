"""Masks beside the frames, in one folder or in folders of their own, are not taken for frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etc.data.frame_names import frame_folders, frames_in, images_in, neighbour
from etc.data.images import write_png
from etc.data.layouts import LAYOUTS
from etc.data.make_lists import folder_lists
from etc.data.masks import split_masks
from etc.errors import UserError

RNG = np.random.default_rng(0)
IDS = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))


def picture(path: Path, kind: str = "photo") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    made = {
        "photo": lambda: Image.fromarray(noise),
        "gray": lambda: Image.fromarray(noise[:, :, 0]),
        "mask": lambda: Image.fromarray(IDS),
        "bits": lambda: Image.fromarray(IDS * 255).convert("1"),
        "palette": lambda: Image.fromarray(IDS).convert("P"),
        "colours": lambda: Image.fromarray(np.stack([IDS * 100] * 3, -1)),
    }[kind]()
    made.save(path)
    return path


@pytest.mark.parametrize(
    ("frame", "mask", "kind"),
    [
        ("00{}.png", "00{}_mask.png", "mask"),
        ("00{}.png", "00{}_gt.png", "colours"),
        ("00{}.jpg", "00{}.png", "mask"),
        ("00{}.JPG", "00{}.PNG", "colours"),
        ("00{}.bmp", "00{}.png", "bits"),
        ("0016E5_0796{}.png", "0016E5_0796{}_L.png", "colours"),
        ("00{}.png", "00{}_mask_1.png", "mask"),
        ("00{}.png", "00{}-depth.png", "gray"),
        ("street_{}.png", "mask_{}.png", "mask"),
        ("x_{}_leftImg8bit.png", "x_{}_gtFine_labelIds.png", "mask"),
        ("x_{}_leftImg8bit.png", "x_{}_gtFine_color.png", "colours"),
        ("IMG_{}.jpg", "{}.png", "palette"),
        ("frame{}.tif", "sem{}.tif", "mask"),
    ],
)
def test_the_neighbour_of_a_frame_is_the_next_frame_and_not_its_mask(tmp_path, caplog, frame, mask, kind):
    frames = [picture(tmp_path / frame.format(number)) for number in range(3)]
    for number in range(3):
        picture(tmp_path / mask.format(number), kind)
    assert len(images_in(tmp_path)) == 6
    assert frames_in(tmp_path) == frames
    assert [neighbour(path, 1, layout=LAYOUTS["folder"]) for path in frames] == [*frames[1:], None]
    assert f"{tmp_path}: 3 masks beside the frames are left out" in caplog.text
    assert folder_lists(tmp_path) == {"clips.lst": "".join(f"{path.name}\n" for path in frames)}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("a_1.png", "a_2.png", "b_1.png"), "photo"),
        (("mask_1.png", "mask_2.png"), "mask"),  # nothing beside them: somebody wants them as they are
        (("1.png", "2.png"), "gray"),
        (("seg_1.png", "frame_2.png"), "photo"),
        (("1_left.png", "1_right.png", "2_left.png"), "photo"),
        (("clip_1.png", "clip_1_frame_2.png"), "photo"),
        (("street.png", "street_night.png"), "photo"),
        (("gray_1.png", "color_1.jpg"), "gray"),
    ],
)
def test_frames_that_only_look_a_little_like_masks_stay(tmp_path, names, kind):
    images = [picture(tmp_path / name, kind) for name in names]
    assert split_masks(images) == (images, [])


def test_a_mask_that_is_listed_as_a_frame_is_refused(tmp_path):
    picture(tmp_path / "0.png")
    mask = picture(tmp_path / "0_mask.png", "mask")
    with pytest.raises(UserError, match=r"0_mask\.png is listed as a frame, but seems to be a mask"):
        neighbour(mask, 1, layout=LAYOUTS["folder"])


@pytest.mark.parametrize(
    ("frames", "masks", "kind"),
    [
        ("{}/origin/0{}.jpg", "{}/mask/0{}.png", "mask"),  # VSPW
        ("JPEGImages/480p/{}/0{}.jpg", "Annotations/480p/{}/0{}.png", "palette"),  # DAVIS
        ("JPEGImages/480p/{}/0{}.jpg", "Annotations/480p/{}/0{}.png", "colours"),
        ("leftImg8bit/{}/0{}.png", "gtFine/{}/0{}_gtFine_color.png", "colours"),
        ("{}/0{}.png", "{}/labels/0{}.png", "mask"),
        ("{}/rgb/0{}.png", "{}/sem/0{}.png", "bits"),  # no word says so, the content does
        ("video/{}/0{}.png", "parts/{}/0{}.png", "palette"),
    ],
)
def test_folders_of_masks_are_no_clips(tmp_path, caplog, frames, masks, kind):
    for video in "ab":
        for number in range(3):
            picture(tmp_path / frames.format(video, number))
            picture(tmp_path / masks.format(video, number), kind)
    expected = ["".join(frames.format(video, number) + "\n" for number in range(3)) for video in "ab"]
    assert folder_lists(tmp_path) == {"clips.lst": "\n".join(expected)}
    assert "2 folders of masks are left out: " in caplog.text


def test_folders_of_frames_that_only_look_a_little_like_masks_stay(tmp_path):
    for number in range(3):
        picture(tmp_path / f"gray/{number}.png", "gray")
        picture(tmp_path / f"street/{number}.png")
        picture(tmp_path / f"labels/{number + 7}.png")
        picture(tmp_path / f"seg_01/{number}.png")
    assert [folder.name for folder in frame_folders(tmp_path)] == ["gray", "labels", "seg_01", "street"]


def test_annotations_alone_are_refused_and_a_folder_of_them_given_itself_is_taken(tmp_path):
    for number in range(2):
        picture(tmp_path / f"Annotations/bear/{number}.png", "palette")
    with pytest.raises(UserError, match=r"only folders that seem to hold masks, the first is Annotations/bear"):
        folder_lists(tmp_path)
    assert len(frame_folders(tmp_path / "Annotations")) == 1


@pytest.mark.parametrize("place", ["instances/{}", "training/masks_elsewhere/{}/deep"])
def test_label_maps_of_16_bits_are_no_clip_wherever_their_frames_are(tmp_path, caplog, place):
    """The instances of KITTI-MOTS: their frames lie two folders deep in another archive, or are not there at all."""
    instances = tmp_path / place.format("0000")
    for number in range(3):
        picture(tmp_path / f"training/image_02/0000/{number:06d}.png")
        instances.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IDS.astype(np.uint16) * 1003).save(instances / f"{number:06d}.png")
    assert folder_lists(tmp_path) == {"clips.lst": "".join(f"training/image_02/0000/{n:06d}.png\n" for n in range(3))}
    assert "1 folders of masks (label maps of 16 bits) are left out: " in caplog.text
    with pytest.raises(UserError, match=r"seem to hold masks \(label maps of 16 bits\), the first is "):
        folder_lists(instances)


def test_label_maps_in_colours_are_no_clip_where_their_folder_says_so(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    panoptic = np.zeros((40, 60, 3), np.uint8)
    panoptic[:, 30:, 0], panoptic[:20, :, 2] = 11, 7
    for folder, pixels in (
        ("training/image_02/0000", frame),
        ("panoptic_maps/train/0000", panoptic),
        ("flat", panoptic),
    ):
        for t in range(3):
            write_png(tmp_path / folder / f"{t:06d}.png", pixels)
    folders = sorted(folder.relative_to(tmp_path).as_posix() for folder in frame_folders(tmp_path))
    assert folders == ["flat", "training/image_02/0000"]


def test_a_camera_of_16_bits_makes_frames(tmp_path):
    for number in range(3):
        (tmp_path / "thermal").mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(7000, 9000, (16, 16)).astype(np.uint16)).save(tmp_path / f"thermal/{number}.png")
    assert [folder.name for folder in frame_folders(tmp_path)] == ["thermal"]
