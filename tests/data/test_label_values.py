"""What the values of labels can mean: looked at before work starts, and asked where they can mean two things."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etc.config import load_settings
from etc.config.schema import Settings
from etc.data.frame_values import check_frames, check_values
from etc.data.images import write_png
from etc.data.label_values import check_labels
from etc.data.labels import label_table_of, read_colors, read_train_ids
from etc.data.lists import Frame
from etc.errors import ConfigError, UserError

SHAPE = (4, 6)


@pytest.fixture
def data(tmp_path):
    """Writes label maps and their frames, and gives the arguments of the check."""

    def write(*labels, classes: int = 2, **changes: str):
        frames = []
        for index, label in enumerate(labels):
            image, path = tmp_path / f"x_{index}.png", tmp_path / f"label_{index}.png"
            write_png(image, np.full((*SHAPE, 3), 100, np.uint8))
            if isinstance(label, bytes):
                path.write_bytes(label)
            else:
                write_png(path, label if label.ndim > 1 else np.resize(label, SHAPE))
            frames.append(Frame(image.name, path.name))
        words = {"data_root": str(tmp_path), "classes": str(classes), "label_map": "none"} | changes
        settings = load_settings(None, [f"DATA.{key}={value}" for key, value in words.items()])
        return settings, frames, "my.lst"

    return write


def train_ids(settings: Settings, frames: list[Frame], index: int = 0) -> set[int]:
    ids = read_train_ids(Path(settings.DATA.data_root) / frames[index].label, label_table_of(settings), SHAPE)
    return set(ids.ravel().tolist())


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def gray_png(values: np.ndarray, depth: int) -> bytes:
    """A gray PNG of few bits per value, as the specification has it; Pillow writes 1 and 8 bits alone."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def as_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_masks_of_0_and_255_are_a_question_and_either_answer_is_used(data):
    masks = u8(0, 0, 255), u8(0, 255, 255)
    with pytest.raises(UserError, match=r"0 and 255 alone.* DATA\.label_map '\{0: 0, 255: 1\}'.* '\{0: 0, 255: 255\}'"):
        check_labels(*data(*masks))
    settings, frames, source = data(*masks, label_map="{0: 0, 255: 1}")
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1}
    settings, frames, source = data(*masks, label_map="{0: 0, 255: 255}")
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 255}


def test_so_are_masks_of_1_and_255_and_of_0_and_65535(data):
    with pytest.raises(UserError, match=r"1 and 255 alone.* '\{1: 1, 255: 0\}'"):
        check_labels(*data(u8(1, 255)))
    with pytest.raises(UserError, match=r"0 and 65535 alone.* '\{0: 0, 65535: 1\}'"):
        check_labels(*data(np.array([0, 65535], np.uint16)))
    settings, frames, source = data(np.array([0, 65535], np.uint16), label_map="{0: 0, 65535: 1}")
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1}


def test_gray_levels_and_void_as_0_are_explained_and_the_named_setting_reads_them(data):
    with pytest.raises(UserError, match=r"value 128 is outside.*'\{0: 0, 128: 1, 255: 2\}'"):
        check_labels(*data(u8(0, 128, 255), classes=3))
    settings, frames, source = data(u8(0, 128, 255), classes=3, label_map="{0: 0, 128: 1, 255: 2}")
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1, 2}
    with pytest.raises(UserError, match=r"value 3 is.* void_zero; if 3 is void, TRAIN\.ignore_label 3;.*classes 4"):
        check_labels(*data(u8(0, 1, 2, 3), classes=3))
    settings, frames, source = data(u8(0, 1, 2, 3), classes=3, label_map="void_zero")
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1, 2, 255}


def test_classes_from_1_with_the_last_one_missing_are_hinted_at(data, caplog):
    check_labels(*data(u8(1, 2), classes=3))
    assert "have no pixel of 1 of 3 classes: 0" in caplog.text and "DATA.label_map void_zero" in caplog.text


def test_label_ids_are_told_from_train_ids(data):
    ids = u8(7, 8, 26, 33)
    with pytest.raises(UserError, match=r"value 26 is .*Cityscapes label ids: then set DATA\.label_map cityscapes"):
        check_labels(*data(ids, classes=19))
    check_labels(*data(ids, classes=19, label_map="cityscapes"))
    with pytest.raises(UserError, match=r"most of it void .*if these are train ids, set DATA\.label_map none"):
        check_labels(*data(u8(0, 0, 2, 10, 13, 255), classes=19, label_map="cityscapes"))


