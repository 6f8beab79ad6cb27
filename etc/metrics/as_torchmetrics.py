"""The accumulators as metrics of torchmetrics, with its ``reset``, ``forward`` and synchronisation over processes.

    tc = TemporalConsistencyMetric(num_classes=19)
    tc.update(ids_t, ids_next, flow, backward_flow)
    self.log("TC", tc.compute())  # over all processes of DDP

Import this module by its name: torchmetrics is optional, and nothing else of etc needs it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from etc.metrics.checks import Labels
from etc.metrics.temporal import TemporalConsistency
from etc.metrics.video import FlickerRate, VideoConsistency

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("etc.metrics.as_torchmetrics needs torchmetrics: pip install 'torchmetrics>=1.2'") from error

_Accumulator = TemporalConsistency | VideoConsistency | FlickerRate


class _CountsMetric(Metric):
    """A metric whose only state is the counts of an accumulator, summed over processes.

    Args:
        build: gives a fresh accumulator.
        key: tells metrics that count differently apart. ``MetricCollection`` updates one of two metrics whose states
            have the same names and, after the first update, the same values.
        settings: keyword arguments of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, build: Callable[[], _Accumulator], key: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._build = build
        self._state = f"counts_{key}".replace(".", "_")
        self.add_state(self._state, default=build().counts, dist_reduce_fx="sum")

    @property
    def counts(self) -> Tensor:
        return getattr(self, self._state)

    def _add(self, *args: Any) -> None:
        accumulator = self._build()
        accumulator.update(*args)
        setattr(self, self._state, self.counts + accumulator.counts.to(self.counts.device))

    def _result(self) -> Any:
        accumulator = self._build()
        accumulator.counts += self.counts.cpu()
        return accumulator.compute()

    def compute(self) -> Tensor:
        return torch.tensor(self._result(), device=self.counts.device)


class TemporalConsistencyMetric(_CountsMetric):
    """TC as a metric of torchmetrics; ``compute`` gives mIoU, float ``[]``, NaN without a pixel.

    ``update`` takes what ``TemporalConsistency.update`` takes and raises what it raises.

    Args:
        num_classes, protocol, boundary_band: as ``TemporalConsistency``.
        settings: keyword arguments of ``torchmetrics.Metric``, ``dist_sync_on_step`` for instance.
    """

    higher_is_better = True

    def __init__(
        self,
        num_classes: int,
        protocol: Literal["strict", "published"] = "strict",
        boundary_band: float | None = None,
        **settings: Any,
    ) -> None:
        build = partial(TemporalConsistency, num_classes, protocol, boundary_band)
        super().__init__(build, f"{protocol}_{boundary_band}", **settings)

    def update(
        self,
        pred_t: Labels,
        pred_next: Labels,
        flow: Tensor | np.ndarray,
        backward_flow: Tensor | np.ndarray | None = None,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        self._add(pred_t, pred_next, flow, backward_flow, valid)

    def compute(self) -> Tensor:
        return torch.tensor(self._result()["mIoU"], device=self.counts.device)


class VideoConsistencyMetric(_CountsMetric):
    """VC as a metric of torchmetrics; ``compute`` gives the mean share, float ``[]``, NaN without a window.

    ``update`` takes what ``VideoConsistency.update`` takes and raises what it raises.

    Args:
        num_classes, window, definition: as ``VideoConsistency``.
        settings: keyword arguments of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(
        self, num_classes: int, window: int, definition: Literal["vspw", "correct"] = "vspw", **settings: Any
    ) -> None:
        build = partial(VideoConsistency, num_classes, window, definition)
        super().__init__(build, f"{window}_{definition}", **settings)

    def update(self, preds: Labels, targets: Labels) -> None:
        self._add(preds, targets)


class FlickerRateMetric(_CountsMetric):
    """The flicker rate as a metric of torchmetrics; ``compute`` gives the share, float ``[]``, NaN without a pixel.

    ``update`` takes what ``FlickerRate.update`` takes and raises what it raises.

    Args:
        settings: keyword arguments of ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(FlickerRate, "flicker", **settings)

    def update(
        self,
        pred_a: Labels,
        pred_b: Labels,
        pred_c: Labels,
        flow_ab: Tensor | np.ndarray,
        flow_bc: Tensor | np.ndarray,
        backward_ab: Tensor | np.ndarray | None = None,
        backward_bc: Tensor | np.ndarray | None = None,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        self._add(pred_a, pred_b, pred_c, flow_ab, flow_bc, backward_ab, backward_bc, valid)
