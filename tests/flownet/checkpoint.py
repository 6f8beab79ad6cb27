"""Checkpoints of the FlowNet2 family with random weights, in the published format, that take little room on disk."""

from pathlib import Path

import numpy as np
import torch

from tests.flownet.published_keys import published_keys


def write_checkpoint(path: Path, variant: str) -> Path:
    """All parameters are cut from one pool of random numbers, which is stored once.

    Each convolution then multiplies the size of its input by about ``0.02 * sqrt(fan in)``, 1 in the middle of the
    networks; those that predict flow are enlarged, or it would vanish.
    """
    generator = torch.Generator().manual_seed(0)
    pool = 0.02 * torch.randn(10_000_000, generator=generator)
    state = {}
    for key, shape in published_keys(variant).items():
        size = torch.Size(shape)
        start = int(torch.randint(len(pool) - size.numel(), (1,), generator=generator))
        state[key] = pool[start : start + size.numel()].view(size)
        if "predict" in key:
            state[key] = 8 * state[key]
    torch.save({"arch": "FlowNet2", "epoch": 0, "best_EPE": np.float64(1.5), "state_dict": state}, path)
    return path
