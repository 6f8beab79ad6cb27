"""From settings to the parts of a training: network, losses, optimizer, schedule, loader.

Errors in the settings are found here, before the first step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from etc import distributed
from etc.config.schema import Settings, Train
from etc.data.clip_dataset import ClipDataset, EpochSampler
from etc.data.labels import read_weights
from etc.data.lists import read_frames
from etc.errors import UserError
from etc.flow.build import flow_estimator
from etc.flow.estimators import FlowEstimator
from etc.motion import MotionLoss
from etc.networks import check_logits, compile_in_place, new_network, teacher_network
from etc.precision import chosen_dtype
from etc.train.batch import ClipBatch
from etc.train.distillation import Distillation
from etc.train.own_loss import imported_loss
from etc.train.parallel import data_parallel, share_batch_norm
from etc.train.self_training import PseudoLabeler
from etc.train.step import MotionTask
from model import SegmentationNetwork
from model.own_source import is_own_code
from utils import crit
from utils.workers import end_with_parent

# TRAIN.loss -> loss, from the settings and the class weights.
SEGMENTATION_LOSSES: dict[str, Callable[[Train, Tensor | None], nn.Module]] = {
    "dsn": lambda train, weight: crit.CriterionDSN(class_weight=weight, dsn_weight=train.aux_weight),
    "ohem_dsn": lambda train, weight: crit.CriterionOhemDSN(class_weight=weight, dsn_weight=train.aux_weight),
    "ohem_dsn_single": lambda train, weight: crit.CriterionOhemDSN_single(
        class_weight=weight, dsn_weight=train.aux_weight
    ),
    "cross_entropy": lambda train, weight: crit.CriterionCrossEntropy(class_weight=weight),
}


def new_loader(settings: Settings, data: ClipDataset, device: torch.device) -> tuple[EpochSampler, DataLoader]:
    """The batches of this process, for a training on ``device``.

    Raises:
        UserError: a batch size that the processes cannot share, or too small for batch norm, or too few samples.
    """
    train, world = settings.TRAIN, distributed.world_size()
    if train.batch_size % world:
        raise UserError(
            f"TRAIN.batch_size {train.batch_size} is not a multiple of {world}, the number of processes: "
            "each takes an equal share"
        )
    batch = train.batch_size // world
    # A clip of two frames puts two images into the pass. With one image, batch norm after the 1x1 pooling of a pyramid
    # has a single value per channel. What a network of somebody's own does, it says itself in the first step.
    pooled = not is_own_code(train.network) and not train.network.endswith(("@segformer", "lraspp"))
    single = settings.frames_per_clip == 1 or settings.DATA.allow_missing_neighbours
    synchronised = settings.DISTRIBUTED.sync_bn and world > 1 and device.type == "cuda"
    if batch == 1 and single and pooled and not synchronised:
        raise UserError(
            f"TRAIN.batch_size {train.batch_size} gives each of {world} processes one image: batch norm needs two "
            "images per process or more"
        )
    sampler = EpochSampler(len(data), batch_size=batch, seed=train.manual_seed, rank=distributed.rank(), world=world)
    loader = DataLoader(
        data,
        batch_size=batch,
        sampler=sampler,
        num_workers=train.workers,
        persistent_workers=train.workers > 0,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        # Its own generator: the loader must not draw from the one that dropout uses, or resuming would differ.
        generator=torch.Generator(),
    )
    return sampler, loader


def _start_worker(worker: int) -> None:
    end_with_parent()
    # The workers share the cores already, and the threads that OpenCV started in the process they were forked from are
    # missing here: it could wait for them for ever. This is set in the worker alone, because OpenCV's setting holds for
    # a whole process, and the main process computes flow when it validates.
    cv2.setNumThreads(0)


def new_student(settings: Settings, device: torch.device) -> SegmentationNetwork:
    """The network to train, on its device.

    Raises:
        UserError: as :func:`etc.networks.new_network` and :func:`~etc.networks.check_logits`, and where
            ``TRAIN.compile`` does not work.
    """
    student = new_network(settings).to(device).to(memory_format=torch.channels_last)
    if is_own_code(settings.TRAIN.network):
        check_logits(student, f"TRAIN.arch {settings.TRAIN.network}")
    if settings.DISTRIBUTED.sync_bn and distributed.world_size() > 1 and device.type == "cuda":
        share_batch_norm(student)
    if settings.TRAIN.compile:
        compile_in_place(student, device, "TRAIN.compile")
    return student


def new_task(settings: Settings, student: SegmentationNetwork, device: torch.device) -> MotionTask:
    """The training step of a student, with the losses whose weight in the settings is above 0.

    With several processes the step calls the student through DDP, which wraps nothing else.

    Raises:
        UserError: an estimator, a teacher or a start network that is missing or does not fit.
    """
    train = settings.TRAIN
    motion = None
    if train.st_weight > 0:
        motion = MotionLoss(
            weight=train.st_weight,
            visibility=train.visibility,
            mask_padding=train.mask_padding,
            distance=train.motion_distance,
            mask_once=train.motion_mask == "once",
            gradient=train.motion_gradient,
            confidence=train.motion_confidence,
        )
    flow = _online_flow(settings, device) if settings.needs_flow and settings.FLOW.source == "online" else None
    segmentation = segmentation_loss(train, settings.DATA.classes)
    distillation = _distillation(settings, student, device) if settings.DISTILL.used else None
    pseudo_labeler = None
    if train.self_training is not None:
        pseudo_labeler = _pseudo_labeler(settings, student, threshold=train.self_training)
    return MotionTask(
        student=data_parallel(
            student, segmentation, device, (train.train_h, train.train_w), dtype=chosen_dtype(train.amp, device)
        ),
        segmentation_loss=segmentation,
        motion_loss=motion,
        motion_flow=train.motion_flow,
        flow=flow,
        distillation=distillation,
        pseudo_labeler=pseudo_labeler,
    ).to(device)


def segmentation_loss(train: Train, classes: int) -> nn.Module:
    """The segmentation loss that ``TRAIN.loss`` names.

    Raises:
        UserError: as :func:`etc.train.own_loss.imported_loss`; ``TRAIN.class_weight`` is given to a loss of the user's
            own, does not have one weight per class, none is above 0, or its file cannot be read.
    """
    if ":" in train.loss:
        if train.class_weight != "none":
            raise UserError(
                f"TRAIN.class_weight {train.class_weight} is for the toolkit's own losses: TRAIN.loss {train.loss} "
                "decides itself what a class weighs"
            )
        return imported_loss(train.loss, aux_weight=train.aux_weight)
    return SEGMENTATION_LOSSES[train.loss](train, _class_weight(train.class_weight, classes))


def _class_weight(given: str | list[float], classes: int) -> Tensor | None:
    if given == "none":
        return None
    cure = "give one weight per class"
    if given == "cityscapes":
        weight, cure = crit.CITYSCAPES_CLASS_WEIGHT.tolist(), "set TRAIN.class_weight none, or weights of your own"
    elif isinstance(given, str):
        try:
            weight = read_weights(given)
        except UserError as error:
            raise UserError(f"TRAIN.class_weight: expected none, cityscapes, a list or a file: {error}") from error
    else:
        weight = given
    if len(weight) != classes:
        raise UserError(
            f"TRAIN.class_weight {_shortened(given)} is for {len(weight)} classes, DATA.classes is {classes}: {cure}"
        )
    if not any(weight):
        raise UserError(f"TRAIN.class_weight {_shortened(given)}: every weight is 0, so nothing would be learned")
    return torch.tensor(weight)


def _shortened(given: str | list[float]) -> str:
    text = str(given)
    return text if len(text) <= 80 or isinstance(given, str) else f"{text[:80]}..."


def _online_flow(settings: Settings, device: torch.device) -> FlowEstimator:
    # Crops of 8-bit frames need no check of their values, which would be read back from the device in every step.
    estimator = flow_estimator(settings, device, check=False)
    # A crop that is too small for the estimator is reported now, not in the first step.
    crop = torch.zeros(1, 3, settings.TRAIN.train_h, settings.TRAIN.train_w, device=device)
    try:
        estimator.estimate(crop, crop)
    except ValueError as error:
        raise UserError(f"FLOW.source online with {settings.FLOW.name}: {error}") from error
    return estimator


def _distillation(settings: Settings, student: SegmentationNetwork, device: torch.device) -> Distillation:
    train, distill = settings.TRAIN, settings.DISTILL
    # The teacher's first weights, drawn before its own are loaded, must not shift the student's random numbers.
    with torch.random.fork_rng(devices=[]):
        teacher = teacher_network(settings)
    if is_own_code(distill.teacher_arch):
        check_logits(teacher, f"DISTILL.teacher_arch {distill.teacher_arch}")
    distillation = Distillation(distill, teacher, device=device, seed=train.manual_seed)
    # Outputs that cannot be compared are reported now, not in the first step.
    crop, present = torch.zeros(1, 3, train.train_h, train.train_w), torch.ones(1, dtype=torch.bool)
    frames = dict.fromkeys(("image", "neighbour", "third"), crop)
    label = {"label": torch.zeros(1, train.train_h, train.train_w, dtype=torch.int64), "labelled": present}
    clip = ClipBatch(frames | label | {"has_neighbour": present, "has_third": present}, device)
    student.eval()
    try:
        with torch.no_grad():
            still, seen = crop.new_zeros(1, 2, train.train_h, train.train_w), crop.new_ones(1, 1, *crop.shape[-2:]) > 0
            distillation(clip, student.outputs(clip.images), still.to(device), seen.to(device))
    except ValueError as error:
        raise UserError(f"DISTILL with {distill.teacher_arch} for {train.network}: {error}") from error
    return distillation


def _pseudo_labeler(settings: Settings, student: nn.Module, *, threshold: float) -> PseudoLabeler:
    train = settings.TRAIN
    if train.weight is None:
        raise UserError(
            "TRAIN.self_training needs TRAIN.weight, a trained network: the predictions of random weights are no labels"
        )
    if not train.weight_strict:
        raise UserError(
            "TRAIN.self_training needs TRAIN.weight_strict true: what does not fit TRAIN.weight would start anew, as "
            "the head of other classes does, and its predictions are no labels"
        )
    alone = all(frame.label is None for frame in read_frames(settings.DATA.train_list))
    return PseudoLabeler(copy.deepcopy(student), threshold, alone=alone)
