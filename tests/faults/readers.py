"""Every reader of the toolkit with a sound file, for the tests that damage it."""

import json
import logging.handlers
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from etc.config import dump_settings, load_settings
from etc.config.schema import Settings
from etc.data import synthetic
from etc.data.images import read_image, read_label, read_png_origin, write_png
from etc.data.labels import label_table, read_colors, read_names, read_train_ids
from etc.data.layouts import LAYOUTS
from etc.data.lists import check_files, read_clips, read_frames
from etc.data.origin import Origin
from etc.data.parallel import clip_names_in
from etc.data.video import open_source
from etc.data.vspw import class_names as vspw_names
from etc.display.mp4 import Mp4Writer
from etc.errors import UserError
from etc.evaluate.results import FrameScores, read_clip_scores, read_result
from etc.flow.cache import CachedFlow
from etc.flow.files import read_flow, write_flo, write_kitti
from etc.predict.provenance import claim_output_folder
from etc.train.checkpoint import load_checkpoint, save_checkpoint
from etc.train.teacher_cache import TeacherLogits
from model import load_student
from tests import trees
from tests.evaluate.test_results import scores_of

HEIGHT, WIDTH = 24, 32


class Reader(NamedTuple):
    """A sound file and its reader.

    Attributes:
        path: the file, which is damaged.
        read: reads it; what it returns is compared by value.
        errors: what it may raise, by its docstring.
        fits: whether another value than that of the sound file is of the right form; ``None``: the format has
            checksums, or the file is compared with what it must hold, so that there must be no other value.
    """

    path: Path
    read: Callable[[], object]
    errors: tuple[type[Exception], ...] = (UserError,)
    fits: Callable[[object], bool] | None = None


class Refused(Exception):
    """What a cache does with a damaged file: it computes the content again."""


def pixels(array: np.ndarray) -> tuple[object, ...]:
    """An array as a value that ``==`` compares bit for bit."""
    return array.shape, array.dtype.str, array.tobytes()


def is_image(value) -> bool:
    shape, dtype, _ = value
    return len(shape) == 3 and shape[2] == 3 and dtype == "|u1"


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 19, shape, dtype=np.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


def state_of(path: Path) -> dict[str, object]:
    net = network()
    load_student(net, path)
    return {key: pixels(value.numpy()) for key, value in net.state_dict().items()}


def weights(folder: Path) -> Reader:
    path = folder / "net.pth"
    torch.save({"student": network().state_dict()}, path)
    return Reader(path, lambda: state_of(path), (ValueError,))


def legacy_weights(folder: Path) -> Reader:
    path, sound = folder / "net.pth.tar", network().state_dict()
    torch.save({"state_dict": sound}, path, _use_new_zipfile_serialization=False)

    def fits(state) -> bool:
        return all(state[key][:2] == pixels(value.numpy())[:2] for key, value in sound.items())

    return Reader(path, lambda: state_of(path), (ValueError,), fits)


def training_checkpoint(folder: Path) -> Reader:
    path, student = folder / "last.pth", network().state_dict()
    empty: dict[str, object] = {key: {} for key in ("optimizer", "scheduler", "scaler", "rng", "metrics")}
    settings = {"config": load_settings().model_dump(), "step": 4, "epoch": 2}
    save_checkpoint(path, {"student": student, **empty, **settings})

    def read() -> object:
        content = load_checkpoint(path)
        tensors = {key: pixels(value.numpy()) for key, value in content.pop("student").items()}
        return tensors, content

    return Reader(path, read)


def settings_file(folder: Path) -> Reader:
    path = folder / "settings.yaml"
    path.write_text(dump_settings(load_settings()))
    return Reader(path, lambda: load_settings(path), fits=lambda value: isinstance(value, Settings))


