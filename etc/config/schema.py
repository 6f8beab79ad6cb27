"""The sections and keys of the settings: types, ranges, defaults and a one-line description each.

The defaults are those of the published training on Cityscapes; ``configs/quickstart.yaml`` sets what differs.
``description`` and ``title`` are for ``--help``: the meaning in a few words, and what to write where the Python type
says too little (``path`` instead of ``text``). Neighbouring settings with the same description share one entry there.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from etc.config.fields import (
    LARGEST_SEED,
    LARGEST_SIDE,
    LabelMap,
    Mapping,
    Positive,
    Section,
    Side,
)
from etc.config.training import DISTILLATION_FRAMES, Distill, Train

# Name -> what it is, for tool/eval_flow.py --help. Each has its constructor in etc/flow/estimators.py.
FLOW_ESTIMATORS = {
    "dis": "OpenCV's DIS, fast, on the CPU, no weights",
    "raft_small": "torchvision's small RAFT, weights are downloaded",
    "raft_large": "torchvision's large RAFT, weights are downloaded",
    "flownet2": "FlowNet2, needs the published weights, as do its parts and smaller stacks",
    "flownet2-c": "FlowNetC",
    "flownet2-s": "FlowNetS",
    "flownet2-sd": "FlowNetSD, for small displacements",
    "flownet2-cs": "FlowNetC refined by one FlowNetS",
    "flownet2-css": "FlowNetC refined by two FlowNetS",
    "package.module:factory": "a function without arguments; returns an object with estimate(rgb_t, rgb_k)",
}


class Data(Section):
    """The data set: folders, lists, classes."""

    data_root: str = Field(
        "data/cityscapes",
        title="path",
        description="folder of the data set; lists are relative to it",
    )
    # The names of layouts and label maps are checked by etc/data/layouts.py: config must not import data.
    layout: str = Field(
        "cityscapes",
        title="name",
        description="how files are named: tool/make_lists.py --help",
    )
    train_list: str = Field(
        "data/lists/cityscapes/train.lst",
        title="path",
        description="training: 'image [label]' per line",
    )
    val_list: str = Field(
        "data/lists/cityscapes/val.lst",
        title="path",
        description="labelled frames; none: by TC alone",
    )
    clip_list: str = Field(
        "data/lists/cityscapes/val_clips_sampled.lst",
        title="path",
        description="clips, blank lines between",
    )
    classes: int = Field(19, description="number of classes", ge=2, le=254)
    label_map: LabelMap = Field(
        "cityscapes",
        title="name | mapping | path",
        description="what label files hold; none: train ids",
    )
    frame_step: Positive = Field(1, description="difference between the numbers of consecutive frames")
    gaps: Literal["split", "keep"] = Field("split", description="split clips at missing frame numbers, at cuts")
    cuts: Literal["split", "keep"] = Field("split", description="split clips at missing frame numbers, at cuts")
    allow_missing_neighbours: bool = Field(False, description="train on frames without neighbour too")
    names_path: str | None = Field(
        None, title="path", description="class names, one per line; empty: Cityscapes' for 19 classes, else numbers"
    )
    colors_path: str | None = Field(
        None, title="path", description="one 'R G B' line per class; empty: Cityscapes' or VOC's"
    )
    synthetic: bool = Field(False, description="render a synthetic world into data_root on first use")
    synthetic_height: int = Field(256, description="frame size in the synthetic world, pixels", ge=64, le=LARGEST_SIDE)
    synthetic_width: int = Field(512, description="frame size in the synthetic world, pixels", ge=64, le=LARGEST_SIDE)
    synthetic_train: Positive = Field(12, description="30-frame snippets in the synthetic world")
    synthetic_val: Positive = Field(4, description="30-frame snippets in the synthetic world")
    synthetic_gap: int = Field(
        2, description="training flow of the synthetic world reaches this many frames before and after", ge=1, le=14
    )
    synthetic_seed: int = Field(0, description="random seed of the synthetic world", ge=0, le=LARGEST_SEED)

    @field_validator("classes", mode="before")
    @classmethod
    def _two_classes(cls, value: Any) -> Any:
        if value == 1:
            raise ValueError(
                "one class has loss 0 and mIoU 100 whatever is predicted: an object and its background are 2 classes"
            )
        return value


class Flow(Section):
    """Optical flow: which estimator, and where its results are kept."""

    name: str = Field(
        "dis",
        title="name",
        description="estimator; dataset: the data set's own flow files",
    )
    source: Literal["cached", "online"] = Field(
        "cached",
        description="cached: once per pair; online: in every step",
    )
    weights: str | None = Field(None, title="path", description="weight file of the estimator; flownet2 needs one")
    preset: Literal["ultrafast", "fast", "medium"] = Field("medium", description="speed preset of dis")
    cache: str = Field("data/flow_cache", title="path", description="folder that keeps computed flow")
    input: Literal["rgb255", "normalized"] = Field(
        "rgb255",
        description="estimator's input; normalized: as published",
    )
    scale: float = Field(1.0, description="resize images first; below 1: less memory, coarser", gt=0, le=1)
    evaluate_with: list[str] = Field(
        [],
        title="list of estimators",
        description="estimators for scoring, as [dis@fast, flownet2@FILE]; the first gives the main result; "
        "empty: FLOW.name",
    )
    occlusion: bool = Field(True, description="leave occluded pixels out of strict TC (needs backward flow too)")

    @field_validator("evaluate_with", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Test(Section):
    """Prediction and scoring."""

    ckpt_path: str | list[str] = Field(
        "exp/cityscapes/pspnet18_flow/best.pth",
        title="path or list",
        description="checkpoint to evaluate; [A,B]: mean of several of TRAIN.arch",
    )
    save_folder: str = Field(
        "exp/cityscapes/pspnet18_flow/result", title="path", description="folder for predictions and scores"
    )
    test_list: str | None = Field(None, title="path", description="frames of tool/test.py; empty: DATA.val_list")
    predictions: str | None = Field(
        None, title="path", description="folder of PNG files to score; empty: save_folder/video/gray"
    )
    prediction_ids: Literal["auto", "train", "label", "color"] | Mapping = Field(
        "auto",
        title="auto | train | label | color | {value: train id}",
        description="pixel values: train ids, label ids, class colours, or a mapping as in label_map; auto: detect",
    )
    allow_gaps: bool = Field(False, description="frames may lack a prediction; pairs with both are scored")
    frames: str | None = Field(
        None,
        title="path",
        description="frames, a video, or a folder or list of videos; empty: DATA.clip_list",
    )
    labels: str | None = Field(
        None, title="path", description="folder of label PNGs named like the frames; empty: as listed"
    )
    cityscapes: Literal["sampled", "full"] | None = Field(
        None,
        description="published clips, 108 or all 500; empty: DATA.clip_list",
    )
    strides: list[Positive] = Field(
        [1],
        description="distances of the two frames of a scored pair; the first gives the main result",
        min_length=1,
    )
    # The names are those of etc/evaluate/metric_list.py: config must not import evaluate.
    protocols: list[Literal["vspw", "per-pair", "majority", "flow-free"]] = Field(
        [],
        description="score as other publications do, too: docs/scoring.md",
    )
    pad_to: Positive | None = Field(None, description="pad frames to multiples of this; empty: as the network needs")
    base_size: int = Field(
        0, description="resize the long side of frames before prediction, pixels; 0: no", ge=0, le=LARGEST_SIDE
    )
    test_h: Side = Field(769, description="size of the sliding window, pixels")
    test_w: Side = Field(769, description="size of the sliding window, pixels")
    mode: Literal["whole", "slide"] = Field("whole", description="predict whole frames, or in a sliding window")
    overlap: float = Field(1 / 3, description="share of the window that neighbouring windows share", ge=0, lt=1)
    scales: list[float] = Field(
        [1.0],
        title="list of float > 0",
        description="average the class probabilities over these image scales",
        min_length=1,
    )
    flip: bool = Field(False, description="average with the prediction of the mirrored frame")
    amp: Literal["off", "auto", "float16", "bfloat16"] = Field(
        "off", description="mixed precision of predictions; auto: bfloat16 where the device computes it"
    )
    compile: bool = Field(False, description="predict with torch.compile (needs a C++ compiler)")
    fold_bn: bool = Field(False, description="predict with batch norm folded into the convolutions")
    demo_dir: str | int | None = Field(
        None,
        title="path | int",
        description="list file, folder, image, video, several videos, camera number; empty: first clip",
    )
    demo_folder: str = Field("exp/demo", title="path", description="output folder of tool/demo.py")
    batch_size_gen: Positive = Field(1, description="frames per batch")
    fps: float = Field(17.0, description="frame rate of written videos", ge=0.01, le=1000)
    device: str = Field(
        "auto", title="auto | cpu | cuda | cuda:N", description="device of training, prediction and flow"
    )

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        # torch keeps the lowest 8 bits of the number: cuda:256 would be cuda:0. Whether the device is there depends on
        # the machine, and these settings may come from a result of another one: etc.distributed.device_of asks.
        if not re.fullmatch(r"auto|cpu|mps|cuda(:(\d|[1-9]\d|1[01]\d|12[0-7]))?", value):
            raise ValueError("is no device: expected auto, cpu, cuda or cuda:N with N from 0 to 127")
        return value

    @field_validator("ckpt_path")
    @classmethod
    def _at_least_one(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("names no checkpoint")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("names a checkpoint twice")
        return value

    @model_validator(mode="after")
    def _scales(self) -> Test:
        if not all(0.01 <= scale <= 100 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must lie between 0.01 and 100")
        if self.frames and self.cityscapes:
            raise ValueError(f"frames {self.frames} and cityscapes {self.cityscapes} exclude each other")
        return self

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints of ``ckpt_path``."""
        return [self.ckpt_path] if isinstance(self.ckpt_path, str) else self.ckpt_path


