"""From a loss to new weights: optimizer, learning rate, accumulated and clipped gradients, averaged weights."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, PolynomialLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from etc.config.schema import Train
from etc.errors import UserError
from etc.networks import FROZEN, learns
from etc.precision import chosen_dtype
from model import parameter_groups

_FIRST_SHARE = 1e-6  # of the learning rate, in the first update of a warm-up

# Names of parameters of more than one dimension that do not decay. timm's no_weight_decay() names more, but is lost
# where timm takes a network apart for its feature maps.
_NO_DECAY = (
    "cls_token",
    "pos_embed",
    "absolute_pos_embed",
    "position_embeddings",
    "relative_position_bias_table",
    "attention_biases",
    "rel_pos_h",
    "rel_pos_w",
    "logit_scale",
)


class Optimization:
    """What a training does with the losses of its batches.

    Args:
        train: the settings.
        student: the network.
        device: where it trains.
        batches: batches of an epoch; an epoch ends with an update, so that checkpoints hold no gradients.

    Attributes:
        optimizer: of torch.
        schedule: of the learning rate, one position per update.
        averaged: the network with averaged weights (``TRAIN.ema``); ``None`` without.
    """

    def __init__(self, train: Train, student: nn.Module, device: torch.device, *, batches: int) -> None:
        self.train, self.student, self.batches = train, student, batches
        self.optimizer = new_optimizer(train, student)
        updates = train.epochs * math.ceil(batches / train.accumulate)
        self.schedule = new_schedule(train, self.optimizer, updates)
        # float16 alone has too small a range for gradients; bfloat16 needs no scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen_dtype(train.amp, device) == torch.float16)
        self.averaged = AveragedWeights(student, train.ema) if train.ema else None
        # The scaler skips an update whose gradients overflowed, and asking for its scale would wait for the device.
        self._has_stepped = False
        self.optimizer.register_step_post_hook(self._note_step)

    def updates_after(self, batch: int) -> bool:
        """Whether the weights change after a batch of an epoch, counted from 0."""
        return (batch + 1) % self.train.accumulate == 0 or batch + 1 == self.batches

    def without_sync(self, network: nn.Module, batch: int) -> AbstractContextManager:
        """Where DDP does not need to exchange the gradients of a batch yet."""
        if isinstance(network, DistributedDataParallel) and not self.updates_after(batch):
            return network.no_sync()
        return nullcontext()

    def step(self, loss: Tensor, batch: int) -> None:
        """Add the gradients of a batch, and update the weights where that is due.

        Args:
            loss: the mean over the batch; the gradient of an update is the mean over its batches.
            batch: index of the batch in its epoch.
        """
        first = batch - batch % self.train.accumulate
        if batch == first:
            self.optimizer.zero_grad(set_to_none=True)
        count = min(self.train.accumulate, self.batches - first)
        self.scaler.scale(loss / count if count > 1 else loss).backward()
        if self.updates_after(batch):
            self._update()

    def _update(self) -> None:
        if self.train.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self.train.clip_grad)
        self._has_stepped = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._has_stepped:  # the schedule must not run ahead
            self.schedule.step()
            if self.averaged is not None:
                self.averaged.update(self.student)

    def _note_step(self, *_: Any) -> None:
        self._has_stepped = True

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and used after the training: of the averaged weights, where there are some."""
        return self.student if self.averaged is None else self.averaged.module

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the student's weights."""
        content: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            content["student_ema"] = self.averaged.module.state_dict()
            content["averaged"] = self.averaged.updates
        return content

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, RuntimeError: state of other parameters or of another form.
        """
        updates = positions(content["scheduler"])[0]["last_epoch"]
        restore_optimizer(self.optimizer, content["optimizer"], updates=updates)
        restore_schedule(self.schedule, content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(content["student_ema"])
            self.averaged.updates = int(content["averaged"])


class AveragedWeights:
    """A network whose weights and buffers are exponential moving averages of another's.

    torch's ``AveragedModel`` with torch's arithmetic, but for its counter, which torch keeps in a tensor and reads in
    each update, for which the host waits; and for tensors of integers, whose average torch cuts to integers: an index
    could come out one too small. They are copied.

    Args:
        student: the network that is averaged.
        decay: share of the average that each update keeps, in (0, 1).

    Attributes:
        module: the averaged network.
        updates: how many there were; the first one copies.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(student)
        self.updates = 0
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Add the weights that the student has now."""
        pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for own, current in zip(_tensors(self.module), _tensors(student), strict=True):
            mine, its = pairs.setdefault(own.dtype, ([], []))
            mine.append(own)
            its.append(current.detach())
        for dtype, (mine, its) in pairs.items():
            if self.updates and (dtype.is_floating_point or dtype.is_complex):
                self._average(mine, its, self.updates)
            else:
                torch._foreach_copy_(mine, its)
        self.updates += 1


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def new_optimizer(train: Train, student: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW; new layers learn ten times as fast as the backbone.

    With AdamW, biases, the weights of norms and what stands for a position or a token do not decay, as transformers are
    trained.
    """
    if not learns(student):
        raise UserError(f"TRAIN.arch {train.network}: {FROZEN}")
    groups = parameter_groups(student, train.base_lr)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.base_lr, momentum=train.momentum, weight_decay=train.weight_decay)
    kept = without_decay(student)
    split = []
    for group in groups:
        free = [parameter for parameter in group["params"] if id(parameter) in kept]
        rest = [parameter for parameter in group["params"] if id(parameter) not in kept]
        split += [group | {"params": rest}, group | {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in split if group["params"]], lr=train.base_lr, weight_decay=train.weight_decay
    )


