"""Loading the student: whose file it was, what it carries beside, and what must be refused."""

import hashlib
import io
import pickle
import random

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from model import build_model, load_student, read_weights


def tiny(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


@pytest.mark.parametrize("holder", [None, "student", "state_dict", "model"])
def test_weights_are_found_bare_or_under_their_usual_names(path, holder):
    written, read = tiny(seed=1), tiny(seed=2)
    state = written.state_dict()
    torch.save(state if holder is None else {"epoch": 3, holder: state}, path)
    assert load_student(read, path) == ((), ())
    assert equal(written, read)


@pytest.mark.parametrize(
    ("arch", "make", "aux"),
    [
        ("lraspp", segmentation.lraspp_mobilenet_v3_large, {}),
        ("deeplabv3_mobilenet_v3_large", segmentation.deeplabv3_mobilenet_v3_large, {"aux_loss": True}),
    ],
)
@torch.no_grad()
def test_a_checkpoint_of_torchvision_gives_the_predictions_of_torchvision(path, arch, make, aux):
    torch.manual_seed(0)
    written = make(weights=None, weights_backbone=None, num_classes=21, **aux).train()
    written(torch.randn(2, 3, 64, 64))  # running statistics of its own
    torch.save(written.eval().state_dict(), path)
    read = build_model(arch, classes=21)
    assert load_student(read, path) == ((), ())
    image = torch.randn(1, 3, 49, 65)
    assert torch.equal(read.eval()(image), written(image)["out"])


@pytest.mark.parametrize("prefix", ["module.", "student.", "module.student.", "student.module.", "_orig_mod."])
def test_prefixes_of_wrappers_are_stripped(path, prefix):
    written, read = tiny(seed=1), tiny(seed=2)
    torch.save({"state_dict": {prefix + key: value for key, value in written.state_dict().items()}}, path)
    load_student(read, path)
    assert equal(written, read)


class Wrapped(nn.Module):
    """A network of a library in a module of one's own."""

    def __init__(self, seed: int, *, twice: bool = False, head: bool = False):
        super().__init__()
        self.model = tiny(seed=seed)
        self.second = tiny(seed=seed) if twice else nn.Identity()
        self.head = nn.Conv2d(3, 3, 1) if head else nn.Identity()


def test_a_network_in_a_module_of_ones_own_takes_the_file_of_the_network_alone(path):
    written, read = tiny(seed=1), Wrapped(seed=2)
    torch.save(written.state_dict(), path)
    assert load_student(read, path) == ((), ())
    assert equal(written, read.model)


def test_of_a_file_that_fits_two_modules_none_is_chosen(path):
    torch.save(tiny(seed=1).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit"):
        load_student(Wrapped(seed=2, twice=True), path)


def test_what_a_module_of_ones_own_adds_to_the_network_is_missing_from_the_file(path):
    written, read = tiny(seed=1), Wrapped(seed=2, head=True)
    torch.save(written.state_dict(), path)
    with pytest.raises(ValueError, match=r"2 missing \(head.weight, head.bias\)"):
        load_student(read, path)
    assert load_student(read, path, allow_missing=True).missing == ("head.weight", "head.bias")
    assert equal(written, read.model)


def test_flow_network_teacher_and_criterion_are_left_out(path):
    written, read = tiny(seed=1), tiny(seed=2)
    state = {f"module.student.{key}": value for key, value in written.state_dict().items()}
    for stranger in ("module.flownet.conv.weight", "module.teacher.0.weight", "criterion.weight"):
        state[stranger] = torch.zeros(1)
    torch.save({"state_dict": state}, path)
    assert load_student(read, path) == ((), ())
    assert equal(written, read)


def test_a_network_may_itself_have_a_layer_called_module(path):
    def network() -> nn.Module:
        return nn.ModuleDict({"module": nn.Linear(2, 2), "teacher": nn.Linear(2, 1)})

    written, read = network(), network()
    torch.save(written.state_dict(), path)
    load_student(read, path)
    assert equal(written, read)


def test_missing_keys_are_named_and_counted(path):
    state = tiny().state_dict()
    del state["2.weight"], state["2.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"net\.pth does not fit.*: 2 missing \(2\.weight, 2\.bias\)$"):
        load_student(tiny(), path)


def test_missing_keys_can_be_allowed_and_are_reported(path):
    written, read = tiny(seed=1), tiny(seed=2)
    before = read[2].weight.clone()
    state = written.state_dict()
    del state["2.weight"]
    torch.save(state, path)
    assert load_student(read, path, allow_missing=True) == (("2.weight",), ())
    assert torch.equal(read[2].weight, before)
    assert torch.equal(read[0].weight, written[0].weight)


def test_unexpected_keys_are_refused_unless_allowed(path):
    state = tiny().state_dict() | {f"extra.{n}": torch.zeros(1) for n in range(5)}
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"5 unexpected \(extra\.0, extra\.1, extra\.2, \.\.\.\)"):
        load_student(tiny(), path, allow_missing=True)
    assert load_student(tiny(), path, allow_unexpected=True).unexpected[0] == "extra.0"


def test_another_number_of_classes_is_named_with_both_shapes(path):
    torch.save(tiny(classes=19).state_dict(), path)
    with pytest.raises(ValueError, match=r"2 of another shape \(2\.weight 19x4x1x1 for 3x4x1x1"):
        load_student(tiny(classes=3), path)


def test_with_everything_allowed_another_classifier_is_left_out(path):
    written, read = tiny(classes=19, seed=1), tiny(classes=3, seed=2)
    torch.save(written.state_dict(), path)
    report = load_student(read, path, allow_missing=True, allow_unexpected=True)
    assert report.missing == report.unexpected == ("2.weight", "2.bias")
    assert torch.equal(read[0].weight, written[0].weight)


def test_a_wrong_checkpoint_leaves_the_network_as_it_was(path):
    read = tiny(seed=2)
    torch.save(tiny(classes=19, seed=1).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit"):
        load_student(read, path)
    assert equal(read, tiny(seed=2))


def test_a_checkpoint_of_which_nothing_fits_is_refused_whatever_is_allowed(path):
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no tensor fits"):
        load_student(tiny(), path, allow_missing=True, allow_unexpected=True)


def test_files_older_than_num_batches_tracked_load(path):
    state = {key: value for key, value in tiny(seed=1).state_dict().items() if "num_batches" not in key}
    torch.save(state, path)
    assert load_student(tiny(), path) == ((), ())


def test_a_network_whose_counters_became_halves_too_loads(path):
    made = tiny(seed=1)
    torch.save({key: value.half() for key, value in made.state_dict().items()}, path)
    read = tiny()
    assert load_student(read, path) == ((), ())
    assert all(torch.equal(value, made.state_dict()[key].half().to(value)) for key, value in read.state_dict().items())


def test_no_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at nowhere/best\.pth"):
        load_student(tiny(), "nowhere/best.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_file_is_refused_by_name(path, share, legacy):
    torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"net\.pth is truncated, damaged or no checkpoint"):
        load_student(tiny(), path)


@pytest.mark.parametrize("content", [b"arch: psp18\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(range(256)) * 4])
def test_another_kind_of_file_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pth is truncated, damaged or no checkpoint"):
        load_student(tiny(), path)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_a_pickle_that_runs_code_is_refused_and_not_run(path, save):
    save({"state_dict": Payload()}, path)
    with pytest.raises(ValueError, match=r"net\.pth (is truncated, damaged or no checkpoint|holds more than plain)"):
        load_student(tiny(), path)


@pytest.mark.parametrize("content", [{"epoch": 3, "best": 0.7}, [1, 2], {"state_dict": {}}])
def test_a_file_without_weights_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"net\.pth holds no weights"):
        load_student(tiny(), path)


@pytest.mark.parametrize("holder", [None, "student"])
def test_a_flipped_bit_is_refused_or_changes_no_weight(path, holder):
    """Bits that no checksum covers (padding, fields that no reader uses) may load, but only as what was written."""
    written = tiny(seed=1)
    torch.save(written.state_dict() if holder is None else {holder: written.state_dict()}, path)
    data, draw, refused = path.read_bytes(), random.Random(0), 0
    for bit in draw.sample(range(8 * len(data)), 400):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        read = tiny(seed=2)
        try:
            load_student(read, path)
        except ValueError as error:
            assert "net.pth" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert equal(read, written)
    assert refused > 100


def test_a_damaged_tensor_is_named_by_its_part_of_the_file(path):
    torch.save(tiny().state_dict(), path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"data/0") + 200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(
        ValueError, match=r"net\.pth is truncated, damaged or no checkpoint \(.* part .*data/0 is wrong\)"
    ):
        load_student(tiny(), path)


def test_every_bit_of_a_directory_entry_is_refused_or_changes_no_weight(path):
    """The entry of a tensor holds its size, place and attributes; torch and zipfile do not read the same of them."""
    written = tiny(seed=1)
    torch.save(written.state_dict(), path)
    data = path.read_bytes()
    start = data.rindex(b"PK\1\2", 0, data.rindex(b"data/1"))
    folder_refused = False
    for bit in range(8 * start, 8 * (start + 60)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        read = tiny(seed=2)
        try:
            load_student(read, path)
        except ValueError as error:
            folder_refused |= "data/1 is marked as a folder" in str(error)
        else:
            assert equal(read, written)
    assert folder_refused


def test_a_file_saved_without_checksums_loads_with_a_warning(path, caplog):
    written, read = tiny(seed=1), tiny(seed=2)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(written.state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    load_student(read, path)
    assert equal(written, read)
    assert f"{path} was saved without checksums" in caplog.text


def test_the_format_before_torch_1_6_loads_with_a_warning(path, caplog):
    written, read = tiny(seed=1), tiny(seed=2)
    torch.save(written.state_dict(), path, _use_new_zipfile_serialization=False)
    load_student(read, path)
    assert equal(written, read)
    assert f"{path} is in the format before torch 1.6, which has no checksums" in caplog.text


def test_weights_come_with_the_hash_of_the_bytes_that_they_were_read_from(path, monkeypatch):
    torch.save(tiny(seed=1).state_dict(), path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    read = type(path).read_bytes

    def replaced_afterwards(self):
        data = read(self)
        torch.save(tiny(seed=2).state_dict(), self)
        return data

    monkeypatch.setattr(type(path), "read_bytes", replaced_afterwards)
    weights = read_weights(path)
    assert weights.sha256 == before
    assert torch.equal(weights.tensors["0.weight"], tiny(seed=1)[0].weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_refused_by_name(path, value, dtype):
    state, read = tiny(seed=1).state_dict(), tiny(seed=2)
    state["2.weight"][1, 2] = value
    torch.save(state | {"2.weight": state["2.weight"].to(dtype)}, path)
    with pytest.raises(ValueError, match=r"net\.pth: 1 of 12 values of 2\.weight are NaN or infinite") as caught:
        load_student(read, path)
    assert "\n" not in str(caught.value) and equal(read, tiny(seed=2))


def test_running_statistics_that_are_not_finite_are_refused_too(path):
    state = tiny().state_dict()
    state["1.running_var"][0] = float("inf")
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"1 of 4 values of 1\.running_var"):
        load_student(tiny(), path)


def test_what_the_network_does_not_take_need_not_be_finite(path):
    written, read = tiny(seed=1), tiny(seed=2)
    torch.save(written.state_dict() | {"criterion.weight": torch.tensor([float("inf")])}, path)
    load_student(read, path)
    assert equal(written, read)


def test_a_backbone_that_is_not_finite_is_refused(path):
    torch.save({"conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}, path)
    with pytest.raises(ValueError, match=r"net\.pth: 9408 of 9408 values of conv1\.weight"):
        build_model("psp18", classes=4, weights=path)


def test_a_damaged_file_in_the_download_cache_is_named(tmp_path, monkeypatch):
    """torchvision compares the hash only when it downloads."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    buffer = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, buffer)
    (tmp_path / "checkpoints/resnet18-f37072fd.pth").write_bytes(buffer.getvalue())
    with pytest.raises(OSError, match=r"resnet18-f37072fd\.pth is damaged: .* instead of f37072fd; delete it"):
        build_model("psp18", classes=4, pretrained=True)
