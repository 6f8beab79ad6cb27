"""Distillation criteria against scalar loops and closed forms; precision, sizes, memory."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from etc.config.schema import Distill
from utils import crit
from utils.crit import (
    CriterionKD,
    CriterionKDLong,
    CriterionLSTM,
    CriterionLSTMGAN,
    CriterionSDcos_self,
    CriterionSDcos_sig,
)

SHAPE = (2, 4, 3, 5)


def maps(count, shape=SHAPE, *, seed=0, gradient=False):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [x.requires_grad_(gradient) for x in made]


def outputs(tensors, mode="fea"):
    return [{mode: x} for x in tensors]


def interleaved(students, teachers, mode="fea"):
    """The arguments of a criterion: student, teacher, student, teacher, ..."""
    pairs = zip(outputs(students, mode), outputs(teachers, mode), strict=True)
    return [x for pair in pairs for x in pair]


def loop_kl(student, teacher, temperature=1.0):
    """Sum over all elements of KL(teacher || student), a scalar at a time."""
    total = 0.0
    n, k, height, width = student.shape
    for b in range(n):
        for y in range(height):
            for x in range(width):
                s = [math.exp(float(student[b, c, y, x]) / temperature) for c in range(k)]
                t = [math.exp(float(teacher[b, c, y, x]) / temperature) for c in range(k)]
                for c in range(k):
                    p, q = t[c] / sum(t), s[c] / sum(s)
                    total += p * math.log(p / q)
    return total


def loop_similarity(q, k, published=False):
    """[N, P, P] by scalars; positions row by row."""
    n, channels, height, width = q.shape
    positions = [(y, x) for y in range(height) for x in range(width)]
    matrix = torch.zeros(n, len(positions), len(positions), dtype=q.dtype)
    for b in range(n):
        for i, (y, x) in enumerate(positions):
            for j, (v, u) in enumerate(positions):
                dot = sum(float(q[b, c, y, x] * k[b, c, v, u]) for c in range(channels))
                first, second = (k, q) if published else (q, k)
                norms = float(first[b, :, y, x].norm()) * float(second[b, :, v, u].norm())
                matrix[b, i, j] = dot / norms if norms else 0.0
    return matrix


def dense_similarity_error(student_q, student_k, teacher_q, teacher_k):
    """The same as one expression, for gradients: F.cosine_similarity over all pairs of positions."""

    def matrix(q, k):
        return F.cosine_similarity(q.flatten(2)[:, :, :, None], k.flatten(2)[:, :, None, :], dim=1)

    return (matrix(student_q, student_k) - matrix(teacher_q, teacher_k)).square().mean()


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "pixel"])
def test_kd_equals_the_scalar_loop(temperature, reduction):
    students, teachers = maps(2), maps(2, seed=1)
    total = sum(loop_kl(s, t, temperature) for s, t in zip(students, teachers, strict=True))
    expected = total / (2 * 4 * 3 * 5) if reduction == "mean" else temperature**2 * total / (2 * 3 * 5)
    loss = CriterionKD(T=temperature, reduction=reduction)(*interleaved(students, teachers, "logits"))
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_kd_long_weighs_the_neighbours_by_four_tenths():
    students, teachers = maps(3), maps(3, seed=1)
    f, b, t = (loop_kl(s, soft) / (2 * 4 * 3 * 5) for s, soft in zip(students, teachers, strict=True))
    loss = CriterionKDLong(reduction="mean")(*interleaved(students, teachers, "logits"))
    assert float(loss) == pytest.approx(t + 0.4 * (f + b), rel=1e-9)


def test_kd_gradient_is_the_difference_of_probabilities():
    (student,), (teacher,) = maps(1, gradient=True), maps(1, seed=1)
    CriterionKD().divergence(student, teacher).backward()
    expected = (student.detach().softmax(1) - teacher.softmax(1)) / (2 * 3 * 5)
    torch.testing.assert_close(student.grad, expected)


def test_the_defaults_of_kd_are_those_of_the_settings():
    students, teachers, distill = maps(2), maps(2, seed=1), Distill()
    settings = {"mode": distill.kd_on, "T": distill.temperature, "reduction": distill.kd_reduction}
    assert settings == {"mode": "logits", "T": 1.0, "reduction": "pixel"}
    arguments = interleaved(students, teachers, "logits")
    assert torch.equal(CriterionKD()(*arguments), CriterionKD(**settings)(*arguments))


def test_kd_takes_plain_logits():
    students, teachers = maps(2), maps(2, seed=1)
    plain = CriterionKD()(students[0], teachers[0], students[1], teachers[1])
    torch.testing.assert_close(plain, CriterionKD()(*interleaved(students, teachers, "logits")))


# ---------------------------------------------------------------- similarities


@pytest.mark.parametrize("normalize", ["cosine", "published"])
def test_pf_equals_the_scalar_loop(normalize):
    students, teachers = maps(2), maps(2, (2, 6, 3, 5), seed=1)
    loss = CriterionSDcos_sig(normalize=normalize)(*interleaved(students, teachers))
    published = normalize == "published"
    student, teacher = (loop_similarity(q, k, published) for k, q in (students, teachers))
    assert float(loss) == pytest.approx(float((student - teacher).square().mean()), rel=1e-9)


def test_the_published_normaliser_differs_from_the_cosine():
    arguments = interleaved(maps(2), maps(2, seed=1))
    published = CriterionSDcos_sig(normalize="published")(*arguments)
    assert not torch.isclose(published, CriterionSDcos_sig()(*arguments), rtol=1e-2)


@pytest.mark.parametrize("block", [2**23, 1, 2 * 15 * 4])  # at once; row by row; by four rows of 15
def test_pf_gradient_does_not_depend_on_the_blocks(block, monkeypatch):
    monkeypatch.setattr(crit, "BLOCK_ENTRIES", block)
    (student_k, student_q), (teacher_k, teacher_q) = maps(2, gradient=True), maps(2, (2, 6, 3, 5), seed=1)
    loss = CriterionSDcos_sig()(*interleaved((student_k, student_q), (teacher_k, teacher_q)))
    expected = dense_similarity_error(student_q, student_k, teacher_q, teacher_k)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, (student_q, student_k)),
        torch.autograd.grad(expected, (student_q, student_k)),
    )


@pytest.mark.parametrize("normalize", ["cosine", "published"])
def test_pf_gradient_is_the_derivative_of_its_value(normalize, monkeypatch):
    monkeypatch.setattr(crit, "BLOCK_ENTRIES", 20)
    students, (teacher_k, teacher_q) = maps(2, (1, 3, 2, 3), gradient=True), maps(2, (1, 4, 2, 3), seed=1)
    criterion = CriterionSDcos_sig(normalize=normalize)

    def loss(k, q):
        return criterion({"fea": k}, {"fea": teacher_k}, {"fea": q}, {"fea": teacher_q})

    assert torch.autograd.gradcheck(loss, students)


def test_a_zero_vector_is_similar_to_nothing_and_gets_no_gradient():
    students, teachers = maps(2), maps(2, seed=1)
    students[0][:, :, 1, 2] = 0
    students[1][:, :, 0, 0] = 0
    for normalize in ("cosine", "published"):
        leaves = [x.clone().requires_grad_() for x in students]
        loss = CriterionSDcos_sig(normalize=normalize)(*interleaved(leaves, teachers))
        loss.backward()
        assert loss.isfinite()
        assert all(x.grad.isfinite().all() for x in leaves)
    student, teacher = (loop_similarity(q, k) for k, q in (students, teachers))
    loss = CriterionSDcos_sig()(*interleaved(students, teachers))
    assert float(loss) == pytest.approx(float((student - teacher).square().mean()), rel=1e-9)


def test_one_frame_may_be_without_gradient():
    (student_k, student_q), teachers = maps(2, gradient=True), maps(2, seed=1)
    loss = CriterionSDcos_sig()(*interleaved((student_k, student_q), teachers))
    both = torch.autograd.grad(loss, student_k)
    alone = CriterionSDcos_sig()(*interleaved((student_k, student_q.detach()), teachers))
    torch.testing.assert_close(torch.autograd.grad(alone, student_k), both)


def test_self_similarity_pools_by_two_and_weighs_the_neighbours():
    students, teachers = maps(3, (1, 3, 5, 6)), maps(3, (1, 4, 5, 6), seed=1)

    def error(student, teacher):
        student, teacher = (
            torch.stack([x[:, :, y : y + 2, u : u + 2].mean((2, 3)) for y in (0, 2) for u in (0, 2, 4)], -1)
            for x in (student, teacher)
        )
        student, teacher = student[..., None, :], teacher[..., None, :]
        return float((loop_similarity(student, student) - loop_similarity(teacher, teacher)).square().mean())

    f, b, t = (error(*pair) for pair in zip(students, teachers, strict=True))
    loss = CriterionSDcos_self(pool=2)(*interleaved(students, teachers))
    assert float(loss) == pytest.approx(t + 0.4 * (f + b), rel=1e-9)


def test_self_similarity_windows_of_three_overlap():
    students, teachers = maps(3, (1, 3, 5, 5)), maps(3, (1, 4, 5, 5), seed=1)

    def windows(x):
        return torch.stack([x[:, :, y : y + 3, u : u + 3].mean((2, 3)) for y in (0, 2) for u in (0, 2)], -1)

    def matrix(x):
        return loop_similarity(windows(x)[..., None, :], windows(x)[..., None, :])

    pairs = zip(students, teachers, strict=True)
    f, b, t = (float((matrix(student) - matrix(teacher)).square().mean()) for student, teacher in pairs)
    loss = CriterionSDcos_self(pool=3)(*interleaved(students, teachers))
    assert float(loss) == pytest.approx(t + 0.4 * (f + b), rel=1e-9)


# ---------------------------------------------------------------- several frames


def loop_convlstm(convlstm, frames):
    """Last hidden and cell state of images ``[N, 1, H, W]``, neuron by neuron."""
    weight, bias = convlstm.Gates.weight.detach().double(), convlstm.Gates.bias.detach().double()
    n, _, height, width = frames[0].shape
    hidden, cell = torch.zeros(2, n, 4, height, width, dtype=torch.float64)

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    for frame in frames:
        stacked = F.pad(torch.cat([frame.double(), hidden], 1), (1, 1, 1, 1))
        hidden, cell = hidden.clone(), cell.clone()
        for b in range(n):
            for y in range(height):
                for x in range(width):
                    window = stacked[b, :, y : y + 3, x : x + 3]
                    gates = [float((weight[g] * window).sum() + bias[g]) for g in range(16)]
                    for c in range(4):
                        into, remember, out = (sigmoid(gates[4 * g + c]) for g in range(3))
                        value = remember * float(cell[b, c, y, x]) + into * math.tanh(gates[12 + c])
                        cell[b, c, y, x] = value
                        hidden[b, c, y, x] = out * math.tanh(value)
    return hidden, cell


def test_mf_equals_the_scalar_loop_and_reads_the_frames_in_order():
    torch.manual_seed(3)
    criterion = CriterionLSTM(pool=2)
    students, teachers = maps(3, (1, 3, 4, 6)), maps(3, (1, 5, 4, 6), seed=1)

    def images(frames):
        f, b, t = (F.avg_pool2d(x, 2) for x in frames)
        return [loop_similarity(x, x)[:, None] for x in (f, t, b)]

    hidden, cell = loop_convlstm(criterion.convlstm, images(students))
    soft_hidden, soft_cell = loop_convlstm(criterion.convlstm, images(teachers))
    expected = (cell - soft_cell).square().mean() + (hidden - soft_hidden).square().mean()
    loss = criterion(*interleaved([x.float() for x in students], [x.float() for x in teachers]))
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_mf_pools_by_sixteen():
    criterion = CriterionLSTM()
    students, teachers = maps(3, (1, 3, 33, 50)), maps(3, (1, 3, 33, 50), seed=1)
    coarse = [[F.avg_pool2d(x[..., :32, :48], 16).float() for x in frames] for frames in (students, teachers)]
    same_cell = CriterionLSTM(pool=1)
    same_cell.load_state_dict(criterion.state_dict())
    loss = criterion(*interleaved([x.float() for x in students], [x.float() for x in teachers]))
    torch.testing.assert_close(loss, same_cell(*interleaved(*coarse)), rtol=1e-5, atol=1e-9)


def test_lstm_gan_equals_the_scalar_loop():
    torch.manual_seed(4)
    criterion = CriterionLSTMGAN()
    students, teachers = maps(3, (2, 3, 4, 3)), maps(3, (2, 3, 4, 3), seed=1)

    def images(frames):
        f, b, t = frames
        return [torch.stack([x[n, c][None] for n in range(2) for c in range(3)]) for x in (f, t, b)]

    _, cell = loop_convlstm(criterion.convlstm, images(students))
    _, soft_cell = loop_convlstm(criterion.convlstm, images(teachers))
    arguments = interleaved([x.float() for x in students], [x.float() for x in teachers], "logits")
    error, push = (loss.detach() for loss in criterion(*arguments))
    assert float(error) == pytest.approx(float((cell - soft_cell).square().mean()), rel=1e-4)
    assert float(push) == pytest.approx(float((1 - soft_cell).mean()), rel=1e-5)


def test_the_cell_has_the_published_parameters():
    shapes = {key: tuple(value.shape) for key, value in CriterionLSTM().state_dict().items()}
    assert shapes == {"convlstm.Gates.weight": (16, 5, 3, 3), "convlstm.Gates.bias": (16,)}


# ---------------------------------------------------------------- what all of them share

CASES = [
    (CriterionKD, 2, "logits"),
    (CriterionKDLong, 3, "logits"),
    (CriterionSDcos_sig, 2, "fea"),
    (lambda: CriterionSDcos_sig(normalize="published"), 2, "fea"),
    (CriterionSDcos_self, 3, "fea"),
    (lambda: CriterionLSTM(pool=2), 3, "fea"),
    (CriterionLSTMGAN, 3, "logits"),
]


def total(loss):
    return loss[0] if isinstance(loss, tuple) else loss


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_distilling_from_itself_gives_zero(make, frames, mode):
    students = [x.float().requires_grad_() for x in maps(frames, (2, 4, 6, 8))]
    loss = total(make()(*interleaved(students, students, mode)))
    loss.backward()
    assert abs(float(loss.detach())) <= 1e-9
    assert all(float(x.grad.abs().max()) <= 1e-7 for x in students)


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_only_the_student_gets_gradients(make, frames, mode):
    students = [x.float().requires_grad_() for x in maps(frames, (2, 4, 6, 8))]
    teachers = [x.float().requires_grad_() for x in maps(frames, (2, 4, 6, 8), seed=1)]
    total(make()(*interleaved(students, teachers, mode))).backward()
    assert all(x.grad.abs().max() > 0 for x in students)
    assert all(x.grad is None for x in teachers)


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_the_student_is_resized_to_the_teacher(make, frames, mode):
    students = [x.float() for x in maps(frames, (2, 4, 5, 9))]
    teachers = [x.float() for x in maps(frames, (2, 4, 6, 8), seed=1)]
    resized = [F.interpolate(x, (6, 8), mode="bilinear", align_corners=True) for x in students]
    criterion = make()
    loss = criterion(*interleaved(students, teachers, mode))
    torch.testing.assert_close(loss, criterion(*interleaved(resized, teachers, mode)))


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_autocast_and_half_precision_maps_change_nothing(make, frames, mode):
    students = [x.bfloat16() for x in maps(frames, (2, 4, 6, 8))]
    teachers = [x.bfloat16() for x in maps(frames, (2, 4, 6, 8), seed=1)]
    criterion = make()
    expected = criterion(*interleaved([x.float() for x in students], [x.float() for x in teachers], mode))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(*interleaved(students, teachers, mode))
    assert total(loss).dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_batches_of_different_size_are_named(make, frames, mode):
    students, teachers = maps(frames, (2, 4, 6, 8)), maps(frames, (1, 4, 6, 8))
    with pytest.raises(ValueError, match=r"\(2, 4, 6, 8\).*\(1, 4, 6, 8\) differ in batch size"):
        make()(*interleaved(students, teachers, mode))


@pytest.mark.parametrize(("make", "frames", "mode"), CASES)
def test_an_absent_output_is_named(make, frames, mode):
    students, teachers = maps(frames, (2, 4, 6, 8)), maps(frames, (2, 4, 6, 8))
    with pytest.raises(ValueError, match=f"no '{mode}', only other"):
        make()(*interleaved(students, teachers, "other"))


@pytest.mark.parametrize("make", [CriterionKD, lambda: CriterionKDLong(), CriterionLSTMGAN])
def test_channels_must_agree_where_they_are_compared_one_by_one(make):
    frames = 2 if make is CriterionKD else 3
    with pytest.raises(ValueError, match=r"\(2, 4, 6, 8\).*\(2, 5, 6, 8\) differ in .*channels"):
        make()(*interleaved(maps(frames, (2, 4, 6, 8)), maps(frames, (2, 5, 6, 8)), "logits"))


def test_a_map_too_small_to_pool_is_named():
    with pytest.raises(ValueError, match="pooling 16x16 of a 20x24 map"):
        CriterionLSTM()(*interleaved(maps(3, (1, 4, 20, 24)), maps(3, (1, 4, 20, 24))))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CriterionKD(T=0), "T is 0"),
        (lambda: CriterionKD(reduction="sum"), "'sum'"),
        (lambda: CriterionSDcos_sig(normalize="l2"), "'l2'"),
    ],
)
def test_impossible_arguments_of_the_distillation_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        returned = function(*arguments, **(named or {}))
        for leaf in tree_leaves(returned):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return returned


def test_the_similarity_matrix_is_never_held_whole(monkeypatch):
    monkeypatch.setattr(crit, "BLOCK_ENTRIES", 10_000)
    students, teachers = maps(2, (1, 3, 24, 24), gradient=True), maps(2, (1, 3, 24, 24), seed=1)
    with LargestTensor() as largest:
        CriterionSDcos_sig()(*interleaved(students, teachers)).backward()
    assert 24**2 * 3 <= largest.elements <= 10_000  # the whole matrix has 331,776


class Conversions(TorchDispatchMode):
    """Elements that were converted to another precision."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        returned = function(*arguments, **(options or {}))
        if function is torch.ops.aten._to_copy.default:
            self.elements += returned.numel()
        return returned


def test_half_precision_maps_are_converted_once_whatever_the_blocks(monkeypatch):
    student, teacher = ([x.half() for x in maps(2, (1, 3, 24, 24), seed=seed)] for seed in (0, 1))
    results = []
    for entries in (10_000, 2**23):  # 34 blocks of rows, or one
        monkeypatch.setattr(crit, "BLOCK_ENTRIES", entries)
        with Conversions() as conversions:
            results.append(CriterionSDcos_sig()(*interleaved(student, teacher)))
        # Student and teacher, q and k; the teacher's once more for their lengths.
        assert conversions.elements <= 6 * 3 * 24 * 24
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=0)
    as_float = CriterionSDcos_sig()(*interleaved([x.float() for x in student], [x.float() for x in teacher]))
    assert torch.equal(results[1], as_float)
