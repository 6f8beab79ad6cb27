"""Folders of predictions of the same frames, scored to be compared: frames and flow are those of the first one."""

from __future__ import annotations

import logging
from pathlib import Path

from etc.config import load_settings, with_changes
from etc.config.schema import Settings
from etc.data.label_folder import labels_as_given
from etc.data.layouts import check_layout
from etc.data.sources import OWN_FRAMES, check_one_source, clips_to_score
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.predictions import check_predictions_folder, predictions_from
from etc.report.runs import PREDICTIONS, Run, read_run

logger = logging.getLogger(__name__)


def settings_of_folders(
    frames: str | None, labels: str | None, out: Path, config: str | None, overrides: list[str]
) -> Settings:
    """The settings that folders of predictions are scored with.

    Args:
        frames: as ``TEST.frames``; ``None``: the clips of ``config``.
        labels: as ``TEST.labels``.
        out: the output folder.
        config: the settings file; ``None``: the default one, without its world.
        overrides: of the user; they come last and win.

    Raises:
        UserError: neither frames nor a file that could name them; two settings that name them.
    """
    if frames is None and config is None:
        raise UserError(f"{PREDICTIONS} needs --frames, or --config FILE that names the clips")
    given = [f"TEST.save_folder={out}", *([] if config else OWN_FRAMES)]
    given += [f"TEST.{key}={value}" for key, value in (("frames", frames), ("labels", labels)) if value]
    settings = check_layout(load_settings(config, [*given, *overrides]))
    check_one_source(settings, overrides)
    return settings if config else labels_as_given(settings, overrides)


def score_folders(
    named: list[tuple[str, str]], settings: Settings, folder: Path, allowed: frozenset[str] = frozenset()
) -> list[Run]:
    """Score folders of predictions into ``<folder>/<name>``, after all of them have been checked.

    Args:
        named: names and folders of predictions.
        settings: data, flow and test settings, of :func:`settings_of_folders`.
        folder: folder of the results.
        allowed: as of :func:`etc.report.runs.read_run`.

    Raises:
        UserError: as :func:`etc.evaluate.clips.score_clips`.
    """
    each = {
        name: with_changes(settings, TEST={"predictions": where, "save_folder": str(folder / name)})
        for name, where in named
    }
    for own in each.values():  # before a video is unpacked
        check_predictions_folder(own)
    clips = clips_to_score(settings)
    for own in each.values():  # before the flow of the first one is computed
        logging.disable(logging.WARNING)  # the scoring says it
        try:
            predictions_from(own, clips)
        finally:
            logging.disable(logging.NOTSET)
    device = device_of(settings.TEST.device)
    for name, own in each.items():
        logger.info("scoring %s: %s", name, own.TEST.predictions)
        score_clips(own, device, workers=None).save(folder / name)
    return [read_run(name, folder / name, allowed) for name, _ in named]


def check_apart(named: list[tuple[str, str]], settings: Settings, out: Path) -> None:
    """Refuse predictions below the frames of a comparison, and an output folder in what is read.

    While one method is scored, the predictions of another one below the frames would be clips of frames; and so would
    the pictures of a comparison, or predictions without a frame, the next time.

    Raises:
        UserError: which folders lie in each other.
    """
    frames = None if settings.TEST.frames is None else Path(settings.TEST.frames).resolve()
    if frames is not None and len(named) > 1:
        for name, where in named:
            if frames in Path(where).resolve().parents:
                raise UserError(
                    f"{PREDICTIONS} {name}={where} lies below --frames {settings.TEST.frames}, whose folders are read "
                    "as frames: give the folder that holds the frames alone"
                )
    read: list[tuple[str, str | None]] = [("--frames", settings.TEST.frames), ("--labels", settings.TEST.labels)]
    read += [(f"{PREDICTIONS} {name}", where) for name, where in named]
    for option, folder in read:
        if folder is not None and Path(folder).resolve() in (out.resolve(), *out.resolve().parents):
            raise UserError(f"--out {out} is or lies in {option} {folder}, which is read: give a folder elsewhere")