def without_decay(student: nn.Module) -> set[int]:
    """The ids of the parameters that weight decay would harm: vectors, positions and tokens.

    Positions and tokens are known by their names, and are those that a part of the network names in
    ``no_weight_decay()``, which networks of timm have.
    """
    kept = {
        id(parameter)
        for name, parameter in student.named_parameters()
        if parameter.ndim <= 1 or name.rpartition(".")[2] in _NO_DECAY
    }
    for part in student.modules():
        names: set[str] = getattr(part, "no_weight_decay", set)()
        kept |= {id(parameter) for name, parameter in part.named_parameters() if name in names}
    return kept


def new_schedule(train: Train, optimizer: torch.optim.Optimizer, updates: int) -> LRScheduler:
    """The polynomial decay, which reaches 0 after the last update; times a linear growth over the warm-up."""
    decay = PolynomialLR(optimizer, total_iters=updates, power=train.power)
    if not train.warmup:
        return decay
    return ChainedScheduler([decay, LinearLR(optimizer, start_factor=_FIRST_SHARE, total_iters=train.warmup)])


def positions(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the schedules in that of one: of a chain its parts, else the state itself."""
    return state.get("_schedulers", [state])


def restore_schedule(schedule: LRScheduler, state: dict[str, Any]) -> None:
    """Continue a schedule at the position in a checkpoint.

    All else comes from the settings: earlier checkpoints hold the state of a ``LambdaLR``, with the position alone in
    common.

    Raises:
        ValueError: the checkpoint has a warm-up and the schedule none, or the other way round.
    """
    parts = getattr(schedule, "_schedulers", [schedule])
    for part, found in zip(parts, positions(state), strict=True):
        position = {key: found[key] for key in ("last_epoch", "_step_count", "_last_lr")}
        part.load_state_dict(part.state_dict() | position)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, updates: int) -> None:
    """Load the state of an optimizer after so many updates; torch checks the number of parameters, but no shape.

    Raises:
        ValueError: state of other parameters.
        KeyError, TypeError, AttributeError: state of another form.
    """
    for group in state["param_groups"]:
        for key in ("lr", "momentum", "dampening", "weight_decay", "eps"):
            if key not in optimizer.param_groups[0]:
                continue
            value = group[key]
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"the optimizer's {key} is {value!r}")
    optimizer.load_state_dict(state)
    anything = False
    for group in optimizer.param_groups:
        kept = [{k: v for k, v in optimizer.state.get(p, {}).items() if v is not None} for p in group["params"]]
        anything = anything or any(kept)
        for parameter, own in zip(group["params"], kept, strict=True):
            for name, value in own.items():
                wanted = () if name == "step" else tuple(parameter.shape)
                found = tuple(value.shape) if isinstance(value, Tensor) else None
                if found != wanted:
                    what = f"the optimizer's {name.removesuffix('_buffer')}"
                    raise ValueError(f"{what} of shape {_shape(found)} is for {_shape(wanted)}")
    # One group may have none: a backbone that its network runs without gradients.
    if updates and optimizer.param_groups[0].get("momentum", True) and not anything:
        raise ValueError("the optimizer's momentum is missing")


def _shape(sides: tuple[int, ...] | None) -> str:
    return "none" if sides is None else "x".join(map(str, sides)) or "scalar"
