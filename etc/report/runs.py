"""Scored runs: read from result folders, made from checkpoints, checked to be comparable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etc.config import load_settings
from etc.config.schema import SECTIONS, Settings
from etc.data.images import read_image
from etc.data.sources import clips_to_score
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.frames import score_frames
from etc.evaluate.results import MIOU_FILE, TC_FILE, clip_counts, read_result
from etc.networks import network_for_cost
from etc.predict.clips import generate
from etc.predict.predictor import predictor_from
from etc.report.cost import Cost, costs
from etc.train.checkpoint import read_checkpoint

CHECKPOINTS = (".pth", ".pt", ".tar")


@dataclass(frozen=True)
class Run:
    """A scored run.

    Attributes:
        name: what the user calls it.
        folder: its result folder.
        tc: what ``tool/eval_tc.py`` wrote there.
        miou: what ``tool/test.py`` wrote there; ``None`` for predictions that come without a network.
        settings: what it was scored with.
        predicted_with: what ``tool/gen_video.py`` predicted with; ``None`` for predictions made by others.
    """

    name: str
    folder: Path
    tc: dict[str, Any]
    miou: dict[str, Any] | None
    settings: Settings
    predicted_with: Settings | None


def named_runs(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """``NAME=WHERE`` words as pairs, and the settings that stand behind them, if any.

    Raises:
        UserError: a word of another form.
    """
    first = next((i for i, word in enumerate(words) if word.partition(".")[0] in SECTIONS), len(words))
    pairs = [word.partition("=") for word in words[:first]]
    if not pairs or not all(map(all, pairs)):
        raise UserError(f"--runs takes NAME=FOLDER or NAME=CHECKPOINT, got {' '.join(words[:first]) or 'nothing'}")
    return [(name, where) for name, _, where in pairs], words[first:]


def runs_of(named: list[tuple[str, str]], settings: Settings, folder: Path) -> list[Run]:
    """The runs of names and places; checkpoints are scored into ``folder``, after all that can be checked at once.

    Raises:
        UserError: as :func:`read_run` and :func:`score_checkpoint`.
    """
    read = {name: read_run(name, where) for name, where in named if not where.endswith(CHECKPOINTS)}
    checkpoints = {name: where for name, where in named if where.endswith(CHECKPOINTS)}
    for where in checkpoints.values():
        _settings_in(Path(where))
    for name, where in checkpoints.items():
        score_checkpoint(where, settings, folder / name)
        read[name] = read_run(name, folder / name)
    return [read[name] for name, _ in named]


def settings_of(where: str) -> Path | dict[str, Any] | None:
    """The settings that belong to a result folder or a checkpoint, for :func:`etc.config.load_settings`.

    Raises:
        UserError: a checkpoint that is missing or damaged.
    """
    if where.endswith(CHECKPOINTS):
        return _settings_in(Path(where)) or None
    file = Path(where) / "tc_settings.yaml"
    return file if file.is_file() else None


def score_checkpoint(path: str, settings: Settings, folder: Path) -> None:
    """Predict, score and test a checkpoint into a result folder; predictions that are there already are kept.

    Data, flow and test settings are those given; the architecture is the checkpoint's own, where it says so.

    Raises:
        UserError: missing files, or a checkpoint that does not fit.
    """
    own = _settings_in(Path(path)).get("TRAIN", {})
    train = settings.TRAIN.model_copy(update={key: own[key] for key in ("arch", "layers") if key in own})
    test = settings.TEST.model_copy(update={"ckpt_path": path, "save_folder": str(folder), "predictions": None})
    settings = settings.model_copy(update={"TRAIN": train, "TEST": test})
    generate(settings)
    score_clips(settings).save(folder)
    score_frames(settings).save(folder)


def read_run(name: str, folder: str | Path) -> Run:
    """Read a run's result folder.

    Raises:
        UserError: ``tc.json`` is missing or not of this version, or ``miou.json`` is of another checkpoint.
    """
    folder = Path(folder)
    if not (folder / TC_FILE).is_file():
        raise UserError(f"{folder} has no {TC_FILE}: write it with tool/eval_tc.py TEST.save_folder {folder}")
    tc = read_result(folder / TC_FILE)
    miou = read_result(folder / MIOU_FILE) if (folder / MIOU_FILE).is_file() else None
    if not _is_current(tc, miou) or not (folder / "tc_settings.yaml").is_file():
        raise UserError(f"{folder}: {TC_FILE} or {MIOU_FILE} was not written by this version: score it again")
    made_with = checkpoint_of(tc)
    if made_with and miou and miou["checkpoint_sha256"] != made_with:
        raise UserError(f"{folder}: {TC_FILE} and {MIOU_FILE} are of different checkpoints: run tool/test.py again")
    predicted_with = folder / "video" / "settings.yaml"
    return Run(
        name,
        folder,
        tc,
        miou,
        load_settings(folder / "tc_settings.yaml"),
        load_settings(predicted_with) if made_with and predicted_with.is_file() else None,
    )


def check_comparable(runs: list[Run]) -> None:
    """Raise UserError where two runs bear one name, or were not scored on the same clips with the same flow."""
    first = runs[0]
    names = [clip["clip"] for clip in first.tc["clips"]]
    for i, run in enumerate(runs[1:], 1):
        both = f"{first.name} and {run.name}"
        if run.name in {other.name for other in runs[:i]}:
            raise UserError(f"two runs are called {run.name}: give each a name of its own")
        if run.tc["classes"] != first.tc["classes"]:
            raise UserError(f"{both} have different classes")
        if [clip["clip"] for clip in run.tc["clips"]] != names:
            raise UserError(f"{both} were scored on different clips ({len(names)} and {len(run.tc['clips'])})")
        for what, one, other in (
            ("flow", first.tc["flow"], run.tc["flow"]),
            ("TEST.strides", first.tc["stride"], run.tc["stride"]),
            ("FLOW.occlusion", first.settings.FLOW.occlusion, run.settings.FLOW.occlusion),
            ("pairs of frames, because of gaps", first.tc["pairs"]["scored"], run.tc["pairs"]["scored"]),
        ):
            if one != other:
                raise UserError(f"{both} were scored with different {what}: {one} and {other}")


def measure_costs(runs: list[Run], settings: Settings, *, speed: bool) -> dict[str, Cost]:
    """What each run's network costs for a frame of the clips, on ``TEST.device`` of the settings."""
    device = device_of(settings.TEST.device)
    frame = read_image(Path(settings.DATA.data_root) / clips_to_score(settings)[0][0].image)
    predictors = {}
    for run in runs:
        if run.predicted_with is not None:
            test = run.predicted_with.TEST.model_copy(update={"device": settings.TEST.device})
            own = run.predicted_with.model_copy(update={"TEST": test})
            predictors[run.name] = predictor_from(own, network=network_for_cost(own), device=device)
    return costs(predictors, frame, speed=speed)


