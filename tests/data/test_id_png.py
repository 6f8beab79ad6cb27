"""Class ids as gray and as palette PNG, against independent readers."""

import cv2
import numpy as np
import pytest
from PIL import Image

from etc.data.id_png import encode_ids, write_ids
from etc.data.images import read_image, read_label_file, read_png_origin

PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)


def blocks(height: int, width: int) -> np.ndarray:
    """Regions of ids as predictions have them, with 0 and 255 among them."""
    coarse = np.random.default_rng(0).integers(0, 19, (4, 5), dtype=np.uint8)
    coarse[0, 0], coarse[-1, -1] = 255, 0
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize("ids", [blocks(33, 47), np.arange(256, dtype=np.uint8)[None], np.full((3, 1), 7, np.uint8)])
def test_any_reader_finds_the_ids_in_gray_and_their_colours_in_colour(tmp_path, ids):
    encoded = encode_ids(ids)
    write_ids(tmp_path / "gray.png", encoded)
    write_ids(tmp_path / "color.png", encoded, palette=PALETTE, origin="of a test")
    colors = np.stack([[PALETTE[value] for value in row] for row in ids])
    with Image.open(tmp_path / "gray.png") as gray, Image.open(tmp_path / "color.png") as color:
        assert (gray.mode, color.mode) == ("L", "P")
        np.testing.assert_array_equal(np.array(gray), ids)
        np.testing.assert_array_equal(np.array(color), ids)
        np.testing.assert_array_equal(np.array(color.convert("RGB")), colors)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "gray.png"), cv2.IMREAD_UNCHANGED), ids)
    np.testing.assert_array_equal(read_image(tmp_path / "color.png"), colors)
    np.testing.assert_array_equal(read_label_file(tmp_path / "color.png").colors(), colors)
    assert read_png_origin(tmp_path / "color.png") == "of a test"
    assert read_png_origin(tmp_path / "gray.png") is None


def test_a_view_with_gaps_between_its_rows_is_written_as_it_looks(tmp_path):
    ids = blocks(20, 30)[::2, 5:25:3]
    write_ids(tmp_path / "gray.png", encode_ids(ids))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "gray.png"), cv2.IMREAD_UNCHANGED), ids)


def test_colours_take_far_fewer_bytes_than_a_picture_with_three_channels(tmp_path):
    yy, xx = np.mgrid[:512, :1024]
    ids = (8 + 4 * np.sin(xx / 90) + 4 * np.cos(yy / 70 + xx / 200)).astype(np.uint8)
    write_ids(tmp_path / "color.png", encode_ids(ids), palette=PALETTE)
    cv2.imwrite(str(tmp_path / "rgb.png"), PALETTE[ids], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert (tmp_path / "color.png").stat().st_size < 0.6 * (tmp_path / "rgb.png").stat().st_size


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2), np.uint16), ((2, 2, 3), np.uint8), ((0, 2), np.uint8)])
def test_anything_but_ids_is_refused(shape, dtype):
    ids = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="uint8"):
        encode_ids(ids)


def test_a_palette_of_fewer_colours_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match=r"\[19, 3\]"):
        write_ids(tmp_path / "color.png", encode_ids(blocks(4, 5)), palette=PALETTE[:19])
    assert not list(tmp_path.iterdir())
