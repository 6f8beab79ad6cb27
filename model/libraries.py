"""Networks of other libraries by name: timm, transformers, segmentation_models_pytorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from model.base import SegmentationNetwork
from model.external import ExternalNetwork
from model.packages import near_names, package
from model.padding import needed_multiple
from model.pspnet import check_size
from model.pyramid import PyramidNetwork
from model.segformer import SegformerNetwork
from model.timm_encoder import TimmEncoder, load_classifier
from model.weights import WeightsUnavailable

# size -> layers of the four stages, their channels, channels of the head (SegFormer's tables 6 and 7)
SEGFORMERS = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
IMAGENET = "nvidia/mit-{size}"  # the encoder's weights on the Hub

# Names of transformers 5 -> those of its files, which are also the names of transformers 4.
PUBLISHED_KEYS = (
    (r"segformer\.stages\.(\d+)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\1."),
    (r"segformer\.stages\.(\d+)\.blocks\.", r"segformer.encoder.block.\1."),
    (r"segformer\.stages\.(\d+)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"decode_head\.linear_projections\.", "decode_head.linear_c."),
)


def from_timm(
    name: str,
    *,
    classes: int,
    pretrained: bool,
    weights: Mapping[str, Tensor] | None,
    dropout: float,
    aux: bool,
    pad_to: int | None,
) -> SegmentationNetwork:
    """A timm encoder with the heads of PSPNet (``name``, ``name@8``, ``name@16``, ``name@32``) or of SegFormer
    (``name@segformer``).

    Raises:
        ValueError: another head, or as :class:`TimmEncoder`.
    """
    name, at, head = name.partition("@")
    if at and head not in ("8", "16", "32", "segformer"):
        raise ValueError(
            f"timm:{name}@{head}: expected @8, @16 or @32, the output stride under the head of PSPNet, or @segformer"
        )
    own = pretrained and weights is None
    if head == "segformer":
        encoder = TimmEncoder(name, pretrained=own, maps=4, stride=32)
    else:
        encoder = TimmEncoder(name, pretrained=own, stride=int(head) if at else None)
    if weights is not None:
        load_classifier(encoder.network, weights)
    channels, pad_to = encoder.channels, pad_to or encoder.pad_to
    if head == "segformer":
        return SegformerNetwork(encoder=encoder, channels=channels, classes=classes, dropout=dropout, pad_to=pad_to)
    middle, deep = channels
    return PyramidNetwork(
        encoder=encoder, channels=(middle, deep), classes=classes, dropout=dropout, aux=aux, pad_to=pad_to
    )


class TransformersSegformer(ExternalNetwork):
    """SegFormer of transformers; logits at a quarter of the resolution.

    State dicts hold the names of the files that transformers writes, which are the same in all its versions;
    checkpoints may have the names of transformers 5 too.
    """

    def __init__(self, network: nn.Module, *, classes: int, pad_to: int = 1) -> None:
        super().__init__(network, classes=classes, new_layers=("decode_head",), pad_to=pad_to)
        network.register_state_dict_post_hook(to_published_keys)
        network.register_load_state_dict_pre_hook(to_own_keys)

    def checkpoint_key(self, key: str) -> str:
        return published_key(key)


def published_key(key: str) -> str:
    """The name that a tensor of SegFormer has in the files of transformers."""
    for own, published in PUBLISHED_KEYS:
        key = re.sub(own, published, key)
    return key


def to_published_keys(_network: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[published_key(key)] = state.pop(key)


def to_own_keys(network: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    tensors = (*network.named_parameters(), *network.named_buffers())
    own = {published_key(prefix + name): prefix + name for name, _ in tensors}
    for key in [key for key in state if key.startswith(prefix)]:
        state[own.get(key, key)] = state.pop(key)


def from_transformers(name: str, *, classes: int, pretrained: bool, pad_to: int | None) -> TransformersSegformer:
    """``segformer_b0`` to ``segformer_b5``.

    Raises:
        ValueError: another name, or transformers is missing.
        WeightsUnavailable: the download failed (an OSError).
    """
    check_size(classes=classes)
    size = name.removeprefix("segformer_")
    if name != f"segformer_{size}" or size not in SEGFORMERS:
        known = ", ".join(f"segformer_{size}" for size in SEGFORMERS)
        raise ValueError(
            f"arch transformers:{name} is unknown, expected one of {known}; others of transformers: a "
            "function of your own, package.module:factory"
        )
    transformers = package("transformers", arch=f"transformers:{name}", extra="transformers")
    depths, channels, hidden = SEGFORMERS[size]
    config = transformers.SegformerConfig(
        depths=list(depths), hidden_sizes=list(channels), decoder_hidden_size=hidden, num_labels=classes
    )
    make = transformers.SegformerForSemanticSegmentation
    if not pretrained:
        return TransformersSegformer(make(config), classes=classes, pad_to=pad_to or 1)
    source = IMAGENET.format(size=size)
    try:
        network = make.from_pretrained(source, config=config)
    except OSError as error:
        raise WeightsUnavailable(
            f"cannot download the weights {source} ({str(error).splitlines()[0]}): fill the cache of transformers on a "
            "machine with network access, or set pretrained to false"
        ) from error
    return TransformersSegformer(network.train(), classes=classes, pad_to=pad_to or 1)


def from_smp(name: str, *, classes: int, pretrained: bool, pad_to: int | None) -> ExternalNetwork:
    """``Architecture/encoder`` of segmentation_models_pytorch, such as ``Unet/resnet18``; logits at full resolution.

    Raises:
        ValueError: a name of another form or one that smp does not know, or smp is missing.
        WeightsUnavailable: the download failed (an OSError).
    """
    check_size(classes=classes)
    architecture, slash, encoder = name.partition("/")
    if not slash:
        raise ValueError(f"arch smp:{name}: expected smp:Architecture/encoder, such as smp:Unet/resnet18")
    smp = package("segmentation_models_pytorch", arch=f"smp:{name}", extra="smp")
    try:
        network = smp.create_model(
            architecture, encoder_name=encoder, encoder_weights="imagenet" if pretrained else None, classes=classes
        )
    except OSError as error:
        raise WeightsUnavailable(
            f"cannot download smp's weights of {encoder} ({error}): fill its cache on a machine with network access, "
            "or set pretrained to false"
        ) from error
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error)
        if reason.startswith("Wrong encoder name"):
            # smp goes on with all of its sixty encoders
            reason = reason.partition(",")[0] + near_names(encoder, smp.encoders.get_encoder_names())
        raise ValueError(f"smp {smp.__version__} cannot make {name}: {reason}") from error
    if pad_to is None:
        pad_to = needed_multiple(network)
    return ExternalNetwork(network, classes=classes, new_layers=("decoder", "segmentation_head"), pad_to=pad_to)
