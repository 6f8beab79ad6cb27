"""The runs of a study: trained, predicted and scored by the scripts in ``tool/``; one JSON line per finished run."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from etc.config import TOOLKIT
from etc.errors import UserError
from etc.evaluate.metric_list import METRICS
from etc.evaluate.results import read_clip_scores
from etc.study.plan import Study
from utils.files import write_text

logger = logging.getLogger(__name__)

RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True)
class FinishedRun:
    """One line of ``runs.jsonl``.

    Attributes:
        variant: its name.
        seed: its seed.
        fingerprint: as :meth:`etc.study.plan.Study.fingerprint`.
        figures: metric -> its headline figure, a share in [0, 1]; NaN: not counted.
        minutes: that training, prediction and scoring took.
    """

    variant: str
    seed: int
    fingerprint: str
    figures: dict[str, float]
    minutes: float


def read_runs(study: Study) -> list[FinishedRun]:
    """The runs that are done.

    Raises:
        UserError: a damaged file, or a run that the plan now gives other settings.
    """
    path = study.folder / RUNS_FILE
    if not path.is_file():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(FinishedRun(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no run: delete the line, and it is run again") from error
    for run in runs:
        known = run.variant in study.variants and run.seed in study.seeds
        if known and run.fingerprint != study.fingerprint(run.variant, run.seed):
            folder = study.run_folder(run.variant, run.seed)
            raise UserError(
                f"{path}: variant {run.variant} with seed {run.seed} was run with other settings than the study now "
                f"gives it: call the variant by another name, or delete its line and {folder}"
            )
    return [run for run in runs if run.variant in study.variants and run.seed in study.seeds]


def run_all(study: Study, config: str, *, jobs: int) -> None:
    """Run all that is not done yet; stopped at any moment, it goes on where it stopped.

    Args:
        study: the plan.
        config: its file, for messages.
        jobs: how many runs at a time; each gets an equal share of the cores.

    Raises:
        UserError: a script failed; its output is in the log of the run.
    """
    done = {(run.variant, run.seed) for run in read_runs(study)}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            if study.start is not None:
                for future in as_completed([pool.submit(_train_start, study, seed, threads) for seed in study.seeds]):
                    future.result()
            # Seed by seed: a study that is stopped early has whole comparisons.
            todo = [(v, seed) for seed in study.seeds for v in study.variants if (v, seed) not in done]
            logger.info("%s: %d of %d runs to do", config, len(todo), len(study.seeds) * len(study.variants))
            for finished in as_completed([pool.submit(_run, study, *which, threads) for which in todo]):
                run: FinishedRun = finished.result()
                _keep(study, run)
                logger.info("%s seed %d: done in %.0f minutes", run.variant, run.seed, run.minutes)
        finally:
            pool.shutdown(cancel_futures=True)


def _train_start(study: Study, seed: int, threads: int) -> None:
    _script("train_with_flow", study, study.start_overrides(seed), study.start_folder(seed), threads)


def _keep(study: Study, run: FinishedRun) -> None:
    path = study.folder / RUNS_FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    # Written anew and renamed: a kill leaves no half line.
    write_text(path, f"{before}{json.dumps(run.__dict__)}\n")


def _run(study: Study, variant: str, seed: int, threads: int) -> FinishedRun:
    start, folder = time.time(), study.run_folder(variant, seed)
    for tool in ("train_with_flow", "gen_video", "eval_tc"):
        _script(tool, study, study.run_overrides(variant, seed), folder, threads)
    scores = read_clip_scores(folder / "result")
    figures = {metric.key: scores.first.figure(metric) for metric in METRICS}
    return FinishedRun(variant, seed, study.fingerprint(variant, seed), figures, (time.time() - start) / 60)


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
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise UserError(f"tool/{tool}.py failed with exit code {code}: {last.rpartition(chr(13))[2]}; all of it: {log}")
