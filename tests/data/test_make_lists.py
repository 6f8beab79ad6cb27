"""List files made from the folders of data sets."""

from collections import defaultdict
from pathlib import Path

import pytest

from etc.data.cityscapes import cityscapes_lists
from etc.data.layouts import LAYOUTS
from etc.data.lists import check_files, prediction_names, read_clips, read_frames
from etc.data.make_lists import camvid_lists, folder_lists, write_lists
from etc.errors import UserError

LISTS = Path(__file__).resolve().parents[2] / "data" / "lists"


def stems(name: str) -> list[str]:
    return (LISTS / "cityscapes" / f"{name}.txt").read_text().split()


def plant(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """The validation half of the official Cityscapes folders, and 20 training frames; all files empty."""
    root = tmp_path_factory.mktemp("cityscapes")
    for split, selected in (("train", stems("train_names")[:20]), ("val", stems("val_names"))):
        for stem in selected:
            city = stem.split("_")[0]
            plant(root, f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
            plant(root, *(f"gtFine/{split}/{city}/{stem}_gtFine_{kind}" for kind in ("labelIds.png", "color.png")))
    return root


@pytest.fixture(scope="module")
def lists(official, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lists")
    write_lists(cityscapes_lists(official), out)
    return out


def test_training_and_validation_frames_have_their_labels(lists, official):
    for name, count in (("train.lst", 20), ("val.lst", 500)):
        frames = read_frames(lists / name)
        assert len(frames) == count
        for frame in frames:
            assert (official / frame.image).is_file() and (official / frame.label).is_file()
            assert frame.label.endswith("_gtFine_labelIds.png")
            assert Path(frame.label).name.split("_")[:3] == Path(frame.image).name.split("_")[:3]


def test_the_sampled_set_has_108_clips_3240_frames_and_3132_pairs(lists):
    clips = read_clips(lists / "val_clips_sampled.lst", layout=LAYOUTS["cityscapes"])
    assert len(clips) == 108
    assert sum(len(clip) for clip in clips) == 3240
    assert sum(len(clip) - 1 for clip in clips) == 3132


def test_a_clip_is_the_frames_from_19_before_to_10_after_the_annotated_one(lists):
    clips = read_clips(lists / "val_clips_sampled.lst", layout=LAYOUTS["cityscapes"])
    for clip, stem in zip(clips, stems("val_sampled_clips"), strict=True):
        city, sequence, annotated = stem.split("_")
        expected = [f"{city}_{sequence}_{int(annotated) + i:06d}_leftImg8bit" for i in range(-19, 11)]
        assert [Path(frame.image).stem for frame in clip] == expected
        labels = [frame.label for frame in clip]
        assert labels[19] == f"gtFine/val/{city}/{stem}_gtFine_labelIds.png"
        assert [label for label in labels if label] == [labels[19]]


def test_the_full_set_has_all_500_clips_and_every_frame_its_own_prediction(lists):
    clips = read_clips(lists / "val_clips.lst", layout=LAYOUTS["cityscapes"])
    assert len(clips) == 500 and {len(clip) for clip in clips} == {30}
    names = prediction_names([frame for clip in clips for frame in clip])
    assert len(set(names)) == 15000


def test_the_bundled_names_are_the_official_splits():
    train, val, sampled = stems("train_names"), stems("val_names"), stems("val_sampled_clips")
    assert (len(set(train)), len(set(val)), len(set(sampled))) == (2975, 500, 108)
    assert set(sampled) <= set(val) and not set(train) & set(val)
    counts = defaultdict(int)
    for stem in val:
        counts[stem.split("_")[0]] += 1
    assert counts == {"frankfurt": 267, "lindau": 59, "munster": 174}  # of the official validation split


def test_the_video_folder_serves_the_frames_where_it_is_there(tmp_path):
    frame, label = "x_000000_000019_leftImg8bit.png", "gtFine/train/x/x_000000_000019_gtFine_labelIds.png"
    plant(tmp_path, f"leftImg8bit/train/x/{frame}", f"leftImg8bit_sequence/train/x/{frame}", label)
    assert cityscapes_lists(tmp_path) == {"train.lst": f"leftImg8bit_sequence/train/x/{frame} {label}\n"}


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".PNG", ".tif", ".bmp", ".webp", ".JPEG"])
def test_frames_of_any_format_meet_their_labels(tmp_path, suffix):
    frame, label = f"x_000000_000019_leftImg8bit{suffix}", "gtFine/train/x/x_000000_000019_gtFine_labelIds.png"
    plant(tmp_path, f"leftImg8bit/train/x/{frame}", label)
    assert cityscapes_lists(tmp_path) == {"train.lst": f"leftImg8bit/train/x/{frame} {label}\n"}


def test_frames_for_the_test_server_are_listed_without_the_empty_labels_that_come_with_them(tmp_path):
    for city, stem in (("bonn", "bonn_000001_000019"), ("berlin", "berlin_000000_000019")):
        plant(
            tmp_path,
            f"leftImg8bit/test/{city}/{stem}_leftImg8bit.png",
            f"gtFine/test/{city}/{stem}_gtFine_labelIds.png",
        )
    assert cityscapes_lists(tmp_path) == {
        "test.lst": "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png\n"
        "leftImg8bit/test/bonn/bonn_000001_000019_leftImg8bit.png\n"
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_frames_that_lack_a_label_are_counted(tmp_path, caplog, split):
    caplog.set_level("INFO")
    for number in (19, 20, 21):
        plant(tmp_path, f"leftImg8bit/{split}/x/x_000000_{number:06d}_leftImg8bit.png")
    plant(tmp_path, f"gtFine/{split}/x/x_000000_000020_gtFine_labelIds.png")
    assert len(cityscapes_lists(tmp_path)[f"{split}.lst"].splitlines()) == 1
    assert f"{split}: 2 of 3 frames in leftImg8bit have no label, the first is x_000000_000019" in caplog.text


def test_clips_of_an_incomplete_folder_are_left_out_with_a_warning(tmp_path, caplog):
    for stem in stems("val_names")[:3]:
        city = stem.split("_")[0]
        plant(
            tmp_path, f"leftImg8bit/val/{city}/{stem}_leftImg8bit.jpg", f"gtFine/val/{city}/{stem}_gtFine_labelIds.png"
        )
    assert set(cityscapes_lists(tmp_path)) == {"val.lst"}
    assert "val_clips.lst is left out: 3 of its 500 clips are here" in caplog.text


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_without_any_official_clip_is_said(tmp_path, caplog, split):
    frame = "x_000000_000019"
    plant(tmp_path, f"leftImg8bit/{split}/x/{frame}_leftImg8bit.png", f"gtFine/{split}/x/{frame}_gtFine_labelIds.png")
    assert set(cityscapes_lists(tmp_path)) == {f"{split}.lst"}
    assert "val_clips.lst is left out: 0 of its 500 clips are here" in caplog.text
    assert "val_clips_sampled.lst is left out: 0 of its 108 clips are here" in caplog.text


def test_clips_whose_video_is_not_there_are_said(official, caplog):
    cityscapes_lists(official)
    assert "val_clips.lst names 15000 frames, of which 14500 are not here, the first is leftImg8bit/val/" in caplog.text
    assert "leftImg8bit_sequence/val" in caplog.text


def test_sequences_and_labelled_frames_of_a_folder_in_the_same_layout(tmp_path):
    for number in (*range(4), *range(10, 13)):
        frame = f"x_000000_{number:06d}"
        plant(tmp_path, f"leftImg8bit/val/x/{frame}_leftImg8bit.png", f"gtFine/val/x/{frame}_gtFine_labelIds.png")
    plant(tmp_path, "leftImg8bit/val/x/.x_000000_000004_leftImg8bit.png", "leftImg8bit/val/x/notes.txt")
    lists = cityscapes_lists(tmp_path, clips="sequences", labelled=(1, 11))
    assert [line.count("00001_") + line.count("00011_") for line in lists["val.lst"].splitlines()] == [2, 2]
    write_lists(lists, tmp_path / "lists")
    clips = read_clips(tmp_path / "lists" / "val_clips.lst", layout=LAYOUTS["cityscapes"])
    assert [len(clip) for clip in clips] == [4, 3]
    assert all(frame.label for clip in clips for frame in clip)


@pytest.mark.parametrize(
    ("make", "named"), [(cityscapes_lists, "leftImg8bit"), (camvid_lists, "trainannot"), (folder_lists, "two images")]
)
def test_another_folder_is_refused_with_what_was_expected(tmp_path, make, named):
    plant(tmp_path, "x/readme.txt", "x/one.png")
    with pytest.raises(UserError, match=named):
        make(tmp_path)


def test_cityscapes_without_labels_is_refused(tmp_path):
    plant(tmp_path, "leftImg8bit/val/x/x_000000_000019_leftImg8bit.png")
    with pytest.raises(UserError, match="label in gtFine"):
        cityscapes_lists(tmp_path)


def test_camvid_frames_meet_their_labels_and_the_clip_is_consecutive(tmp_path):
    for number in (1, 3, 5, 9, 11):
        plant(tmp_path, f"val/0016E5_{number:05d}.jpg", f"valannot/0016E5_{number:05d}.png")
    plant(tmp_path, "train/0006R0_f00001.jpg", "trainannot/0006R0_f00001.png", "train/0006R0_f00002.jpg")
    lists = camvid_lists(tmp_path)
    assert set(lists) == {"train.lst", "val.lst", "val_clips.lst"}
    assert lists["train.lst"] == "train/0006R0_f00001.jpg trainannot/0006R0_f00001.png\n"
    assert [block.count("\n") + 1 for block in lists["val_clips.lst"].strip().split("\n\n")] == [3, 2]


def test_folders_become_clips_in_natural_order(tmp_path, caplog):
    plant(tmp_path, "b/f_10.png", "b/f_9.png", "a/deep/1.JPG", "a/deep/2.JPG", "a/single.png", "b/.f_1.png")
    assert folder_lists(tmp_path) == {"clips.lst": "a/deep/1.JPG\na/deep/2.JPG\n\nb/f_9.png\nb/f_10.png\n"}
    assert "1 folders hold one image alone and are left out, the first is" in caplog.text
    assert str(tmp_path / "a/single.png") in caplog.text


def test_the_bundled_camvid_lists_are_those_of_the_data(real_data):
    made = camvid_lists(real_data / "camvid")
    assert {name: (LISTS / "camvid" / name).read_text() for name in made} == made


def test_a_frame_without_label_stays_in_its_clip_of_camvid_and_a_lonely_frame_is_no_clip(tmp_path, caplog):
    for number in (2, 4, 6):
        plant(tmp_path, f"val/x_{number:02d}.png", *([] if number == 4 else [f"valannot/x_{number:02d}.png"]))
    plant(tmp_path, "val/y_10.png", "valannot/y_10.png")
    lists = camvid_lists(tmp_path)
    assert lists["val_clips.lst"].split() == [
        *("val/x_02.png", "valannot/x_02.png", "val/x_04.png", "val/x_06.png", "valannot/x_06.png")
    ]
    assert len(lists["val.lst"].splitlines()) == 3
    assert "val: 1 clips have one frame alone" in caplog.text


def test_frames_that_are_trained_and_validated_on_are_said(tmp_path, caplog):
    write_lists({"train.lst": "a.png l.png\nb.png\n", "val.lst": "\nb.png l.png\nc.png\n"}, tmp_path)
    assert "1 of the 2 frames of val.lst are in train.lst too" in caplog.text and "the first is b.png" in caplog.text


@pytest.mark.parametrize("data_set", ["camvid", "cityscapes_mini"])
def test_every_file_of_the_bundled_lists_is_in_the_data(real_data, data_set):
    for path in (LISTS / data_set).glob("*.lst"):
        check_files(read_frames(path), real_data / data_set, source=path.name)
