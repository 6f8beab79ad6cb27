"""TRAIN.loss module:factory: what the user's loss receives, what it may return, what is refused."""

import sys

import pytest
import torch
from torch.nn import functional as F

from etc.config import load_settings
from etc.errors import UserError
from etc.train.build import segmentation_loss
from model.repository import PluggedInError

SOURCE = """
import torch
seen = []

def cross_entropy():
    return torch.nn.CrossEntropyLoss(ignore_index=255)

def watched():
    def loss(logits, labels):
        seen.append((logits.dtype, tuple(logits.shape), labels.dtype))
        return logits.mean()
    return loss

def per_pixel():
    return torch.nn.CrossEntropyLoss(ignore_index=255, reduction="none")

def number():
    return lambda logits, labels: 0.5

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def own_losses(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_losses", None)


def loss_of(name, *more):
    return segmentation_loss(
        load_settings(None, [f"TRAIN.loss=own_losses:{name}", "TRAIN.aux_weight=0.3", *more]).TRAIN, 3
    )


def outputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits, dsn = torch.randn(2, 2, 3, 5, 7, generator=generator).to(dtype)
    label = torch.randint(0, 3, (2, 9, 13), generator=generator)
    label[:, 0] = 255
    return {"logits": logits.requires_grad_(), "dsn": dsn}, label


def test_it_is_the_loss_of_both_heads_at_the_size_of_the_labels():
    preds, label = outputs()
    value = loss_of("cross_entropy")(preds, label)
    main, aux = (
        F.cross_entropy(
            F.interpolate(preds[head], (9, 13), mode="bilinear", align_corners=True), label, ignore_index=255
        )
        for head in ("logits", "dsn")
    )
    assert value.item() == pytest.approx((main + 0.3 * aux).item(), rel=1e-6)
    value.backward()
    assert preds["logits"].grad.abs().sum() > 0
    without = loss_of("cross_entropy")({"logits": preds["logits"]}, label)
    assert without.item() == pytest.approx(main.item(), rel=1e-6)


def test_it_receives_float32_and_int64_whatever_the_network_computes_in():
    preds, label = outputs(torch.bfloat16)
    loss_of("watched")({"logits": preds["logits"]}, label.to(torch.uint8))
    assert sys.modules["own_losses"].seen == [(torch.float32, (2, 3, 9, 13), torch.int64)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("per_pixel", r"returned a tensor \(2, 9, 13\), expected a scalar"),
        ("number", "returned a float, expected a sc"),
    ],
)
def test_a_loss_that_returns_no_scalar_is_named(name, message):
    preds, label = outputs()
    with pytest.raises(UserError, match=f"TRAIN.loss own_losses:{name} {message}"):
        loss_of(name)(preds, label)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("nothing", (), "made a NoneType, expected something to call"),
        ("missing", (), "TRAIN.loss own_losses:missing: .*missing"),
        ("cross_entropy", ("TRAIN.class_weight=[1, 2, 3]",), "TRAIN.class_weight .* is for the toolkit's own losses"),
    ],
)
def test_what_cannot_be_a_loss_is_refused_before_the_first_step(name, more, message):
    with pytest.raises(UserError, match=message):
        loss_of(name, *more)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="is none of dsn, ohem_dsn, ohem_dsn_single, cross_entropy, and no module"):
        load_settings(None, ["TRAIN.loss=focal"])


MORE = """
import torch

def detached():
    return lambda logits, labels: torch.nn.functional.cross_entropy(logits.detach(), labels, ignore_index=255)

def counts():
    return lambda logits, labels: (logits.argmax(1) != labels).sum()

def needs(gamma):
    return None

def broken():
    def loss(logits, labels):
        raise ValueError("a mistake of mine")
    return loss
"""


@pytest.fixture
def more_losses(tmp_path):
    (tmp_path / "own_losses.py").write_text(MORE)


@pytest.mark.parametrize("name", ["detached", "counts"])
def test_a_loss_that_teaches_nothing_is_refused(name, more_losses):
    preds, label = outputs()
    with pytest.raises(UserError, match=rf"own_losses:{name} returned a torch\.\w+ without gradient"):
        loss_of(name)(preds, label)
    with torch.no_grad():  # a validation asks for none
        assert loss_of(name)(preds, label) > 0


def test_a_factory_that_needs_arguments_is_named(more_losses):
    with pytest.raises(UserError, match="called without arguments, but it needs gamma: name a function"):
        loss_of("needs")


def test_a_mistake_in_the_loss_keeps_its_traceback(more_losses):
    preds, label = outputs()
    with pytest.raises(PluggedInError, match="own_losses:broken raised ValueError: a mistake of mine") as seen:
        loss_of("broken")(preds, label)
    assert isinstance(seen.value.__cause__, ValueError)
