"""The list of weight files, and their download; no network: files stand in for the servers."""

import hashlib

import pytest
import torch
from torchvision.models._api import WeightsEnum

from etc import weights as weights_module
from etc.errors import UserError
from etc.flow.estimators import build_flow
from etc.weights import WeightFile, description, download, how_to_get, weight_files
from flownet import VARIANTS
from model import WeightsUnavailable, build_model

CONTENT = b"weights, to the last byte"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path):
    """A file that a file:// link leads to, described as torchvision's are."""
    source = tmp_path / "server/net.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    return WeightFile("net", "net.pth", "FLOW.name net", source.as_uri(), SHA256[:8], "free")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """PyTorch's cache folder and the working folder are those of the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_hashes_of_torchvision_are_those_of_its_file_names():
    files = weight_files()
    known = {
        "raft_small": ("raft_small_C_T_V2-01064c6d.pth", "01064c6d"),
        "raft_large": ("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "ff5fadd5"),
        "resnet18": ("resnet18-f37072fd.pth", "f37072fd"),
        "mobilenet_v2": ("mobilenet_v2-b0353104.pth", "b0353104"),
    }
    assert {name: (files[name].file, files[name].sha256) for name in known} == known
    for file in files.values():
        assert not file.direct or (file.source.startswith("https://") and file.source.endswith(f"-{file.sha256}.pth"))


def test_every_flow_network_and_every_imagenet_start_is_listed(monkeypatch):
    asked = []

    def refuse(self, *_, **__):
        asked.append(self.url)
        raise OSError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    archs = ("psp18", "mobile", "lraspp", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large")
    for arch in archs:
        with pytest.raises(WeightsUnavailable):
            build_model(arch, classes=3, pretrained=True)
    for name in ("raft_small", "raft_large"):
        with pytest.raises(UserError, match=name):
            build_flow(name)
    assert len(asked) == len(archs) + 2
    files = weight_files()
    assert set(asked) == {file.source for file in files.values() if file.direct}
    assert set(VARIANTS) < set(files)


def test_a_file_without_a_published_hash_claims_none():
    files = [file for file in weight_files().values() if not file.direct]
    assert len(files) == 9 and all(file.sha256 == "" for file in files)
    assert all("not published" in how_to_get(file.name) and "no direct link" in how_to_get(file.name) for file in files)


def test_a_download_is_checked_and_put_where_it_was_wanted(served, tmp_path, capsys):
    assert download(served, tmp_path / "new/folder/net.pth").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["net.pth"]


def test_torchvisions_files_go_where_the_toolkit_looks(served, elsewhere):
    assert download(served) == elsewhere / "hub/checkpoints/net.pth"
    assert (elsewhere / "hub/checkpoints/net.pth").read_bytes() == CONTENT


def test_another_hash_is_refused_and_leaves_nothing(served, tmp_path):
    wrong = served._replace(sha256="00000000")
    with pytest.raises(UserError, match=r"net\.pth could not be downloaded to .*hash"):
        download(wrong, tmp_path / "new/net.pth")
    assert not list((tmp_path / "new").iterdir())


def test_a_link_that_leads_nowhere_is_one_line(served, tmp_path):
    with pytest.raises(UserError, match="could not be downloaded"):
        download(served._replace(source=(tmp_path / "gone.pth").as_uri()), tmp_path / "net.pth")
    assert not (tmp_path / "net.pth").exists()


def test_what_is_there_and_right_is_kept_and_what_is_wrong_is_fetched_again(served, tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    gone = served._replace(source=(tmp_path / "gone.pth").as_uri())
    assert download(gone, path) == path
    path.write_bytes(CONTENT[:-3])
    download(served, path)
    assert path.read_bytes() == CONTENT


def test_the_description_says_what_is_here(served, tmp_path):
    path = tmp_path / "net.pth"
    assert f"no, looked for {path}" in description(served, path)
    path.write_bytes(CONTENT)
    text = description(served, path)
    assert SHA256 in text and "WRONG" not in text
    path.write_bytes(b"another")
    assert "WRONG" in description(served, path)
    assert "WRONG" not in description(served._replace(sha256=""), path)


@pytest.mark.parametrize("weights", [None, "nowhere.pth.tar"])
@pytest.mark.parametrize("name", ["flownet2", "flownet2-css"])
def test_missing_flownet2_weights_say_all_that_the_list_says(elsewhere, name, weights):
    with pytest.raises(UserError) as caught:
        build_flow(name, weights=weights)
    message = str(caught.value)
    assert how_to_get(name) in message and "FLOW.weights" in message and "\n" not in message
    file = weight_files()[name]
    assert all(text in message for text in (file.file, file.source, file.licence, str(file.path)))


def test_missing_raft_weights_say_all_that_the_list_says(tmp_path):
    with pytest.raises(UserError) as caught:
        build_flow("raft_large", weights=tmp_path / "raft.pth")
    message = str(caught.value)
    assert f"{tmp_path}/raft.pth does not exist" in message and how_to_get("raft_large") in message
    assert weights_module.weight_files()["raft_large"].source in message
