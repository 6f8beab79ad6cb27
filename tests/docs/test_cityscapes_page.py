"""docs/cityscapes.md: its commands on a tiny tree of the layout, in one process each."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests import trees
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/cityscapes.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
SMALL = (
    "TRAIN.epochs=1 TRAIN.train_h=49 TRAIN.train_w=65 TRAIN.batch_size=2 TRAIN.workers=0 TRAIN.pretrained=false "
    "TRAIN.layers=18 TRAIN.backbone_weights= TRAIN.val_freq=1 TRAIN.frame_gap=1 DATA.allow_missing_neighbours=true "
    "DATA.clip_list=clips.lst DISTILL.teacher_arch=psp18 DISTILL.mf_pool=2 FLOW.preset=ultrafast TEST.device=cpu"
)


@pytest.mark.slow
def test_the_commands_work_on_a_tree_of_the_layout(tmp_path):
    trees.cityscapes(tmp_path / "tree")
    for folder in ("tool", "configs", "data/palettes"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    val = sorted((tmp_path / "tree/leftImg8bit/val").rglob("*.png"))
    (tmp_path / "clips.lst").write_text("".join(f"{path.relative_to(tmp_path / 'tree')}\n" for path in val))
    link, *others = COMMANDS
    script = [link.replace("/where/it/is", str(tmp_path / "tree"))]
    for command in others:
        command = command.replace("torchrun --nproc_per_node 8", "python").replace("TRAIN.amp float16", "")
        script.append(f"{command} {SMALL}" if "--config" in command else command)
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for run in ("baseline", "etc"):  # the page says: the same for these
        scores = [line for line in script if re.search(r"tool/(gen_video|eval_tc|test)\.py .*pspnet18_flow", line)]
        script[-1:-1] = [line.replace("pspnet18_flow", f"pspnet18_{run}") for line in scores]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^TC published +\d", done.stdout, re.MULTILINE) and " etc" in done.stdout
    results = tmp_path / "exp/cityscapes"
    assert json.loads((results / "pspnet18_etc/result/tc.json").read_text())["clips"]
    assert (results / "comparison/report.html").is_file()


def test_every_configuration_that_the_page_names_exists_and_its_arithmetic_holds():
    paths = re.findall(r"configs/cityscapes/\w+\.yaml", PAGE)
    assert len(paths) >= 8 and not [path for path in paths if not (REPOSITORY / path).is_file()]
    assert 2975 * 6 == 17850 and "17,850 pairs" in PAGE
    scaling = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")
    for figure in ("28 GB", "1.5 core hours", "6.2 GiB", "38 GiB", "0.9 and 5.4 GiB"):
        assert figure in scaling
