"""ETC, Efficient Temporal Consistency: trains per-frame segmentation networks whose predictions are stable over time.

Where to find what. Modules import only from their own room and from those above it in this list:

    metrics         mIoU, temporal and video consistency, bootstrap intervals; imports nothing else of etc
    errors          UserError and ConfigError: what scripts show as one line
    distributed     ranks, process group, the device of this process
    interrupts      Ctrl-C while a script imports its modules
    config/         settings: sections and keys, YAML files, overrides, the published format
    motion          visibility mask and motion loss
    weights         catalogue of weight files: source, hash, licence
    data/           lists, frames, labels, transforms, the training data set, videos, the synthetic world
    networks        settings -> network with its weights
    cli             what all scripts share: arguments, --help, user errors, exit codes
    display/        label maps as pictures, mp4 video, text tables
    flow/           optical flow: estimators, files, the cache, accuracy
    predict/        per-frame prediction: clips, demo, ONNX export
    evaluate/       scores of predictions and of networks: temporal consistency, mIoU
    train/          the training loop, its step, distillation, checkpoints
    pseudo_labels/  labels for unlabelled video from a teacher
    report/         checkpoints side by side: table, JSON, CSV, HTML
    benchmark/      speed and memory against the budgets
    study/          variants of a training with several seeds: runs, intervals, pages

Below the toolkit are three packages that know nothing of it or of each other: ``model`` (segmentation networks),
``flownet`` (FlowNet2 and its operators) and ``utils`` (training criteria in ``crit.py``, and small helpers).
The scripts in ``tool/`` use this toolkit and hold no logic. ``make lint`` checks the layers of pyproject.toml, in which
some neighbours of this list share one.
"""

import importlib.util
import sys
from pathlib import Path

__version__ = "1.1.0"


def hidden_package() -> str | None:
    """One sentence if another module has the name of a package that this toolkit imports; ``None``: all are found."""
    root = Path(__file__).resolve().parents[1]
    for name in ("model", "flownet", "utils"):
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded else importlib.util.find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
        if root / name not in [Path(place).resolve() for place in places if place]:
            found = next((place for place in places if place), "nowhere")
            return (
                f"the ETC toolkit imports its own package {name!r} from {root}, but Python finds {found}: rename that "
                "one, or take its folder off PYTHONPATH and out of the folder of your script (TRAIN.arch and FLOW.name "
                "take code of such a repository as path/to/repository:package.module:factory)"
            )
    return None


def other_clone() -> str | None:
    """One sentence if the script that runs is that of another clone than this one; ``None``: it is not."""
    script, own = getattr(sys.modules.get("__main__"), "__file__", None), Path(__file__).resolve().parents[1]
    root = Path(script).resolve().parents[1] if script else own
    if root == own or Path(script or "").resolve().parent.name != "tool" or not (root / "etc/cli.py").is_file():
        return None
    return (
        f"this script is that of {root}, but Python imports the toolkit from {own}: use {root}/.venv/bin/python "
        "(make test or make quickstart sets it up)"
    )


_hidden = hidden_package() or other_clone()
if _hidden is not None:
    _main = getattr(sys.modules.get("__main__"), "__file__", None)
    if _main and Path(_main).resolve().parent.name == "tool":  # one of the toolkit's scripts: no traceback of ours
        print(f"error: {_hidden}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_hidden)
