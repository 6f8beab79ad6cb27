"""The training loop: optimizer, schedule, mixed precision, DDP, checkpoints, TensorBoard, validation."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from etc import distributed
from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.clip_dataset import ClipDataset, EpochSampler
from etc.data.labels import read_colors
from etc.errors import UserError
from etc.evaluate.validation import validate
from etc.flow.build import flow_estimator
from etc.motion import MotionLoss
from etc.networks import compile_in_place, new_network, teacher_network
from etc.train.checkpoint import check_same_run, load_checkpoint, save_checkpoint
from etc.train.data import training_set
from etc.train.distillation import Distillation
from etc.train.pictures import training_pictures
from etc.train.self_training import PseudoLabeler
from etc.train.step import MotionTask, segmentation_loss
from model import parameter_groups
from utils.files import write_text

logger = logging.getLogger(__name__)

_AMP = {"off": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class NonFiniteLoss(UserError):
    """A loss became NaN or infinite; the last checkpoint is from before."""


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
        # Before anything that costs time: may this run write here, and from where does it go on?
        resumed = self._checkpoint_to_resume()
        self.palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
        torch.manual_seed(train.manual_seed)
        self.data = training_set(settings)
        self.sampler, self.loader = _loader(settings, self.data)
        student = new_network(settings).to(device).to(memory_format=torch.channels_last)
        if settings.DISTRIBUTED.sync_bn and distributed.world_size() > 1 and device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        if train.compile:
            compile_in_place(student, device, "TRAIN.compile")
        self.student = student
        self.task = self._task().to(device)
        self.optimizer = torch.optim.SGD(
            parameter_groups(student, train.base_lr),
            lr=train.base_lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
        )
        self.total_steps = train.epochs * self.sampler.steps
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._poly)
        # float16 alone has too small a range for gradients; bfloat16 needs no scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "float16")
        self.step, self.epoch, self.metrics = 0, 0, {}
        if resumed is not None:
            self._restore(resumed)

    def run(self) -> dict[str, float]:
        """Train to the last epoch; gives the metrics of the last validation."""
        train = self.settings.TRAIN
        if self.epoch >= train.epochs:
            logger.info("%s: all %d epochs are trained already", self.folder, train.epochs)
            return self.metrics
        writer = None
        if distributed.rank() == 0:
            write_text(self.folder / "settings.yaml", dump_settings(self.settings))
            writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.step)
        task = self.task
        if distributed.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # The plain cross entropy gives the auxiliary head no gradient.
            unused = train.loss == "cross_entropy"
            task = DistributedDataParallel(self.task, device_ids=ids, find_unused_parameters=unused)
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", desc="train", disable=distributed.rank() > 0)
        with bar, contextlib.closing(writer) if writer else contextlib.nullcontext():
            while self.epoch < train.epochs:
                self._train_epoch(task, bar, writer)
                self.epoch += 1
                best = False
                if self.epoch % train.val_freq == 0 or self.epoch == train.epochs:
                    best = self._validate(writer)
                self._save(best)
        return self.metrics

    def _train_epoch(self, task: nn.Module, bar: tqdm, writer: SummaryWriter | None) -> None:
        train = self.settings.TRAIN
        task.train()
        self.sampler.epoch = self.epoch
        for batch in self._batches():
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            result = self._train_step(task, batch)
            self.step += 1
            bar.update()
            if writer and (self.step % train.print_freq == 0 or self.step == self.total_steps):
                terms = {name: value.item() for name, value in result.items() if value.ndim == 0}
                bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)
                for name, value in terms.items():
                    writer.add_scalar(f"loss/{name}", value, self.step)
                writer.add_scalar("learning_rate", self.optimizer.param_groups[0]["lr"], self.step)
        self._check_outputs(batch["image"])
        if writer:
            for name, picture in training_pictures(batch, result, train, self.palette).items():
                writer.add_image(name, picture, self.step)

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        try:
            yield from self.loader
        except UserError as error:
            lines = str(error).strip().splitlines()
            # A loading process sends its traceback along; the last line is "etc.errors.UserError: what was wrong".
            raise UserError(lines[-1].partition(": ")[2] if len(lines) > 1 else lines[0]) from None

    def _train_step(self, task: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        amp = self.settings.TRAIN.amp
        with torch.autocast(self.device.type, dtype=_AMP[amp], enabled=amp != "off"):
            result = task(batch)
        self._check_finite(result)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return {name: value.detach() for name, value in result.items()}

    def _check_finite(self, result: dict[str, Tensor]) -> None:
        terms = {name: value for name, value in result.items() if value.ndim == 0}
        if torch.stack([value.float() for value in terms.values()]).isfinite().all():
            return
        # "loss" is the sum: a single term is the better culprit.
        names = [name for name, value in terms.items() if not value.isfinite()]
        culprit = next((name for name in names if name != "loss"), names[0])
        raise NonFiniteLoss(
            f"the {culprit} loss is {terms[culprit].item()} in step {self.step + 1} "
            f"(epoch {self.epoch + 1}): try a smaller TRAIN.base_lr; {self._kept()}"
        )

    @torch.no_grad()
    def _check_outputs(self, image: Tensor) -> None:
        """The last step of an epoch may ruin weights whose loss was still finite: they must not be saved."""
        self.student.eval()
        with torch.compiler.set_stance("force_eager"):
            finite = self.student(image.contiguous(memory_format=torch.channels_last)).isfinite().all()
        self.student.train()
        if not finite:
            raise NonFiniteLoss(
                f"the network's output is not finite after step {self.step} (epoch {self.epoch + 1}): "
                f"try a smaller TRAIN.base_lr; {self._kept()}"
            )

    def _kept(self) -> str:
        last = self.folder / "last.pth"
        return f"{last} is from before" if last.is_file() else "there is no checkpoint yet"

    def _validate(self, writer: SummaryWriter | None) -> bool:
        """Score the student; whether it is the best so far by mIoU."""
        start = time.time()
        before = self.metrics.get("best_mIoU", -1.0)
        distributed.share_buffers(self.student)
        # Eager: frames have another size than crops, and compiling for each takes minutes.
        with torch.compiler.set_stance("force_eager"):
            scores = validate(self.student, self.settings, self.device, clips=self.settings.TRAIN.val_clips)
        self.student.train()
        best = scores["mIoU"] > before
        self.metrics = scores | {"best_mIoU": max(scores["mIoU"], before)}
        if distributed.rank() == 0:
            figures = "  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
            tqdm.write(f"epoch {self.epoch}: {figures}  ({time.time() - start:.0f} s)")
        if writer:
            for name, value in scores.items():
                writer.add_scalar(f"validation/{name}", value, self.step)
        return best

    def _save(self, best: bool) -> None:
        if distributed.rank() == 0:
            content = {
                "student": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "rng": _rng_state(),
                "step": self.step,
                "epoch": self.epoch,
                "config": self.settings.model_dump(),
                "metrics": self.metrics,
            }
            # best first: a kill between the two leaves a last.pth from which the epoch is trained again.
            if best:
                save_checkpoint(self.folder / "best.pth", content)
            save_checkpoint(self.folder / "last.pth", content)
        distributed.barrier()

    def _restore(self, content: dict) -> None:
        self.student.load_state_dict(content["student"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        self.step, self.epoch, self.metrics = content["step"], content["epoch"], content["metrics"]
        torch.set_rng_state(content["rng"]["cpu"])
        if self.device.type == "cuda" and content["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(content["rng"]["cuda"], self.device)
        logger.info("resuming after epoch %d, step %d", self.epoch, self.step)

    def _checkpoint_to_resume(self) -> dict | None:
        resume, last = self.settings.TRAIN.resume, self.folder / "last.pth"
        if resume is None or (resume == "auto" and not last.is_file()):
            if last.is_file():
                raise UserError(
                    f"{self.folder} holds a training run already: continue it with TRAIN.resume auto, "
                    "or choose another TRAIN.save_path"
                )
            return None
        path = last if resume == "auto" else Path(resume)
        content = load_checkpoint(path)
        check_same_run(content, self.settings, path)
        return content

    def _task(self) -> MotionTask:
        train, flow = self.settings.TRAIN, self.settings.FLOW
        motion = None
        if train.st_weight > 0:
            motion = MotionLoss(weight=train.st_weight, visibility=train.visibility, mask_padding=train.mask_padding)
        online = None
        if motion and flow.source == "online":
            online = flow_estimator(self.settings, self.device)
            # A crop that is too small for the estimator must be said now, not in the first step.
            crop = torch.zeros(1, 3, train.train_h, train.train_w, device=self.device)
            try:
                online.estimate(crop, crop)
            except ValueError as error:
                raise UserError(f"FLOW.source online with {flow.name}: {error}") from None
        return MotionTask(
            student=self.student,
            segmentation_loss=segmentation_loss(train, self.settings.DATA.classes),
            motion_loss=motion,
            flow=online,
            distillation=self._distillation() if self.settings.DISTILL.used else None,
            pseudo_labeler=None if train.self_training is None else self._labeller(train.self_training),
        )

    def _distillation(self) -> Distillation:
        train = self.settings.TRAIN
        # The teacher's first weights, drawn before its own are loaded, must not shift the student's random numbers.
        with torch.random.fork_rng(devices=[]):
            teacher = teacher_network(self.settings)
        distillation = Distillation(self.settings.DISTILL, teacher, device=self.device, seed=train.manual_seed)
        # Outputs that cannot be compared must be said now, not in the first step.
        yes = torch.ones(1, dtype=torch.bool, device=self.device)
        crops = torch.zeros(3, 3, train.train_h, train.train_w, device=self.device)
        self.student.eval()
        try:
            with torch.no_grad():
                distillation(crops, self.student.outputs(crops), yes, yes)
        except ValueError as error:
            raise UserError(f"DISTILL with {self.settings.DISTILL.teacher_arch} for {train.network}: {error}") from None
        if self.data.soft is not None:
            self.data.soft.fill(distillation.teacher, self.data.image_files(), self.device)
        return distillation

    def _labeller(self, threshold: float) -> PseudoLabeler:
        if self.settings.TRAIN.weight is None:
            raise UserError("TRAIN.self_training needs TRAIN.weight, a trained network: random weights label nothing")
        return PseudoLabeler(copy.deepcopy(self.student), threshold)

    def _poly(self, step: int) -> float:
        """Learning rate factor; the last step still learns a little."""
        return (1 - min(step, self.total_steps - 1) / self.total_steps) ** self.settings.TRAIN.power


def _loader(settings: Settings, data: ClipDataset) -> tuple[EpochSampler, DataLoader]:
    train, world = settings.TRAIN, distributed.world_size()
    if train.batch_size % world:
        raise UserError(f"TRAIN.batch_size {train.batch_size} is no multiple of {world} processes")
    batch = train.batch_size // world
    # A pair brings two images into the same pass, a lone one cannot be normalised by the 1x1 bin of the ppm.
    lone = settings.frames_per_clip == 1 or settings.DATA.allow_missing_neighbours
    synchronised = settings.DISTRIBUTED.sync_bn and world > 1 and torch.cuda.is_available()
    if batch == 1 and lone and not synchronised:
        raise UserError(f"TRAIN.batch_size {train.batch_size}: batch norm needs two images a process or more")
    sampler = EpochSampler(len(data), batch_size=batch, seed=train.manual_seed, rank=distributed.rank(), world=world)
    # Forked processes inherit OpenCV's pool without its threads, and would wait for them for ever.
    cv2.setNumThreads(0)
    loader = DataLoader(
        data,
        batch_size=batch,
        sampler=sampler,
        num_workers=train.workers,
        persistent_workers=train.workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the loader must not draw from the one that dropout uses, or resuming would differ.
        generator=torch.Generator(),
    )
    return sampler, loader


def _rng_state() -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
