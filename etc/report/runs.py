"""Scored runs: read from result folders, made from checkpoints, checked to be comparable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etc.config import load_settings, with_changes
from etc.config.own_code import check_flow_code, check_network_code, code_of_user
from etc.config.schema import SECTIONS, Settings
from etc.data.images import read_image
from etc.data.sources import clips_to_score
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.frames import score_frames
from etc.evaluate.metric_list import SEGMENTATION
from etc.evaluate.results import MIOU_FILE, TC_FILE, TC_SETTINGS_FILE, ClipScores, read_clip_scores, read_result
from etc.networks import network_for_cost
from etc.predict.clips import generate
from etc.predict.predictor import predictor_from
from etc.report.cost import Cost, costs
from etc.report.same_frames import check_same_frames, lengths, need_a_look
from etc.train.checkpoint import read_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINTS = (".pth", ".pt", ".tar", ".safetensors")
PREDICTIONS = "--predictions"  # the option of folders of predictions, not of runs


@dataclass(frozen=True)
class Run:
    """A scored run.

    Attributes:
        name: what the user calls it.
        folder: its result folder.
        scores: what ``tool/eval_tc.py`` wrote there.
        miou: what ``tool/test.py`` wrote there; ``None`` for predictions that come without a network.
        predicted_with: what ``tool/gen_video.py`` predicted with; ``None`` for predictions made by others.
    """

    name: str
    folder: Path
    scores: ClipScores
    miou: dict[str, Any] | None
    predicted_with: Settings | None


def named_runs(args: list[str], option: str = "--runs") -> tuple[list[tuple[str, str]], list[str]]:
    """Split ``NAME=WHERE`` arguments of an option into pairs, and overrides of settings that follow them, if any.

    Raises:
        UserError: an argument of another form, a checkpoint that does not exist, or a name that cannot
            be printed, that is given twice, or that cannot be the folder of the results of a checkpoint or, with
            ``--predictions``, of a folder of predictions.
    """
    first = next((i for i, word in enumerate(args) if word.partition(".")[0] in SECTIONS), len(args))
    pairs = [word.partition("=") for word in args[:first]]
    if not pairs or not all(map(all, pairs)):
        form = "NAME=FOLDER or NAME=CHECKPOINT" if option == "--runs" else "NAME=FOLDER"
        raise UserError(f"{option} takes {form}, got {' '.join(args[:first]) or 'nothing'}")
    names = [name for name, _, _ in pairs]
    for i, (name, _, where) in enumerate(pairs):
        _check_name(name, option, is_folder=option == PREDICTIONS or where.endswith(CHECKPOINTS))
        if name in names[:i]:
            raise UserError(f"{option}: two runs are called {name}: give each a name of its own")
    for _, _, where in pairs:
        if option != PREDICTIONS and where.endswith(CHECKPOINTS) and not Path(where).is_file():
            raise UserError(f"{option}: checkpoint {where} does not exist")
    return [(name, where) for name, _, where in pairs], args[first:]


def _check_name(name: str, option: str, *, is_folder: bool) -> None:
    """Refuse a name that cannot be written down or, where it is that of a folder, leads out of that of the results."""
    if not name.isprintable():
        raise UserError(f"{option}: {name!a} cannot be the name of a run: it holds characters that cannot be printed")
    if is_folder and (name.startswith(".") or "/" in name or "\\" in name):
        raise UserError(
            f"{option}: {name!a} cannot be the name of a run, because its scores are written into a folder of that "
            "name below --out: expected a name without / and \\, and without a dot at its start"
        )


def settings_to_compare(
    named: list[tuple[str, str]], config: str | None, overrides: list[str]
) -> tuple[Settings, frozenset[str]]:
    """The settings of a comparison, and the code of the user's own that it may import.

    Args:
        named: names and places of the runs.
        config: the settings file that the user gives; ``None``: the settings of the first run.
        overrides: as :func:`etc.config.load_settings` takes them.

    Returns:
        The settings, and what :func:`etc.config.own_code.code_of_user` gives, for :func:`runs_of`.

    Raises:
        UserError: as :func:`etc.config.load_settings`; the first run names an estimator that the user does not name.
    """
    where = named[0][1]
    settings = load_settings(config or settings_of(where), overrides)
    allowed = code_of_user(config, overrides)
    check_flow_code(settings, allowed, where if where.endswith(CHECKPOINTS) else Path(where) / TC_SETTINGS_FILE)
    return settings, allowed


def runs_of(
    named: list[tuple[str, str]], settings: Settings, folder: Path, allowed: frozenset[str] = frozenset()
) -> list[Run]:
    """The runs of names and places; checkpoints are scored into ``folder``, after the checks that take no time.

    Args:
        named: names and places.
        settings: data, flow and test settings.
        folder: folder of the results of checkpoints.
        allowed: the code of the user's own that the runs' own settings may import.

    Raises:
        UserError: as :func:`read_run` and :func:`score_checkpoint`.
    """
    read = {name: read_run(name, where, allowed) for name, where in named if not where.endswith(CHECKPOINTS)}
    checkpoints = {name: where for name, where in named if where.endswith(CHECKPOINTS)}
    for where in checkpoints.values():
        _settings_of_checkpoint(where, settings, allowed)
    for name, where in checkpoints.items():
        score_checkpoint(where, settings, folder / name, allowed)
        read[name] = read_run(name, folder / name, allowed)
    return [read[name] for name, _ in named]


def _how_to_score(name: str, folder: Path) -> str:
    """What to do about a folder without scores, by what it holds."""
    if not folder.is_dir():
        return (
            f"--runs {name}={folder}: there is no such folder, and it is no checkpoint ({', '.join(CHECKPOINTS)}); "
            "several checkpoints together: tool/gen_video.py and tool/eval_tc.py, then compare their folder"
        )
    if (folder / "result" / TC_FILE).is_file():
        return f"{folder} has no {TC_FILE}, its result has: --runs {name}={folder / 'result'}"
    if (folder / "video").is_dir():
        return f"{folder} has no {TC_FILE}: write it with tool/eval_tc.py TEST.save_folder {folder}"
    if (folder / "last.pth").is_file():
        return f"{folder} is the folder of a training: compare its network, --runs {name}={folder / 'last.pth'}"
    if next(folder.rglob("*.png"), None) is not None:
        return (
            f"{folder} holds predictions, not their scores: score them with tool/eval_tc.py --frames FRAMES "
            f"--predictions {folder} TEST.save_folder RESULT, then compare --runs {name}=RESULT"
        )
    return f"{folder} is no result folder: it has no {TC_FILE}, which tool/eval_tc.py writes, and no predictions"


def settings_of(where: str) -> Path | dict[str, Any] | None:
    """The settings that belong to a result folder or a checkpoint, for :func:`etc.config.load_settings`.

    Raises:
        UserError: a checkpoint that is missing or damaged.
    """
    if where.endswith(CHECKPOINTS):
        return _settings_in(Path(where)) or None
    file = Path(where) / TC_SETTINGS_FILE
    return file if file.is_file() else None


def score_checkpoint(path: str, settings: Settings, folder: Path, allowed: frozenset[str] = frozenset()) -> None:
    """Predict, score and test a checkpoint into a result folder; predictions that are there already are kept.

    Data, flow and test settings are those given; the architecture is the checkpoint's own, where it says so.

    Raises:
        UserError: missing files, a checkpoint that does not fit, or one whose network would be imported from a module
            that is not in ``allowed``.
    """
    settings = with_changes(
        _settings_of_checkpoint(path, settings, allowed),
        TEST={"ckpt_path": path, "save_folder": str(folder), "predictions": None},
    )
    generate(settings)
    score_clips(settings).save(folder)
    score_frames(settings).save(folder)


def read_run(name: str, folder: str | Path, allowed: frozenset[str] = frozenset()) -> Run:
    """Read a run's result folder.

    Raises:
        UserError: ``tc.json`` is missing or not of this version, ``miou.json`` is of another checkpoint or predictions
            that name none, or the network that the folder names would be imported from a module that is not in
            ``allowed``.
    """
    folder = Path(folder)
    if not (folder / TC_FILE).is_file():
        raise UserError(_how_to_score(name, folder))
    scores = read_clip_scores(folder)
    miou = read_result(folder / MIOU_FILE) if (folder / MIOU_FILE).is_file() else None
    made_with = scores.checkpoint
    if miou is not None:
        _check_miou(folder, miou, made_with)
    settings = folder / "video" / "settings.yaml"
    predicted_with = load_settings(settings) if made_with and settings.is_file() else None
    if predicted_with is not None:
        check_network_code(predicted_with, allowed, settings)
    return Run(name, folder, scores, miou, predicted_with)


def _check_miou(folder: Path, miou: dict[str, Any], made_with: str | None) -> None:
    """Refuse a ``miou.json`` that is not of the network that made the scored predictions, or not of this version."""
    path = folder / MIOU_FILE
    if not {"checkpoint_sha256", "frames", "frames_sha256", "predictor"} <= miou.keys():
        raise UserError(f"{path} was not written by this version: run tool/test.py again")
    if made_with is None:
        raise UserError(
            f"{path} is of a network, but {TC_FILE} beside it is of predictions that name no checkpoint: run "
            f"tool/eval_tc.py on the predictions of that network, or remove {MIOU_FILE}, or give the predictions a "
            "TEST.save_folder of their own"
        )
    if miou["checkpoint_sha256"] != made_with:
        raise UserError(f"{folder}: {TC_FILE} and {MIOU_FILE} are of different checkpoints: run tool/test.py again")
    if not {"accuracy", "iou"} <= miou.keys():
        raise UserError(f"{path} lacks the figures of the classes: run tool/test.py again")


def check_comparable(runs: list[Run]) -> None:
    """Raise UserError where two runs have the same name, or were not scored on the same clips with the same flow.

    Clips of ``TEST.frames`` are the same where their frames are, by whatever names (a video, and its frames). Nor may
    their mIoU be of different frames. Different settings of prediction are a warning: windows or scales may be what is
    compared.
    """
    first = runs[0]
    for i, run in enumerate(runs[1:], 1):
        both = f"{first.name} and {run.name}"
        if run.name in {other.name for other in runs[:i]}:
            raise UserError(f"two runs are called {run.name}: give each a name of its own")
        one, other = first.scores, run.scores
        if other.classes != one.classes:
            raise UserError(f"{both} have different classes")
        look = need_a_look(one, other)
        if other.clips != one.clips and not (look and lengths(one) == lengths(other)):
            raise UserError(f"{both} were scored on different clips ({len(one.clips)} and {len(other.clips)})")
        for what, mine, theirs in (
            ("flow", one.first.flow, other.first.flow),
            ("TEST.strides", one.first.stride, other.first.stride),
            ("FLOW.occlusion", one.settings.FLOW.occlusion, other.settings.FLOW.occlusion),
            ("pairs of frames, because of gaps", one.first.scored, other.first.scored),
            *_label_settings(one, other),
        ):
            if mine != theirs:
                raise UserError(f"{both} were scored with different {what}: {mine} and {theirs}")
        if look:
            check_same_frames((first.name, one), (run.name, other))
        _check_frames_alike(run, first, looked_at=look)
    tested = [run for run in runs if run.miou is not None]
    for run in tested[1:]:
        _check_tests_alike(tested[0], run)


def _label_settings(one: ClipScores, other: ClipScores) -> list[tuple[str, Any, Any]]:
    """The settings that labels were read with, of two scorings that read some: name, value and value."""
    if not all(scores.first.results[SEGMENTATION]["pixels"] for scores in (one, other)):
        return []
    mine, theirs = one.settings, other.settings
    return [
        ("DATA.label_map", mine.DATA.label_map, theirs.DATA.label_map),
        ("TRAIN.ignore_label", mine.TRAIN.ignore_label, theirs.TRAIN.ignore_label),
    ]


def _check_frames_alike(run: Run, first: Run, *, looked_at: bool) -> None:
    """Refuse runs over other frames or labels of the same names; earlier versions recorded no hash of them."""
    again = "score both with tool/eval_tc.py on the same frames, labels and flow"
    mine, theirs = first.scores.frames_sha256, run.scores.frames_sha256
    if mine and theirs and mine != theirs and not looked_at:
        raise UserError(
            f"{first.name} and {run.name} were scored on different frames or labels of the same names (hashes "
            f"{mine[:12]} and {theirs[:12]}): {again}"
        )
    # Predictions play no part in it: labels, or the flow behind its name, must differ.
    before, after = (own.scores.first.results["ground_truth"].get("class_pixels") for own in (first, run))
    if before != after:
        raise UserError(
            f"{first.name} and {run.name} were scored with a flow of the same name, but their TC of the ground truth "
            f"is of different pixels: {again}"
        )


def _check_tests_alike(one: Run, other: Run) -> None:
    """Refuse mIoU of different frames or labels, which would share a row; name different settings of prediction."""
    mine, theirs = one.miou or {}, other.miou or {}
    own, others = mine["predictor"], theirs["predictor"]
    for what, before, after in (
        ("numbers of frames", mine["frames"], theirs["frames"]),
        ("frames or labels", mine["frames_sha256"][:12], theirs["frames_sha256"][:12]),
        ("settings of the labels", mine.get("labels"), theirs.get("labels")),
    ):
        # Files of earlier versions do not say how labels were read.
        if before != after and None not in (before, after):
            raise UserError(
                f"the {MIOU_FILE} of {one.name} and {other.name} come from tests with different {what}: {before} and "
                f"{after}: run tool/test.py for both with the same list"
            )
    for key in sorted(own | others):
        if own.get(key) != others.get(key):
            logger.warning(
                "the mIoU of %s was tested with %s %s, that of %s with %s: it is not only the training that differs",
                *(one.name, key, own.get(key), other.name, others.get(key)),
            )


def measure_costs(runs: list[Run], settings: Settings, *, speed: bool) -> dict[str, Cost]:
    """What each run's network costs for a frame of the clips, on ``TEST.device`` of the settings."""
    device = device_of(settings.TEST.device)
    frame = read_image(Path(settings.DATA.data_root) / clips_to_score(settings)[0][0].image)
    predictors = {}
    for run in runs:
        if run.predicted_with is not None:
            own = with_changes(run.predicted_with, TEST={"device": settings.TEST.device})
            predictors[run.name] = predictor_from(own, network=network_for_cost(own), device=device)
    return costs(predictors, frame, speed=speed)


def _settings_of_checkpoint(path: str, settings: Settings, allowed: frozenset[str]) -> Settings:
    """The settings with the architecture that a checkpoint names, where it names one."""
    own = _settings_in(Path(path)).get("TRAIN", {})
    settings = with_changes(settings, TRAIN={key: own[key] for key in ("arch", "layers") if key in own})
    check_network_code(settings, allowed, path if "arch" in own else "the first run")
    return settings


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings that a checkpoint was trained with; empty for a checkpoint of another toolkit."""
    content = read_checkpoint(path, "checkpoint")
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not config or not all(isinstance(keys, dict) for keys in config.values()):
        return {}
    return config if config.keys() <= SECTIONS.keys() else {}
