"""Visible pixels that are kept beside the flow: equal to those computed, and of no other flow."""

import numpy as np
import pytest
import torch

from etc.data.images import read_image, write_png
from etc.flow import cache as cache_module
from etc.flow.cache import CachedFlow
from etc.flow.files import read_flow, write_kitti
from etc.flow.visible import VisibleFlow
from etc.metrics import FlickerRate
from etc.metrics.warping import visible_pixels

SHAPE = (24, 40)


class Wavy:
    """Flow that depends on the frames, and agrees with the flow back in some places; not the same in every version."""

    name = key = "wavy"

    def __init__(self, version: float = 0.0) -> None:
        self.version, self.calls = version, 0

    def estimate(self, rgb_t, rgb_k):
        self.calls += 1
        y, x = torch.meshgrid(torch.arange(SHAPE[0]) / 5.0, torch.arange(SHAPE[1]) / 7.0, indexing="ij")
        sign = torch.sign(rgb_k.mean() - rgb_t.mean())
        return (sign * torch.stack([2 + torch.sin(x + sign), torch.cos(y * (1 + 0.3 * sign)) + self.version]))[None]


@pytest.fixture
def frames(tmp_path):
    paths = [tmp_path / f"clip/a_{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        write_png(path, np.full((*SHAPE, 3), 60 * number + 5, np.uint8))
    return paths


@pytest.fixture
def reads(monkeypatch):
    """The names of the flow files whose content is read."""
    names = []

    def recorded(read):
        def reading(path):
            names.append(path.name)
            return read(path)

        return reading

    for name in ("read_flow_file", "read_flow"):
        monkeypatch.setattr(cache_module, name, recorded(getattr(cache_module, name)))
    return names


def direct(store, t, k):
    """The check on the flow as the cache gives it, both ways."""
    return visible_pixels(store(t, k, SHAPE), store(k, t, SHAPE)).numpy()


def test_the_mask_is_the_computed_one_and_then_no_backward_flow_is_read(frames, tmp_path, reads):
    t, k, _ = frames
    first = CachedFlow(Wavy(), tmp_path / "cache").checked(t, k, SHAPE)
    store = CachedFlow(Wavy(), tmp_path / "cache")
    expected = direct(store, t, k)
    assert 0.1 < expected.mean() < 0.9
    reads.clear()
    again = store.checked(t, k, SHAPE)
    assert reads == ["a_0__a_1.b2flow"] and store.estimator.calls == 0
    for pair in (first, again):
        assert np.array_equal(pair.visible, expected) and pair.valid is None and pair.is_checked
        assert np.array_equal(pair.forward, store(t, k, SHAPE))


def test_three_frames_count_as_with_the_backward_flows(frames, tmp_path, reads):
    a, b, c = frames
    random = np.random.default_rng(0)
    ids = random.integers(0, 3, (3, *SHAPE), dtype=np.uint8)
    for _ in range(2):  # computed, then kept
        store = CachedFlow(Wavy(), tmp_path / "cache")
        reads.clear()
        first, second = store.checked(a, b, SHAPE), store.checked(b, c, SHAPE)
        visible = first.visible & store.second_step(b, c, first, second)
        found = FlickerRate()
        found.update(*ids, first.forward, second.forward, valid=visible)
        read = list(reads)
        expected = FlickerRate()
        backward = store(b, a, SHAPE), store(c, b, SHAPE)
        expected.update(*ids, first.forward, second.forward, *backward)
        assert found.counts.tolist() == expected.counts.tolist()
        assert 0 < expected.counts[0] < expected.counts[1] < visible.size
    assert read == ["a_0__a_1.b2flow", "a_1__a_2.b2flow"]


@pytest.mark.parametrize("changed", ["forward", "backward"])
def test_the_mask_of_other_flow_is_not_used(frames, tmp_path, changed):
    a, b, c = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    old = store.checked(a, b, SHAPE), store.checked(b, c, SHAPE)
    old_step = store.second_step(b, c, *old)
    other = CachedFlow(Wavy(version=0.6), tmp_path / "cache")
    for t, k in ((a, b), (b, c)):
        pair = (t, k) if changed == "forward" else (k, t)
        other.path(*pair, SHAPE).unlink()
        other(*pair, SHAPE)
    new = other.checked(a, b, SHAPE), other.checked(b, c, SHAPE)
    assert np.array_equal(new[0].visible, direct(other, a, b)) and not np.array_equal(new[0].visible, old[0].visible)
    step = other.second_step(b, c, *new)
    assert not np.array_equal(step, old_step)
    for path in (tmp_path / "cache").rglob("*.b2mask"):
        path.unlink()
    assert np.array_equal(step, CachedFlow(Wavy(), tmp_path / "cache").second_step(b, c, *new))


def test_the_mask_of_frames_that_were_replaced_is_not_used(frames, tmp_path):
    t, k, _ = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    store.checked(t, k, SHAPE)
    write_png(t, 255 - read_image(t))  # brighter than k now: the flow turns round
    fresh = CachedFlow(Wavy(), tmp_path / "fresh").checked(t, k, SHAPE)
    found = store.checked(t, k, SHAPE)
    assert np.array_equal(found.visible, fresh.visible) and np.array_equal(found.forward, fresh.forward)


def test_a_damaged_mask_is_computed_again(frames, tmp_path):
    t, k, _ = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    expected = store.checked(t, k, SHAPE).visible
    (path,) = (tmp_path / "cache").rglob("*.b2mask")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[:-1] + bytes([whole[-1] ^ 4])):
        path.write_bytes(damaged)
        assert np.array_equal(store.checked(t, k, SHAPE).visible, expected)
        assert path.read_bytes() == whole