class Distributed(Section):
    """Training on several GPUs: start it with torchrun."""

    sync_bn: bool = Field(True, description="synchronise batch norm over all processes (CUDA only)")


SECTIONS: dict[str, type[Section]] = {
    "DATA": Data,
    "FLOW": Flow,
    "TRAIN": Train,
    "DISTILL": Distill,
    "TEST": Test,
    "DISTRIBUTED": Distributed,
}


class Settings(Section):
    """All sections."""

    DATA: Data = Field(default_factory=Data)
    FLOW: Flow = Field(default_factory=Flow)
    TRAIN: Train = Field(default_factory=Train)
    DISTILL: Distill = Field(default_factory=Distill)
    TEST: Test = Field(default_factory=Test)
    DISTRIBUTED: Distributed = Field(default_factory=Distributed)

    @property
    def needs_flow(self) -> bool:
        """Whether training reads the flow from a frame to its neighbour."""
        return self.TRAIN.st_weight > 0 or (self.DISTILL.used and self.DISTILL.consistent_teacher)

    @property
    def needs_visible_pixels(self) -> bool:
        """Whether training needs to know which pixels of a frame are visible in its neighbour."""
        motion = self.TRAIN.st_weight > 0 and self.TRAIN.visibility == "forward_backward"
        return motion or (self.DISTILL.used and self.DISTILL.consistent_teacher)

    @property
    def frames_per_clip(self) -> int:
        """Frames that the losses of a training step need: 1, 2 (the motion loss among others) or 3."""
        distilled = [count for name, count in DISTILLATION_FRAMES.items() if self.DISTILL.weight(name) > 0]
        return max([2 if self.needs_flow else 1, *distilled])
