"""The example of docs/scoring.md, as it stands."""

import re
from pathlib import Path

import numpy as np
import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scoring.md"


def test_the_example_gives_the_consistency_worked_out_by_hand(capsys):
    """Nothing moves; the border between two classes jumps from column 64 to 48, and back."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 10
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 128)).astype(np.float32))
    wide, narrow = ((torch.arange(128) >= border).int().expand(64, 128) for border in (64, 48))
    exec(code, {"my_clip": [(image, wide), (image, narrow), (image, wide)]})
    assert capsys.readouterr().out == f"TC strict {100 * (48 / 64 + 64 / 80) / 2:.2f}\n"
