"""Batch norm in the convolution before it, the same outputs but for rounding; or in its place, the same bits."""

import pytest
import torch
from torch import nn

from model import build_model
from model.folding import fold_batch_norm, normalise_in_place


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("arch", ["psp18", "psp50"])
@torch.inference_mode()
def test_batch_norm_in_place_gives_the_same_bits_and_allocates_no_map(arch, layout):
    torch.manual_seed(0)
    network = with_statistics(build_model(arch, classes=5)).to(memory_format=layout)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    image = torch.randn(2, 3, 49, 65).contiguous(memory_format=layout)
    before, kept = network(image), image.clone()
    assert normalise_in_place(network) == norms
    assert torch.equal(network(image), before) and torch.equal(image, kept)
    made = torch.randn(1, 64, 5, 7)
    assert network.layer0[1](made).data_ptr() == made.data_ptr()


def test_batch_norm_in_place_trains_and_loads_as_the_plain_one():
    plain, changed = (with_statistics(build_model("psp18", classes=5)) for _ in range(2))
    changed.load_state_dict(plain.state_dict())
    normalise_in_place(changed)
    changed.load_state_dict(plain.state_dict())
    assert changed.state_dict().keys() == plain.state_dict().keys()
    image = torch.randn(2, 3, 49, 65)
    for network in (plain, changed):
        torch.manual_seed(0)
        network.train()(image)["logits"].square().mean().backward()
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, other.grad)
    for one, other in zip(plain.buffers(), changed.buffers(), strict=True):
        assert torch.equal(one, other)


def test_batch_norms_of_other_networks_are_left_alone():
    """They may read again what a convolution gave, though it stands before a batch norm in a Sequential."""
    assert normalise_in_place(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) == 0