def list_of_frames(folder: Path, clips: bool = False) -> Reader:
    names = [f"a/a_{sequence:06d}_{number:06d}_leftImg8bit.png" for sequence in (0, 1) for number in range(5)]
    (folder / "a").mkdir()
    for name in names:
        (folder / name).touch()
    path = folder / "frames.lst"
    path.write_text("\n".join([*names[:5], *([""] if clips else []), *names[5:]]) + "\n")

    def read() -> object:
        found = read_clips(path, layout=LAYOUTS["cityscapes"]) if clips else [read_frames(path)]
        check_files([frame for clip in found for frame in clip], folder, source=str(path))
        return found

    return Reader(path, read, fits=lambda found: all(found) and all(frame.image for clip in found for frame in clip))


def list_of_clips(folder: Path) -> Reader:
    return list_of_frames(folder, clips=True)


def prediction(folder: Path) -> Reader:
    path, frame = folder / "x.png", folder / "frame.png"
    write_png(frame, noise(0, HEIGHT, WIDTH, 3))
    write_png(path, noise(1, HEIGHT, WIDTH), origin=Origin.of([frame], "weights").text)
    return Reader(path, lambda: (pixels(read_label(path)), read_png_origin(path)))


def frame_png(folder: Path) -> Reader:
    path = folder / "x.png"
    write_png(path, noise(0, HEIGHT, WIDTH, 3))
    return Reader(path, lambda: pixels(read_image(path)))


def frame_jpeg(folder: Path) -> Reader:
    path = folder / "x.jpg"
    cv2.imwrite(str(path), cv2.resize(noise(0, 6, 8, 3) * 13, (WIDTH, HEIGHT)))
    return Reader(path, lambda: pixels(read_image(path)), fits=is_image)


def label_png(folder: Path) -> Reader:
    path, table = folder / "x.png", label_table("none", 19, 255)
    cv2.imwrite(str(path), noise(0, HEIGHT, WIDTH))
    return Reader(path, lambda: pixels(read_train_ids(path, table, (HEIGHT, WIDTH))))


def flo(folder: Path) -> Reader:
    path = folder / "x.flo"
    write_flo(path, np.random.default_rng(0).normal(0, 3, (2, HEIGHT, WIDTH)).astype(np.float32))

    def read() -> object:
        flow, valid = read_flow(path)
        assert np.isfinite(flow[:, valid]).all()
        return pixels(flow)

    return Reader(path, read, fits=lambda value: value[0][0] == 2 and value[1] == "<f4")


def kitti(folder: Path) -> Reader:
    path = folder / "x.png"
    write_kitti(path, np.random.default_rng(0).normal(0, 3, (2, HEIGHT, WIDTH)).astype(np.float32))
    return Reader(path, lambda: [pixels(array) for array in read_flow(path)])


class Estimator:
    """Stands for a flow estimator whose flow is in the cache already."""

    name = key = "estimator"


def cached_flow(folder: Path) -> Reader:
    frames = folder / "clip/a_1.png", folder / "clip/a_2.png"
    for seed, frame in enumerate(frames):
        write_png(frame, noise(seed, HEIGHT, WIDTH, 3))
    cache = CachedFlow(Estimator(), folder / "cache")
    path = cache.path(*frames, (HEIGHT, WIDTH))
    cache.write(path, np.full((2, HEIGHT, WIDTH), 1.25, np.float32), cache.origin(*frames))

    def read() -> object:
        flow = cache.kept(*frames, (HEIGHT, WIDTH))
        if flow is None:
            raise Refused
        return pixels(flow)

    return Reader(path, read, (Refused,))


class Teacher:
    """Stands for a network; its logits are those of one cell."""

    weights_sha256 = None

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": images[:, :1, ::8, ::8].expand(-1, 19, -1, -1)}


def teacher_logits(folder: Path) -> Reader:
    frame = folder / "clip/a_1.png"
    write_png(frame, noise(0, HEIGHT, WIDTH, 3))
    (folder / "teacher.pth").write_bytes(b"weights")
    cache = TeacherLogits("psp", [folder / "teacher.pth"], folder / "cache")
    cache.fill(Teacher(), [frame], torch.device("cpu"))
    return Reader(cache.path(frame), lambda: pixels(cache(frame)))


