"""Frame sources and the video writer."""

import itertools
import struct
import threading

import av
import cv2
import numpy as np
import pytest

from etc.config import load_settings
from etc.data import video
from etc.data.images import write_png
from etc.data.sources import clips_of_frames
from etc.data.video import open_source, several_sources
from etc.display.mp4 import Mp4Writer
from etc.errors import UserError


def frames_of(where, data_root="."):
    source = open_source(str(where), data_root=data_root)
    return source, list(source.frames)


def probe(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return stream.codec_context, float(stream.average_rate), pictures


def flat(value, height=64, width=96):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    for index in (2, 0, 1):
        write_png(tmp_path / "images" / f"frame{index}.png", flat(50 * index, 8, 12))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_a_video_is_h264_with_the_colours_rate_and_count_that_were_written(tmp_path):
    colors = [(200, 30, 40), (20, 220, 60), (30, 40, 230), (128, 64, 128)]
    with Mp4Writer(tmp_path / "new" / "clip.mp4", 12.5) as writer:
        for color in colors:
            writer.write(flat(color))
    codec, rate, pictures = probe(tmp_path / "new" / "clip.mp4")
    assert (codec.name, codec.pix_fmt, codec.width, codec.height, rate) == ("h264", "yuv420p", 96, 64, 12.5)
    assert len(pictures) == len(colors)
    for picture, color in zip(pictures, colors, strict=True):
        assert np.abs(picture.astype(int) - color).max() <= 6
    done, bgr = cv2.VideoCapture(str(tmp_path / "new" / "clip.mp4")).read()  # another reader, the same colours
    assert done and np.abs(bgr[..., ::-1].astype(int) - colors[0]).max() <= 6


def test_odd_sizes_are_padded_by_a_repeated_pixel(tmp_path):
    with Mp4Writer(tmp_path / "odd.mp4", 17) as writer:
        writer.write(flat(180, 33, 47))
    _, _, (picture,) = probe(tmp_path / "odd.mp4")
    assert picture.shape == (34, 48, 3)
    assert np.abs(picture.astype(int) - 180).max() <= 3


def test_an_interrupted_video_leaves_what_was_there(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), Mp4Writer(tmp_path / "clip.mp4", 17) as writer:
        writer.write(flat(0))
        raise KeyboardInterrupt
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("clip.mp4", b"old")]
    writer.close()  # too late: nothing
    assert (tmp_path / "clip.mp4").read_bytes() == b"old"


def test_pictures_of_two_sizes_and_empty_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(64, 96, 3\), got uint8 \(64, 98, 3\)"), Mp4Writer(tmp_path / "a", 17) as w:
        w.write(flat(0))
        w.write(flat(0, 64, 98))
    with pytest.raises(ValueError, match="at least one picture"):
        Mp4Writer(tmp_path / "b", 17).close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_said_and_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video.av, "codecs_available", {"mpeg4"})
    with Mp4Writer(tmp_path / "clip.mp4", 17) as writer:
        writer.write(flat(90))
    assert probe(tmp_path / "clip.mp4")[0].name == "mpeg4"
    assert "no H.264 encoder" in caplog.text


def test_a_folder_gives_its_images_in_order(folder):
    source, frames = frames_of(folder)
    assert source.total == 3
    assert [frame.name for frame in frames] == ["frame0", "frame1", "frame2"]
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.rgb, flat(50 * index, 8, 12))


def test_an_image_is_one_frame(folder):
    source, frames = frames_of(folder / "frame1.png")
    assert source.total == 1 and frames[0].name == "frame1" and (frames[0].rgb == 50).all()


def test_a_list_is_relative_to_the_data_root_and_needs_no_labels(folder, tmp_path):
    (tmp_path / "some.lst").write_text("images/frame2.png labels/none.png\n\nimages/frame0.png\n")
    source, frames = frames_of(tmp_path / "some.lst", tmp_path)
    assert source.total == 2 and [frame.name for frame in frames] == ["images/frame2", "images/frame0"]


def test_a_video_gives_numbered_frames_and_its_rate(tmp_path):
    with Mp4Writer(tmp_path / "ride.mp4", 10) as writer:
        for value in (40, 90, 140, 190, 240):
            writer.write(flat(value))
    source, frames = frames_of(tmp_path / "ride.mp4")
    assert (source.total, source.fps, len(frames)) == (5, 10, 5)
    assert [frame.name for frame in frames][:2] == ["ride_000000", "ride_000001"]
    assert [round(float(frame.rgb.mean()), -1) for frame in frames] == [40, 90, 140, 190, 240]


