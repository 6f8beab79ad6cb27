"""Measures the memory and the operations in docs/scaling.md, without a GPU: its tensors have a size and no content.

    python docs/make_scaling.py
    python docs/make_scaling.py --height 713 --width 713 psp50

Prints a table in markdown: what the forward pass of a training step keeps for its backward pass, for each image, and
the weights with their gradients and momentum; and the operations of a forward pass (two for each multiplication and
addition) in training, and in the prediction of a frame of 1024x2048.
"""

import argparse

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from etc import cli
from model import build_model
from utils.crit import CriterionDSN

MIB = 2**20
HEAD = """\
| network | weights, gradients, momentum | activations an image, float32 | float16 | GFLOP an image | at 1024x2048 |
|---|---|---|---|---|---|"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["psp18", "psp50", "psp101"], metavar="ARCH")
    parser.add_argument("--height", type=int, default=769)
    parser.add_argument("--width", type=int, default=769)
    args = parser.parse_args()
    print(HEAD)
    for name in args.networks:
        single, half = (kept_for_backward(name, args.height, args.width, amp) for amp in (False, True))
        memory = f"{state_bytes(name) / MIB:.0f} MiB | {single / MIB:.0f} MiB | {half / MIB:.0f} MiB"
        trained = operations(name, args.height, args.width, training=True)
        predicted = operations(name, 1024, 2048, training=False)
        print(f"| `{name}` | {memory} | {trained / 1e9:.0f} | {predicted / 1e9:.0f} |")
    return 0


def state_bytes(name: str) -> int:
    """Bytes of the weights in float32, their gradients, and the momentum of SGD."""
    with torch.device("meta"):
        network = build_model(name, classes=19, pretrained=False)
    return 3 * sum(weight.nbytes for weight in network.parameters())


def kept_for_backward(name: str, height: int, width: int, amp: bool) -> float:
    """Bytes that autograd keeps for each image of a batch, in a step with the default loss.

    Args:
        name: the network.
        height: of the images.
        width: of the images.
        amp: under the float16 autocast of CUDA, whose rules fake tensors follow without a GPU.
    """
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", amp)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        # What does not grow with the batch, as weights in float16, drops out of the difference.
        with FakeTensorMode(), torch.device("cuda"):
            network = build_model(name, classes=19, pretrained=False).train()
            return (saved_bytes(network, 4, height, width) - saved_bytes(network, 2, height, width)) / 2
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def operations(name: str, height: int, width: int, *, training: bool) -> float:
    """Operations of the forward pass of one image; in training the auxiliary head runs too."""
    with torch.device("meta"):
        network = build_model(name, classes=19, pretrained=False).train(training)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(2, 3, height, width))
    return counter.get_total_flops() / 2


def saved_bytes(network: nn.Module, count: int, height: int, width: int) -> int:
    """Bytes of the memory that the graph of a step on so many images holds, each block once."""
    blocks: dict[int, tuple[Tensor, int]] = {}

    def note(x: Tensor) -> Tensor:
        # The tensor is kept too: a block that is freed could leave its number to another.
        storage = x.untyped_storage()
        blocks[storage._cdata] = x, storage.nbytes()
        return x

    images, label = torch.zeros(count, 3, height, width), torch.zeros(count, height, width, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = CriterionDSN()(network(images), label)
    assert loss.requires_grad
    torch.clear_autocast_cache()
    return sum(size for _, size in blocks.values())


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
