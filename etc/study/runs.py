"""The runs of a study: trained, predicted and scored by the scripts in ``tool/``; one JSON line per finished run.

The lines hold all that the figures of the study are computed from and lie beside its pages: kept with them, a study
goes on on another machine without the folders of its runs.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from etc.config import TOOLKIT
from etc.errors import UserError
from etc.evaluate.metric_list import HEADLINE, METRICS, SEGMENTATION
from etc.evaluate.results import read_clip_scores, with_nan, without_nan
from etc.study.controls import regions_per_frame, write_filtered
from etc.study.plan import OWN_START, START, Study
from utils.files import write_text

logger = logging.getLogger(__name__)

Counts = list[list[list[int]]]

_waited_for: set[subprocess.Popen] = set()  # the scripts that run now


@dataclass(frozen=True)
class FinishedRun:
    """One line of the file of runs.

    Attributes:
        variant: name of the variant or control.
        seed: its seed.
        fingerprint: as :meth:`etc.study.plan.Study.fingerprint`.
        figures: metric -> its headline figure, a share in [0, 1]; NaN: not counted. ``regions``: connected regions per
            frame.
        changed_by_flow: name of a flow (``FLOW.evaluate_with``) -> share of the counted pixels that change their class,
            at the first of ``TEST.strides``.
        strict: hits, row sums and column sums of strict TC of every clip, ``[clips][3][K]``.
        segmentation: those of mIoU.
        minutes: that training, prediction and scoring took.
        counted_in: what the counts are of: ``clips``, or ``segments of the clip`` where there is one alone.
    """

    variant: str
    seed: int
    fingerprint: str
    figures: dict[str, float]
    changed_by_flow: dict[str, float]
    strict: Counts
    segmentation: Counts
    minutes: float
    counted_in: str = "clips"


def runs_file(study: Study, results: Path) -> Path:
    """The file with one JSON line per finished run."""
    return results / f"{study.name}_runs.jsonl"


def read_runs(study: Study, results: Path) -> list[FinishedRun]:
    """The runs that are done.

    Args:
        study: the plan.
        results: folder of the study's pages.

    Raises:
        UserError: a damaged file, or a run that the plan now gives other settings.
    """
    path = runs_file(study, results)
    if not path.is_file():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(FinishedRun(**json.loads(line, object_hook=with_nan)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no run: delete the line, and it is run again") from error
    for run in runs:
        known = run.variant in study.rows and run.seed in study.seeds
        if known and run.fingerprint != study.fingerprint(run.variant, run.seed):
            folder = study.run_folder(run.variant, run.seed)
            raise UserError(
                f"{path}: variant {run.variant} with seed {run.seed} was run with other settings than the study now "
                f"gives it: call the variant by another name, or delete its line and {folder}"
            )
    return [run for run in runs if run.variant in study.rows and run.seed in study.seeds]


def run_all(study: Study, config: str, results: Path, *, jobs: int, only: Sequence[str] = ()) -> None:
    """Run all that is not done yet; stopped at any moment, it goes on where it stopped.

    First the trainings that the variants start from, then seed by seed: a study that is stopped early has whole
    comparisons. A variant waits for the start of its seed alone, unless one reads those of other seeds.

    Args:
        study: the plan.
        config: its file, for messages.
        results: folder of the study's pages.
        jobs: how many runs at a time; each gets an equal share of the cores.
        only: names of the variants to run; empty: all of them.

    Raises:
        UserError: no such variant; a script failed; its output is in the log of the run.
        KeyboardInterrupt, SystemExit: this process is to end; the scripts that it runs are ended first.
    """
    unknown = next((name for name in only if name not in study.variants), None)
    if unknown is not None:
        what = f"{study.baseline}, which {unknown} is made with" if unknown in study.controls else "one of its variants"
        raise UserError(f"{config} has no variant {unknown}: name {what} ({', '.join(study.variants)})")
    done = {(run.variant, run.seed) for run in read_runs(study, results)}
    if only and study.baseline not in {*only, *(variant for variant, _ in done)}:
        raise UserError(f"{study.baseline}, which the figures compare with, is not done: name it too")
    wanted = [name for name in study.variants if not only or name in only]
    todo = {seed: [v for v in wanted if not _is_done(study, v, seed, done)] for seed in study.seeds}
    cores = os.cpu_count() or 1
    logger.info("%s: %d of %d runs to do", config, sum(map(len, todo.values())), len(study.seeds) * len(wanted))
    share = max(1, cores // jobs)
    failed: list[Exception] = []

    def attempt(variant: str, seed: int, needed: list[Future[None]]) -> list[FinishedRun]:
        if failed:  # those that run now are kept, no other one begins
            return []
        try:
            return _run(study, variant, seed, share, after=needed)
        except Exception as error:
            failed.append(error)
            return []

    with ThreadPoolExecutor(jobs) as pool:
        # The pool takes them in this order, so that no run can wait for a start that waits for a free place.
        starts = {seed: pool.submit(_start, study, seed, share) for seed in _starts(study, todo)}
        runs = []
        for seed, variants in todo.items():
            needed = [start for own, start in starts.items() if own == seed or _reads_other_starts(study, todo)]
            runs += [pool.submit(attempt, variant, seed, needed) for variant in variants]
        try:
            for finished in as_completed(runs):
                if rows := finished.result():
                    _keep(runs_file(study, results), [run for run in rows if (run.variant, run.seed) not in done])
                    logger.info("%s seed %d: done in %.0f minutes", rows[0].variant, rows[0].seed, rows[0].minutes)
        except (KeyboardInterrupt, SystemExit):
            pool.shutdown(wait=False, cancel_futures=True)
            for script in list(_waited_for):
                script.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    if failed:
        raise failed[0]


def _starts(study: Study, todo: dict[int, list[str]]) -> list[int]:
    """The seeds whose first training is needed: those with variants to do, and all where one reads others'."""
    if study.start is None:
        return []
    of_others = _reads_other_starts(study, todo)
    return [seed for seed, variants in todo.items() if variants or of_others]


