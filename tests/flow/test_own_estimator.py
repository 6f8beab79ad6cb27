"""etc/flow/own_estimator.py: whatever shape somebody's estimator returns its flow in, it is read right or refused."""

import pickle
import sys

import numpy as np
import pytest
import torch

from etc.errors import UserError
from etc.flow import build_flow
from etc.flow.own_estimator import one_flow

HEIGHT, WIDTH = 6, 9
IMAGE = torch.zeros(1, 3, HEIGHT, WIDTH)
FLOW = torch.arange(2 * HEIGHT * WIDTH, dtype=torch.float32).view(1, 2, HEIGHT, WIDTH)
SMALL = torch.ones(1, 2, HEIGHT // 3, WIDTH // 3)


@pytest.mark.parametrize(
    "returned",
    [
        FLOW,
        FLOW.double(),
        FLOW[0],
        FLOW.numpy(),
        FLOW[0].permute(1, 2, 0).numpy(),
        FLOW[0].permute(1, 2, 0).numpy().astype(np.float16).astype(np.float64),
        FLOW.permute(0, 2, 3, 1),
        [FLOW * 0, FLOW / 2, FLOW],
        (SMALL, FLOW),
        (FLOW, None),
        {"flow": FLOW, "confidence": SMALL},
        {"flows": FLOW[:, None]},
        {"flow": [FLOW * 0, FLOW]},
    ],
    ids=lambda x: type(x).__name__,
)
def test_flow_is_found_in_what_is_returned(returned):
    found = one_flow(returned, IMAGE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, FLOW, rtol=0, atol=0)


def test_flow_of_a_batch_keeps_its_order():
    flows = torch.stack([FLOW[0], FLOW[0] + 1, FLOW[0] + 2])
    image = IMAGE.expand(3, -1, -1, -1)
    for returned in (flows, flows.permute(0, 2, 3, 1).numpy(), [flows * 0, flows]):
        torch.testing.assert_close(one_flow(returned, image), flows, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ((FLOW, -FLOW), "a tuple with 2 flows of the size of the image"),  # forward and backward: which one?
        ((SMALL, None), "a tuple with 0 flows"),
        ([], "a list with 0 flows"),
        (SMALL, r"returned Tensor \(1, 2, 2, 3\) for images \(1, 3, 6, 9\), expected flow \[N, 2, H, W\]"),
        (FLOW.numpy().transpose(0, 1, 3, 2), r"returned ndarray \(1, 2, 9, 6\)"),
        (FLOW.expand(2, -1, -1, -1), r"returned Tensor \(2, 2, 6, 9\)"),
        (None, "returned NoneType for images"),
        ({"optical": FLOW}, "returned a mapping with optical, expected flow or flows in it"),
        ({"flow": FLOW, "flows": FLOW}, "returned a mapping with flow, flows"),
        (np.array([["a"]]), "returned ndarray"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(returned, named):
    with pytest.raises(ValueError, match=named):
        one_flow(returned, IMAGE)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module on the path with estimators and factories of somebody else's."""
    (tmp_path / "somebodys_flow.py").write_text(
        "import torch\n"
        "class Iterations:\n"
        "    def estimate(self, rgb_t, rgb_k):\n"
        "        return [rgb_t[:, :2] * 0, rgb_t[:, :2]]\n"
        "class Sized(Iterations):\n"
        "    def __init__(self, folder, *rest, iterations=3, **more): pass\n"
        "def optional(iterations=3, *rest, **more): return Iterations()\n"
        "class Convolves(Iterations):\n"
        "    def estimate(self, rgb_t, rgb_k):\n"
        "        return torch.nn.functional.conv2d(rgb_t[:, :2], torch.eye(2)[:, :, None, None])\n"
        "number = 3\n"
        "class Learns(Iterations):\n"
        "    def estimate(self, rgb_t, rgb_k): return rgb_t[:, :2].clone().requires_grad_() * 2\n"
        "class Named(Iterations):\n"
        "    name = 'shift'\n"
        "class Net(torch.nn.Module):\n"
        "    name = 'net'\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.tensor(float(number)))\n"
        "    def estimate(self, rgb_t, rgb_k):\n"
        "        assert not torch.is_grad_enabled()\n"
        "        return rgb_t[:, :2] * self.scale\n"
        "def one(): return Named()\n"
        "def nine(): return Named()\n"
        "def buggy(): return {}['missing']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "somebodys_flow"
    sys.modules.pop("somebodys_flow", None)


def test_an_estimator_is_used_through_its_last_iteration_and_in_loading_workers(mine):
    estimator = build_flow(f"{mine}:optional")
    images = torch.rand(2, 3, 20, 24) * 255, torch.rand(2, 3, 20, 24) * 255
    torch.testing.assert_close(estimator.estimate(*images), images[0][:, :2], rtol=0, atol=0)
    copy = pickle.loads(pickle.dumps(estimator))
    assert (copy.name, copy.key) == (estimator.name, estimator.key)
    torch.testing.assert_close(copy.estimate(*images), images[0][:, :2], rtol=0, atol=0)


def test_flow_of_another_factory_or_of_other_weights_is_not_found_in_the_cache(mine):
    assert build_flow(f"{mine}:one").key != build_flow(f"{mine}:nine").key
    before = build_flow(f"{mine}:Net")
    assert build_flow(f"{mine}:Net").key == before.key and before.key.startswith("net-")
    sys.modules[mine].number = 4
    assert build_flow(f"{mine}:Net").key != before.key
    assert not before.estimate(torch.rand(1, 3, 8, 9), torch.rand(1, 3, 8, 9)).requires_grad


def test_weights_that_a_factory_cannot_take_are_pointed_out(mine, caplog):
    build_flow(f"{mine}:one", weights="my.pth")
    assert "FLOW.weights my.pth is not read" in caplog.text


def test_half_precision_of_a_training_does_not_reach_the_flow(mine):
    estimator, image = build_flow(f"{mine}:Convolves"), torch.rand(1, 3, 20, 24) * 255
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(estimator.estimate(image, image), image[:, :2])


def test_a_factory_that_needs_arguments_is_one_sentence(mine):
    expected = r"FLOW.name somebodys_flow:Sized: called without arguments, but it needs folder: name a function without"
    with pytest.raises(UserError, match=expected):
        build_flow(f"{mine}:Sized")


def test_the_traceback_of_a_factory_is_kept(mine):
    with pytest.raises(KeyError, match="missing"):
        build_flow(f"{mine}:buggy")


def test_flow_has_no_gradient_and_what_is_no_function_is_named(mine):
    assert not build_flow(f"{mine}:Learns").estimate(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)).requires_grad
    with pytest.raises(UserError, match=r"FLOW\.name somebodys_flow:number: number is no function but of type int"):
        build_flow(f"{mine}:number")