def test_labels_that_are_all_void_are_refused_but_a_few_of_them_are_not(data, caplog):
    with pytest.raises(UserError, match=r"the 3 labels looked at \(of 3\) have no pixel of a class: the value 255"):
        check_labels(*data(u8(255), u8(255), u8(255)))
    with pytest.raises(UserError, match="have no pixel of a class"):
        check_labels(*data(u8(0, 3), classes=19, label_map="cityscapes"))
    # 0, 1 and void, the one label with classes outside the evenly spread sample
    labels = [u8(255)] * 60
    labels[1] = u8(0, 1)
    check_labels(*data(*labels))


def test_a_class_without_a_pixel_is_named(data, caplog):
    with caplog.at_level("INFO"):
        check_labels(*data(u8(0, 1), classes=3))
    assert "my.lst: the 1 labels looked at (of 1) have no pixel of 1 of 3 classes: 2" in caplog.text
    caplog.clear()
    check_labels(*data(u8(0), classes=2))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_one_bit_labels_are_two_classes(data):
    one_bit = as_png(Image.fromarray(np.resize([True, False, True], SHAPE)))
    settings, frames, source = data(one_bit)
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1}
    with pytest.raises(UserError, match=r"gray PNG of 1 bits.*DATA\.classes is 19; set DATA\.classes 2"):
        check_labels(*data(one_bit, classes=19))


def test_one_bit_labels_among_others_are_a_question(data):
    one_bit = as_png(Image.fromarray(np.resize([True, False], SHAPE)))
    with pytest.raises(UserError, match=r"label_0\.png is a gray PNG of 1 bits, other .* its value 1, white, can be"):
        check_labels(*data(one_bit, u8(0, 1, 255)))
    settings, frames, source = data(one_bit, u8(0, 1, 255), label_map="{0: 0, 1: 1}")
    check_labels(settings, frames, source)
    assert [train_ids(settings, frames, index) for index in (0, 1)] == [{0, 1}, {0, 1, 255}]


@pytest.mark.parametrize("depth", [2, 4])
def test_labels_of_2_and_4_bits_hold_their_values_not_gray_levels(data, depth):
    values = np.resize(np.arange(2**depth), SHAPE)
    settings, frames, source = data(gray_png(values, depth), classes=2**depth)
    check_labels(settings, frames, source)
    ids = read_train_ids(Path(settings.DATA.data_root) / frames[0].label, label_table_of(settings))
    np.testing.assert_array_equal(ids, values)


def test_sixteen_bit_palette_gray_rgb_and_colour_labels_come_in(data, tmp_path):
    (tmp_path / "colors.txt").write_text("10 20 30\n200 0 0\n")
    ids = np.resize(u8(0, 1, 1), SHAPE)
    palette = np.zeros((256, 3), np.uint8)
    palette[:2] = read_colors(tmp_path / "colors.txt", 2)[:2]
    indexed = Image.fromarray(ids, mode="P")
    indexed.putpalette(palette.tobytes())
    for label in (ids.astype(np.uint16), as_png(indexed), np.repeat(ids[..., None], 3, 2)):
        settings, frames, source = data(label, colors_path=str(tmp_path / "colors.txt"))
        check_labels(settings, frames, source)
        assert train_ids(settings, frames) == {0, 1}
    for label in (palette[ids], as_png(indexed)):
        settings, frames, source = data(label, label_map="color", colors_path=str(tmp_path / "colors.txt"))
        check_labels(settings, frames, source)
        read = read_train_ids(tmp_path / frames[0].label, label_table_of(settings), SHAPE)
        np.testing.assert_array_equal(read, ids)
    with pytest.raises(UserError, match=r"picture in colours: .*DATA\.label_map color"):
        check_labels(*data(palette[ids], colors_path=str(tmp_path / "colors.txt")))
    with pytest.raises(UserError, match=r"\[1, 2, 3\] is the colour of no class"):
        check_labels(
            *data(
                np.full((*SHAPE, 3), (1, 2, 3), np.uint8), label_map="color", colors_path=str(tmp_path / "colors.txt")
            )
        )


def test_a_palette_in_another_order_is_a_question(data, tmp_path):
    (tmp_path / "colors.txt").write_text("10 20 30\n200 0 0\n")
    indexed = Image.fromarray(np.resize(u8(0, 1), SHAPE), mode="P")
    indexed.putpalette([200, 0, 0, 10, 20, 30])
    with pytest.raises(UserError, match=r"in another order: .*DATA\.label_map color; .*'\{0: 0, 1: 1\}'"):
        check_labels(*data(as_png(indexed), colors_path=str(tmp_path / "colors.txt")))
    check_labels(*data(as_png(indexed), colors_path=str(tmp_path / "colors.txt"), label_map="{0: 0, 1: 1}"))


