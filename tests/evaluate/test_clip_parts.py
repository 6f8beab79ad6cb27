"""Parts of clips count what whole clips count: for any number of workers, with gaps, unlabelled frames, strides."""

from pathlib import Path

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate import clip_parts
from etc.evaluate.clip_metrics import ClipScorer, PairScorer, ScoredFrame
from etc.evaluate.clip_parts import Part, PartCounter, PartTables, cut
from etc.evaluate.clips import segment_ends
from etc.evaluate.flows import FlowSetting
from etc.evaluate.metric_list import PROTOCOLS
from etc.flow.pair_flow import PairFlow
from etc.metrics.warping import second_step_visible, visible_pixels

CLASSES, SHAPE = 3, (6, 8)


class Flow:
    """Flow, its backward flow and its valid pixels, which depend on the pair alone; it remembers what was asked for."""

    key = "made up"

    def __init__(self, *, complete: bool = False) -> None:
        self.asked: list[tuple[str, str]] = []
        self.complete = complete

    def __call__(self, path_t, path_k, shape):
        self.asked.append((path_t.stem, path_k.stem))
        return np.random.default_rng(int(path_t.stem) * 1000 + int(path_k.stem)).normal(0, 1, (2, *shape)).astype("f")

    def with_validity(self, path_t, path_k, shape):
        flow = self(path_t, path_k, shape)
        return flow, None if int(path_t.stem) % 3 else flow[0] < 1

    def checked(self, path_t, path_k, shape) -> PairFlow:
        flow, valid = self.with_validity(path_t, path_k, shape)
        if valid is not None or not self.available(path_k, path_t):
            return PairFlow(flow, valid, valid)
        return PairFlow(flow, None, visible_pixels(flow, self(path_k, path_t, shape)).numpy())

    def second_step(self, path_b, path_c, first: PairFlow, second: PairFlow) -> np.ndarray:
        backward = self(path_c, path_b, second.forward.shape[1:])
        return second_step_visible(first.forward, second.forward, backward).numpy()

    def available(self, path_t, path_k) -> bool:
        return self.complete or int(path_t.stem) % 2 == 0


def made_up_clip(length: int, seed: int, unlabelled: set[int], gaps: set[int]):
    """Frames that change little, so that windows of constant labels exist; and the ids by the names of the files."""
    random = np.random.default_rng(seed)
    frames, files, ids = [], [], {}
    label = random.integers(0, CLASSES, SHAPE, dtype=np.uint8)
    for t in range(length):
        label = np.where(random.random(SHAPE) < 0.02, random.integers(0, CLASSES, SHAPE), label).astype(np.uint8)
        name = f"{1000 * seed + t}.png"
        frames.append(Frame(name, None if t in unlabelled else f"label_{name}"))
        files.append(None if t in gaps else Path(f"prediction_{name}"))
        noise = random.random(SHAPE) < 0.03
        ids[f"label_{name}"] = label
        ids[f"prediction_{name}"] = np.where(noise, (label + 1) % CLASSES, label).astype(np.uint8)
    return frames, files, ids


LONG = [(150, set(range(40, 47)) | {60, 61, 90}, {30, 31, 75, 119})]
UNEVEN = [(5, set(), set()), (70, {0, 33}, {34}), (1, set(), set()), (37, set(range(37)), {20}), (16, set(), set())]


@pytest.mark.parametrize("strides", [[1], [1, 3], [12]])
@pytest.mark.parametrize("clips", [LONG, UNEVEN], ids=["one long clip", "uneven clips"])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("protocols", [[], list(PROTOCOLS)], ids=["usual", "all protocols"])
def test_parts_count_what_the_scorer_of_the_whole_clip_counts(workers, clips, strides, protocols, monkeypatch):
    made = [made_up_clip(length, seed, *gaps) for seed, (length, *gaps) in enumerate(clips, start=1)]
    ids = {name: found for clip in made for name, found in clip[2].items()}
    monkeypatch.setattr(clip_parts, "read_train_ids", lambda path, table, shape: ids[path.name])
    words = [f"DATA.classes={CLASSES}", "DATA.label_map=none", "DATA.data_root=.", f"TEST.protocols={protocols}"]
    settings = load_settings(None, words)
    flows = [FlowSetting("made up", stride, Flow(complete=bool(protocols))) for stride in strides]
    ends = segment_ends(len(made[0][0])) if len(made) == 1 else []
    counter = PartCounter(settings, flows, lambda path: ids[path.name], ends)
    tables = PartTables(counter, [frames for frames, _, _ in made])
    parts = cut([len(frames) for frames, _, _ in made], workers)
    assert (len(parts) > len(made)) == (workers > 1)
    for part in parts:
        tables.add(part, counter(counter.frames_of(part, *made[part.clip][:2])))
    longest = max(len(frames) for frames, _, _ in made)
    for (frames, files, _), found in zip(made, tables.counts, strict=True):
        pairs = [
            PairScorer(CLASSES, flow.source, occlusion=True, stride=flow.stride, protocols=protocols) for flow in flows
        ]
        whole = ClipScorer(CLASSES, pairs, protocols)
        for t, (frame, file) in enumerate(zip(frames, files, strict=True)):
            label = None if frame.label is None else ids[frame.label]
            whole.add(None if file is None else ScoredFrame(Path(frame.image), ids[file.name], label))
            if t + 1 in ends:
                check_equal(tables.so_far[ends.index(t + 1)], whole.counts_so_far())
        check_equal([found], [whole.counts(longest - 1)])