def test_flow_of_version_1_1_is_read_and_its_mask_is_kept(frames, tmp_path, reads):
    t, k, _ = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    flows = {}
    for number, pair in enumerate(((t, k), (k, t))):
        flow = np.random.default_rng(number).normal(0, 0.6, (2, *SHAPE)).astype(np.float32)
        path = store.path(*pair, SHAPE).with_suffix(".png")
        write_kitti(path, flow, origin=store.origin(*pair).text)
        flows[pair] = read_flow(path)[0]
    expected = visible_pixels(flows[t, k], flows[k, t]).numpy()
    assert 0.1 < expected.mean() < 0.9
    for reading in (["a_0__a_1.png", "a_1__a_0.png"], ["a_0__a_1.png"]):
        reads.clear()
        pair = store.checked(t, k, SHAPE)
        assert np.array_equal(pair.forward, flows[t, k]) and np.array_equal(pair.visible, expected)
        assert [name for name in reads if name.endswith(".png")] == reading
    assert np.array_equal(store.kept(t, k, SHAPE), flows[t, k]) and store.estimator.calls == 0
    old = store.path(k, t, SHAPE).with_suffix(".png")
    write_kitti(old, -flows[t, k], origin=store.origin(k, t).text)
    assert np.array_equal(store.checked(t, k, SHAPE).visible, visible_pixels(flows[t, k], read_flow(old)[0]).numpy())
    old.write_bytes(old.read_bytes()[:-40])
    assert store.checked(t, k, SHAPE).visible.any() and store.estimator.calls == 1  # computed anew, as the new file


def test_a_cache_that_cannot_be_written_serves_its_flow(frames, tmp_path, monkeypatch, caplog):
    t, k, c = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    expected = direct(store, t, k)

    def full(path, mask, made_from):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(cache_module, "write_mask_file", full)
    for other in (k, c):
        store.checked(t, other, SHAPE)
    assert np.array_equal(store.checked(t, k, SHAPE).visible, expected)
    assert caplog.text.count("visible pixels are not kept") == 1 and "No space left on device" in caplog.text


def test_training_gets_the_same_visible_pixels(frames, tmp_path):
    t, k, _ = frames
    store = CachedFlow(Wavy(), tmp_path / "cache")
    expected = direct(store, t, k)
    for _ in range(2):
        flow, visible = VisibleFlow(store)(t, k, SHAPE)
        assert np.array_equal(visible, expected) and np.array_equal(flow, store(t, k, SHAPE))
