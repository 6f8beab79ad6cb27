"""The training loop: epochs, steps, mixed precision, checkpoints, TensorBoard, validation."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.labels import read_colors
from etc.data.synthetic import is_to_be_rendered
from etc.errors import UserError
from etc.evaluate.validation import check_validation, validate, validation_flow
from etc.flow.build import FlowSource
from etc.flow.cache import CachedFlow
from etc.precision import autocast, chosen_dtype, log_choice
from etc.train.batch import ClipBatch, on_device
from etc.train.build import new_loader, new_student, new_task
from etc.train.checkpoint import HOW_TO_GO_ON, save_checkpoint
from etc.train.data import cached_teacher_logits, training_set
from etc.train.flow_cache import fill_flow_cache
from etc.train.kept_losses import KeptLosses
from etc.train.optimization import Optimization
from etc.train.pictures import training_pictures
from etc.train.resume import (
    check_progress,
    check_same_inputs,
    check_same_settings,
    check_same_start,
    check_same_tensors,
    check_same_training,
    checkpoint_to_resume,
    damage_named,
    made_with,
)
from etc.train.run_log import RunLog, draw_log, record_call
from model.base import OneValuePerChannel
from model.external import UnclearOutput
from utils.files import write_text

logger = logging.getLogger(__name__)

_GAINLESS = "validations_without_gain"


class NonFiniteLoss(UserError):
    """A loss or the network's output became NaN or infinite; the last good checkpoint is kept."""