def figures(tc: dict[str, Any], miou: dict[str, Any] | None) -> dict[str, float]:
    """The figures of a run by itself, as shares; NaN where there is none."""
    found = {
        "mIoU": miou["mIoU"] if miou else math.nan,
        "mIoU clips": tc["segmentation"]["mIoU"],
        "TC boundary": tc["boundary"]["mIoU"],
        "flicker": tc["flicker"],
        "VC8": tc["vc8_correct"],
        "VC16": tc["vc16_correct"],
        "ceiling": tc["ceiling"],
        "coverage": tc["coverage"],
    }
    for name, protocol in (("TC", "strict"), ("TC published", "published")):
        low, high = tc[f"{protocol}_interval"]
        found |= {name: tc[protocol]["mIoU"], f"{name} low": low, f"{name} high": high}
    return found


def checkpoint_of(tc: dict[str, Any]) -> str | None:
    """SHA-256 of the checkpoint that made the scored predictions; ``None`` for those made by others."""
    note = tc["predictions"]  # NaN where there is none
    return note.get("checkpoint_sha256") if isinstance(note, dict) else None


def _is_current(tc: dict[str, Any], miou: dict[str, Any] | None) -> bool:
    """Whether results hold all that is read here; older and foreign files do not."""
    try:
        figures(tc, miou)
        clips = [len(clip_counts(tc, protocol)) for protocol in ("strict", "published", "segmentation")]
        keys = (
            {"classes", "flow", "predictions", "stride"} <= tc.keys()
            and "scored" in tc["pairs"]
            and (miou is None or "checkpoint_sha256" in miou)
        )
        return keys and set(clips) == {len(tc["clips"])} and all("pairs" in clip for clip in tc["clips"])
    except (KeyError, TypeError, ValueError):
        return False


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings that a checkpoint was trained with; empty where it holds none, as published ones do."""
    content = read_checkpoint(path, "checkpoint")
    config = content.get("config") if isinstance(content, dict) else None
    return config if isinstance(config, dict) else {}
