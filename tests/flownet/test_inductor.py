"""The operators under torch.compile's own compiler: what it is told of their outputs must hold in the compiled code."""

import shutil

import pytest
import torch
from torch import Tensor

from flownet import channelnorm, correlation, resample2d

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


def all_three(image1: Tensor, image2: Tensor) -> Tensor:
    """Each operator between pointwise work that inductor turns into loops over memory as it believes it to be."""
    flow = correlation(image1 * 2, image2 + 1, 4, 1, 4, 1, 2)[:, 3:5].tanh() * 3
    return channelnorm(image1 - resample2d(image2, flow)) + flow.square()


@torch.no_grad()
@pytest.mark.slow
def test_compiled_by_inductor_equals_eager():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, 3, 9, 12, generator=generator)
    images = [image.to(memory_format=torch.channels_last) for image in images]
    expected = all_three(*images)
    torch.testing.assert_close(torch.compile(all_three, fullgraph=True)(*images), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1
