"""model/unpack.py: what other people's training scripts put into their checkpoints loads, or is named with its cure."""

import argparse
import collections
import pathlib
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

from model import load_student, read_weights


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def loads(path) -> bool:
    """Whether the file gives the weights of network 1."""
    read = network(2)
    assert load_student(read, path) == ((), ())
    own = network(1).state_dict()
    return all(torch.equal(value, own[key]) for key, value in read.state_dict().items())


STATE = network(1).state_dict()
HISTORY = collections.defaultdict(list, loss=[1.0])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        {"best": np.float64(0.71), "epoch": np.int64(3)},
        {"loss": np.float32(0.5), "done": np.bool_(True), "curve": np.arange(4.0), "ids": np.zeros((2, 3), np.uint8)},
        {"args": argparse.Namespace(lr=0.1, data=pathlib.Path("a/b"), size=(3, 4))},
        {"out": pathlib.PurePosixPath("/x"), "from": pathlib.PureWindowsPath("C:/x"), "history": HISTORY},
        {"config": {"model": {"type": "EncoderDecoder"}, "optimizer": "SGD"}},
        {"config": "model = dict(type='EncoderDecoder')"},
    ],
    ids=str,
)
def test_what_training_scripts_put_beside_the_weights_loads(tmp_path, beside, legacy):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": STATE, **beside}, path, _use_new_zipfile_serialization=not legacy)
    assert loads(path)


@pytest.mark.parametrize("name", [b"cpathlib\nWindowsPath\n", b"cpathlib._local\nPosixPath\n"])
def test_paths_of_another_system_or_python_load(tmp_path, name):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": STATE, "out": pathlib.Path("a")}, path, _use_new_zipfile_serialization=False)
    # Written by Python 3.11 on Linux; there is no other system here.
    renamed = path.read_bytes().replace(b"cpathlib\nPosixPath\n", name)
    assert name in renamed
    path.write_bytes(renamed)
    assert loads(path)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"ema": state},
        lambda state: {"model": state, "ema": {key: value + 1 for key, value in state.items()}},
        lambda state: {"net": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
        lambda state: {f"net.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.net.{key}": value for key, value in state.items()}, "hyper": {"lr": 1}},
    ],
)
def test_weights_are_found_under_the_names_that_others_use(tmp_path, wrapped):
    torch.save(wrapped(STATE), tmp_path / "net.pth")
    assert loads(tmp_path / "net.pth")


def test_two_tensors_for_one_name_are_refused(tmp_path):
    state = {f"model.{key}": value for key, value in STATE.items()}
    torch.save(state | {"net.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"several tensors for 0\.weight, among them net\.0\.weight"):
        load_student(network(2), tmp_path / "net.pth")


def test_safetensors_load_with_a_warning_and_damaged_ones_are_refused(tmp_path, caplog):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "net.safetensors"
    safetensors.save_file(STATE, path)
    assert loads(path)
    assert "which has no checksums" in caplog.text
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"net\.safetensors is truncated, damaged or no"):
        read_weights(path)
    path.write_bytes(data.replace(b'"F32"', b'"X32"'))
    with pytest.raises(ValueError, match=r"net\.safetensors is truncated, damaged or no"):
        read_weights(path)


def test_safetensors_without_their_package_name_its_pip_command(tmp_path, monkeypatch):
    (tmp_path / "net.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        read_weights(tmp_path / "net.safetensors")


class Mine(nn.Module):
    """A network whose class lies in somebody's code."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)


class History:
    """An object beside the weights."""


@pytest.mark.parametrize(
    ("content", "what", "lines"),
    [
        (Mine(), "holds a whole pickled network", "torch.save(content.state_dict(), 'weights.pth')"),
        ({"model": Mine()}, "holds a whole pickled network", "torch.save(content.state_dict(), 'weights.pth')"),
        (
            {"state_dict": STATE, "history": History()},
            f"holds more than plain values ({History.__module__}.History)",
            "torch.save(content[\"state_dict\"], 'weights.pth')",
        ),
    ],
)
def test_a_file_that_needs_its_own_code_says_what_it_is_and_how_to_convert_it(tmp_path, content, what, lines):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth holds") as caught:
        read_weights(tmp_path / "net.pth")
    message = str(caught.value)
    assert what in message and lines in message and "weights_only=False" in message and "\n" not in message


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("content", [{"args": argparse.Namespace(x=Payload())}, {"a": np.array([Payload()], object)}])
def test_nothing_hidden_in_what_is_allowed_runs(tmp_path, content):
    for legacy in (False, True):
        torch.save({"state_dict": STATE, **content}, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"net\.pth (holds|is)"):
            read_weights(tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"net\.pth (holds|is)"):
        read_weights(tmp_path / "net.pth")


def test_what_is_beside_the_weights_that_are_taken_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save({"model": STATE, "ema": {key: value + 1 for key, value in STATE.items()}}, tmp_path / "net.pth")
    assert loads(tmp_path / "net.pth")
    assert "the weights are those under model; the file also has ema" in caplog.text


def test_numpy_arrays_are_weights_too(tmp_path):
    torch.save({key: value.numpy() for key, value in STATE.items()}, tmp_path / "net.pth")
    assert loads(tmp_path / "net.pth")


def test_the_weights_of_an_averaged_model_load(tmp_path):
    torch.save(torch.optim.swa_utils.AveragedModel(network(1)).state_dict(), tmp_path / "net.pth")
    assert loads(tmp_path / "net.pth")


def test_quantised_weights_are_no_weights_of_a_network_of_floats(tmp_path):
    rounded = {
        key: (100 * value).round().to(torch.int8) if value.is_floating_point() else value
        for key, value in STATE.items()
    }
    torch.save(rounded, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"of another shape \(0\.weight 4x3x3x3 int8 for 4x3x3x3"):
        load_student(network(2), tmp_path / "net.pth")


def arrays(path):
    with open(path, "wb") as stream:
        np.savez(stream, **{key: value.numpy() for key, value in STATE.items()})


def torchscript(path):
    torch.jit.trace(network(1).eval(), torch.zeros(1, 3, 8, 8)).save(path)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS"),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html>\n<html>"), "a web page, not a checkpoint"),
        (arrays, "a NumPy archive"),
        (torchscript, "a TorchScript archive: convert it with network = torch.jit.load"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_files_are_called_what_they_are(tmp_path, write, named):
    write(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"net\.pth is {named}"):
        read_weights(tmp_path / "net.pth")
