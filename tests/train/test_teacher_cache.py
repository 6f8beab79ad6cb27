"""A teacher's cached logits: what is kept, what is computed again, and what training makes of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.config.schema import Distill
from etc.data.images import read_image, write_png
from etc.data.transform import ClipTransform, CropMap, crop_image, crop_logits, normalise, padding_of
from etc.errors import UserError
from etc.train.batch import ClipBatch
from etc.train.distillation import Distillation
from etc.train.teacher_cache import TeacherLogits
from etc.train.trainer import Trainer
from model import build_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(4)
    return build_model("mobile", classes=19).eval()


@pytest.fixture(scope="module")
def teacher_file(teacher, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "mobile.pth"
    torch.save({"student": teacher.state_dict()}, path)
    return path


def batch_of(images: torch.Tensor, teacher_logits: torch.Tensor | None = None) -> ClipBatch:
    """Single frames, with a teacher's logits for them."""
    labels = {"label": torch.zeros(len(images), *images.shape[-2:], dtype=torch.int64)}
    samples = {"image": images, "labelled": torch.ones(len(images), dtype=torch.bool)} | labels
    return ClipBatch(samples if teacher_logits is None else samples | {"teacher_logits": teacher_logits})


@pytest.fixture
def frames(tmp_path) -> list[Path]:
    paths = [tmp_path / f"clip/{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        write_png(path, np.random.default_rng(number).integers(0, 256, (33, 49, 3), dtype=np.uint8))
    return paths


def test_logits_are_computed_once_and_again_when_damaged_or_of_another_frame(teacher, teacher_file, frames, tmp_path):
    store = TeacherLogits("mobile", [teacher_file], tmp_path / "store")
    assert store.fill(teacher, frames, CPU) == 3
    image = np.asarray(normalise(np.random.default_rng(1).integers(0, 256, (33, 49, 3), dtype=np.uint8)))
    expected = teacher.outputs(torch.from_numpy(image)[None])["logits"][0]
    np.testing.assert_allclose(store(frames[1]), expected.detach().numpy(), rtol=2e-3, atol=1e-3)
    assert store.fill(teacher, frames, CPU) == 0
    store.path(frames[0]).write_bytes(store.path(frames[0]).read_bytes()[:-30])
    write_png(frames[2], 255 - read_image(frames[2]))
    os.utime(frames[2], (1, 1))  # older than its logits, as cp -p, rsync and tar restore it
    with pytest.raises(UserError, match=r"logits of .*0\.png are missing or damaged"):
        store(frames[0])
    assert store.fill(teacher, frames, CPU) == 2


def test_logits_of_another_shape_or_number_of_classes_are_computed_again(teacher, teacher_file, frames, tmp_path):
    store = TeacherLogits("mobile", [teacher_file], tmp_path / "store")
    store.fill(teacher, frames, CPU)
    whole = [store(frame) for frame in frames]
    others = (
        whole[0][:11],  # of a teacher of 11 classes
        whole[1][:, :-1],  # of another frame size or stride
        whole[2].transpose(0, 2, 1),  # of the frame turned
    )
    for frame, logits in zip(frames, others, strict=True):
        with np.load(store.path(frame)) as kept:
            origin = kept["origin"]
        np.savez(store.path(frame), logits=logits, origin=origin)
    for frame in frames:
        with pytest.raises(UserError, match=rf"logits of .*{frame.name} are missing or damaged"):
            store(frame)
    assert TeacherLogits("mobile", [teacher_file], tmp_path / "store").fill(teacher, frames, CPU) == 3
    for frame, expected in zip(frames, whole, strict=True):
        np.testing.assert_array_equal(store(frame), expected)


def test_a_teacher_that_was_replaced_while_it_was_read_is_refused(teacher, teacher_file, frames, tmp_path, monkeypatch):
    store = TeacherLogits("mobile", [teacher_file], tmp_path / "store")
    monkeypatch.setattr(teacher, "weights_sha256", "0" * 64)
    with pytest.raises(UserError, match="was replaced while it was read: start again"):
        store.fill(teacher, frames, CPU)


def test_another_teacher_has_a_folder_of_its_own(teacher_file, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(teacher_file.read_bytes() + b" ")
    folders = {TeacherLogits(arch, [file], "s").folder for arch in ("mobile", "a:b") for file in (teacher_file, other)}
    assert len(folders) == 4


def test_the_logits_of_a_crop_are_those_of_its_place_in_the_frame():
    # A tensor that is linear in the frame's pixels stays linear in the crop's: the map is checked in closed form.
    height, width = 65, 97
    rows, columns = np.meshgrid(np.linspace(0, height - 1, 9), np.linspace(0, width - 1, 13), indexing="ij")
    logits = np.stack([rows, columns, rows + 2 * columns, np.ones_like(rows), rows - columns])
    for seed in range(5):
        crop = ClipTransform(size=(41, 33), scale=(1.2, 1.8)).draw(np.random.default_rng(seed), height, width)
        found = crop_logits(logits.astype(np.float16), (height, width), crop)
        y, x = np.meshgrid(np.linspace(0, 40, 6), np.linspace(0, 32, 5), indexing="ij")
        back = np.linalg.inv(np.vstack([crop.matrix, [0, 0, 1]]))[:2] @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
        source_x, source_y = back.reshape(2, *x.shape)
        inside = (source_x >= 0) & (source_x <= width - 1) & (source_y >= 0) & (source_y <= height - 1)
        expected = np.stack([source_y, source_x, source_y + 2 * source_x, np.ones_like(x), source_y - source_x])
        assert inside.sum() > 10 and found.shape == (5, 6, 5) and found.dtype == np.float32
        # OpenCV places samples to 1/32 of a cell of eight pixels.
        np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=8 / 32 * 3)


def test_cached_logits_of_an_unmoved_frame_give_the_loss_of_the_online_teacher(teacher):
    image = np.random.default_rng(5).integers(0, 256, (41, 57, 3), dtype=np.uint8)
    identity = CropMap(np.eye(2, 3), (41, 57), False)
    images = torch.from_numpy(crop_image(image, identity, padding_of(identity, image.shape[:2])))[None]
    student = {"logits": torch.randn(1, 19, 6, 8, generator=torch.Generator().manual_seed(0))}
    distillation = Distillation(Distill(kd_weight=1.0), teacher, device=CPU, seed=0)
    logits = teacher.outputs(images)["logits"][0].detach().numpy()
    cached = torch.from_numpy(crop_logits(logits, image.shape[:2], identity))[None]
    found = [distillation(batch, student)["kd"] for batch in (batch_of(images, cached), batch_of(images))]
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


def test_padding_that_the_teacher_never_saw_teaches_nothing(teacher):
    images = torch.ones(1, 3, 41, 57)
    images[..., 28:] = 0
    logits = torch.randn(1, 19, 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch = batch_of(images, torch.zeros(1, 19, 6, 8))
    distillation = Distillation(Distill(kd_weight=1.0), teacher, device=CPU, seed=0)
    (gradient,) = torch.autograd.grad(distillation(batch, {"logits": logits})["kd"], logits)
    cells = gradient.abs().sum((0, 1, 2)) > 1e-6
    # Cells 0..3 lie at the columns 0, 8, 16 and 24; the next lies in the padding.
    assert cells.tolist() == [True] * 4 + [False] * 4


@pytest.mark.slow
def test_training_fills_the_store_and_then_reads_it(tiny_training, teacher_file, tmp_path):
    overrides = [
        *tiny_training,
        "TRAIN.epochs=1",
        "TRAIN.workers=1",
        "DISTILL.teacher_arch=mobile",
        f"DISTILL.teacher_weight={teacher_file}",
        "DISTILL.source=cached",
        f"DISTILL.cache={tmp_path}/teacher_store",
        "DISTILL.kd_weight=1.0",
        "DISTILL.mf_weight=1.0",
        "DISTILL.mf_on=logits",
        "DISTILL.mf_pool=2",
    ]
    Trainer(load_settings(None, overrides), CPU).run()
    # Five labelled frames, each with two frames before and two after: none of them is shared.
    files = list((tmp_path / "teacher_store").rglob("*.npz"))
    assert len(files) == 25
    assert torch.load(tmp_path / "run/last.pth", weights_only=True)["epoch"] == 1


def test_features_are_not_cached():
    with pytest.raises(UserError, match=r"set pf_on to logits, or DISTILL\.source to online"):
        load_settings(None, ["DISTILL.source=cached", "DISTILL.pf_weight=1.0"])


@pytest.mark.parametrize(("weight", "message"), [("null", "is empty"), ("gone.pth", r"gone\.pth does not exist")])
def test_a_missing_teacher_is_named_where_its_logits_are_wanted(tiny_training, weight, message):
    words = ["DISTILL.source=cached", "DISTILL.kd_weight=1.0", f"DISTILL.teacher_weight={weight}"]
    with pytest.raises(UserError, match=f"DISTILL.teacher_weight {message}"):
        Trainer(load_settings(None, [*tiny_training, *words]), CPU)
