"""The demonstration on a list, a folder, an image, a video and a camera."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from etc.display.mp4 import Mp4Writer
from model import build_model
from tests.scripts import run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "psp18.pth"
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, path)
    return path


@pytest.fixture
def demo(tmp_path, checkpoint):
    """Runs the script with further words; gives its exit code."""
    fixed = {
        "DATA.synthetic": "false",
        "DATA.data_root": tmp_path,
        "DATA.clip_list": tmp_path / "clips.lst",
        "DATA.colors_path": REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt",
        "TEST.ckpt_path": checkpoint,
        "TEST.demo_folder": tmp_path / "out",
        "TEST.device": "cpu",
    }

    def demo(*more):
        # Beside TEST.demo_dir a list would not be used, which is refused.
        listed = not any(str(word).startswith("TEST.demo_dir") for word in more)
        words = [f"{key}={value}" for key, value in fixed.items() if listed or key != "DATA.clip_list"]
        return run("demo", *words, *more)

    return demo


def frame(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"f_{index}.png"), frame(index))
    return tmp_path / "images"


def written(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_folder_becomes_pictures_and_a_video(demo, folder, tmp_path, capsys):
    assert demo(f"TEST.demo_dir={folder}") == 0
    pictures = [f"f_{index}_{kind}.png" for index in range(3) for kind in ("color", "overlay")]
    assert written(tmp_path) == sorted([*pictures, "overlay.mp4", "settings.yaml"])
    palette = np.loadtxt(REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt", dtype=np.uint8).tolist()
    for index in range(3):
        color, mixed = (cv2.imread(str(tmp_path / "out" / f"f_{index}_{k}.png")) for k in ("color", "overlay"))
        assert all(value in palette for value in np.unique(color[..., ::-1].reshape(-1, 3), axis=0).tolist())
        assert np.abs(mixed - (color / 2 + frame(index) / 2)).max() <= 0.5
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in video.decode(video=0)) == 3
    assert "3 frames predicted; network alone" in capsys.readouterr().out


def test_an_image_becomes_two_pictures_and_no_video(demo, folder, tmp_path):
    assert demo(f"TEST.demo_dir={folder}/f_1.png") == 0
    assert written(tmp_path) == ["f_1_color.png", "f_1_overlay.png", "settings.yaml"]


def test_a_video_keeps_its_rate_and_ends_after_the_frames_asked_for(demo, tmp_path):
    with Mp4Writer(tmp_path / "ride.mp4", 8) as writer:
        for index in range(6):
            writer.write(frame(index))
    assert demo("--max-frames", 4, f"TEST.demo_dir={tmp_path}/ride.mp4") == 0
    assert len([name for name in written(tmp_path) if name.startswith("ride_00000")]) == 8
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert float(video.streams.video[0].average_rate) == 8
        assert sum(1 for _ in video.decode(video=0)) == 4


def test_pictures_of_an_earlier_run_do_not_stay_and_those_of_others_do(demo, folder, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "videos").mkdir()
    for name in ("ride", "walk"):
        with Mp4Writer(tmp_path / f"videos/{name}.mp4", 8) as writer:
            for index in range(2):
                writer.write(frame(index))
    assert demo(f"TEST.demo_dir={tmp_path}/videos") == 0
    assert demo(f"TEST.demo_dir={folder}", f"TEST.demo_folder={out}/other") == 0
    others = {path.relative_to(out).as_posix() for path in (out / "other").iterdir()}
    (out / "kept").mkdir()
    cv2.imwrite(str(out / "mine_color.png"), frame(1))
    (out / "kept/ride_000000_color.png").write_bytes((out / "ride/ride_000000_color.png").read_bytes())
    others |= {"mine_color.png", "kept/ride_000000_color.png", "settings.yaml"}
    assert demo("--ids", f"TEST.demo_dir={folder}", "TEST.flip=true") == 0
    assert demo(f"TEST.demo_dir={folder}/f_1.png") == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == others | {"f_1_color.png", "f_1_overlay.png"}


@pytest.mark.parametrize("given", [True, False], ids=["list", "nothing: the first clip"])
def test_a_list_is_read_below_the_data_root(demo, folder, tmp_path, given):
    (tmp_path / "clips.lst").write_text("images/f_0.png\nimages/f_2.png\n\nimages/f_1.png\nimages/f_2.png\n")
    (tmp_path / "some.lst").write_text("images/f_0.png\nimages/f_2.png\n")
    assert demo(*([f"TEST.demo_dir={tmp_path}/some.lst"] if given else [])) == 0
    assert [name for name in written(tmp_path) if name.endswith("color.png")] == ["f_0_color.png", "f_2_color.png"]


def test_frames_of_ten_bits_in_sixteen_are_refused(demo, tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep/f_0.png"), frame(0).astype(np.uint16) * 4)
    assert demo(f"TEST.demo_dir={tmp_path}/deep") == 2
    assert "16" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_images_of_two_sizes_become_pictures_and_no_video(demo, folder, tmp_path):
    cv2.imwrite(str(folder / "f_9.png"), frame(9, 40, 56))
    assert demo(f"TEST.demo_dir={folder}") == 0
    assert len(written(tmp_path)) == 9 and "overlay.mp4" not in written(tmp_path)


def test_the_video_of_an_earlier_run_does_not_stay_beside_other_pictures(demo, folder, tmp_path):
    assert demo(f"TEST.demo_dir={folder}") == 0
    assert "overlay.mp4" in written(tmp_path)
    assert demo(f"TEST.demo_dir={folder}/f_1.png") == 0
    assert "overlay.mp4" not in written(tmp_path)


def test_pictures_in_subfolders_do_not_stay_either(demo, folder, tmp_path):
    """Frames of a list are called by their folders."""
    (tmp_path / "f.lst").write_text("".join(f"{folder.name}/{path.name}\n" for path in sorted(folder.iterdir())))
    words = f"TEST.demo_dir={tmp_path / 'f.lst'}", f"DATA.data_root={tmp_path}", "DATA.layout=folder"
    assert demo(*words) == 0
    before = set((tmp_path / "out").rglob("*.png"))
    assert demo(*words, "--max-frames", "1") == 0
    left = set((tmp_path / "out").rglob("*.png"))
    assert len(left) == 2 < len(before) and {path.parent.name for path in left} == {folder.name}


class Camera:
    """Three frames, then Ctrl-C: the only end that a camera has."""

    def __init__(self, index):
        self.count = 0

    def isOpened(self):
        return True

    def get(self, _):
        return 30.0

    def read(self):
        self.count += 1
        if self.count > 3:
            raise KeyboardInterrupt
        return True, frame(self.count)

    def release(self):
        pass


def test_ctrl_c_ends_a_camera_and_keeps_the_video(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert demo("TEST.demo_dir", "0") == 0
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


def test_bad_sources_are_one_line_and_write_nothing(demo, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "few.txt").write_text("1 2 3\n")
    for words, message in {
        (f"TEST.demo_dir={tmp_path}/nowhere",): "nowhere does not exist",
        (f"TEST.demo_dir={tmp_path}/empty",): "holds no image",
        (f"TEST.demo_dir={tmp_path}/text.avi",): "is not a video that can be read",
        ("TEST.demo_dir", "77"): "there is no camera 77",
        (f"TEST.demo_dir={folder}", f"DATA.colors_path={tmp_path}/few.txt"): "expected 19 lines",
        (f"TEST.demo_dir={folder}", "TEST.ckpt_path=none.pth"): "none.pth does not exist",
    }.items():
        assert demo(*words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
        assert not (tmp_path / "out").exists()


def test_a_truncated_image_is_named_and_leaves_no_half_file(demo, folder, tmp_path, capsys):
    (folder / "f_1.png").write_bytes((folder / "f_1.png").read_bytes()[:-30])
    assert demo(f"TEST.demo_dir={folder}") == 2
    assert "f_1.png is truncated" in capsys.readouterr().err.splitlines()[-1]
    assert set(written(tmp_path)) <= {"settings.yaml", "f_0_color.png", "f_0_overlay.png"}


def test_a_number_of_frames_below_one_is_refused(demo, capsys):
    with pytest.raises(SystemExit):
        demo("--max-frames", "0")
    assert "'0' is not a number of frames: expected an integer of 1 or more" in capsys.readouterr().err


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two videos, one of them in a folder."""
    for index, name in enumerate(("ride.mp4", "deep/WALK.MKV")):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Mp4Writer(path.with_suffix(".mp4"), 8) as writer:
            for number in range(2):
                writer.write(frame(10 * index + number))
        path.with_suffix(".mp4").rename(path)
    return tmp_path / "videos"


