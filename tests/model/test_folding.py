"""Batch norm in the convolution before it: the same outputs but for rounding."""

import pytest
import torch
from torch import nn

from model import build_model
from model.folding import fold_batch_norm


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms as after a training: no identity."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return network.eval()


@pytest.mark.parametrize("arch", ["psp18", "psp50", "mobile"])
@torch.inference_mode()
def test_a_folded_network_predicts_the_same_and_has_no_batch_norm_left(arch):
    torch.manual_seed(0)
    network = with_statistics(build_model(arch, classes=5))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    image = torch.randn(1, 3, 49, 65)
    before = network(image)
    assert fold_batch_norm(network) == norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-4 * before.abs().max().item())


@torch.inference_mode()
def test_a_norm_that_does_not_follow_its_convolution_stays():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv1(self.bn1(x))

    network = with_statistics(nn.Sequential(Crossed(), nn.ReLU(), nn.BatchNorm2d(3)))
    image = torch.randn(1, 3, 4, 5)
    before = network(image)
    assert fold_batch_norm(network) == 0
    assert torch.equal(network(image), before)


@torch.inference_mode()
def test_a_convolution_that_changes_its_weight_stays():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight / self.weight.std(), self.bias)

    network = with_statistics(nn.Sequential(Standardised(3, 3, 1), nn.BatchNorm2d(3)))
    assert fold_batch_norm(network) == 0


@torch.inference_mode()
def test_a_norm_that_does_more_stays():
    class Rectified(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), Rectified(3)))
    image = torch.randn(1, 3, 4, 5)
    before = network(image)
    assert fold_batch_norm(network) == 0
    assert torch.equal(network(image), before)


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        fold_batch_norm(build_model("psp18", classes=5))
