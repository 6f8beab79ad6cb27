"""FlowNet2 and RAFT with random weights as a user runs them: from a checkpoint, through the scripts, on real frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_small

from etc.data.images import read_image
from etc.flow.estimators import build_flow
from etc.flow.files import read_flow
from tests.flownet.checkpoint import write_checkpoint
from tests.flownet.reference import reference_flow
from tests.scripts import run

# the smallest step of the store's 16 bits is 1/64 of a pixel
HALF_STEP = 1 / 128


def frame(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].float()


@pytest.fixture
def words(tiny_training, tiny_world, tmp_path) -> list[str]:
    """The tiny quickstart with one clip of three frames; crops are as large as FlowNet2 needs them."""
    lines = (tiny_world / "list/val_clips.lst").read_text().split("\n\n")[0].splitlines()[:3]
    (tmp_path / "clip.lst").write_text("\n".join(lines) + "\n")
    own = [f"DATA.clip_list={tmp_path}/clip.lst", "TRAIN.train_h=65", "TRAIN.train_w=73", "TRAIN.epochs=1"]
    replaced = tuple(word.partition("=")[0] + "=" for word in own)
    return [*(word for word in tiny_training if not word.startswith(replaced)), *own]


def predict(words: list[str]) -> None:
    """Train without motion loss and predict the clip."""
    baseline = [word for word in words if not word.startswith("TRAIN.st_weight")]
    assert run("train_with_flow", *baseline, "TRAIN.st_weight=0") == 0
    assert run("gen_video", *words) == 0


@pytest.mark.slow
@pytest.mark.parametrize("source", ["online", "cached"])
def test_the_quickstart_trains_and_scores_with_a_flownet2_checkpoint(words, tmp_path, source, capsys):
    weights = write_checkpoint(tmp_path / "flownet2-s.pth.tar", "flownet2-s")
    flow = ["FLOW.name=flownet2-s", f"FLOW.weights={weights}", f"FLOW.source={source}"]
    for script in ("train_with_flow", "gen_video", "eval_tc"):
        assert run(script, *words, *flow) == 0
    assert "TC strict" in capsys.readouterr().out


@pytest.mark.slow
def test_eval_tc_scores_with_the_flow_of_flownet2(words, tmp_path, capsys):
    predict(words)
    weights = write_checkpoint(tmp_path / "FlowNet2_checkpoint.pth.tar", "flownet2")
    assert run("eval_tc", *words, "FLOW.name=flownet2", f"FLOW.weights={weights}") == 0
    assert "TC strict" in capsys.readouterr().out
    files = sorted((tmp_path / "flow_store").rglob("*.b2flow"))
    assert len(files) == 4  # two pairs, forward and backward
    assert all(file.relative_to(tmp_path / "flow_store").parts[0].startswith("flownet2-") for file in files)
    # one of them against the reference, which shares no code with the package
    stem_t, stem_k = files[0].stem.split("__")
    root = Path(next(word for word in words if word.startswith("DATA.data_root")).partition("=")[2])
    images = [next(root.rglob(f"{stem}.png")) for stem in (stem_t, stem_k)]
    state = torch.load(weights, weights_only=False)["state_dict"]
    with torch.no_grad():
        expected = reference_flow("flownet2", state, *map(frame, images))[0]
    assert expected.std() > 0.1
    np.testing.assert_allclose(read_flow(files[0])[0], expected, rtol=0, atol=HALF_STEP + 1e-3)


def test_missing_and_foreign_weights_are_one_line(words, tmp_path, capsys):
    predict(words)
    capsys.readouterr()
    assert run("eval_tc", *words, "FLOW.name=flownet2") == 2
    assert "FLOW.name flownet2 needs its weights in FLOW.weights" in capsys.readouterr().err
    weights = write_checkpoint(tmp_path / "s.pth.tar", "flownet2-s")
    assert run("eval_tc", *words, "FLOW.name=flownet2-sd", f"FLOW.weights={weights}") == 2
    assert f"{weights} does not hold the weights of flownet2-sd" in capsys.readouterr().err
    small = ["TRAIN.train_h=49", "FLOW.name=flownet2-s", "FLOW.source=online", f"FLOW.weights={weights}"]
    assert run("train_with_flow", *words, f"TRAIN.save_path={tmp_path}/small", *small) == 2
    assert "too small for flow: 64 pixels at least" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["raft_small", "flownet2-s", "flownet2-cs", "flownet2"])
def test_networks_take_real_frames(name, real_data, tmp_path):
    frames = sorted((real_data / "camvid" / "val").glob("*.*"))[:2]
    if name == "raft_small":
        torch.manual_seed(0)
        torch.save(raft_small().state_dict(), tmp_path / "weights.pth")
    else:
        write_checkpoint(tmp_path / "weights.pth", name)
    flow = build_flow(name, weights=tmp_path / "weights.pth").estimate(*map(frame, frames))
    assert flow.shape == (1, 2, 360, 480) and flow.dtype == torch.float32
    assert flow.isfinite().all() and flow.std() > 0
