"""Metrics of torchmetrics against the accumulators that they wrap, in one process and as if in two."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from etc.metrics import FlickerRate, TemporalConsistency, VideoConsistency
from etc.metrics.as_torchmetrics import FlickerRateMetric, TemporalConsistencyMetric, VideoConsistencyMetric


def random_input(seed, frames=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, classes, (frames, 6, 9), generator=generator)
    return ids, torch.randn(frames - 1, 2, 6, 9, generator=generator)


def as_rank(metric, others):
    """The metric as it is where the other processes hold ``others``: what all_gather would give is given."""
    metric.dist_sync_fn = lambda counts, group=None: [counts, *(other.counts for other in others)]
    metric.distributed_available_fn = lambda: True
    return metric


CASES = {
    "strict": (lambda: TemporalConsistencyMetric(4), lambda: TemporalConsistency(4)),
    "published": (lambda: TemporalConsistencyMetric(4, "published"), lambda: TemporalConsistency(4, "published")),
    "boundary": (
        lambda: TemporalConsistencyMetric(4, boundary_band=0.1),
        lambda: TemporalConsistency(4, boundary_band=0.1),
    ),
    "video": (lambda: VideoConsistencyMetric(4, 2, "correct"), lambda: VideoConsistency(4, 2, "correct")),
    "flicker": (FlickerRateMetric, FlickerRate),
}


def arguments(case, seed):
    ids, flow = random_input(seed)
    if case == "video":
        return ids, (ids * (torch.arange(5) > 1)[:, None, None]).clamp(max=1)
    if case == "flicker":
        return ids[0], ids[1], ids[0].where(ids[2] > 0, ids[2]), flow[0], flow[1]
    return ids[0], ids[1].where(ids[2] > 1, ids[0]), flow[0]


def figure(result):
    return result["mIoU"] if isinstance(result, dict) else result


@pytest.mark.parametrize("case", CASES)
def test_two_updates_and_a_reset_give_what_the_accumulator_gives(case):
    metric, expected = (build() for build in CASES[case])
    assert float(metric(*arguments(case, 0))) == pytest.approx(figure(fed(case, 0).compute()), abs=1e-6)
    metric.update(*arguments(case, 1))
    expected.merge(fed(case, 0)).merge(fed(case, 1))
    assert torch.equal(metric.counts, expected.counts)
    assert 0 < float(metric.compute()) == pytest.approx(figure(expected.compute()), abs=1e-6)
    metric.reset()
    assert not metric.counts.any()


def fed(case, seed):
    accumulator = CASES[case][1]()
    accumulator.update(*arguments(case, seed))
    return accumulator


@pytest.mark.parametrize("case", CASES)
def test_processes_sum_their_counts_for_the_figure_and_keep_their_own(case):
    metric = CASES[case][0]()
    metric.update(*arguments(case, 0))
    as_rank(metric, [fed(case, 1), fed(case, 2)])
    own = metric.counts.clone()
    together = fed(case, 0).merge(fed(case, 1)).merge(fed(case, 2))
    assert not torch.equal(own, together.counts)
    assert float(metric.compute()) == pytest.approx(figure(together.compute()), abs=1e-6)
    assert torch.equal(metric.counts, own)


_RANK = """
import sys, torch
from etc.metrics.as_torchmetrics import TemporalConsistencyMetric
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
metric = TemporalConsistencyMetric(4)
ids = torch.arange(24).view(4, 6) % 4
metric.update(ids, ids.roll(rank, 1), torch.zeros(2, 4, 6))
print(float(metric.compute()), int(metric.counts.sum()))
"""


@pytest.mark.slow
def test_two_processes_of_gloo_have_the_same_figure(tmp_path):
    commands = [[sys.executable, "-c", _RANK, str(rank), str(tmp_path / "store")] for rank in range(2)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    expected, ids = TemporalConsistency(4), torch.arange(24).view(4, 6) % 4
    for rank in range(2):
        expected.update(ids, ids.roll(rank, 1), torch.zeros(2, 4, 6))
    assert [float(figure) for figure, _ in printed] == pytest.approx([expected.compute()["mIoU"]] * 2, abs=1e-6)
    assert [own for _, own in printed] == ["24", "24"]
    assert 0.2 < expected.compute()["mIoU"] < 0.8


def test_a_collection_gives_each_metric_the_keywords_that_its_update_names():
    ids, flow = random_input(0)
    truth = torch.randint(0, 4, (6, 9), generator=torch.Generator().manual_seed(9))
    together = MetricCollection({"tc": TemporalConsistencyMetric(4), "iou": MulticlassJaccardIndex(4)})
    together.update(pred_t=ids[0], pred_next=ids[1], flow=flow[0], preds=ids[0], target=truth)
    alone, iou = TemporalConsistencyMetric(4), MulticlassJaccardIndex(4)
    alone.update(ids[0], ids[1], flow[0])
    iou.update(ids[0], truth)
    assert together.compute() == {"tc": alone.compute(), "iou": iou.compute()}


def test_metrics_of_a_collection_whose_first_counts_agree_stay_apart():
    """A collection updates one of two metrics in place of both where their states look alike after the first update."""
    kinds = ("vspw", "correct")
    together = MetricCollection({kind: VideoConsistencyMetric(4, 2, kind) for kind in kinds})
    alone = {kind: VideoConsistencyMetric(4, 2, kind) for kind in kinds}
    truth = torch.zeros(3, 4, 4, dtype=torch.int64)
    for prediction in (truth, truth + 1):  # all right, then constant and wrong
        for metric in (together, *alone.values()):
            metric.update(prediction, truth)
    figures = {kind: float(figure) for kind, figure in together.compute().items()}
    assert figures == {kind: float(metric.compute()) for kind, metric in alone.items()} == {"vspw": 1.0, "correct": 0.5}


def test_a_metric_can_be_pickled_and_goes_into_a_checkpoint():
    metric = TemporalConsistencyMetric(4)
    metric.persistent(True)
    metric.update(*arguments("strict", 0))
    again, other = pickle.loads(pickle.dumps(metric)), TemporalConsistencyMetric(4)
    other.load_state_dict(metric.state_dict())
    assert torch.equal(again.counts, metric.counts) and torch.equal(other.counts, metric.counts)


def test_a_wrong_argument_is_refused_as_the_accumulator_refuses_it():
    with pytest.raises(ValueError, match="pred_next is"):
        TemporalConsistencyMetric(4).update(np.zeros((4, 4), int), np.zeros((4, 5), int), np.zeros((2, 4, 4)))


def test_without_torchmetrics_the_error_says_what_to_install_and_the_rest_of_etc_works():
    code = "import sys; sys.modules['torchmetrics'] = None; import etc.metrics; import etc.metrics.as_torchmetrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: etc.metrics.as_torchmetrics needs torchmetrics: pip install 'torchmetrics>=1.2'"
    )
