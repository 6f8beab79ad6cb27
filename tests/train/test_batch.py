"""How the frames of a batch of clips are packed into one pass, and found again in what the network made of them."""

import pytest
import torch

from etc.train import batch as batches
from etc.train.batch import ClipBatch, on_device

HAS_NEIGHBOUR = torch.tensor([True, False, True, True, False])
HAS_THIRD = torch.tensor([False, False, True, True, False])


def frames(offset: float) -> torch.Tensor:
    """Five frames of one value each: 0..4 plus the offset."""
    return (torch.arange(5.0) + offset).view(5, 1, 1, 1).expand(5, 3, 2, 2)


@pytest.fixture
def samples() -> dict[str, torch.Tensor]:
    return {
        "image": frames(0),
        "neighbour": frames(10),
        "third": frames(20),
        "label": torch.zeros(5, 2, 2, dtype=torch.int64),
        "labelled": torch.ones(5, dtype=torch.bool),
        "has_neighbour": HAS_NEIGHBOUR,
        "has_third": HAS_THIRD,
        "flow": frames(30)[:, :2],
        "teacher_logits": frames(100)[..., :1, :1],
        "teacher_logits_neighbour": frames(110)[..., :1, :1],
        "teacher_logits_third": frames(120)[..., :1, :1],
    }


def numbers(x: torch.Tensor) -> list[int]:
    """Which frames these are."""
    assert (x == x[:, :1, :1, :1]).all()
    return x[:, 0, 0, 0].int().tolist()


def test_a_pass_holds_frames_t_then_neighbours_then_third_frames(samples):
    batch = ClipBatch(samples)
    assert numbers(batch.images) == [0, 1, 2, 3, 4, 10, 12, 13, 22, 23]
    assert numbers(batch.teacher_logits) == [100 + number for number in numbers(batch.images)]
    assert numbers(batch.flow) == [30, 32, 33]
    assert (batch.pair_count, batch.triple_count) == (3, 2)


def test_outputs_of_a_pass_are_given_back_by_pair_and_by_triple(samples):
    batch = ClipBatch(samples)
    outputs = batch.images * 2
    assert numbers(batch.frames_t(outputs)) == [0, 2, 4, 6, 8]
    assert numbers(batch.neighbours(outputs)) == [20, 24, 26]
    assert [numbers(x) for x in batch.pairs(outputs)] == [[0, 4, 6], [20, 24, 26]]
    # Two of the three pairs have a third frame.
    assert [numbers(x) for x in batch.triples(outputs)] == [[44, 46], [24, 26], [4, 6]]


@pytest.mark.parametrize("left_out", [("third",), ("third", "neighbour")])
def test_samples_of_fewer_frames_make_a_shorter_pass(samples, left_out):
    batch = ClipBatch({name: x for name, x in samples.items() if not any(word in name for word in left_out)})
    pairs = 0 if "neighbour" in left_out else 3
    assert len(batch.images) == len(batch.teacher_logits) == 5 + pairs
    assert (batch.pair_count, batch.triple_count) == (pairs, 0)
    assert [len(x) for x in batch.triples(batch.images)] == [0, 0, 0]


def test_samples_without_flow_and_teacher_have_none(samples):
    batch = ClipBatch({name: samples[name] for name in ("image", "label", "labelled")})
    assert batch.flow is None and batch.teacher_logits is None
    assert (batch.pair_count, batch.triple_count) == (0, 0)


def test_gradients_reach_the_frames_they_come_from(samples):
    batch = ClipBatch(samples)
    outputs = batch.images.clone().requires_grad_()
    third, k, t = batch.triples(outputs)
    (third.sum() + 2 * k.sum() + 3 * t.sum()).backward()
    assert numbers(outputs.grad) == [0, 0, 3, 3, 0, 0, 2, 2, 1, 1]


def test_where_all_are_chosen_nothing_is_copied(samples):
    every = {name: torch.ones(5, dtype=torch.bool) for name in ("labelled", "has_neighbour", "has_third")}
    batch = ClipBatch(samples | every)
    assert numbers(batch.images) == [*range(5), *range(10, 15), *range(20, 25)]
    assert batch.flow.data_ptr() == samples["flow"].data_ptr()
    third, k, t = batch.triples(batch.images)
    assert (numbers(third), numbers(k), numbers(t)) == ([*range(20, 25)], [*range(10, 15)], [*range(5)])
    assert {x.untyped_storage().data_ptr() for x in (third, k, t)} == {batch.images.untyped_storage().data_ptr()}
    assert numbers(batch.with_frames_t(batch.images, frames(50))) == [*range(50, 55), *range(10, 15), *range(20, 25)]
    assert batch.unlabelled.size == 0


def test_frames_without_label_are_known_to_the_host(samples):
    batch = ClipBatch(samples | {"labelled": torch.tensor([True, False, True, True, False])})
    assert batch.unlabelled.size == 2 and numbers(batch.unlabelled.of(frames(0))) == [1, 4]


def test_on_a_gpu_a_stream_transfers_and_that_of_the_training_waits_for_it(samples, monkeypatch):
    """Doubles stand in for the streams and for the batch: the order of the calls is what is looked at."""
    calls: list[str] = []

    class Stream:
        def __init__(self, device):
            self.name = "transfer" if device.type == "cuda" else "training"

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

        def __enter__(self):
            calls.append(f"enter {self.name}")

        def __exit__(self, *_):
            calls.append(f"leave {self.name}")

    class Held:
        def record_stream(self, stream):
            calls.append(f"used in {stream.name}")

    class Batch:
        def __init__(self, samples, device):
            calls.append(f"copy {samples}")

        def tensors(self):
            return [Held()]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(torch.device("cpu")))
    monkeypatch.setattr(batches, "ClipBatch", Batch)
    for _ in on_device(["a", "b"], torch.device("cuda", 0)):
        calls.append("step")
    one = ["enter transfer", "copy {}", "leave transfer", "training waits for transfer", "used in training", "step"]
    assert calls == [call.format(name) for name in "ab" for call in one]
