"""Distillation of clips against formulas written out here; what it leaves alone; what it refuses."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from etc.config import load_settings
from etc.config.schema import DISTILLATION_FRAMES, Distill, Settings
from etc.errors import UserError
from etc.train.batch import ClipBatch
from etc.train.distillation import LOSSES, Distillation, average_along_flow
from etc.train.trainer import Trainer
from model import build_model
from utils.crit import ConvLSTMCell, CriterionLSTM

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """A network whose outputs are a pooled linear map of the pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.logits, self.fea = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1)

    def outputs(self, image):
        return {"logits": self.logits(image), "fea": self.fea(image)}


# Three clips: a pair, a single frame, a clip of three. The networks are given t0 t1 t2, k0 k2, third2.
HAS_NEIGHBOUR, HAS_THIRD = torch.tensor([True, False, True]), torch.tensor([False, False, True])


def batch_of(images, **more):
    """Clips without labels, of three frames each where ``images`` ``[3, N, 3, H, W]`` holds so many."""
    count, size = images.shape[1], images.shape[-2:]
    labels = {"label": torch.zeros(count, *size, dtype=torch.int64), "labelled": torch.ones(count, dtype=torch.bool)}
    return ClipBatch(dict(zip(("image", "neighbour", "third"), images, strict=False)) | labels | more)


@pytest.fixture
def clips():
    frames = torch.randn(3, 3, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    batch = batch_of(frames, has_neighbour=HAS_NEIGHBOUR, has_third=HAS_THIRD)
    (t, k, third), images = frames, batch.images
    assert torch.equal(images, torch.cat([t, k[[0, 2]], third[[2]]]))
    student, teacher = Tiny(1), Tiny(2)
    return batch, student.outputs(images), teacher


def losses(clips, **settings):
    batch, student, teacher = clips
    distillation = Distillation(Distill(mf_pool=2, **settings), teacher, device=CPU, seed=4)
    return distillation(batch, student), distillation


def kl(student, teacher, temperature=1.0):
    """Mean over the pixels of sum_c p log(p / q)."""
    p, q = ((x / temperature).softmax(1) for x in (teacher, student))
    return (p * (p.log() - q.log())).sum(1).mean()


def cosines(q, k):
    q, k = (x.flatten(1) / x.flatten(1).norm(dim=0) for x in (q, k))
    return q.T @ k


def test_kd_is_the_divergence_of_all_frames_t_plus_that_of_all_neighbours(clips):
    batch, student, teacher = clips
    images = batch.images
    z, soft = student["logits"], teacher.outputs(images)["logits"]
    expected = 0.3 * 4 * (kl(z[:3], soft[:3], 2.0) + kl(z[3:5], soft[3:5], 2.0))
    found, _ = losses(clips, kd_weight=0.3, temperature=2.0)
    assert found.keys() == {"kd"}
    torch.testing.assert_close(found["kd"], expected)


def test_pf_compares_each_frame_with_its_own_neighbour(clips):
    batch, student, teacher = clips
    images = batch.images
    s, t = student["fea"], teacher.outputs(images)["fea"]
    errors = [(cosines(s[i], s[k]) - cosines(t[i], t[k])).square().mean() for i, k in ((0, 3), (2, 4))]
    found, _ = losses(clips, pf_weight=0.5)
    torch.testing.assert_close(found["pf"], 0.5 * sum(errors) / 2)


def test_mf_reads_third_frame_frame_and_neighbour_in_their_order(clips):
    batch, student, teacher = clips
    images = batch.images
    found, distillation = losses(clips, mf_weight=2.0)
    reference = CriterionLSTM(mode="fea", pool=2)
    reference.convlstm.load_state_dict(distillation.criteria["mf"].convlstm.state_dict())
    soft = teacher.outputs(images)
    third, frame, neighbour = ([{"fea": out["fea"][i : i + 1]} for out in (student, soft)] for i in (5, 2, 4))
    torch.testing.assert_close(found["mf"], 2 * reference(*third, *neighbour, *frame))
    assert found["mf"] > 1e-5


def test_losses_without_the_frames_they_need_are_zero_and_kd_goes_on(clips):
    batch, student, teacher = clips
    frames, none = batch.frames_t(batch.images), torch.zeros(3, dtype=bool)
    outputs = {name: batch.frames_t(x) for name, x in student.items()}
    weights = {"kd_weight": 1.0, "pf_weight": 1.0, "mf_weight": 1.0}
    without = batch_of(torch.stack([frames] * 3), has_neighbour=none, has_third=none)
    found, _ = losses((without, outputs, teacher), **weights)
    assert found["pf"] == 0 and found["mf"] == 0 and found["kd"] > 0
    alone, _ = losses((batch_of(frames[None]), outputs, teacher), kd_weight=1.0)
    assert alone["kd"] == found["kd"]


def test_the_teacher_gets_no_gradient_and_the_student_does(clips):
    found, distillation = losses(clips, kd_weight=1.0, pf_weight=1.0, mf_weight=1.0)
    student = clips[1]
    gradients = torch.autograd.grad(sum(found.values()), (student["logits"], student["fea"]))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    frozen = [*distillation.teacher.parameters(), *distillation.criteria["mf"].parameters()]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)
    assert not distillation.teacher.training


