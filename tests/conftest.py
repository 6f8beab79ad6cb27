"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

from etc.config import load_settings
from etc.data.synthetic import prepare

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="20 kills per command and 1,000 damaged files per reader")


@pytest.fixture
def real_data() -> Path:
    """Root of the real data sets; the test is skipped, visibly, where they are absent."""
    root = Path(os.environ.get("ETC_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root} (set ETC_REAL_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A synthetic world of one training and two validation snippets at 64x128, rendered once for all tests."""
    root = tmp_path_factory.mktemp("world") / "synthetic"
    prepare(load_settings(None, tiny_overrides(root)))
    return root


def tiny_overrides(root: Path) -> list[str]:
    """Settings of the tiny world, as they would be given on the command line."""
    return [
        f"DATA.data_root={root}",
        f"DATA.train_list={root}/list/train.lst",
        f"DATA.val_list={root}/list/val.lst",
        f"DATA.clip_list={root}/list/val_clips.lst",
        "DATA.synthetic_height=64",
        "DATA.synthetic_width=128",
        "DATA.synthetic_train=1",
        "DATA.synthetic_val=2",
    ]


@pytest.fixture
def tiny_training(tiny_world, tmp_path) -> list[str]:
    """Overrides of a training of two short epochs on the tiny world, all output below ``tmp_path``."""
    return [
        *tiny_overrides(tiny_world),
        f"TRAIN.save_path={tmp_path}/run",
        f"TEST.ckpt_path={tmp_path}/run/best.pth",
        f"TEST.save_folder={tmp_path}/run/result",
        f"TEST.demo_folder={tmp_path}/run/demo",
        f"FLOW.cache={tmp_path}/flow_store",
        "TRAIN.train_h=49",
        "TRAIN.train_w=65",
        "TRAIN.batch_size=2",
        "TRAIN.st_weight=0.1",
        "TRAIN.val_clips=1",
        "TRAIN.epochs=2",
        "TRAIN.val_freq=2",
        "TRAIN.workers=0",
        "TEST.device=cpu",
    ]
