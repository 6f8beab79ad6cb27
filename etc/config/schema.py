"""The sections and keys of the settings: types, ranges, defaults and a one-line description each.

The defaults are those of the published training on Cityscapes; ``configs/quickstart.yaml`` sets what differs.
``description`` and ``title`` are for ``--help``: the meaning in a few words, and what to write where the Python type
says too little (``path`` instead of ``text``). Neighbouring settings with the same description share one entry there.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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

LARGEST = 2**31 - 1  # of counts and sizes: no run can use more, and libraries overflow; not worth a word in --help
LARGEST_SEED = 2**63 - 1  # torch takes no more
LARGEST_SIDE = 65_535  # of images, pixels
PROCESSES = 1024

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LabelValue = Annotated[int, Field(ge=0, le=255)]
# JSON, which results are stored in, has only texts for keys: their numbers are read leniently.
Mapping = dict[Annotated[int, Field(strict=False)], int]
LabelMap = str | Mapping
NotNegative = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.strip():
                raise ValueError("must not be an empty text")
            if isinstance(text, str) and "\0" in text:
                raise ValueError("must not hold a NUL character: no file can have this name")
        return value


class Data(_Section):
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
    names_path: str = Field("data/palettes/cityscapes_names.txt", title="path", description="class names, one per line")
    colors_path: str = Field(
        "data/palettes/cityscapes_colors.txt", title="path", description="one 'R G B' line per class"
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


class Flow(_Section):
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


class Train(_Section):
    """The network and its training."""

    arch: str = Field(
        "psp",
        title="psp | mobile | lraspp | deeplabv3_* | timm:NAME | module:factory",
        description="network",
    )
    layers: Literal[18, 50, 101, 152] = Field(18, description="depth of the ResNet of arch psp")
    pretrained: bool = Field(True, description="start from ImageNet weights (downloaded on first use)")
    backbone_weights: str | None = Field(None, title="path", description="ImageNet weights for arch psp or timm:NAME")
    weight: str | None = Field(None, title="path", description="checkpoint to start from, instead of ImageNet weights")
    train_h: Side = Field(769, description="height and width of the training crop, pixels")
    train_w: Side = Field(769, description="height and width of the training crop, pixels")
    scale_min: float = Field(0.5, description="range of the random scale", ge=0.01, le=100)
    scale_max: float = Field(2.0, description="range of the random scale", ge=0.01, le=100)
    rotate_min: float = Field(
        -10.0, title="float -180..180", description="range of the random rotation, degrees", ge=-180
    )
    rotate_max: float = Field(
        10.0, title="float -180..180", description="range of the random rotation, degrees", le=180
    )
    blur: Fraction = Field(0.5, description="probability of a 5x5 Gaussian blur")
    zoom_factor: Literal[8] = Field(8, description="output stride of the network (published key; only 8)")
    ignore_label: LabelValue | list[LabelValue] = Field(
        255,
        title="int 0..255 | list",
        description="values to ignore, with label_map none",
    )
    loss: Literal["dsn", "ohem_dsn", "ohem_dsn_single", "cross_entropy"] = Field(
        "dsn",
        description="ohem: hard pixels",
    )
    class_weight: str | list[NotNegative] = Field(
        "none",
        title="none | cityscapes | path | list of float >= 0",
        description="class weights",
    )
    aux_weight: float = Field(0.4, description="weight of the auxiliary head's loss", ge=0)
    st_weight: float = Field(0.1, description="weight of the motion loss; 0: baseline without it", ge=0)
    self_training: Fraction | None = Field(
        None,
        description="least confidence of pseudo-labels; empty: make none",
    )
    frame_gap: int = Field(
        3, description="largest distance between a frame and its neighbour, in frames", ge=1, le=1000
    )
    random_frame: bool = Field(True, description="any neighbour within frame_gap; false: always +frame_gap")
    visibility: Literal["published", "l1", "forward_backward"] = Field(
        "l1",
        description="mask of the motion loss",
    )
    motion_distance: Literal["mse", "kl", "js"] = Field(
        "mse", description="error of logits, divergence of probabilities"
    )
    motion_mask: Literal["squared", "once"] = Field("squared", description="mask inside or outside of the square")
    motion_gradient: Literal["both", "frame"] = Field(
        "both", description="motion loss teaches both frames, or frame t alone"
    )
    motion_confidence: Fraction = Field(0.0, description="motion counts where k is this sure, or agrees")
    motion_ramp: Fraction = Field(0.0, description="share of the training in which st_weight grows")
    motion_flow: Literal["estimated", "zero", "shuffled"] = Field("estimated", description="controls of a study")
    jitter: Fraction = Field(0.0, description="probability of random colours, gray and blur")
    jitter_frames: Literal["clip", "frame"] = Field("clip", description="jitter a clip alike, or frame t alone")
    noise: float = Field(0.0, description="standard deviation of Gaussian noise", ge=0, le=255)
    mask_padding: bool = Field(True, description="leave out padding and motion from outside the frame")
    batch_size: Positive = Field(8, description="clips per step, over all processes")
    workers: int = Field(4, description="DataLoader workers per training process", ge=0, le=PROCESSES)
    base_lr: float = Field(0.01, description="learning rate of the backbone; new layers: 10x", gt=0)
    epochs: Positive = Field(200, description="passes over the training list")
    power: float = Field(0.9, description="exponent of the polynomial learning rate decay", ge=0)
    momentum: Fraction = Field(0.9, description="SGD momentum")
    weight_decay: float = Field(1e-4, description="SGD weight decay", ge=0)
    amp: Literal["off", "float16", "bfloat16"] = Field("off", description="automatic mixed precision")
    compile: bool = Field(False, description="use torch.compile (needs a C++ compiler)")
    manual_seed: int = Field(
        0, description="random seed of weights, order, crops and neighbours", ge=0, le=LARGEST_SEED
    )
    print_freq: Positive = Field(10, description="steps between log entries")
    val_freq: int = Field(10, description="epochs between validations, and after the last; 0: none", ge=0, le=LARGEST)
    val_clips: Positive | None = Field(None, description="clips whose TC a validation measures; empty: all")
    save_path: str = Field("exp/cityscapes/pspnet18_flow", title="path", description="folder for checkpoints and logs")
    resume: str | None = Field(
        None,
        title="auto | path",
        description="auto: continue the run in save_path, if any",
    )

    @model_validator(mode="after")
    def _ranges(self) -> Train:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} exceeds scale_max {self.scale_max}")
        if (
            self.jitter
            and self.jitter_frames == "frame"
            and self.st_weight > 0
            and self.visibility != "forward_backward"
        ):
            raise ValueError("jitter_frames frame changes the colours that visibility compares: set forward_backward")
        if self.rotate_min > self.rotate_max:
            raise ValueError(f"rotate_min {self.rotate_min} exceeds rotate_max {self.rotate_max}")
        return self

    @property
    def network(self) -> str:
        """The name that ``model.build_model`` takes: published files say ``psp`` and ``layers``."""
        return f"psp{self.layers}" if self.arch == "psp" else self.arch


# Name of each distillation loss -> how many frames of a clip it compares. The losses themselves are in
# etc/train/distillation.py; the settings <name>_weight and <name>_on belong to each.
DISTILLATION_FRAMES = {"kd": 1, "pf": 2, "mf": 3}


class Distill(_Section):
    """Distillation from a trained, frozen network, the teacher; a weight of 0 switches a loss off."""

    teacher_arch: str = Field(
        "psp101",
        title="name",
        description="psp18, psp50, psp101, psp152 or a TRAIN.arch other than psp",
    )
    teacher_weight: str | None = Field(None, title="path", description="checkpoint of the teacher")
    kd_weight: float = Field(0.0, description="weight of kd, the loss on class probabilities per pixel", ge=0)
    pf_weight: float = Field(0.0, description="weight of pf, the loss on similarities between two frames", ge=0)
    mf_weight: float = Field(0.0, description="weight of mf, the loss on similarities over three frames", ge=0)
    consistent_teacher: bool = Field(False, description="average teacher along the flow")
    kd_on: Literal["logits", "fea"] = Field("logits", description="compare logits or features")
    pf_on: Literal["logits", "fea"] = Field("fea", description="compare logits or features")
    mf_on: Literal["logits", "fea"] = Field("fea", description="compare logits or features")
    temperature: float = Field(1.0, description="softmax temperature of kd", gt=0)
    kd_reduction: Literal["pixel", "mean"] = Field(
        "pixel", description="mean over pixels (times temperature^2) or elements"
    )
    source: Literal["online", "cached"] = Field(
        "online",
        description="run the teacher each step, or keep its logits",
    )
    cache: str = Field("data/teacher_cache", title="path", description="folder that keeps the teacher's logits")
    mf_pool: Positive = Field(16, description="size of the average pooling before the similarities of mf")

    @property
    def used(self) -> bool:
        """Whether there is anything to learn from the teacher."""
        return any(self.weight(name) > 0 for name in DISTILLATION_FRAMES)

    def weight(self, name: str) -> float:
        """The weight of a loss in :data:`DISTILLATION_FRAMES`."""
        return getattr(self, f"{name}_weight")

    @model_validator(mode="after")
    def _cached_logits(self) -> Distill:
        for name in DISTILLATION_FRAMES:
            if self.source == "cached" and self.weight(name) > 0 and getattr(self, f"{name}_on") != "logits":
                raise ValueError(
                    f"DISTILL.source cached keeps only logits: set {name}_on to logits, or DISTILL.source to online"
                )
        return self


class Test(_Section):
    """Prediction and scoring."""

    ckpt_path: str = Field("exp/cityscapes/pspnet18_flow/best.pth", title="path", description="checkpoint to evaluate")
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
    cityscapes: Literal["sampled", "full"] | None = Field(
        None,
        description="published clips, 108 or all 500; empty: DATA.clip_list",
    )
    strides: list[Positive] = Field(
        [1],
        description="distances of the two frames of a scored pair; the first gives the main result",
        min_length=1,
    )
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

    @model_validator(mode="after")
    def _scales(self) -> Test:
        if not all(0.01 <= scale <= 100 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must lie between 0.01 and 100")
        if self.frames and self.cityscapes:
            raise ValueError(f"frames {self.frames} and cityscapes {self.cityscapes} exclude each other")
        return self


class Distributed(_Section):
    """Training on several GPUs: start it with torchrun."""

    sync_bn: bool = Field(True, description="synchronise batch norm over all processes (CUDA only)")


SECTIONS: dict[str, type[_Section]] = {
    "DATA": Data,
    "FLOW": Flow,
    "TRAIN": Train,
    "DISTILL": Distill,
    "TEST": Test,
    "DISTRIBUTED": Distributed,
}


class Settings(_Section):
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
