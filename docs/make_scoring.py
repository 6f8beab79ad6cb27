"""Computes every figure of docs/scoring.md on the CamVid clip, and draws its picture.

    python docs/make_scoring.py DATA.data_root=data/camvid
    python docs/make_scoring.py --student exp/camvid/student/video/gray DATA.data_root=data/camvid

Prints the tables in markdown; writes docs/pictures/scoring.png. Predictions and flow go below --work.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from etc import cli
from etc.config import TOOLKIT, load_settings
from etc.config.schema import Settings
from etc.data.images import read_image, write_png
from etc.data.labels import IGNORE, class_names, label_table, read_colors, read_train_ids
from etc.data.sources import clips_to_score
from etc.display.drawing import colorize, side_by_side
from etc.display.tables import percent
from etc.evaluate.clip_metrics import dequantise_flow, flow_of_pair
from etc.evaluate.clips import score_clips
from etc.evaluate.metric_list import METRICS
from etc.flow.build import flow_source
from etc.metrics import TemporalConsistency
from etc.metrics.published import warp_published
from etc.metrics.warping import warp_labels

FLOWS = ("dis@medium", "dis@fast", "dis@ultrafast")
SHOWN = ("strict", "boundary", "published", "flicker", "segmentation", "vc8_correct")
PICTURE_PAIR, PICTURE_CROP = 30, (slice(60, 260), slice(150, 450))
RENAMINGS = 8
ROAD = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", metavar="FOLDER", help="predictions of a trained network, to be scored too")
    parser.add_argument("--work", default="exp/scoring", help="folder of predictions, results and flow")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    work = Path(args.work)
    flows = f"FLOW.evaluate_with=[{', '.join(FLOWS)}]"
    overrides = [f"FLOW.cache={work}/flow", flows, *args.overrides]
    settings = load_settings(TOOLKIT / "configs/camvid/pspnet18_flow.yaml", overrides)
    labels = hand_labels(settings)
    folders = {"hand labels": work / "labels", "constant (all road)": work / "constant"}
    for (name, ids), folder in [(item, folder) for item in labels.items() for folder in folders.values()]:
        write_png(folder / f"{name}.png", np.full_like(ids, ROAD) if folder.name == "constant" else ids)
    if args.student:
        folders["student"] = Path(args.student)
    print_scores(settings, folders, work)
    print_renamings(settings, labels)
    draw(settings, labels)
    return 0


def hand_labels(settings: Settings) -> dict[str, np.ndarray]:
    """Stem -> train ids of every frame of the clip."""
    data = settings.DATA
    table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
    (clip,) = clips_to_score(settings)
    return {Path(frame.image).stem: read_train_ids(Path(data.data_root) / frame.label, table) for frame in clip}


def print_scores(settings: Settings, folders: dict[str, Path], work: Path) -> None:
    labels = [metric.label for metric in METRICS if metric.key in SHOWN]
    print(f"\n| prediction | flow | {' | '.join(labels)} | coverage |\n|{'---|' * (len(labels) + 3)}")
    for name, folder in folders.items():
        test = {"predictions": str(folder), "prediction_ids": "train", "save_folder": str(work / folder.name)}
        result = score_clips(settings.model_copy(update={"TEST": settings.TEST.model_copy(update=test)}))
        result.save(work / folder.name)
        for scores in result.by_flow:
            cells = [percent(scores.figure(m), m.digits) for m in METRICS if m.key in SHOWN]
            print(f"| {name} | {scores.name} | {' | '.join(cells)} | {percent(scores.coverage)} |")


def print_renamings(settings: Settings, labels: dict[str, np.ndarray]) -> None:
    """TC of the hand labels with their class ids permuted."""
    classes = settings.DATA.classes
    rng = np.random.default_rng(0)
    orders = [np.arange(classes), np.arange(classes)[::-1], *(rng.permutation(classes) for _ in range(RENAMINGS))]
    print("\n| class ids | TC strict | TC published |\n|---|---|---|")
    tables = [np.append(order, np.full(256 - classes, IGNORE)).astype(np.uint8) for order in orders]
    meters = [[TemporalConsistency(classes, protocol) for protocol in ("strict", "published")] for _ in orders]
    ids = list(labels.values())
    for t, pair in enumerate(pairs_of(settings)):
        for table, both in zip(tables, meters, strict=True):
            strict, published = both
            strict.update(table[ids[t]], table[ids[t + 1]], pair.forward, valid=pair.visible)
            published.update(table[ids[t]], table[ids[t + 1]], dequantise_flow(pair.forward))
    for order, both in zip(orders, meters, strict=True):
        print(f"| {' '.join(map(str, order))} | {' | '.join(percent(m.compute()['mIoU']) for m in both)} |")


def pairs_of(settings: Settings):
    """Flow of each pair of the clip, as strict scoring sees it."""
    flow, root = flow_source(settings), Path(settings.DATA.data_root)
    (clip,) = clips_to_score(settings)
    paths = [root / frame.image for frame in clip]
    shape = read_image(paths[0]).shape[:2]
    for t in range(len(paths) - 1):
        yield flow_of_pair(flow, paths[t], paths[t + 1], shape, occlusion=settings.FLOW.occlusion)


def draw(settings: Settings, labels: dict[str, np.ndarray]) -> None:
    """What each protocol compares the labels of a frame with."""
    data, t = settings.DATA, PICTURE_PAIR
    palette = read_colors(data.colors_path, data.classes)
    palette[data.classes :] = 255
    (clip,) = clips_to_score(settings)
    ids = list(labels.values())
    pair = next(pair for number, pair in enumerate(pairs_of(settings)) if number == t)
    warped = warped_maps(ids[t + 1], pair, data.classes)
    counts = {name: int(nowhere_near(w, ids[t + 1], pair, data.classes).sum()) for name, w in warped.items()}
    print(f"\npair {t}, pixels of a class that none of the 3x3 pixels around their source has: {counts}")
    frame = read_image(Path(data.data_root) / clip[t].image)
    panels = [("frame t", frame), ("hand labels of t", colorize(ids[t], palette))]
    panels += [(f"labels of t+1, {name}", colorize(w, palette)) for name, w in warped.items()]
    cut = [(name, picture[PICTURE_CROP].repeat(2, 0).repeat(2, 1)) for name, picture in panels]
    write_png(TOOLKIT / "docs/pictures/scoring.png", side_by_side(cut, columns=2), compression=9)
    print(f"classes: {', '.join(class_names(settings))}")


def warped_maps(ids: np.ndarray, pair, classes: int) -> dict[str, np.ndarray]:
    """The next frame's labels as the protocols see them at this frame; 255 is not counted."""
    next_ids, forward = torch.from_numpy(ids), torch.from_numpy(pair.forward)
    (strict,) = warp_labels([next_ids], [forward], [None], ignore=classes).numpy()
    counted = strict != classes if pair.visible is None else (strict != classes) & pair.visible
    strict = np.where(counted, strict, IGNORE)
    return {
        "published": warp_published(next_ids, torch.from_numpy(dequantise_flow(pair.forward))).numpy(),
        "strict": strict.astype(np.uint8),
    }


def nowhere_near(warped: np.ndarray, ids: np.ndarray, pair, classes: int) -> np.ndarray:
    """bool ``[H, W]``: a class was warped here that none of the 3x3 pixels around the nearest source pixel has."""
    forward, found = torch.from_numpy(pair.forward), (warped >= classes)
    for shift in np.ndindex(3, 3):
        near = torch.from_numpy(np.roll(ids, np.subtract(shift, 1), (0, 1)))
        (met,) = warp_labels([near], [forward], [None], ignore=classes)
        found |= (met.numpy() == warped) | (met.numpy() == classes)
    return ~found


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