@pytest.mark.parametrize("given", ["folder", "list"])
def test_each_of_several_videos_has_a_folder_of_its_own(demo, videos, tmp_path, capsys, given):
    (videos / "all of them.txt").write_text("# mine\nride.mp4\n\ndeep/WALK.MKV\n")
    where = videos if given == "folder" else videos / "all of them.txt"
    assert demo(f"TEST.demo_dir={where}", "--ids") == 0
    assert "4 frames predicted" in capsys.readouterr().out
    for name in ("ride", "deep/WALK"):
        inside = {path.name for path in (tmp_path / "out" / name).iterdir()}
        stem = Path(name).name
        pictures = {f"{stem}_{n:06d}_{kind}.png" for n in range(2) for kind in ("color", "overlay", "ids")}
        assert inside == {*pictures, "overlay.mp4"}


def test_folders_of_frames_in_a_folder_are_several_videos_and_masks_none(demo, folder, tmp_path):
    (tmp_path / "all/a").mkdir(parents=True)
    folder.rename(tmp_path / "all/a/frames")
    (tmp_path / "all/a/mask").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"all/a/mask/f_{index}.png"), np.eye(48, dtype=np.uint8))
        cv2.imwrite(str(tmp_path / f"all/a/frames/f_{index}_mask.png"), np.eye(48, dtype=np.uint8))
    assert demo(f"TEST.demo_dir={tmp_path}/all") == 0
    assert len(written(tmp_path)) == 8
    assert len(list((tmp_path / "out/a/frames").glob("f_?_color.png"))) == 3


