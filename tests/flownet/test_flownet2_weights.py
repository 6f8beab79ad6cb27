import pickle

import numpy as np
import pytest
import torch

from flownet import VARIANTS, load_flownet2
from tests.flownet.published_keys import published_keys


def stand_in(variant):
    """A state dict of the right shapes, each tensor filled with its own number; takes no room on disk."""
    return {
        key: torch.tensor(float(number)).expand(shape)
        for number, (key, shape) in enumerate(published_keys(variant).items())
    }


def save(path, state, **settings):
    torch.save({"arch": "FlowNet2", "epoch": 0, "best_EPE": np.float64(1.5), "state_dict": state}, path, **settings)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_its_own_values(tmp_path, variant):
    network = load_flownet2(save(tmp_path / "FlowNet2_checkpoint.pth.tar", stand_in(variant)), variant=variant)
    assert type(network) is VARIANTS[variant]
    assert not network.training
    for number, key in enumerate(published_keys(variant)):
        assert (network.get_parameter(key) == number).all()


def test_the_file_format_and_numpy_names_of_2018_are_read(tmp_path):
    path = save(tmp_path / "old.pth.tar", stand_in("flownet2-c"), _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray\n" in content  # as this NumPy writes it
    path.write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert load_flownet2(path, variant="flownet2-c").get_parameter("conv1.0.bias")[0] == 1


def test_a_bare_state_dict_and_half_precision_are_read(tmp_path):
    torch.save({k: v.half() for k, v in stand_in("flownet2-s").items()}, tmp_path / "s.pth")
    network = load_flownet2(tmp_path / "s.pth", variant="flownet2-s")
    assert network.get_parameter("conv1.0.weight").dtype == torch.float32


def test_settings_are_passed_on(tmp_path):
    path = save(tmp_path / "c.pth.tar", stand_in("flownet2-c"))
    network = load_flownet2(path, variant="flownet2-c", rgb_max=1.0, resize_mode="published")
    assert (network.frames.rgb_max, network.frames.resize_mode) == (1.0, "published")


def test_all_wrong_keys_and_shapes_are_named_in_one_line(tmp_path):
    state = stand_in("flownet2-c")
    for key in ("conv4.0.bias", "conv5.0.bias", "conv6.0.bias", "deconv5.0.bias"):
        del state[key]
    state["extra"] = torch.zeros(1)
    state["conv1.0.weight"] = torch.zeros(64, 6, 7, 7)
    path = save(tmp_path / "wrong.pth.tar", state)
    with pytest.raises(ValueError) as caught:
        load_flownet2(path, variant="flownet2-c")
    assert str(caught.value) == (
        f"{path} does not hold the weights of flownet2-c: "
        "4 missing (conv4.0.bias, conv5.0.bias, conv6.0.bias, ...); 1 unexpected (extra); "
        "1 of another shape (conv1.0.weight (64, 6, 7, 7) instead of (64, 3, 7, 7))"
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no FlowNet2 weights at .*none\.pth\.tar"):
        load_flownet2(tmp_path / "none.pth.tar")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("unpickling ran foreign code",))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", pickle.dumps(Harmful(), 2), b"PK\x03\x04"],
    ids=["empty", "text", "code", "half a zip"],
)
def test_a_file_that_is_not_weights_is_refused(tmp_path, content):
    path = tmp_path / "file.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth\.tar is damaged, or holds something other than weights"):
        load_flownet2(path)


def test_code_inside_a_checkpoint_does_not_run(tmp_path):
    torch.save({"state_dict": stand_in("flownet2-c"), "extra": Harmful()}, tmp_path / "c.pth.tar")
    with pytest.raises(ValueError, match="something other than weights"):
        load_flownet2(tmp_path / "c.pth.tar", variant="flownet2-c")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = save(tmp_path / "c.pth.tar", stand_in("flownet2-c"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        load_flownet2(path, variant="flownet2-c")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {"state_dict": {"a": 1}}])
def test_a_checkpoint_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pth.tar")
    with pytest.raises(ValueError, match=r"c\.pth\.tar holds no state_dict of tensors"):
        load_flownet2(tmp_path / "c.pth.tar")


def test_an_unknown_variant_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown FlowNet2 variant 'flownet3', expected one of flownet2, "):
        load_flownet2(tmp_path / "c.pth.tar", variant="flownet3")
