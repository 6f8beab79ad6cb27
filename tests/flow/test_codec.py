"""The codec of the flow cache, and its files: what is read is what KITTI's PNG would have kept, and nothing else."""

import numpy as np
import pytest

from etc.errors import UserError
from etc.flow.cache_files import (
    read_flow_facts,
    read_flow_file,
    read_mask_file,
    write_flow_file,
    write_mask_file,
)
from etc.flow.codec import pack_mask, pack_steps, to_steps, unpack_flow, unpack_mask
from etc.flow.files import read_flow, write_kitti

SHAPES = [(1, 1), (1, 9), (9, 1), (7, 13), (16, 24), (33, 50)]


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * np.sin(x / 9) + y / 7, x * y / 100 - 3]).astype(np.float32)


def extreme(height: int, width: int) -> np.ndarray:
    """Just inside, on and beyond what fits, half steps, and numbers that are none."""
    values = [511, -511, 511.01, -600, 1e9, 3e38, np.inf, -np.inf, np.nan, 0, -0.0, 1 / 128, -1 / 128, 3 / 128, 510.999]
    return np.random.default_rng(1).choice(np.array(values, np.float32), (2, height, width))


def noisy(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).uniform(-520, 520, (2, height, width)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [smooth, extreme, noisy])
@pytest.mark.parametrize("with_valid", [False, True])
def test_the_cache_keeps_what_the_png_keeps_bit_for_bit(tmp_path, shape, kind, with_valid):
    flow = kind(*shape)
    valid = np.random.default_rng(3).random(shape) < 0.7 if with_valid else None
    write_kitti(tmp_path / "x.png", flow, valid)
    write_flow_file(tmp_path / "x.b2flow", flow, valid)
    expected, expected_valid = read_flow(tmp_path / "x.png")
    result, result_valid = read_flow(tmp_path / "x.b2flow")
    assert result.tobytes() == expected.tobytes() and result.dtype == np.float32 and result.flags.c_contiguous
    assert np.array_equal(result_valid, expected_valid) and result_valid.dtype == bool


@pytest.mark.parametrize("shape", SHAPES)
def test_any_steps_come_back(shape):
    random = np.random.default_rng(0)
    for steps in (random.integers(-(2**15), 2**15, (2, *shape)), np.tile([-(2**15), 2**15 - 1], (2, *shape))[..., ::2]):
        steps = steps.astype(np.int16)
        assert np.array_equal(unpack_flow(pack_steps(steps), *shape), steps / np.float32(64))


def test_the_order_of_the_numbers_in_memory_does_not_matter():
    steps = np.random.default_rng(0).integers(-300, 300, (2, 7, 9)).astype(np.int16)
    channels_last = np.ascontiguousarray(steps.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert not channels_last.flags.c_contiguous
    assert pack_steps(channels_last) == pack_steps(steps)
    np.testing.assert_array_equal(unpack_flow(pack_steps(channels_last), 7, 9), steps / np.float32(64))


def test_steps_are_rounded_as_python_rounds():
    values = np.random.default_rng(0).uniform(-511, 511, (2, 3, 5)).astype(np.float32)
    steps, valid = to_steps(values)
    assert steps.ravel().tolist() == [round(float(value) * 64) for value in values.ravel()] and valid.all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_mask_comes_back(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    result = unpack_mask(pack_mask(mask), *shape)
    assert result.dtype == bool and np.array_equal(result, mask)


def test_content_of_another_size_is_refused():
    data = pack_steps(np.zeros((2, 4, 6), np.int16))
    with pytest.raises(ValueError, match="holds 96 bytes instead of 80"):
        unpack_flow(data, 4, 5)
    with pytest.raises(ValueError, match="holds 96 bytes instead of 3"):
        unpack_mask(data, 4, 6)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack_flow(b"\0" * 40, 4, 6)


def test_smooth_flow_takes_a_tenth_of_its_bytes():
    flow = smooth(256, 512)
    assert len(pack_steps(to_steps(flow)[0])) < flow.nbytes / 10


def test_equal_flow_has_equal_facts_and_another_has_not(tmp_path):
    one, two, other = (tmp_path / f"{name}.b2flow" for name in ("one", "two", "other"))
    write_flow_file(one, smooth(8, 9), origin="frames")
    write_flow_file(two, smooth(8, 9), origin="copies")
    write_flow_file(other, smooth(8, 9) + 1 / 64)
    facts = [read_flow_facts(path) for path in (one, two, other)]
    assert facts[0].sha256 == facts[1].sha256 != facts[2].sha256
    assert [(f.shape, f.origin) for f in facts] == [((8, 9), "frames"), ((8, 9), "copies"), ((8, 9), "")]
    assert read_flow_file(one)[2] == facts[0]


def test_every_cut_of_a_flow_file_is_one_line_with_the_cure(tmp_path):
    path = tmp_path / "x.b2flow"
    write_flow_file(path, noisy(3, 4), origin="frames")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^.*x\.b2flow is damaged: .*; delete it, and it is computed again"):
            read_flow(path)


def test_every_flipped_bit_of_a_flow_file_is_found(tmp_path):
    path = tmp_path / "x.b2flow"
    write_flow_file(path, noisy(3, 4), origin="frames")
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << index % 8]) + whole[index + 1 :])
        with pytest.raises(UserError, match=r"x\.b2flow is damaged: [^\n]*$"):
            read_flow(path)


def test_bytes_behind_the_end_and_other_files_are_damage(tmp_path):
    path = tmp_path / "x.b2flow"
    write_flow_file(path, smooth(3, 4))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="its content is not what was written"):
        read_flow(path)
    write_mask_file(path, np.ones((3, 4), bool), ["a"])
    with pytest.raises(UserError, match="it does not begin as such a file does"):
        read_flow(path)


def test_a_mask_is_given_only_for_what_it_was_made_from(tmp_path):
    path, mask = tmp_path / "x.b2mask", np.random.default_rng(0).random((5, 7)) < 0.5
    assert read_mask_file(path, (5, 7), ["a", "b"]) is None
    write_mask_file(path, mask, ["a", "b"])
    assert np.array_equal(read_mask_file(path, (5, 7), ["a", "b"]), mask)
    assert read_mask_file(path, (7, 5), ["a", "b"]) is None
    for other in (["b", "a"], ["a"], ["a", "b", "c"], []):
        assert read_mask_file(path, (5, 7), other) is None
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_mask_file(path, (5, 7), ["a", "b"]) is None
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert read_mask_file(path, (5, 7), ["a", "b"]) is None