def test_a_mapping_comes_from_a_file_and_keeps_large_values(data, tmp_path):
    (tmp_path / "map.yaml").write_text("# ids of the tool\n0: 255\n7: 0\n26001: 1\n")
    label = np.array([0, 7, 26001, 65535], np.uint16)
    settings, frames, source = data(label, label_map=str(tmp_path / "map.yaml"))
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1, 255}
    (tmp_path / "map.yaml").write_text("0: road\n")
    with pytest.raises(UserError, match=r"map\.yaml: expected lines 'label value: train id' of whole numbers"):
        label_table_of(settings)


def test_mappings_that_fit_no_classes_are_named(data):
    with pytest.raises(UserError, match=r"gives the value 3 the train id 2: expected 0\.\.1"):
        label_table_of(data(label_map="{0: 0, 3: 2}")[0])
    with pytest.raises(UserError, match="65536 is no value of a label file"):
        label_table_of(data(label_map="{65536: 0}")[0])


def test_several_values_can_be_void(data):
    settings, frames, source = data(u8(0, 1, 11, 12), classes=2)
    with pytest.raises(UserError, match="value 11 is outside"):
        check_labels(settings, frames, source)
    settings = load_settings(None, ["TRAIN.ignore_label=[11, 12]", "DATA.label_map=none", "DATA.classes=2",
                                    f"DATA.data_root={settings.DATA.data_root}"])  # fmt: skip
    check_labels(settings, frames, source)
    assert train_ids(settings, frames) == {0, 1, 255}


def test_settings_with_a_mapping_survive_yaml_and_json(tmp_path):
    from etc.config import dump_settings

    settings = load_settings(None, ["DATA.label_map={0: 255, 1: 0}", "TEST.prediction_ids={0: 0, 255: 1}"])
    assert settings.DATA.label_map == {0: 255, 1: 0}
    (tmp_path / "settings.yaml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "settings.yaml") == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_one_class_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"DATA\.classes: one class has loss 0 .* are 2 classes"):
        load_settings(None, ["DATA.classes=1"])


def test_a_label_of_another_size_is_found_before_work_starts(data):
    settings, frames, source = data(u8(0, 1))
    write_png(Path(settings.DATA.data_root) / frames[0].label, np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match=r"label_0\.png: label is 2x2, its frame is 6x4"):
        check_labels(settings, frames, source)


def test_sixteen_bit_frames_are_read_over_their_full_range_or_refused(data, tmp_path):
    from etc.data.images import read_image

    ramp = np.repeat(np.arange(24, dtype=np.uint16).reshape(*SHAPE, 1), 3, 2)
    settings, frames, source = data(u8(0, 1))
    write_png(tmp_path / "x_0.png", ramp * 2849)
    check_values(settings, frames, source)
    np.testing.assert_array_equal(read_image(tmp_path / "x_0.png"), (ramp * 2849) >> 8)
    write_png(tmp_path / "x_0.png", ramp * 44)  # 10 bits: three gray levels would be left
    with pytest.raises(UserError, match=r"x_0\.png has 16 bits .* 1012: .*white is 1023 \(10 bits\), multiply.* 64"):
        check_values(settings, frames, source)
    write_png(tmp_path / "x_0.png", ramp * 0)
    check_values(settings, frames, source)


@pytest.mark.parametrize("bits", range(9, 16))
def test_frames_of_9_to_15_bits_in_16_are_refused_with_the_factor(tmp_path, bits):
    white = 2**bits - 1
    write_png(tmp_path / "x.png", np.linspace(0, white, 72).round().astype(np.uint16).reshape(*SHAPE, 3))
    named = rf"exceeds {white}: .*white is {white} \({bits} bits\), multiply the values by {2 ** (16 - bits)} or"
    with pytest.raises(UserError, match=named):
        check_frames([tmp_path / "x.png"])


def test_frames_of_8_bits_without_a_bright_value_are_refused(tmp_path):
    paths = [tmp_path / f"x_{i}.png" for i in range(3)]
    for highest, refused in ((0, False), (1, True), (3, True), (4, False)):
        for i, path in enumerate(paths):
            write_png(path, np.full((*SHAPE, 3), highest * (i == 1), np.uint8))
        if refused:
            with pytest.raises(UserError, match=rf"x_0\.png has 8 bits .* exceeds {highest}: .* 0\.\.1 saved as whole"):
                check_frames(paths)
        else:
            check_frames(paths)


def test_frames_of_floating_point_numbers_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 24, dtype=np.float32).reshape(SHAPE)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif holds floating point numbers \(up to 1\)"):
        check_frames([tmp_path / "x.tif"])