def check_equal(found, expected) -> None:
    """Tables in dicts, tuples and lists: equal to the last bit, NaN where NaN is expected."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            check_equal(found[key], expected[key])
    else:
        for a, b in zip(found, expected, strict=True):
            check_equal(a, b)


def test_windows_of_vc_and_triples_are_counted_at_all_in_these_clips(monkeypatch):
    """What the test above compares is not zero."""
    frames, files, ids = made_up_clip(LONG[0][0], 1, *LONG[0][1:])
    monkeypatch.setattr(clip_parts, "read_train_ids", lambda path, table, shape: ids[path.name])
    settings = load_settings(None, [f"DATA.classes={CLASSES}", "DATA.label_map=none", "DATA.data_root=."])
    counter = PartCounter(settings, [FlowSetting("made up", 1, Flow())], lambda path: ids[path.name], [])
    counts = counter(counter.frames_of(Part(0, 0, 150), frames, files)).counts
    assert all(counts.frames[f"vc16_{definition}"][1] >= 30 for definition in ("vspw", "correct"))
    assert counts.pairs[0].metrics["flicker"].min() > 50 and counts.pairs[0].totals[2] == 7


def test_a_part_reads_no_flow_of_pairs_that_neither_it_nor_its_triples_need(monkeypatch):
    frames, files, ids = made_up_clip(60, 0, set(), set())
    monkeypatch.setattr(clip_parts, "read_train_ids", lambda path, table, shape: ids[path.name])
    settings = load_settings(None, [f"DATA.classes={CLASSES}", "DATA.label_map=none", "DATA.data_root=."])
    flow = Flow()
    counter = PartCounter(settings, [FlowSetting("made up", 2, flow)], lambda path: ids[path.name], [])
    given = counter.frames_of(Part(0, 40, 44), frames, files)
    assert len(given.frames) == 16 + 4  # VC16 looks 16 frames back
    counter(given)
    forward = sorted({(int(t), int(k)) for t, k in flow.asked if int(t) < int(k)})
    assert forward == [(t, t + 2) for t in (36, 37, 38, 39, 40, 41)]


@pytest.mark.parametrize(
    ("lengths", "workers", "longest_first"),
    [
        ([120], 1, [120]),
        ([120], 2, [60] * 2),
        ([60, 60, 60], 2, [30] * 6),  # in three parts, one worker would be idle half of the time
        ([31], 8, [31]),  # two parts would be shorter than what each reads again
        ([30, 30, 30], 2, [30, 30, 30]),
        ([3000], 2, [250] * 12),
        ([200, 20, 1], 2, [100, 100, 20, 1]),
    ],
)
def test_long_clips_are_cut_evenly_and_short_ones_stay_whole(lengths, workers, longest_first):
    parts = cut(lengths, workers)
    assert [part.stop - part.start for part in parts] == longest_first
    for clip, length in enumerate(lengths):
        covered = [t for part in sorted(parts) if part.clip == clip for t in range(part.start, part.stop)]
        assert covered == list(range(length))


def test_parts_of_one_clip_whose_sizes_differ_are_refused():
    settings = load_settings(None, [f"DATA.classes={CLASSES}"])
    counter = PartCounter(settings, [FlowSetting("made up", 1, Flow())], lambda path: np.zeros((4, 4), np.uint8), [])
    frames = [Frame(f"{t}.png", None) for t in range(40)]
    tables = PartTables(counter, [frames])
    files = [Path(f"{t}.png") for t in range(40)]
    tables.add(Part(0, 0, 20), counter(counter.frames_of(Part(0, 0, 20), frames, files)))
    counter.read = lambda path: np.zeros((4, 5), np.uint8)
    with pytest.raises(UserError, match=r"the clip that begins with 0\.png differ in size"):
        tables.add(Part(0, 20, 40), counter(counter.frames_of(Part(0, 20, 40), frames, files)))