def test_distilling_a_network_from_itself_gives_zero():
    torch.manual_seed(0)
    network = build_model("psp18", classes=4).eval()
    one = torch.ones(1, dtype=bool)
    batch = batch_of(torch.randn(3, 1, 3, 49, 65), has_neighbour=one, has_third=one)
    settings = Distill(kd_weight=1.0, pf_weight=1.0, mf_weight=1.0, mf_pool=2)
    student = {name: x.detach().clone() for name, x in network.outputs(batch.images).items()}
    found = Distillation(settings, network, device=CPU, seed=0)(batch, student)
    # Cosines of float32 are right to some 1e-7, and this is the mean of the squares of their differences.
    assert 0 <= found["pf"] < 1e-12 and 0 <= found["mf"] < 1e-12
    assert abs(found["kd"]) < 1e-6  # the divergence of a distribution from itself


def test_a_teacher_of_another_size_and_width_is_compared_at_its_own_resolution():
    torch.manual_seed(0)
    teacher, student = build_model("psp50", classes=4), build_model("lraspp", classes=4)
    batch = batch_of(torch.randn(1, 1, 3, 49, 65))
    outputs = student.eval().outputs(batch.images)
    found = Distillation(Distill(kd_weight=1.0), teacher, device=CPU, seed=0)(batch, outputs)
    assert found["kd"].isfinite() and found["kd"] > 0


def collapse_of(criterion: CriterionLSTM) -> float:
    """How much of the teacher's last state is left after the cell learned along for 200 steps."""
    generator = torch.Generator().manual_seed(5)
    maps = [{"fea": torch.randn(2, 4, 8, 8, generator=generator)} for _ in range(6)]
    images = [criterion.image(soft["fea"]) for soft in maps[1::2]]
    size = lambda: sum(state.square().mean() for state in criterion.convlstm.last_state(images)).item()  # noqa: E731
    before = size()
    learning = [parameter for parameter in criterion.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=0.02) if learning else None
    for _ in range(200 if learning else 0):
        optimizer.zero_grad()
        criterion(*maps).backward()
        optimizer.step()
    return size() / before


def test_a_cell_that_learns_from_the_loss_alone_collapses_and_ours_does_not(clips):
    torch.manual_seed(0)
    learning = CriterionLSTM(pool=2)
    assert collapse_of(learning) < 0.05
    _, distillation = losses(clips, mf_weight=1.0)
    assert collapse_of(distillation.criteria["mf"]) == 1


def test_the_cell_depends_on_the_seed_alone_and_shifts_no_random_numbers(clips):
    torch.manual_seed(8)
    expected = torch.rand(3)
    torch.manual_seed(8)
    _, first = losses(clips, mf_weight=1.0)
    assert torch.equal(torch.rand(3), expected)
    _, second = losses(clips, mf_weight=1.0)
    assert torch.equal(first.criteria["mf"].convlstm.Gates.weight, second.criteria["mf"].convlstm.Gates.weight)
    assert isinstance(first.criteria["mf"].convlstm, ConvLSTMCell)


# ------------------------------------------------------------------------------------------------------- in training


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "mobile.pth"
    torch.save({"student": build_model("mobile", classes=19).state_dict()}, path)
    return path


@pytest.fixture
def distilled(tiny_training, teacher_file) -> list[str]:
    return [*tiny_training, "TRAIN.epochs=1", "DISTILL.teacher_arch=mobile", f"DISTILL.teacher_weight={teacher_file}"]


def trained(overrides: list[str]) -> dict:
    settings = load_settings(None, overrides)
    Trainer(settings, CPU).run()
    return torch.load(Path(settings.TRAIN.save_path) / "last.pth", weights_only=True)


def test_a_training_with_every_loss_logs_each_and_keeps_the_teacher_out_of_the_checkpoint(distilled, tmp_path):
    weights = ["DISTILL.kd_weight=1.0", "DISTILL.pf_weight=1.0", "DISTILL.mf_weight=1.0", "DISTILL.mf_pool=2"]
    content = trained([*distilled, *weights, "TRAIN.st_weight=0.5"])
    assert content["student"].keys() == build_model("psp18", classes=19).state_dict().keys()
    log = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    terms = {name: log.Scalars(f"loss/{name}")[-1].value for name in ("segmentation", "motion", "kd", "pf", "mf")}
    assert all(value > 0 for value in terms.values())
    assert log.Scalars("loss/loss")[-1].value == pytest.approx(sum(terms.values()), rel=1e-5)