class Trainer:
    """Trains the network of the settings and keeps ``last.pth`` and ``best.pth`` in ``TRAIN.save_path``.

    Everything that can be wrong with the user's input is checked by the constructor, before work starts.

    Args:
        settings: all sections.
        device: where to train.

    Raises:
        UserError: unusable settings, missing files, or a folder that holds another run.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        train = settings.TRAIN
        self.settings, self.device = settings, device
        self.folder = Path(train.save_path)
        # Before anything that costs time: may this run write here, and which checkpoint does it continue?
        check_same_settings(settings)
        resumed = checkpoint_to_resume(settings)
        check_same_start(resumed, settings)
        self.palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
        if is_to_be_rendered(settings):
            new_student(settings, device)  # an unknown network or wrong weights
        torch.manual_seed(train.manual_seed)
        teacher_logits = cached_teacher_logits(settings)
        self.data = training_set(settings, teacher_logits)
        self.sampler, self.loader = new_loader(settings, self.data, device)
        self.student = new_student(settings, device)
        # All that validation will read and compute: a training of days must not end with a missing file. An estimator
        # may draw first weights, which must not shift the student's random numbers.
        with torch.random.fork_rng(devices=[]):
            check_validation(settings, self.student, device)
            self.validation_flow: FlowSource | None = validation_flow(settings, device)
        self.task = new_task(settings, self.student, device)
        if self.task.flow is not None and self.validation_flow is not None:
            self.validation_flow = CachedFlow(self.task.flow, settings.FLOW.cache)  # one network for both
        if teacher_logits is not None:
            assert self.task.distillation is not None, "logits are cached only where DISTILL is used"
            teacher_logits.fill(self.task.distillation.teacher, self.data.image_files(), device)
        self.optimization = Optimization(train, self.student, device, batches=self.sampler.steps)
        self.dtype = chosen_dtype(train.amp, device)
        log_choice("TRAIN.amp", train.amp, device)
        self.total_steps = train.epochs * self.sampler.steps
        self.step, self.epoch = 0, 0
        self.losses = KeptLosses()
        self.metrics: dict[str, float] = {}
        # Whether the validation that is due after the last finished epoch, if any, is done.
        self.validated = True
        self.made_with = made_with(settings, self.data, self.student, self.dtype)
        check_same_inputs(self.made_with)
        if resumed is not None:
            self._restore(*resumed)

    def run(self) -> dict[str, float]:
        """Train to the last epoch; gives the metrics of the last validation."""
        train = self.settings.TRAIN
        self.validated = self.validated or train.val_freq == 0
        if (self.epoch >= train.epochs or self._is_over()) and self.validated:
            on = HOW_TO_GO_ON.format(path=self.folder / "last.pth")
            logger.info("%s: all %d epochs are trained already; %s", self.folder, self.epoch, on)
            if distributed.rank() == 0:
                draw_log(self.folder)  # which a kill may have prevented
            return self.metrics
        fill_flow_cache(self.settings, self.data, self.device)
        log = None
        if distributed.rank() == 0:
            write_text(self.folder / "settings.yaml", dump_settings(self.settings))
            record_call(self.folder, self.step, self.device)
            log = RunLog(self.folder, self.step, validated=self.validated)
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", desc="train", disable=distributed.rank() > 0)
        with bar, contextlib.closing(log) if log else contextlib.nullcontext():
            if not self.validated:
                self._validate(log)
            while self.epoch < train.epochs and not self._is_over():
                self._train_epoch(bar, log)
                self.epoch += 1
                self.validated = not self._is_validated_after(self.epoch)
                # Before the validation: whatever happens there must not cost the training of the epoch.
                self._save()
                if not self.validated:
                    self._validate(log)
            if log:
                draw_log(self.folder)
        return self.metrics

    def _is_over(self) -> bool:
        """Whether the last validations brought no gain, as many as ``TRAIN.patience``."""
        patience = self.settings.TRAIN.patience
        return 0 < patience <= self.metrics.get(_GAINLESS, 0)

    def _is_validated_after(self, epoch: int) -> bool:
        train = self.settings.TRAIN
        return train.val_freq > 0 and (epoch % train.val_freq == 0 or epoch == train.epochs)

    def _train_epoch(self, bar: tqdm, log: RunLog | None) -> None:
        train = self.settings.TRAIN
        self.task.train()
        self.sampler.epoch = self.epoch
        self._seed_other_ranks()
        for index, batch in enumerate(on_device(self._batches(), self.device)):
            result = self._train_step(batch, index)
            self.step += 1
            bar.update()
            if self.step % train.print_freq and self.step != self.total_steps:
                continue
            terms = self._finite_losses()
            if log:
                bar.set_postfix({name: f"{value:.3g}" for name, value in terms.items()}, refresh=False)
                rate = self.optimization.optimizer.param_groups[0]["lr"]
                log.add(self.step, {f"loss/{name}": value for name, value in terms.items()} | {"learning_rate": rate})
        self._check_outputs(batch.frames_t(batch.images))
        if log:
            log.add_pictures(self.step, training_pictures(batch, result, self.task.motion_loss, self.palette))

    def _seed_other_ranks(self) -> None:
        """Give every process dropout masks of its own.

        The first one goes on with the random state that the checkpoint holds; the others start every epoch from a
        seed of their own, so that a resumed run draws what the uninterrupted one draws.
        """
        rank = distributed.rank()
        if rank > 0:
            seed = np.random.SeedSequence([self.settings.TRAIN.manual_seed, self.epoch, rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        try:
            yield from self.loader
        except UserError as error:
            lines = str(error).strip().splitlines()
            # A DataLoader worker sends its traceback along; the last line is "etc.errors.UserError: what was wrong".
            raise UserError(lines[-1].partition(": ")[2] if len(lines) > 1 else lines[0]) from error

    def _train_step(self, batch: ClipBatch, index: int) -> dict[str, Tensor]:
        train = self.settings.TRAIN
        if self.task.motion_loss is not None and train.motion_ramp:
            grown = min(1.0, self.step / (train.motion_ramp * self.total_steps))
            self.task.motion_loss.weight = train.st_weight * grown
        with self.optimization.without_sync(self.task.student, index):
            with autocast(self.dtype, self.device):
                try:
                    result = self.task(batch)
                except (UnclearOutput, OneValuePerChannel) as error:
                    raise UserError(f"TRAIN.arch {train.network}, in training: {error}") from error
            self.losses.keep(self.step + 1, result)
            self.optimization.step(result["loss"], index)
        return {name: value.detach() for name, value in result.items()}

    def _finite_losses(self) -> dict[str, float]:
        """The losses of the last step by name, after a look at those of all steps since the last look.

        Raises:
            NonFiniteLoss: one of them is not finite; what was trained since is lost.
        """
        steps = self.losses.read()
        for step, terms in steps.items():
            names = [name for name, value in terms.items() if not math.isfinite(value)]
            if names:
                # "loss" is the sum of the others: name the term that caused it where there is one.
                wrong = next((name for name in names if name != "loss"), names[0])
                raise NonFiniteLoss(
                    f"the {wrong} loss is {terms[wrong]} in step {step} (epoch {self.epoch + 1}; looked at after steps "
                    f"{min(steps)} to {self.step}): {self._cure(wrong)}; {self._kept()}"
                )
        return steps.get(self.step, {})

    @torch.no_grad()
    def _check_outputs(self, image: Tensor) -> None:
        """Check losses and weights before they are saved: the last loss was computed before its step changed them.

        Args:
            image: some frames, normalised RGB, float ``[N, 3, H, W]``.

        Raises:
            NonFiniteLoss: a loss or the network's output is not finite.
        """
        self._finite_losses()
        self.student.eval()
        with torch.compiler.set_stance("force_eager"):
            finite = self.student(image.contiguous(memory_format=torch.channels_last)).isfinite().all()
        self.student.train()
        if not finite:
            raise NonFiniteLoss(
                f"the network's output is not finite after step {self.step} (epoch {self.epoch + 1}): "
                f"try a smaller TRAIN.base_lr; {self._kept()}"
            )

    def _cure(self, wrong: str) -> str:
        loss = self.settings.TRAIN.loss
        if wrong == "segmentation" and ":" in loss:
            return f"look at TRAIN.loss {loss}, for a batch without labelled pixels too, or try a smaller TRAIN.base_lr"
        return "try a smaller TRAIN.base_lr"

    def _kept(self) -> str:
        last = self.folder / "last.pth"
        return f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"

    def _validate(self, log: RunLog | None) -> None:
        """Score the student, and save it again with its scores; also as best.pth, if it is the best so far.

        The best has the highest mIoU, or the highest TC where no frame has a label.

        Raises:
            UserError: what was wrong, and how to continue from last.pth.
        """
        start = time.time()
        network = self.optimization.evaluated
        for shared in dict.fromkeys((self.student, network)):
            distributed.share_buffers(shared)
        try:
            # Eager: frames have another size than crops, and compiling for each takes minutes.
            with torch.compiler.set_stance("force_eager"):
                clips, flow = self.settings.TRAIN.val_clips, self.validation_flow
                scores = validate(network, self.settings, self.device, clips=clips, flow=flow)
        except UserError as error:
            raise UserError(
                f"validation after epoch {self.epoch}: {error}; the training so far is in {self.folder / 'last.pth'}: "
                "TRAIN.resume auto continues from there (with TRAIN.val_freq 0: without validation)"
            ) from error
        self.student.train()
        by = "mIoU" if "mIoU" in scores else "TC"
        before = self.metrics.get(f"best_{by}", -1.0)
        # NaN, the score of frames without a pixel to count, is never the best, and any number replaces it.
        best = scores[by] > before or (math.isnan(before) and not math.isnan(scores[by]))
        if math.isnan(scores[by]):
            logger.warning("%s is not a number: no pixel could be counted; best.pth is not written", by)
        gainless = (
            {_GAINLESS: 0 if best else self.metrics.get(_GAINLESS, 0) + 1} if self.settings.TRAIN.patience else {}
        )
        self.metrics = scores | {f"best_{by}": scores[by] if best else before} | gainless
        self.validated = True
        if distributed.rank() == 0:
            values = "  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
            tqdm.write(f"epoch {self.epoch}: {values}  ({time.time() - start:.0f} s)")
        if log:
            log.add(self.step, {f"validation/{name}": value for name, value in scores.items()})
        self._save(best)

    def _save(self, best: bool = False) -> None:
        self._finite_losses()  # whatever was not looked at yet
        distributed.barrier()  # no checkpoint before every process has looked at its own losses
        if distributed.rank() == 0:
            content = {
                "student": self.student.state_dict(),
                **self.optimization.state(),
                "rng": _rng_state(self.device),
                "step": self.step,
                "epoch": self.epoch,
                "config": self.settings.model_dump(),
                "metrics": self.metrics,
                "validated": self.validated,
                "made_with": self.made_with,
            }
            # best first: a kill between the two leaves a last.pth that is validated again.
            if best:
                save_checkpoint(self.folder / "best.pth", content)
            save_checkpoint(self.folder / "last.pth", content)
        distributed.barrier()

    def _restore(self, path: Path, content: dict) -> None:
        check_same_training(content, path, self.made_with, self.settings)
        check_same_tensors(content, path, self.student, self.settings)
        with damage_named(path):
            check_progress(content, steps=self.sampler.steps, epochs=self.settings.TRAIN.epochs)
            self.student.load_state_dict(content["student"])
            self.optimization.restore(content)
            torch.set_rng_state(content["rng"]["cpu"])
            if self.device.type == "cuda" and content["rng"]["cuda"] is not None:
                torch.cuda.set_rng_state(content["rng"]["cuda"], self.device)
        self.step, self.epoch, self.metrics = content["step"], content["epoch"], content["metrics"]
        # Earlier checkpoints lack the key: they were written after the validation.
        self.validated = content.get("validated", True)
        logger.info("resuming after epoch %d, step %d", self.epoch, self.step)


def _rng_state(device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
