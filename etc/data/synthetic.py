"""The rendered street, written on first use in the Cityscapes layout."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.cityscapes import cityscapes_lists
from etc.data.make_lists import write_lists
from etc.data.world import write_world
from etc.errors import UserError
from utils.files import regular_file, write_text
from utils.locks import exclusive

logger = logging.getLogger(__name__)

WORLD_FILE = "world.json"


SYNTHETIC_LABELLED = (4, 9, 14, 19, 24)  # frames of a snippet that train and val lists name
_EARLIER = {"synthetic_gap": 2}  # what a world was rendered with whose world.json does not say so


def prepare(settings: Settings) -> None:
    """Render the synthetic world, with its list files, where the settings ask for it and it is not there yet.

    Raises:
        UserError: ``DATA.data_root`` holds something else, or a world of other settings.
    """
    data = settings.DATA
    if not data.synthetic:
        return
    root = Path(data.data_root)
    wanted = {key: value for key, value in data.model_dump().items() if key.startswith("synthetic_")}
    if distributed.rank() == 0 and not root.exists():
        # Of two first users, the second waits for the world of the first.
        with exclusive(root.parent, root.name, wait=True):
            if not root.exists():
                _render(root, settings, wanted)
    distributed.barrier()
    _check_world(root, wanted)


def is_to_be_rendered(settings: Settings) -> bool:
    """Whether :func:`prepare` will take its time: what can be looked at without the data should be looked at first."""
    return settings.DATA.synthetic and not Path(settings.DATA.data_root).exists()


def _render(root: Path, settings: Settings, wanted: dict[str, int]) -> None:
    data = settings.DATA
    logger.info("rendering the synthetic world into %s (once)", root)
    count = data.synthetic_train + data.synthetic_val
    with tqdm(total=count, desc="render", unit="snippet") as bar:
        write_world(
            root,
            height=data.synthetic_height,
            width=data.synthetic_width,
            train_snippets=data.synthetic_train,
            val_snippets=data.synthetic_val,
            seed=data.synthetic_seed,
            frame_gap=data.synthetic_gap,
            labelled=SYNTHETIC_LABELLED,
            workers=min(count, os.cpu_count() or 1),
            progress=lambda done, total: bar.update(),
            complete=lambda building: _write_lists(building, wanted),
        )


def _write_lists(building: Path, wanted: dict[str, int]) -> None:
    write_lists(cityscapes_lists(building, clips="sequences", labelled=SYNTHETIC_LABELLED), building / "list")
    write_text(building / WORLD_FILE, json.dumps(wanted))


def _check_world(root: Path, wanted: dict[str, int]) -> None:
    try:
        found = _EARLIER | dict(json.loads(regular_file(root / WORLD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"DATA.data_root {root} holds something else than a synthetic world: choose another") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"DATA.data_root {root} was rendered with {key} {found.get(key)}, now DATA.{key} is {value}: "
                "choose another folder, or delete that one"
            )