@pytest.mark.slow
def test_distillation_sees_the_same_batches_and_dropout_as_the_baseline(distilled, tmp_path):
    plain = trained([*distilled, "TRAIN.st_weight=0", f"TRAIN.save_path={tmp_path}/plain"])
    nearly = trained([*distilled, "TRAIN.st_weight=0", "DISTILL.kd_weight=1e-12"])
    for name, weight in plain["student"].items():
        torch.testing.assert_close(nearly["student"][name], weight, msg=name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("DISTILL.teacher_weight=null", "DISTILL.teacher_weight is empty"),
        ("DISTILL.teacher_weight=gone.pth", r"DISTILL.teacher_weight gone\.pth does not exist"),
        ("DISTILL.teacher_arch=psp50", "DISTILL.teacher_weight"),
        ("DISTILL.teacher_arch=psq", "DISTILL.teacher_arch psq"),
        ("DISTILL.mf_pool=16", "pooling 16x16 of a 7x9 map"),
        ("TRAIN.arch=lraspp", "returns no 'fea'"),
        ("DISTILL.kd_on=fea", "differ in batch size or channels"),
        ("DISTILL.teacher_weight=[{teacher}, gone.pth]", r"DISTILL.teacher_weight gone\.pth does not exist"),
        ("DISTILL.teacher_weight=[{teacher}, {teacher}]", "returns no 'fea'"),
        ("DISTILL.teacher_weight=[]", "DISTILL.teacher_weight is empty"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_training(distilled, teacher_file, tmp_path, overrides, message):
    weights = ["DISTILL.kd_weight=1.0", "DISTILL.pf_weight=1.0", "DISTILL.mf_weight=1.0", "DISTILL.mf_pool=2"]
    with pytest.raises(UserError, match=message):
        trained([*distilled, *weights, overrides.replace("{teacher}", str(teacher_file))])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["online", "cached"])
def test_several_teachers_teach_the_mean_of_their_logits(distilled, teacher_file, tmp_path, source):
    """One network beside its negative: the mean is 0 everywhere, as that of a network whose last layer is 0."""
    weights = torch.load(teacher_file, weights_only=True)["student"]
    last = ("cls.4.weight", "cls.4.bias")
    for name, factor in (("negative", -1), ("zero", 0)):
        changed = {key: factor * value if key in last else value for key, value in weights.items()}
        torch.save({"student": changed}, tmp_path / f"{name}.pth")
    words = ["DISTILL.kd_weight=1.0", f"DISTILL.source={source}", f"DISTILL.cache={tmp_path}/logits"]
    one = trained([*distilled, *words, f"DISTILL.teacher_weight={tmp_path}/zero.pth"])
    both = f"DISTILL.teacher_weight=[{teacher_file}, {tmp_path}/negative.pth]"
    two = trained([*distilled, *words, both, f"TRAIN.save_path={tmp_path}/two"])
    for name, weight in one["student"].items():
        torch.testing.assert_close(two["student"][name], weight, msg=name)


def test_a_teacher_without_a_weight_is_not_asked_for(tiny_training):
    assert trained([*tiny_training, "TRAIN.epochs=1", "DISTILL.teacher_weight=gone.pth"])["epoch"] == 1


def test_every_loss_has_its_settings_and_makes_the_training_load_its_frames():
    assert DISTILLATION_FRAMES.keys() == LOSSES.keys()
    for name, frames in DISTILLATION_FRAMES.items():
        settings = Settings(DISTILL={f"{name}_weight": 1.0}, TRAIN={"st_weight": 0})
        assert settings.DISTILL.used and settings.frames_per_clip == frames
        with pytest.raises(ValueError, match=f"set {name}_on to logits"):
            Distill(**{f"{name}_weight": 1.0, f"{name}_on": "fea", "source": "cached"})
    assert not Distill().used


def test_a_consistent_teacher_averages_each_frame_t_with_its_neighbour_where_that_is_seen_in_the_crop(clips):
    batch, student, teacher = clips
    height, width = batch.images.shape[-2:]
    batch.images[3, :, 2, 3] = 0  # the first pair's neighbour has padding there
    flow = torch.zeros(2, 2, height, width)
    flow[:, 0] = 1  # one pixel to the right, at the right border out of the crop
    visible = torch.ones(2, 1, height, width, dtype=torch.bool)
    visible[0, :, 1] = False
    distillation = Distillation(Distill(kd_weight=1.0, consistent_teacher=True), teacher, device=CPU, seed=4)
    found = distillation(batch, student, flow, visible)["kd"]

    soft = teacher.outputs(batch.images)["logits"]
    expected = soft.clone()
    for pair, (t, k) in enumerate(((0, 3), (2, 4))):
        for y in range(height):
            for x in range(width):
                if visible[pair, 0, y, x] and x + 1 < width and (pair, y, x + 1) != (0, 2, 3):
                    expected[t, :, y, x] = (soft[t, :, y, x] + soft[k, :, y, x + 1]) / 2
    torch.testing.assert_close(
        found, kl(student["logits"][:3], expected[:3]) + kl(student["logits"][3:5], expected[3:5])
    )


def test_logits_are_averaged_at_their_own_coarse_resolution():
    logits = torch.zeros(1, 1, 3, 5)
    logits[..., 2] = 8.0
    flow = torch.zeros(1, 2, 17, 33)
    flow[:, 0] = 8.0  # one cell of a grid whose corners are aligned
    averaged = average_along_flow(torch.zeros_like(logits), logits, flow, torch.ones(1, 1, 17, 33) > 0)
    torch.testing.assert_close(averaged[0, 0, 1], torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0]))