def test_ids_are_the_classes_whose_colours_are_written(demo, folder, tmp_path):
    assert demo(f"TEST.demo_dir={folder}", "--ids", "--max-frames", 1) == 0
    palette = np.loadtxt(REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt", dtype=np.uint8)
    ids = cv2.imread(str(tmp_path / "out/f_0_ids.png"), cv2.IMREAD_UNCHANGED)
    color = cv2.imread(str(tmp_path / "out/f_0_color.png"))[..., ::-1]
    assert ids.shape == color.shape[:2] and ids.dtype == np.uint8
    np.testing.assert_array_equal(palette[ids], color)


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".TIFF", ".bmp", ".webp", ".JPEG"])
def test_frames_of_any_format_in_any_case(demo, tmp_path, suffix):
    (tmp_path / "images").mkdir()
    for index in range(2):
        assert cv2.imwrite(str(tmp_path / f"images/f_{index}{suffix}"), frame(index))
    for given, names in (("", ["f_0_color.png", "f_1_color.png"]), (f"/f_1{suffix}", ["f_1_color.png"])):
        assert demo(f"TEST.demo_dir={tmp_path}/images{given}") == 0
        assert [name for name in written(tmp_path) if "color" in name] == names


def test_missing_videos_and_a_list_that_would_not_be_used_are_refused(demo, videos, tmp_path, capsys):
    (videos / "some.txt").write_text("ride.mp4\nrun.mp4\n")
    (videos / "ride.avi").touch()
    for words, message in (
        ((f"TEST.demo_dir={videos}/some.txt",), "some.txt: 1 of 2 videos are missing, the first is"),
        ((f"TEST.demo_dir={videos}",), "would write to one folder: rename one of them"),
        ((f"TEST.demo_dir={videos}", "DATA.clip_list", "x.lst"), "and DATA.clip_list x.lst both say which frames"),
    ):
        assert demo(*words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
