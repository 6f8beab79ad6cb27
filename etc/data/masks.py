"""Which pictures are frames and which are their masks, where a data set keeps both in one place.

Names decide first (``000_mask.png`` beside ``000.png``, ``video/mask`` beside ``video/origin``). Where names say
nothing, content does: label maps have one channel with few values. What is left out has its frames beside it, or both
the name and the content of masks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MASK_WORD = re.compile(
    r"gt|groundtruth|ids|(label|train|instance)ids?|[a-z]*masks?|[a-z]*labels?|annos?|[a-z]*annot(ation)?s?|segs?"
    r"|segmentations?|semantics?|panoptic|pred(iction)?s?|depths?|disparit(y|ies)|trimaps?|mattes?|parsing"
)
_SEGMENT = re.compile(r"(?i)segs?[_-]?\d+")  # seg_0001 is rather a part of a video
_ADDED_WORDS = re.compile(r"[A-Za-z]+([_\-. ][A-Za-z]+)*")
_LOSSY = (".jpg", ".jpeg", ".webp")
_LABEL_VALUES = 64  # distinct values in a label map, at most; photographs have more
_COLOURS = 256  # of classes and instances in a colour map, at most
_AS_ONE = np.array([1, 256, 65536], np.int32)  # the three values of a colour as one
_COUNTED = 1 << 16  # pixels whose values are counted, about


def split_masks(images: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide the images of one folder into frames and masks, both in the given order.

    Masks are: the second file of a stem (``000.png`` beside ``000.jpg``); a picture named like another one with words
    added (``000_mask``, ``000_L``); pictures with a word such as mask, gt or label in their names (``mask_000``) beside
    pictures of the same numbers without; and label maps beside other pictures of the same numbers.
    """
    frames = list(images)
    for step in (_one_per_stem, _without_added_words, _without_mask_words, _without_label_maps):
        frames = step(frames)
    kept = set(frames)
    return frames, [image for image in images if image not in kept]


def mask_folders(folders: Mapping[Path, Sequence[Path]], root: Path) -> dict[Path, Path | None]:
    """The folders of masks, each with the folder of its frames where there is one.

    A folder with the name of masks (``mask``, ``Annotations``, ``gtFine``) is one where the folder that takes its place
    in the path (``origin``, ``JPEGImages``) holds pictures of the same numbers, or where its pictures are label maps,
    of one channel or in colours (``panoptic_maps`` of KITTI-STEP). A folder with another name is one where its pictures
    are label maps and those of the folder in its place are not, or where they are label maps of 16 bits (the instances
    of KITTI-MOTS), wherever their frames are.

    Args:
        folders: folder -> its pictures, which are not masks of each other.
        root: only the names of folders below it count.
    """
    numbers = {folder: {_numbers(image) for image in images} for folder, images in folders.items()}
    named = {folder for folder in folders if any(map(_names_mask_folder, folder.relative_to(root).parts))}
    at_place = defaultdict(list)  # folders of other names, which may hold frames
    for folder in folders.keys() - named:
        for _, place in _places(folder, root):
            at_place[place].append(folder)

    def frames_of(folder: Path, *, words: bool) -> list[Path]:
        """Folders that have pictures of the same numbers, and a path that differs in one part (a mask word)."""
        beside = set()
        for part, place in _places(folder, root):
            if _names_mask_folder(part) or not words:
                beside |= {*at_place[place], root.joinpath(*place[0], *place[1])}  # masks may lie in the frames' folder
        own = numbers[folder]
        return sorted(f for f in beside - named - {folder} if f in folders and 2 * len(own & numbers[f]) >= len(own))

    found: dict[Path, Path | None] = {}
    for folder, images in folders.items():
        if folder in named:
            frames = frames_of(folder, words=True)
            if frames or are_label_maps(images) or are_label_maps(images, colours=True):
                found[folder] = next(iter(frames), None)
        elif are_label_maps(images):
            frames = [other for other in frames_of(folder, words=False) if not are_label_maps(folders[other])]
            if frames or are_deep_label_maps(images):
                found[folder] = next(iter(frames), None)
    return found


def is_named_as_mask(name: str) -> bool:
    """Whether a word in a name says that it holds masks: ``mask_000``, ``gtFine``, ``trainannot``."""
    return any(_MASK_WORD.fullmatch(word.lower()) for word in _WORDS.findall(name))


def _names_mask_folder(part: str) -> bool:
    return is_named_as_mask(part) and _SEGMENT.fullmatch(part) is None