def _reads_other_starts(study: Study, todo: dict[int, list[str]]) -> bool:
    """Whether a variant to do reads the first training of other seeds than its own."""
    left = {variant for variants in todo.values() for variant in variants}
    controls = study.controls.values() if study.baseline in left else ()
    read = [study.variants[variant] for variant in left] + [each for each in controls if isinstance(each, dict)]
    values = [str(value).replace(OWN_START, "") for overrides in read for value in overrides.values()]
    return any(START in value for value in values)


def _is_done(study: Study, variant: str, seed: int, done: set[tuple[str, int]]) -> bool:
    """Whether a variant is done; the baseline with the controls, which are made from its predictions."""
    rows = (variant, *study.controls) if variant == study.baseline else (variant,)
    return all((row, seed) in done for row in rows)


def _keep(path: Path, runs: list[FinishedRun]) -> None:
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before and not before.endswith("\n"):  # edited by hand
        before += "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(without_nan(run.__dict__), separators=(",", ":")) for run in runs)
    # Written anew and renamed: a kill leaves no half line.
    write_text(path, before + "".join(f"{line}\n" for line in lines))


def _start(study: Study, seed: int, threads: int) -> None:
    """The training that all variants of a seed start from."""
    _script("train_with_flow", study, study.start_overrides(seed), study.start_folder(seed), threads)


def _run(study: Study, variant: str, seed: int, threads: int, *, after: list[Future[None]]) -> list[FinishedRun]:
    """Train, predict and score a variant, the baseline with the controls, once the starts it needs are done."""
    for first_training in after:
        first_training.result()
    start, folder = time.time(), study.run_folder(variant, seed)
    overrides = study.run_overrides(variant, seed)
    for tool in ("train_with_flow", "gen_video", "eval_tc"):
        _script(tool, study, overrides, folder, threads)
    settings = study.settings(variant, seed)
    runs = [_finished(study, variant, seed, regions_per_frame(settings), start)]
    for name, control in (study.controls if variant == study.baseline else {}).items():
        start, folder = time.time(), study.run_folder(name, seed)
        overrides = study.control_overrides(name, seed)
        if isinstance(control, dict):
            _script("gen_video", study, overrides, folder, threads)
        else:
            write_filtered(control, settings, folder / "result/video/gray")
        _script("eval_tc", study, overrides, folder, threads)
        runs.append(_finished(study, name, seed, regions_per_frame(study.settings(name, seed)), start))
    return runs


def _finished(study: Study, variant: str, seed: int, regions: float, start: float) -> FinishedRun:
    scores = read_clip_scores(study.run_folder(variant, seed) / "result")
    return FinishedRun(
        variant=variant,
        seed=seed,
        fingerprint=study.fingerprint(variant, seed),
        figures={metric.key: scores.first.figure(metric) for metric in METRICS} | {"regions": regions},
        changed_by_flow={
            by.name: 1 - by.results["pixel_consistency"] for by in scores.by_flow if by.stride == scores.first.stride
        },
        strict=scores.clip_counts[HEADLINE].tolist(),
        segmentation=scores.clip_counts[SEGMENTATION].tolist(),
        minutes=round((time.time() - start) / 60, 2),
        counted_in=scores.interval_parts[1],
    )


def _script(tool: str, study: Study, overrides: list[str], folder: Path, threads: int) -> None:
    """Run one script, its output appended to ``log.txt`` of the run.

    Raises:
        UserError: it failed; with the last line that it printed.
    """
    command = [sys.executable, str(TOOLKIT / "tool" / f"{tool}.py"), "--config", study.config, *overrides]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ python tool/{tool}.py {shlex.join(command[2:])}\n")
        file.flush()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        script = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _waited_for.add(script)
        try:
            code = script.wait()
        except BaseException:
            script.terminate()
            raise
        finally:
            _waited_for.discard(script)
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise UserError(f"tool/{tool}.py failed with exit code {code}: {last.rpartition(chr(13))[2]}; all of it: {log}")