def video(folder: Path) -> Reader:
    path = folder / "ride.mp4"
    with Mp4Writer(path, 10) as writer:
        for seed in range(6):
            writer.write(cv2.resize(noise(seed, 6, 8, 3) * 13, (WIDTH, HEIGHT)))
    said = logging.handlers.MemoryHandler(1000)
    logging.getLogger("etc.data.video").addHandler(said)

    def read() -> object:
        said.buffer.clear()
        return [pixels(frame.rgb) for frame in open_source(str(path), data_root=".").frames]

    def fits(frames) -> bool:
        # A file may hide some of its frames, so that damage which hides them cannot be told; but it is said.
        return all(map(is_image, frames)) and (len(frames) == 6 or (len(frames) < 6 and bool(said.buffer)))

    return Reader(path, read, fits=fits)


def colours(folder: Path) -> Reader:
    path = folder / "colors.txt"
    path.write_text("".join(f"{k} {255 - k} {7 * k}\n" for k in range(19)))
    return Reader(path, lambda: pixels(read_colors(path, 19)), fits=lambda value: value[:2] == ((256, 3), "|u1"))


def class_names(folder: Path) -> Reader:
    path = folder / "names.txt"
    path.write_text("".join(f"class {k}\n" for k in range(19)))
    return Reader(path, lambda: read_names(path, 19), fits=lambda names: len(names) == 19 and all(names))


def names_of_vspw(folder: Path) -> Reader:
    path = folder / "label_num_dic_final.json"
    path.write_text(json.dumps(trees.VSPW_NAMES))
    return Reader(path, lambda: vspw_names(path), fits=lambda names: len(names) == 124 and all(names))


def names_of_clips(folder: Path) -> Reader:
    path = folder / "train.txt"
    path.write_text("".join(f"clip_{k}\n" for k in range(9)))
    return Reader(path, lambda: clip_names_in(path), fits=lambda names: all(names) and len({*names}) == len(names))


def clip_results(folder: Path) -> Reader:
    scores_of(torch.randint(0, 9, (2, 19, 19), generator=torch.Generator().manual_seed(1))).save(folder)

    def read() -> object:
        scores = read_clip_scores(folder)
        return str([scores.classes, scores.clips, scores.by_flow, scores.constant, scores.predictions])

    return Reader(folder / "tc.json", read, fits=bool)


def frame_results(folder: Path) -> Reader:
    counts = torch.randint(0, 99, (19, 19), generator=torch.Generator().manual_seed(1))
    FrameScores(counts, 5, "0" * 64, load_settings(), "1" * 64).save(folder)
    path = folder / "miou.json"
    return Reader(path, lambda: str(read_result(path)), fits=lambda text: text.startswith("{"))


def source_note(folder: Path) -> Reader:
    note = {"checkpoint_sha256": "0" * 64, "classes": 19, "scales": [1.0], "flip": False}

    def read() -> None:
        claim_output_folder(folder, note, load_settings(), parts=("gray",))

    read()
    (folder / "gray").mkdir()
    (folder / "gray/x.png").touch()
    return Reader(folder / "source.json", read)


def world_note(folder: Path) -> Reader:
    settings = load_settings(None, [f"DATA.data_root={folder}"])
    wanted = {key: value for key, value in settings.DATA.model_dump().items() if key.startswith("synthetic_")}
    (folder / synthetic.WORLD_FILE).write_text(json.dumps(wanted))
    return Reader(folder / synthetic.WORLD_FILE, lambda: synthetic.prepare(settings))


READERS = {
    "weights": weights,
    "weights before torch 1.6": legacy_weights,
    "training checkpoint": training_checkpoint,
    "settings": settings_file,
    "list of frames": list_of_frames,
    "list of clips": list_of_clips,
    "prediction": prediction,
    "frame, PNG": frame_png,
    "frame, JPEG": frame_jpeg,
    "label": label_png,
    "flow, .flo": flo,
    "flow, KITTI PNG": kitti,
    "cached flow": cached_flow,
    "teacher logits": teacher_logits,
    "video": video,
    "colours": colours,
    "class names": class_names,
    "class names, VSPW": names_of_vspw,
    "names of clips": names_of_clips,
    "tc.json": clip_results,
    "miou.json": frame_results,
    "source.json": source_note,
    "world.json": world_note,
}