def test_a_video_states_matrix_primaries_and_transfer_so_that_browsers_show_its_colours(tmp_path):
    with Mp4Writer(tmp_path / "ride.mp4", 10) as writer:
        writer.write(flat(90))
    with av.open(str(tmp_path / "ride.mp4")) as video:
        frame = next(video.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)  # BT.709 in ISO/IEC 23091-2


def test_key_frames_stand_as_close_as_asked(tmp_path):
    with Mp4Writer(tmp_path / "ride.mp4", 10, gop=4) as writer:
        for value in range(0, 120, 10):
            writer.write(flat(value))
    with av.open(str(tmp_path / "ride.mp4")) as video:
        keys = [index for index, frame in enumerate(video.decode(video=0)) if frame.key_frame]
    assert max(b - a for a, b in itertools.pairwise([*keys, 12])) <= 4


def test_a_phone_video_is_turned_upright(tmp_path):
    picture = flat(0)
    picture[:32, :48] = (255, 0, 0)
    with Mp4Writer(tmp_path / "flat.mp4", 10) as writer:
        writer.write(picture)
    data = bytearray((tmp_path / "flat.mp4").read_bytes())
    # ISO 14496-12: the track header's matrix, here "turn a quarter clockwise" as phones write it.
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    _, (frame,) = frames_of(tmp_path / "turned.mp4")
    assert frame.rgb.shape == (96, 64, 3)
    red = frame.rgb[..., 0] > 128
    assert red[4:44, 36:60].all() and not red[52:].any() and not red[:, :28].any()


class FakeCamera:
    """Gives two blue frames; ``broken``: opens, but gives none."""

    def __init__(self, index):
        self.left = {0: 2, 1: 0}.get(index, -1)

    def isOpened(self):
        return self.left >= 0

    def get(self, _):
        return 0.0

    def read(self):
        self.left -= 1
        return (True, np.full((4, 6, 3), (200, 0, 0), np.uint8)) if self.left >= 0 else (False, None)

    def release(self):
        pass


def test_a_camera_gives_rgb_frames_of_unknown_number(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    source, frames = frames_of("0")
    assert source.total is None and source.fps is None
    assert [frame.name for frame in frames] == ["camera0_000000", "camera0_000001"]
    assert frames[0].rgb[0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize(("index", "message"), [("1", "camera 1 gives no frame"), ("7", "there is no camera 7")])
def test_a_camera_that_gives_nothing_is_named(monkeypatch, index, message):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    with pytest.raises(UserError, match=message):
        frames_of(index)


def test_sources_that_cannot_be_read_are_named(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "lost.lst").write_text("images/frame0.png\nimages/lost.png\n")
    (tmp_path / "cut.png").write_bytes((folder / "frame0.png").read_bytes()[:-20])
    with Mp4Writer(tmp_path / "whole.mp4", 10) as writer:
        writer.write(flat(0))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-200])
    for name, message in {
        "nowhere": "nowhere does not exist",
        "empty": "empty holds no image",
        "text.mp4": "text.mp4 is not a video that can be read",
        "cut.mp4": "cut.mp4 is not a video that can be read",
        "lost.lst": "1 of 2 files are missing: .*lost.png",
        "cut.png": "cut.png is truncated",
    }.items():
        with pytest.raises(UserError, match=message):
            frames_of(tmp_path / name, tmp_path)


def test_closing_a_source_early_ends_its_threads(folder):
    before = threading.active_count()
    source = open_source(str(folder), data_root=".")
    next(source.frames)
    source.frames.close()
    assert threading.active_count() == before


