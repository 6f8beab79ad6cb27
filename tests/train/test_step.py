"""What a training step computes from a batch: which frames, which losses, which labels."""

from pathlib import Path

import pytest
import torch
from torch import nn

from etc.config import load_settings
from etc.config.schema import Distill
from etc.errors import UserError
from etc.motion import MotionLoss
from etc.train.batch import ClipBatch
from etc.train.build import segmentation_loss
from etc.train.distillation import Distillation
from etc.train.self_training import PseudoLabeler
from etc.train.step import MotionTask
from etc.train.trainer import Trainer
from model import build_model
from utils.crit import CriterionCrossEntropy

CPU = torch.device("cpu")
CLASSES = 4


class Pixelwise(nn.Module):
    """Logits by a 1x1 convolution: rows of a batch do not touch each other."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, CLASSES, 1)
        self.seen: list[int] = []

    def outputs(self, image):
        self.seen.append(len(image))
        return {"logits": self.layer(image)}

    def forward(self, image):
        return self.outputs(image) if self.training else self.layer(image)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three clips: a pair, a lone frame, a clip of three frames whose frame t has no label."""
    generator = torch.Generator().manual_seed(2)
    tensors = {name: torch.randn(3, 3, 8, 10, generator=generator) for name in ("image", "neighbour", "third")}
    label = torch.randint(0, CLASSES, (3, 8, 10), generator=generator)
    label[2] = 255
    return tensors | {
        "label": label,
        "labelled": torch.tensor([True, True, False]),
        "flow": torch.randn(3, 2, 8, 10, generator=generator),
        "has_neighbour": torch.tensor([True, False, True]),
        "has_third": torch.tensor([False, False, True]),
    }


def task(**parts) -> MotionTask:
    defaults = {"student": Pixelwise(), "segmentation_loss": CriterionCrossEntropy(), "motion_loss": None}
    return MotionTask(**(defaults | parts)).train()


def test_the_frames_that_there_are_go_through_the_student_in_one_pass(batch):
    pair, third = {"neighbour", "has_neighbour"}, {"third", "has_third"}
    for names, count in ((set(), 3), (pair, 5), (pair | third, 6)):
        step = task()
        step(ClipBatch({name: x for name, x in batch.items() if name in {"image", "label", "labelled"} | names}))
        assert step.student.seen == [count]


def test_each_loss_reads_its_own_frames_and_the_sum_is_stepped_on(batch):
    motion = MotionLoss(weight=0.7)
    teacher = Pixelwise(seed=9)
    distillation = Distillation(Distill(kd_weight=0.3), teacher, device=CPU, seed=0)
    step = task(motion_loss=motion, distillation=distillation)
    result = step(ClipBatch(batch))
    z = {name: step.student.layer(batch[name]) for name in ("image", "neighbour")}
    both = torch.tensor([0, 2])
    expected = {
        "segmentation": nn.functional.cross_entropy(z["image"], batch["label"], ignore_index=255),
        "motion": motion(
            batch["image"][both], batch["neighbour"][both], z["image"][both], z["neighbour"][both], batch["flow"][both]
        ),
    }
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value)
    total = result["segmentation"] + result["motion"] + result["kd"]
    torch.testing.assert_close(result["loss"], total)
    assert teacher.seen == [6] and result["kd"] > 0
    assert not any(name.startswith(("teacher", "distillation")) for name in step.state_dict())
    assert {id(p) for p in step.parameters()} == {id(p) for p in step.student.parameters()}


def test_a_batch_without_neighbours_has_no_motion_loss(batch):
    alone = batch | {"has_neighbour": torch.zeros(3, dtype=bool), "has_third": torch.zeros(3, dtype=bool)}
    assert task(motion_loss=MotionLoss(weight=1.0))(ClipBatch(alone))["motion"] == 0


# ---------------------------------------------------------------------------------------------------- self-training


