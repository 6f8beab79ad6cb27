"""The example of docs/scoring.md, as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from etc.data.images import read_image
from etc.data.labels import label_table, read_train_ids
from etc.evaluate.clip_metrics import dequantise_flow
from etc.flow.estimators import build_flow
from etc.metrics import TemporalConsistency

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scoring.md"


def test_the_example_gives_the_consistency_worked_out_by_hand(capsys):
    """Nothing moves; the border between two classes jumps from column 64 to 48, and back."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 10
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 128)).astype(np.float32))
    wide, narrow = ((torch.arange(128) >= border).int().expand(64, 128) for border in (64, 48))
    exec(code, {"my_clip": [(image, wide), (image, narrow), (image, wide)]})
    assert capsys.readouterr().out == f"TC strict {100 * (48 / 64 + 64 / 80) / 2:.2f}\n"


def test_published_tc_under_stored_flow_is_near_that_of_flow_never_stored(real_data):
    """The first pairs of the CamVid clip: rounding alone is points off."""
    table, flow = label_table("none", 11, 11), build_flow("dis")
    names = [path.name for path in sorted((real_data / "camvid/val").glob("*.png"))][:13]
    images = [read_image(real_data / "camvid/val" / name) for name in names]
    images = [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in images]
    labels = [read_train_ids(real_data / "camvid/valannot" / name, table) for name in names]
    exact, rounded, dequantised = (TemporalConsistency(11, "published") for _ in range(3))
    for t in range(len(names) - 1):
        forward = flow.estimate(images[t], images[t + 1])[0].numpy()
        stored = np.rint(forward * 64) / 64
        for meter, own in ((exact, forward), (rounded, stored), (dequantised, dequantise_flow(stored))):
            meter.update(labels[t], labels[t + 1], own)
    wanted = exact.compute()["mIoU"]
    assert rounded.compute()["mIoU"] > wanted + 0.03
    assert dequantised.compute()["mIoU"] == pytest.approx(wanted, abs=0.005)
