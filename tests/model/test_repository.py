"""Repositories whose packages are called as ours: imported apart, both at once, with imports that come late."""

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from etc.errors import UserError
from etc.flow import build_flow
from model import build_model
from model.repository import find, repository
from utils import crit

TOOLKIT = Path(__file__).resolve().parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


@pytest.fixture
def research(tmp_path) -> Path:
    """A repository with model/, utils/, data/ and tool/; its network imports something in its forward."""
    return write(
        tmp_path / "research",
        {
            "model/__init__.py": "",
            "model/segmentation/__init__.py": "from model.segmentation.net import make",
            "model/segmentation/net.py": """
                from torch import nn
                from utils.misc import channels
                import data.labels

                class Net(nn.Module):
                    def __init__(self, classes):
                        super().__init__()
                        self.layer = nn.Conv2d(channels(), classes, 1)
                    def forward(self, x):
                        from utils.late import scale
                        import tool.more
                        return self.layer(x) * scale()

                def make(classes):
                    from utils.misc import channels as again
                    assert again() == 3
                    return Net(classes)
            """,
            "utils/__init__.py": "",
            "utils/misc.py": "def channels(): return 3",
            "utils/late.py": "def scale(): return 2.0",
            "data/__init__.py": "",
            "data/labels.py": "",
            "tool/__init__.py": "",
            "tool/more.py": "",
        },
    )


@pytest.fixture
def flows(tmp_path) -> Path:
    """Another one, with packages of the same names."""
    return write(
        tmp_path / "flows",
        {
            "model/__init__.py": "",
            "model/raft.py": """
                import torch
                from utils.misc import value

                class Flow:
                    def estimate(self, rgb_t, rgb_k):
                        import utils.late
                        return torch.full((len(rgb_t), 2, *rgb_t.shape[-2:]), value() + utils.late.MORE)

                def make():
                    return Flow()
            """,
            "utils/misc.py": "def value(): return 5.0",
            "utils/late.py": "MORE = 1.0",
        },
    )


def test_a_network_with_packages_called_as_ours_is_built_and_runs(research):
    ours = {name: sys.modules[name] for name in ("model", crit.__name__, "etc")}
    network = build_model(f"{research}:model.segmentation:make", classes=4)
    image = torch.randn(2, 3, 8, 8)
    expected = 2 * network.network.layer(image)
    torch.testing.assert_close(network.train()(image)["logits"], expected)
    torch.testing.assert_close(network.eval()(image), expected)
    assert {name: sys.modules[name] for name in ours} == ours
    assert "utils.misc" not in sys.modules and str(research) not in sys.path


def test_two_repositories_with_the_same_names_are_used_at_once(research, flows):
    network = build_model(f"{research}:model.segmentation:make", classes=4)
    estimator = build_flow(f"{flows}:model.raft:make")
    frames = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 255.0)
    for _ in range(2):
        assert estimator.estimate(*frames).unique().tolist() == [6.0]
        assert network.eval()(frames[0]).shape == (1, 4, 16, 16)


def test_a_copy_and_its_weights_are_those_of_the_network(research):
    network = build_model(f"{research}:model.segmentation:make", classes=4).eval()
    again = copy.deepcopy(network)
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(image), network(image))
    assert set(network.state_dict()) == {"layer.weight", "layer.bias"}


@pytest.mark.slow
def test_the_key_of_an_estimator_changes_with_any_module_that_it_imports(flows, tmp_path):
    script = f"from etc.flow import build_flow; print(build_flow({str(flows) + ':model.raft:make'!r}).key)"
    keys = []
    for text in ("def value(): return 5.0", "def value(): return 5.0", "def value(): return 7.0"):
        (flows / "utils/misc.py").write_text(text)
        environment = os.environ | {"PYTHONPATH": str(TOOLKIT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        keys.append(done.stdout.strip())
    assert keys[0] == keys[1] != keys[2]


def test_an_error_of_its_code_leaves_our_modules_in_place_and_keeps_its_traceback(research):
    (research / "utils/late.py").write_text("def scale(): raise KeyError('theirs')")
    network = build_model(f"{research}:model.segmentation:make", classes=4).eval()
    with pytest.raises(KeyError, match="theirs") as error:
        network(torch.zeros(1, 3, 4, 4))
    assert any("late.py" in str(entry.path) for entry in error.traceback)
    assert sys.modules["utils"].__file__.startswith(str(TOOLKIT)) and str(research) not in sys.path


def test_a_script_in_a_folder_with_such_packages_finds_them(research, monkeypatch):
    monkeypatch.chdir(research)
    home, _ = find("model.segmentation:make")
    assert home is repository(research)
    assert build_model("model.segmentation:make", classes=4).eval()(torch.zeros(1, 3, 4, 4)).shape == (1, 4, 4, 4)
    assert find("model.build:build_model") == (None, build_model)  # ours stays ours


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:model.net:make", "there is no folder nowhere"),
        ("{root}:model.nothing:make", "No module named 'model.nothing'"),
        ("{root}:model.segmentation:nothing", r"there is no nothing in .*research.*model.*segmentation"),
        ("{root}:model/net:make", "expected package.module:factory or folder:package.module:factory"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_looked_for(research, name, message):
    with pytest.raises(ValueError, match=message):
        build_model(name.format(root=research), classes=4)
    with pytest.raises(UserError, match=message):
        build_flow(name.format(root=research))


def test_names_of_the_standard_library_stay_with_it(tmp_path):
    root = write(
        tmp_path / "r",
        {"logging.py": "raise RuntimeError('mine')", "net.py": "import logging\ndef x():\n    return logging.INFO"},
    )
    assert find(f"{root}:net:x")[1]() == 20
