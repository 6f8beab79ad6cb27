"""Frames and label maps on disk, whole and damaged."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from etc.data.images import image_size, read_image, read_label, read_label_file, read_png16, write_png
from etc.data.labels import label_table, read_train_ids
from etc.errors import UserError


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def png_by_hand(rows: bytes, width: int, height: int, depth: int, color: int) -> bytes:
    """A PNG file from its filtered rows, chunk by chunk as the PNG specification writes them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def refused(read, path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_channels_come_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_by_hand(b"\0" + bytes([10, 20, 30, 40, 50, 60]), 2, 1, 8, 2))
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_sixteen_bit_channels_come_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_by_hand(b"\0" + struct.pack(">6H", 1, 40000, 3, 65535, 0, 256), 2, 1, 16, 2))
    assert read_png16(path).tolist() == [[[1, 40000, 3], [65535, 0, 256]]]


def test_gray_and_transparent_frames_become_rgb(tmp_path, rgb):
    cv2.imwrite(str(tmp_path / "gray.png"), rgb[:, :, 0])
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.repeat(rgb[:, :, :1], 3, axis=2))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([rgb[:, :, ::-1], rgb[:, :, 0]]))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), rgb)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_what_is_written_is_read(tmp_path, dtype, channels):
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (9, 7, *channels), dtype=dtype)
    write_png(tmp_path / "new" / "x.png", image[:, ::2])  # not contiguous
    reader = {("u1", 3): read_image, ("u1", 2): read_label, ("u2", 3): read_png16}.get(
        (image.dtype.str[1:], image.ndim)
    )
    if reader is None:
        assert np.array_equal(cv2.imread(str(tmp_path / "new" / "x.png"), cv2.IMREAD_UNCHANGED), image[:, ::2])
    else:
        assert np.array_equal(reader(tmp_path / "new" / "x.png"), image[:, ::2])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), np.float32),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
    ],
    ids=["int64", "float32", "empty", "two channels"],
)
def test_what_png_cannot_hold_is_refused_and_leaves_no_file(tmp_path, image):
    with pytest.raises(ValueError, match=r"x\.png"):
        write_png(tmp_path / "x.png", image)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, rgb):
    path = tmp_path / "x.png"
    write_png(path, rgb)
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        write_png(path, 255 - rgb)
    assert np.array_equal(read_image(path), rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_named_so(tmp_path, rgb, suffix, share):
    data = cv2.imencode(suffix, rgb)[1].tobytes()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    assert "truncated" in refused(read_image, path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_behind_the_end_do_no_harm(tmp_path, rgb, suffix):
    data = cv2.imencode(suffix, rgb)[1].tobytes()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data + b"\0\0appended by a camera")
    assert read_image(path).shape == rgb.shape


def with_thumbnail(data: bytes, thumbnail: bytes) -> bytes:
    """A JPEG with a whole other JPEG in an APP1 segment, as cameras write them, and fill bytes before a marker."""
    segment = b"Exif\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xff" + data[2:]


def test_the_thumbnail_in_a_jpeg_does_not_pass_for_its_end(tmp_path, rgb):
    data = with_thumbnail(jpeg(rgb), jpeg(np.tile(rgb, (3, 3, 1))))
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    assert np.array_equal(read_image(path), cv2.imdecode(np.frombuffer(jpeg(rgb), np.uint8), 1)[:, :, ::-1])
    path.write_bytes(data[:-40])
    assert "truncated" in refused(read_image, path)


@pytest.mark.parametrize("content", [b"", b"not an image\n", b"\x89PNG", b"\xff\xd8", b"P5 nonsense"])
@pytest.mark.parametrize("read", [read_image, read_label, read_png16])
def test_what_is_no_image_is_named(tmp_path, content, read):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    refused(read, path)


def test_damage_in_the_middle_of_a_png_is_found(tmp_path, rgb, capfd):
    data = bytearray(cv2.imencode(".png", rgb)[1].tobytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "x.png"
    path.write_bytes(data)
    assert "decoded" in refused(read_image, path)


def a_thousand_mutations(data: bytes):
    """The file with one bit flipped, a byte replaced, a byte lost or doubled, or a stretch zeroed."""
    draw = np.random.default_rng(5)
    for _ in range(1000):
        mutated, place = bytearray(data), int(draw.integers(len(data)))
        match draw.integers(5):
            case 0 | 1:
                mutated[place] ^= 1 << int(draw.integers(8))
            case 2:
                mutated[place] = int(draw.integers(256))
            case 3:
                mutated[place : place + 1] = data[place : place + 1] * int(draw.choice([0, 2]))
            case _:
                mutated[place : place + 20] = bytes(len(mutated[place : place + 20]))
        yield bytes(mutated)


@pytest.mark.parametrize("read", [read_image, read_label, read_png16])
def test_a_mutated_png_is_refused_or_has_the_same_pixels(tmp_path, read, capfd):
    path = tmp_path / "x.png"
    blocks = np.kron(np.random.default_rng(6).integers(0, 19, (6, 9)), np.ones((8, 8), int))
    image = {read_png16: np.dstack([blocks * 1700, blocks, blocks % 2]).astype(np.uint16)}.get(
        read, blocks.astype(np.uint8)
    )
    write_png(path, image)
    expected, refusals = read(path), 0
    for mutated in a_thousand_mutations(path.read_bytes()):
        path.write_bytes(mutated)
        try:
            found = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refusals += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert refusals > 900


def test_the_damaged_chunk_is_named(tmp_path, rgb):
    write_png(tmp_path / "x.png", rgb)
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    (tmp_path / "x.png").write_bytes(data)
    assert "the checksum of its chunk IDAT is wrong" in refused(read_image, tmp_path / "x.png")


def test_a_palette_with_a_flipped_bit_is_refused(tmp_path, rgb):
    """The palette decides the classes of predictions in colours (TEST.prediction_ids color)."""
    as_palette(rgb[:, :, 0], tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[data.index(b"PLTE") + 40] ^= 4
    (tmp_path / "x.png").write_bytes(data)
    assert "the checksum of its chunk PLTE is wrong" in refused(read_label, tmp_path / "x.png")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "No such file" in refused(read_image, tmp_path / "x.png")
    assert "directory" in refused(read_image, tmp_path)


def as_palette(ids: np.ndarray, path) -> None:
    """Palette PNG as VOC, DAVIS and YouTube-VOS have them: the index is the id, colours are for the eye."""
    image = Image.fromarray(ids, mode="P")
    image.putpalette(np.random.default_rng(2).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


LABEL_WRITERS = {
    "gray": lambda ids, path: write_png(path, ids),
    "16 bits": lambda ids, path: write_png(path, ids.astype(np.uint16)),
    "three equal channels": lambda ids, path: write_png(path, np.repeat(ids[:, :, None], 3, 2)),
    "palette": as_palette,
    "palette of 4 bits": lambda ids, path: as_palette(ids % 16, path),
    "gray and alpha": lambda ids, path: Image.fromarray(np.dstack([ids, ids // 2])).save(path),
    "gray in RGB and alpha": lambda ids, path: Image.fromarray(np.dstack([ids, ids, ids, ids // 2])).save(path),
}


@pytest.mark.parametrize("write", LABEL_WRITERS.values(), ids=LABEL_WRITERS)
def test_the_same_ids_come_out_of_every_kind_of_label_file(tmp_path, rgb, write):
    ids = rgb[:, :, 0] % 16
    write(ids, tmp_path / "x.png")
    label = read_label(tmp_path / "x.png")
    np.testing.assert_array_equal(label, ids)
    assert label.dtype in (np.uint8, np.uint16)


def test_sixteen_bit_label_values_are_kept(tmp_path):
    ids = np.array([[0, 255, 256], [26001, 40000, 65535]], np.uint16)
    write_png(tmp_path / "x.png", ids)
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), ids)


def test_a_colour_picture_is_no_label_map(tmp_path, rgb):
    write_png(tmp_path / "color.png", rgb)
    assert "a picture in colours: expected a label map" in refused(read_label, tmp_path / "color.png")


def test_colours_of_16_bits_are_no_label(tmp_path):
    write_png(tmp_path / "x.png", np.zeros((4, 5, 3), np.uint16))
    with pytest.raises(UserError, match="has colours of 16 bits: expected one channel of ids"):
        read_label_file(tmp_path / "x.png")


def test_a_picture_of_several_parts_has_the_size_that_it_is_read_with(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    parts = [Image.new("RGB", (48, 32), color) for color in ("red", "blue")]
    parts[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=parts[1:], exif=exif)
    height, width = read_image(tmp_path / "x.jpg").shape[:2]
    assert image_size(tmp_path / "x.jpg") == (width, height) == (32, 48)


@pytest.mark.parametrize("write", [LABEL_WRITERS["gray"], LABEL_WRITERS["16 bits"], as_palette])
def test_a_truncated_or_damaged_label_is_refused_wherever_it_is_cut_or_damaged(tmp_path, rgb, write):
    """Pillow alone reads files without their end, and bits that only a checksum shows to be wrong."""
    path, ids = tmp_path / "x.png", rgb[:6, :9, 0]
    write(ids, path)
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        refused(read_label, path)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            label = read_label(path)
        except UserError as error:
            assert str(path) in str(error)
        else:  # the length of the last chunk, which no pixel depends on
            np.testing.assert_array_equal(label, ids)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_label_is_named_so(tmp_path, rgb, suffix, share):
    data = cv2.imencode(suffix, rgb[:, :, 0])[1].tobytes()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    assert "truncated" in refused(read_label, path)


def test_a_flow_png_must_have_three_channels_of_sixteen_bits(tmp_path, rgb):
    write_png(tmp_path / "color.png", rgb)
    assert "16-bit" in refused(read_png16, tmp_path / "color.png")


SIZED_READERS = [read_image, read_label, image_size]


@pytest.mark.parametrize("read", SIZED_READERS)
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (60000, 60000, "states more pixels than can be read"),
        (0, 0, "not an image that can be decoded"),
        (0, 64, "not an image that can be decoded"),
    ],
)
def test_an_image_of_an_impossible_size_is_refused_before_it_is_decoded(tmp_path, read, width, height, message):
    path = tmp_path / "x.png"
    path.write_bytes(png_by_hand(b"", width, height, 8, 0))
    assert message in refused(read, path)


@pytest.mark.parametrize("read", SIZED_READERS)
def test_the_size_of_other_formats_is_checked_too(tmp_path, read):
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "x.bmp"
    path.write_bytes(head + bytes(64))
    assert "expected 134217728 at most" in refused(read, path)


def test_a_side_beyond_the_limits_of_the_decoder_is_no_image(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_by_hand(b"", 2_000_000, 10, 8, 0))
    for read in (read_image, read_label):
        assert "not an image that can be decoded" in refused(read, path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_size_of_a_rotated_frame_is_that_of_the_frame_that_is_read(tmp_path, suffix):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / f"x.{suffix}", exif=exif)
    height, width = read_image(tmp_path / f"x.{suffix}").shape[:2]
    assert image_size(tmp_path / f"x.{suffix}") == (width, height) == (20, 30)


def test_a_label_map_that_is_a_jpeg_is_refused(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="label maps must be PNG"):
        read_train_ids(tmp_path / "x.jpg", label_table("none", 2, 255))
