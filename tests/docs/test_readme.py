"""What the README shows: its Python block runs, and the files that it names exist."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from etc.study.summary import with_bounds

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_python_block_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    rgb_t, rgb_k = (torch.rand(2, 3, 64, 96, generator=generator) * 255 for _ in range(2))
    image_t, image_k = (torch.randn(2, 3, 64, 96, generator=generator) for _ in range(2))
    ids_t, ids_k = (torch.randint(0, 19, (2, 64, 96), generator=generator) for _ in range(2))
    names = {"rgb_t": rgb_t, "rgb_k": rgb_k, "image_t": image_t, "image_k": image_k, "ids_t": ids_t, "ids_k": ids_k}
    exec(block, names)
    assert names["loss"].requires_grad and torch.isfinite(names["loss"])
    assert re.fullmatch(r"TC strict \d+\.\d\d\n", capsys.readouterr().out)


def test_every_file_and_script_that_the_readme_names_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = re.findall(r"`((?:tool|configs|etc|docs|model|flownet|utils)/[\w./]*)`", README)
    assert len(links) > 5 and len(paths) > 15
    assert not [path for path in {*links, *paths} if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("page", ["README.md", "docs/results/studies.md", "docs/results/distillation.md"])
def test_the_figures_of_the_studies_are_those_of_the_summary(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    rows = json.loads((REPOSITORY / "docs/results/study/summary.json").read_text(encoding="utf-8"))
    expected = {f"{row['study']}/{row['variant']}": row for row in rows}
    shown = re.findall(r"^\| `((?:street|camvid|cityscapes)\w*/[\w.+-]+)` \| [^|]+ \| (.*) \|$", text, re.MULTILINE)
    assert len(shown) >= 3
    for name, figures in shown:
        row = expected[name]
        more, relative = (
            tuple(math.nan if bound is None else bound for bound in row[key])
            for key in ("delta_miou", "delta_changed_pixels_relative")
        )
        changed = f"{100 * (1 - row['pixel_consistency']):.2f}"
        cells = [str(len(row["seeds"])), f"{100 * row['miou']:.2f}", with_bounds(more, 2), changed]
        assert figures == " | ".join([*cells, with_bounds(relative, 1)]), name


def test_the_table_of_scripts_is_complete():
    scripts = {path.stem for path in (REPOSITORY / "tool").glob("*.py")} - {"quickstart"}
    assert not [name for name in sorted(scripts) if f"`tool/{name}.py`" not in README]