def are_label_maps(images: Sequence[Path], *, colours: bool = False) -> bool:
    """Whether pictures look like label maps, by the first one, the last one and the one in the middle of them.

    Args:
        images: the pictures.
        colours: label maps in colours; frames may be drawn in few colours, too, so that it takes their names to tell.
    """
    return all(_is_label_map(images[index], colours) for index in {0, len(images) // 2, len(images) - 1})


def are_deep_label_maps(images: Sequence[Path]) -> bool:
    """Whether pictures are label maps of 16 bits. No video is: cameras of so many bits have more values than that."""
    return are_label_maps(images) and _has_16_bits(images[0])


@lru_cache(maxsize=4096)
def _has_16_bits(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode.startswith("I")


@lru_cache(maxsize=4096)
def _is_label_map(path: Path, colours: bool = False) -> bool:
    """Whether a picture has one channel (or colours) with the few values of a label map; one that cannot be read has
    not.
    """
    try:
        with Image.open(path) as image:
            if image.format == "JPEG" or (len(image.getbands()) > 2) != colours:
                return False
            pixels = np.asarray(image.convert("RGB"), np.int32) @ _AS_ONE if colours else np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    counted = pixels.ravel()[:: max(1, pixels.size // _COUNTED) | 1]
    return len(np.unique(counted)) <= max(2, min(_COLOURS if colours else _LABEL_VALUES, counted.size // 16))


def _one_per_stem(images: list[Path]) -> list[Path]:
    """Of files that share a stem the JPEG, or else the one that is no label map, or else the first."""
    by_stem = _grouped(images, lambda image: image.stem)
    kept = set()
    for same in by_stem.values():
        lossy = [image for image in same if image.suffix.lower() in _LOSSY]
        others = lossy or ([image for image in same if not _is_label_map(image)] if len(same) > 1 else same)
        kept.add((others or same)[0])
    return [image for image in images if image in kept]


def _without_added_words(images: list[Path]) -> list[Path]:
    """Without ``000_mask`` and ``000_L`` where there is ``000``, and ``street_mask`` where there is ``street``."""
    stems = {image.stem for image in images}

    def is_derived(stem: str) -> bool:
        cuts = [match.start() for match in re.finditer(r"[_\-. ](?=[A-Za-z])", stem)]
        return any(
            stem[:cut] in stems
            and (
                is_named_as_mask(stem[cut:])
                or (stem[:cut][-1:].isdigit() and _ADDED_WORDS.fullmatch(stem[cut + 1 :]) is not None)
            )
            for cut in cuts
        )

    return [image for image in images if not is_derived(image.stem)]


def _without_mask_words(images: list[Path]) -> list[Path]:
    """Without pictures named as masks, where at least one of them has the numbers of a picture that is not."""
    named = {image for image in images if is_named_as_mask(image.stem)}
    frames = {_numbers(image) for image in images if image not in named} - {()}
    for own in map(_numbers, named):
        # 000_mask_1 is the first of several masks of 000
        if any(own[:end] in frames or own[-end:] in frames for end in range(1, len(own) + 1)):
            return [image for image in images if image not in named]
    return images


def _without_label_maps(images: list[Path]) -> list[Path]:
    """Without label maps, where other pictures of the same numbers are no label maps (``IMG_000.png``, ``000.png``)."""
    twice = [same for same in _grouped(images, _numbers).values() if len(same) > 1 and _numbers(same[0])]
    kinds = _grouped((image for same in twice for image in same), _kind)
    maps = {kind for kind, own in kinds.items() if are_label_maps(own)}
    mixed = [kinds_of for kinds_of in ({*map(_kind, same)} for same in twice) if not kinds_of <= maps]
    masks = maps & set().union(*mixed)
    return [image for image in images if _kind(image) not in masks]


def _grouped(images: Iterable[Path], key: Callable) -> dict:
    groups = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return groups


def _kind(image: Path) -> tuple[str, str]:
    """What the names of a sequence have in common: all but the numbers."""
    return re.sub(r"\d+", "0", image.stem), image.suffix.lower()


def _numbers(image: Path) -> tuple[int, ...]:
    """The numbers in a name, without those of words such as ``leftImg8bit``."""
    return tuple(int(digits) for digits in re.findall(r"[0-9]+(?!\d*bit)", image.stem))


def _places(folder: Path, root: Path) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    """Each part of a path below ``root``, and its place: the parts before and after it."""
    parts = folder.relative_to(root).parts
    for index, part in enumerate(parts):
        yield part, (parts[:index], parts[index + 1 :])
