"""docs/in-your-own-loop.md: every block, one after the other, on a texture that moves."""

import re
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from etc.flow import build_flow
from etc.metrics import TemporalConsistency, VideoConsistency
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/in-your-own-loop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
K = 3


def moving_clip(frames, seed=0):
    """A wide texture seen through a window that moves one pixel a frame; the classes move with it."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.rand(1, 3, 24, 48, generator=generator).mul(200)
    texture = nn.functional.interpolate(texture, scale_factor=2, mode="bilinear")
    classes = (torch.arange(96) // 32).expand(1, 48, 96)
    texture = texture + 20.0 * classes[:, None]
    return [(texture[..., i : i + 64].contiguous(), classes[..., i : i + 64].contiguous()) for i in range(frames)]


@pytest.fixture
def names():
    torch.manual_seed(0)
    clip = moving_clip(4)
    return {
        "network": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, K, 1)),
        "teacher": nn.Conv2d(3, K, 5, 4, 2),
        "loader": DataLoader([(a[0], b[0], a[1]) for a, b in pairwise(clip)], batch_size=None),
        "clip": clip,
        "K": K,
    }


def run(names, *blocks):
    for block in blocks:
        exec(compile(block, "in-your-own-loop.md", "exec"), names)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def block_with(text):
    (found,) = [block for block in BLOCKS if text in block]
    return found


def test_every_block_is_short():
    assert len(BLOCKS) == 8
    assert not [block for block in BLOCKS if len([line for line in block.splitlines() if line.strip()]) > 15]


def test_the_loops_train_and_the_flow_is_the_motion(names):
    before = weights(names["network"])
    run(names, block_with("motion_loss ="), block_with("logits_t, logits_k = network"))
    after_motion = weights(names["network"])
    assert names["loss"].isfinite() and not torch.equal(before, after_motion)
    assert names["t_to_k"][:, :, 8:-8, 8:-8].mean((0, 2, 3)).tolist() == pytest.approx([-1, 0], abs=0.1)
    run(names, block_with("CriterionKD"))
    assert names["loss"] > 0 and not torch.equal(after_motion, weights(names["network"]))
    assert not any(parameter.requires_grad for parameter in names["teacher"].parameters())


def test_the_scores_are_those_of_all_pairs(names, capsys):
    pytest.importorskip("torchmetrics")
    run(names, block_with("motion_loss ="), block_with("SegmentationIoU"))
    clip, ids = names["clip"], names["ids"]
    checked, plain = TemporalConsistency(K), TemporalConsistency(K)
    flow = build_flow("dis")
    for i in range(3):
        forward, backward = (flow.estimate(clip[i + j][0], clip[i + 1 - j][0]) for j in (0, 1))
        checked.update(ids[i], ids[i + 1], forward, backward)
        plain.update(ids[i], ids[i + 1], forward)
    hits = sum(int((a == label).sum()) for a, (_, label) in zip(ids, clip, strict=True))
    assert names["miou"].counts.diagonal().sum() == hits
    printed = capsys.readouterr().out
    assert f"TC strict {100 * checked.compute()['mIoU']:.2f}" in printed and "mIoU" in printed
    assert checked.counts.sum() < plain.counts.sum()  # some are occluded, or leave the frame

    run(names, block_with("MetricCollection"))
    two = VideoConsistency(K, 2, "correct")
    two.update(torch.cat(ids), torch.cat([label for _, label in clip]))
    printed = capsys.readouterr().out
    assert f"'TC': {round(100 * plain.compute()['mIoU'], 2)}"[:10] in printed
    assert f"'VC2': {round(100 * two.compute(), 2)}"[:10] in printed


def test_the_lightning_module_trains_and_logs_the_consistency_of_its_network(names, capsys):
    pytest.importorskip("lightning")
    before = weights(names["network"])
    run(names, block_with("motion_loss ="))
    exec(block_with("MetricCollection").split("\n\n")[1], names)
    run(names, *[block for block in BLOCKS if "lightning" in block or "SteadyOnPairs" in block])
    network = names["network"].eval()
    assert not torch.equal(before, weights(network))
    expected, flow = TemporalConsistency(K), build_flow("dis")
    with torch.no_grad():
        for rgb_t, rgb_k, _ in names["loader"]:
            logits = network((torch.cat([rgb_t, rgb_k]) - names["MEAN"]) / names["STD"])
            full = nn.functional.interpolate(logits, rgb_t.shape[-2:], mode="bilinear", align_corners=True)
            t, k = full.argmax(1, keepdim=True)
            expected.update(t, k, flow.estimate(rgb_t, rgb_k), flow.estimate(rgb_k, rgb_t))
    printed = capsys.readouterr().out
    assert f"TC strict {100 * expected.compute()['mIoU']:.2f}" in printed.splitlines()