class Given(nn.Module):
    """Returns the logits it was made with."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return self.logits


def test_labels_are_the_classes_that_are_surer_than_the_threshold_and_padding_has_none():
    logits = torch.zeros(1, 3, 1, 4)
    # Probabilities of class 1 among three: 0.5, 0.7, 0.71, and sure but in padding.
    for x, p in enumerate((0.5, 0.7, 0.71, 0.99)):
        logits[0, 1, 0, x] = torch.tensor(2 * p / (1 - p)).log()
    image = torch.ones(1, 3, 1, 4)
    image[..., 3] = 0
    assert PseudoLabeler(Given(logits), 0.7001)(image).tolist() == [[[255, 255, 1, 255]]]


def given_probability(p: float) -> Given:
    """Sure of class 1 among three with this probability, in every one of 4 pixels."""
    logits = torch.zeros(1, 3, 1, 4)
    logits[:, 1] = torch.tensor(2 * p / (1 - p)).log()
    return Given(logits)


def test_self_training_that_labels_nothing_is_refused_where_nothing_else_is_labelled():
    image = torch.ones(1, 3, 1, 4)
    said = r"TRAIN\.self_training 0\.9 labels 0\.00% of the pixels of the first batch, .* confidence of 0\.80: lower it"
    with pytest.raises(UserError, match=said):
        PseudoLabeler(given_probability(0.8), 0.9, alone=True)(image)
    PseudoLabeler(given_probability(0.91), 0.9, alone=True)(image)
    PseudoLabeler(given_probability(0.8), 0.9, alone=True)(image * 0)  # all of it is padding


@pytest.mark.parametrize(("p", "warned"), [(0.8, True), (0.91, False)])
def test_self_training_that_labels_nearly_nothing_is_warned_of_once(caplog, p, warned):
    labeler = PseudoLabeler(given_probability(p), 0.9)
    for _ in range(25):
        labeler(torch.ones(1, 3, 1, 4))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert ("labels 0.00% of the pixels of the first 10 batches" in caplog.text) == warned


def test_a_threshold_that_is_never_reached_ends_the_training_in_one_line(unlabelled, start):
    with pytest.raises(UserError, match=r"TRAIN\.self_training 0\.99 labels 0\.00% of the pixels"):
        Trainer(load_settings(None, [*unlabelled, start, "TRAIN.self_training=0.99"]), CPU).run()


def test_a_head_that_starts_anew_labels_nothing(unlabelled, start):
    words = [*unlabelled, start, "TRAIN.self_training=0.1", "TRAIN.weight_strict=false"]
    with pytest.raises(UserError, match=r"TRAIN\.self_training needs TRAIN\.weight_strict true"):
        Trainer(load_settings(None, words), CPU)


def test_frames_without_label_are_labelled_and_the_others_keep_theirs(batch):
    teacher = Pixelwise(seed=5).eval()
    step = task(pseudo_labeler=PseudoLabeler(teacher, 0.0))
    labels = batch["label"].clone()
    labels[2] = teacher(batch["image"])[2].argmax(0)
    expected = nn.functional.cross_entropy(step.student.layer(batch["image"]), labels)
    torch.testing.assert_close(step(ClipBatch(batch))["segmentation"], expected)
    assert (batch["label"][2] == 255).all()


@pytest.fixture
def unlabelled(tiny_training, tmp_path) -> list[str]:
    """A training whose list names frames alone."""
    lines = Path(load_settings(None, tiny_training).DATA.train_list).read_text().splitlines()
    (tmp_path / "frames.lst").write_text("".join(line.split()[0] + "\n" for line in lines))
    return [*tiny_training, f"DATA.train_list={tmp_path}/frames.lst", "TRAIN.epochs=1"]


@pytest.fixture
def start(tmp_path) -> str:
    torch.manual_seed(3)
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, tmp_path / "start.pth")
    return f"TRAIN.weight={tmp_path}/start.pth"


def test_a_network_trains_on_frames_without_labels_from_its_own_predictions(unlabelled, start, tmp_path):
    # Random weights are sure of nothing: a threshold of 0 takes every prediction.
    trainer = Trainer(load_settings(None, [*unlabelled, start, "TRAIN.self_training=0.0"]), CPU)
    trainer.run()
    before = torch.load(tmp_path / "start.pth", weights_only=True)["student"]
    pseudo_labeler = trainer.task.pseudo_labeler.network.state_dict()
    assert all(torch.equal(pseudo_labeler[name], before[name]) for name in before)
    assert not torch.equal(trainer.student.state_dict()["cls.0.weight"], before["cls.0.weight"])


def test_frames_without_labels_and_nothing_to_learn_from_are_refused(unlabelled, tmp_path):
    with pytest.raises(UserError, match=r"frames\.lst: 5 of 5 frames have no label: set TRAIN\.self_training"):
        Trainer(load_settings(None, unlabelled), CPU)
    with pytest.raises(UserError, match=r"TRAIN\.self_training needs TRAIN\.weight"):
        Trainer(load_settings(None, [*unlabelled, "TRAIN.self_training=0.9"]), CPU)


def test_some_frames_without_labels_are_said(unlabelled, tmp_path, caplog, tiny_training):
    lines = Path(load_settings(None, tiny_training).DATA.train_list).read_text().splitlines()
    (tmp_path / "frames.lst").write_text("\n".join([*lines[:3], *(line.split()[0] for line in lines[3:])]))
    Trainer(load_settings(None, unlabelled), CPU)
    assert "2 of 5 frames have no label: no segmentation loss for them" in caplog.text


def test_class_weights_of_cityscapes_need_its_classes():
    train = load_settings(None, ["TRAIN.class_weight=cityscapes"]).TRAIN
    assert isinstance(segmentation_loss(train, 19), nn.Module)
    with pytest.raises(UserError, match=r"is for 19 classes, DATA\.classes is 4"):
        segmentation_loss(train, CLASSES)


@pytest.mark.parametrize("given", ["TRAIN.class_weight=[0.5, 0, 3, 1e-1]", "TRAIN.class_weight=weights.txt"])
def test_class_weights_of_ones_own_come_as_list_or_file(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights.txt").write_text("0.5\n0\n\n3\n1e-1\n")
    loss = segmentation_loss(load_settings(None, [given, "TRAIN.loss=cross_entropy"]).TRAIN, CLASSES)
    logits = torch.randn(1, CLASSES, 2, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[[0, 1, 2], [3, 2, 255]]])
    expected = nn.functional.cross_entropy(logits, target, torch.tensor([0.5, 0, 3, 0.1]), ignore_index=255)
    torch.testing.assert_close(loss({"logits": logits}, target), expected)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("[1, 2]", r"TRAIN.class_weight \[1.0, 2.0\] is for 2 classes, DATA.classes is 4: give one weight per class"),
        ("[0, 0, 0, 0]", "every weight is 0, so nothing would be learned"),
        (
            "cityscape",
            "TRAIN.class_weight: expected none, cityscapes, a list or a file: cannot read cityscape: No such",
        ),
        ("words.txt", "words.txt, line 2: expected the weight of a class, 0 or more, found 'road'"),
        ("below.txt", "below.txt, line 1: expected the weight of a class, 0 or more, found '-1'"),
        ("nan.txt", "nan.txt, line 1: expected the weight of a class, 0 or more, found 'nan'"),
        (
            "[1, 2, 3, -1]",
            r"TRAIN.class_weight: expected none, cityscapes, path or list of float >= 0, got \[1, 2, 3, -1\]",
        ),
        ("[1, 2, a, 1]", r"expected none, cityscapes, path or list of float >= 0, got \[1, 2, 'a', 1\]"),
    ],
)
def test_class_weights_that_cannot_be_used_are_refused(given, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"words": "1\nroad\n1\n1\n", "below": "-1\n1\n1\n1\n", "nan": "nan\n1\n1\n1\n"}.items():
        Path(f"{name}.txt").write_text(text)
    with pytest.raises(UserError, match=named):
        segmentation_loss(load_settings(None, [f"TRAIN.class_weight={given}"]).TRAIN, CLASSES)


# ----------------------------------------------------------------------------------------------- controls, variants


def test_the_controls_of_the_flow_change_nothing_but_the_flow(batch):
    motion, both = MotionLoss(weight=1.0), torch.tensor([0, 2])
    flow = batch["flow"][both]
    for control, expected in (("zero", torch.zeros_like(flow)), ("shuffled", flow.flip(0)), ("estimated", flow)):
        step = task(motion_loss=motion, motion_flow=control)
        result = step(ClipBatch(batch))
        assert torch.equal(result["flow"], expected)
        z = {name: step.student.layer(batch[name][both]) for name in ("image", "neighbour")}
        frames = batch["image"][both], batch["neighbour"][both]
        torch.testing.assert_close(result["motion"], motion(*frames, z["image"], z["neighbour"], expected))


def test_a_single_pair_has_no_other_whose_flow_it_could_get(batch):
    one = {name: value[:1] for name, value in batch.items()}
    assert not task(motion_loss=MotionLoss(weight=1.0), motion_flow="shuffled")(ClipBatch(one))["flow"].any()


def test_visible_pixels_reach_the_motion_loss(batch):
    seen = torch.zeros(3, 8, 10, dtype=torch.bool)
    motion = MotionLoss(weight=1.0, visibility="forward_backward", mask_padding=False)
    assert task(motion_loss=motion)(ClipBatch(batch | {"visible": seen}))["motion"] == 0
    assert task(motion_loss=motion)(ClipBatch(batch | {"visible": ~seen}))["motion"] > 0


def test_flow_of_the_crops_is_estimated_both_ways_where_visible_pixels_are_needed(batch):
    class Shift:
        calls = 0

        def estimate(self, image_t, image_k):
            Shift.calls += 1
            return torch.zeros(len(image_t), 2, *image_t.shape[-2:])

    without_flow = {name: x for name, x in batch.items() if name != "flow"}
    motion = MotionLoss(weight=1.0, visibility="forward_backward", mask_padding=False)
    result = task(motion_loss=motion, flow=Shift())(ClipBatch(without_flow))
    assert Shift.calls == 2
    expected = MotionLoss(weight=1.0, visibility="forward_backward", mask_padding=False)
    everywhere = torch.ones(3, 8, 10, dtype=torch.bool)
    given = ClipBatch(batch | {"flow": torch.zeros_like(batch["flow"]), "visible": everywhere})
    torch.testing.assert_close(result["motion"], task(motion_loss=expected)(given)["motion"])