def coded_video(path, count=60, codec="libx264", **options):
    """A video of noise, 10 frames per second, whose container lies in front of the frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(count):
            blocks = np.kron(rng.integers(0, 255, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks, format="rgb24")))
        container.mux(stream.encode())


CONTAINERS = {
    "ride.mp4": ("libx264", {"movflags": "faststart"}, r"of the 60 that it declares|declares 60 frames, \d+ can be"),
    "ride.avi": ("mpeg4", {}, r"cut off or damaged: the file declares 60 frames, \d\d can be decoded"),
    "ride.mkv": ("libx264", {}, r"cut off or damaged: the file declares 60 frames \(6\.00 s\), \d\d can be decoded"),
    "ride.webm": (
        "libvpx-vp9",
        {},
        r"cut off or damaged: the file declares 60 frames \(6\.00 s\), \d\d can be decoded",
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_video_that_was_cut_is_refused_with_both_numbers(tmp_path, name, share):
    codec, options, message = CONTAINERS[name]
    path = tmp_path / name
    coded_video(path, codec=codec, **options)
    assert len(frames_of(path)[1]) == 60
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=message):
        frames_of(path)


def test_a_video_cut_between_two_frames_is_refused(tmp_path):
    """No frame is damaged: only the count shows that some are missing."""
    path = tmp_path / "ride.mp4"
    coded_video(path, movflags="faststart", codec="mpeg4")
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[21]])
    with pytest.raises(
        UserError, match=r"ride\.mp4 is cut off or damaged: the file declares 60 frames, 21 can be decoded"
    ):
        frames_of(path)


def test_a_video_trimmed_by_an_edit_list_is_whole(tmp_path, caplog):
    """As `ffmpeg -ss 2.5 -c copy` and phones trim: the frames since the last key frame stay in the file, unseen."""
    coded_video(tmp_path / "ride.mp4")
    with av.open(str(tmp_path / "ride.mp4")) as source, av.open(str(tmp_path / "part.mp4"), "w") as part:
        stream = part.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 25 * packet.duration, packet.dts - 25 * packet.duration
                packet.stream = stream
                part.mux(packet)
    source, frames = frames_of(tmp_path / "part.mp4")
    assert source.total == 60 and 0 < len(frames) < 60
    assert "declares 60 frames and shows" in caplog.text


def test_a_video_of_a_variable_frame_rate_is_whole(tmp_path):
    """Matroska states no number of frames, and screen recordings hold still for seconds."""
    path = tmp_path / "screen.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for pts in (0, 1, 2, 30, 31, 70, 75, 76):
            frame = av.VideoFrame.from_ndarray(flat(pts), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(frames_of(path)[1]) == 8


def test_a_video_that_starts_later_than_its_file_is_whole(tmp_path):
    """A duration counts from time 0: here the picture begins after five seconds."""
    coded_video(tmp_path / "ride.mkv")
    with av.open(str(tmp_path / "ride.mkv")) as source, av.open(str(tmp_path / "late.mkv"), "w") as late:
        stream = late.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts += 5000
                packet.dts = None if packet.dts is None else packet.dts + 5000
                packet.stream = stream
                late.mux(packet)
    assert len(frames_of(tmp_path / "late.mkv")[1]) == 60


def test_a_video_of_variable_frame_rate_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "screen.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for pts in range(0, 90, 3):
            frame = av.VideoFrame.from_ndarray(flat(pts), format="rgb24")
            frame.pts = pts + pts % 2
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        UserError, match=r"screen\.mkv is cut off or damaged: the file declares 8\.\d+ s, the \d+ frames"
    ):
        frames_of(path)


def test_a_stream_that_declares_nothing_is_taken_as_it_is(tmp_path):
    coded_video(tmp_path / "ride.ts")
    data = (tmp_path / "ride.ts").read_bytes()
    (tmp_path / "ride.ts").write_bytes(data[: len(data) // 376 * 188])
    assert 0 < len(frames_of(tmp_path / "ride.ts")[1]) < 60


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_titles_that_are_not_utf8_do_not_matter(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "StraAe"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for value in (10, 200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(flat(value, 64, 64), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"StraAe" in data
    path.write_bytes(data.replace(b"StraAe", b"Stra\xdfe"))
    assert len(frames_of(path)[1]) == 2


def test_a_picture_beside_videos_is_a_poster_and_videos_of_a_stream_are_found(tmp_path):
    for name in ("a.mp4", "b.ts"):
        with Mp4Writer(tmp_path / "v" / f"{name}.mp4", 8) as writer:
            for _ in range(2):
                writer.write(np.zeros((32, 48, 3), np.uint8))
        (tmp_path / "v" / f"{name}.mp4").rename(tmp_path / "v" / name)
    write_png(tmp_path / "v/poster.png", np.zeros((32, 48, 3), np.uint8))
    assert several_sources(str(tmp_path / "v")) == {"a": tmp_path / "v/a.mp4", "b": tmp_path / "v/b.ts"}
    settings = load_settings(None, [f"FLOW.cache={tmp_path}/cache", f"TEST.save_folder={tmp_path}/out"])
    assert [len(clip) for clip in clips_of_frames(settings, str(tmp_path / "v"))] == [2, 2]
    write_png(tmp_path / "v/second.png", np.zeros((32, 48, 3), np.uint8))
    assert several_sources(str(tmp_path / "v")) == {}
    assert [len(clip) for clip in clips_of_frames(settings, str(tmp_path / "v"))] == [2]
