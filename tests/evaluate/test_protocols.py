"""TEST.protocols and eval_tc --vspw on clips on disk: each figure worked out from the files by hand."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etc.config import load_settings, schema
from etc.data.images import read_image, write_png
from etc.data.labels import label_table_of, read_train_ids
from etc.data.lists import prediction_names
from etc.data.sources import clips_to_score
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.metric_list import METRICS, PROTOCOLS, metrics_of
from etc.flow.build import flow_source
from tests.scripts import run

NAMES = list(PROTOCOLS)
LENGTHS = (9, 7)  # frames of the two clips


@pytest.fixture
def overrides(tiny_training, tmp_path) -> list[str]:
    """Two clips of the tiny world, with labels, and predictions that are these with noise."""
    whole = clips_to_score(load_settings(None, tiny_training))
    clips = [clip[:length] for clip, length in zip(whole, LENGTHS, strict=True)]
    lines = [[f"{frame.image} {frame.label}" for frame in clip] for clip in clips]
    (tmp_path / "clips.lst").write_text("\n\n".join("\n".join(clip) for clip in lines) + "\n")
    words = [*tiny_training, f"DATA.clip_list={tmp_path}/clips.lst", "FLOW.name=dis", "FLOW.preset=ultrafast"]
    settings, rng = load_settings(None, words), np.random.default_rng(0)
    frames = [frame for clip in clips for frame in clip]
    for frame, name in zip(frames, prediction_names(frames), strict=True):
        label = read_train_ids(Path(settings.DATA.data_root) / frame.label, label_table_of(settings))
        noisy = np.where(rng.random(label.shape) < 0.1, rng.integers(0, 19, label.shape), np.minimum(label, 18))
        write_png(Path(settings.TEST.save_folder) / "video/gray" / f"{name}.png", noisy.astype(np.uint8))
    return words


def scored_by_hand(settings):
    """For each clip: predictions and labels ``[T, H, W]``, and what gives the flow between two of its frames."""
    root, flow, found = Path(settings.DATA.data_root), flow_source(settings), []
    clips = clips_to_score(settings)
    names = iter(prediction_names([frame for clip in clips for frame in clip]))
    for clip in clips:
        labels = np.stack([read_train_ids(root / frame.label, label_table_of(settings)) for frame in clip])
        files = [Path(settings.TEST.save_folder) / "video/gray" / f"{next(names)}.png" for _ in clip]
        paths = [root / frame.image for frame in clip]
        found.append((np.stack([read_image(file)[..., 0] for file in files]), labels, paths))
    return found, lambda t, k, shape: flow(t, k, shape)


def script_warp(ids, flow):
    """The lines of the VSPW script, in numpy's words."""
    height, width = ids.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack([2 * (x + flow[0]) / (width - 1) - 1, 2 * (y + flow[1]) / (height - 1) - 1], -1)
    image = torch.from_numpy(ids.astype(np.float32))[None, None]
    return F.grid_sample(image, torch.from_numpy(grid)[None], "nearest", align_corners=False)[0, 0].int().numpy()


def table(rows, columns, classes=19):
    kept = (rows < classes) & (columns < classes)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (rows[kept].astype(int), columns[kept].astype(int)), 1)
    return counts


def ious(counts):
    with np.errstate(invalid="ignore"):
        return counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())


def script_vc(clips, window):
    shares = []
    for preds, labels, _ in clips:
        for start in range(len(preds) - window):
            same = [(maps[start : start + window] == maps[start]).all(0) for maps in (labels, preds)]
            shares.append((same[0] & same[1]).sum() / same[0].sum())
    return np.mean(shares)


def test_every_protocol_gives_what_its_definition_gives_by_hand(overrides):
    settings = load_settings(None, [*overrides, f"TEST.protocols=[{', '.join(NAMES)}]"])
    results = score_clips(settings).first.results
    clips, flow = scored_by_hand(settings)
    shape = clips[0][0].shape[1:]
    pooled, clip_means, votes, stays = np.zeros((19, 19)), [], [], []
    for preds, labels, paths in clips:
        tables = []
        for t in range(len(preds) - 1):
            tables.append(table(preds[t], script_warp(preds[t + 1], flow(paths[t], paths[t + 1], shape))))
            unmoved = (labels[t] == labels[t + 1]) & (labels[t] != 255)
            stays.append((preds[t] == preds[t + 1])[unmoved].mean())
        pooled += sum(tables)
        clip_means.append(np.mean([np.nanmean(ious(counts)) for counts in tables]))
        for t in range(2, len(preds) - 2):
            aligned = [preds[t]]
            aligned += [script_warp(preds[k], flow(paths[t], paths[k], shape)) for k in (t - 2, t - 1, t + 1, t + 2)]
            votes.append(np.stack([sum(one == k for one in aligned) for k in range(19)]).max(0).mean() / 5)
    assert results["tc_vspw"]["mIoU"] == pytest.approx(ious(pooled)[pooled.sum(1) > 0].mean(), abs=1e-12)
    assert results["tc_per_pair"] == pytest.approx(np.mean(clip_means), abs=1e-10)
    assert results["majority"] == pytest.approx(np.mean(votes), abs=1e-12)
    assert results["flow_free"] == pytest.approx(np.mean(stays), abs=1e-10)
    assert len({round(results[key], 3) for key in ("tc_per_pair", "majority", "flow_free")}) == 3


def test_the_flag_vspw_writes_and_prints_the_figures_of_its_scripts(overrides, capsys):
    assert run("eval_tc", *overrides, "--vspw") == 0
    settings = load_settings(None, overrides)
    tc = json.loads(Path(settings.TEST.save_folder, "tc.json").read_text())
    clips, _ = scored_by_hand(settings)
    counts = sum(table(labels, preds) for preds, labels, _ in clips)
    labelled = counts.sum(1) > 0
    assert not labelled.all() and counts.sum(0)[~labelled].any()  # predicted, but no class of the labels
    share = counts.sum(1)[labelled] / counts.sum()
    expected = {
        "miou_vspw": ious(counts)[labelled].mean(),
        "weighted_iou_vspw": (share * ious(counts)[labelled]).sum(),
        "vc8_vspw_script": script_vc(clips, 8),
    }
    printed = capsys.readouterr().out
    labels = {metric.key: metric.label for metric in PROTOCOLS["vspw"]}
    for key, figure in expected.items():
        assert tc[key] == pytest.approx(figure, abs=1e-10)
        assert f"{labels[key]} " in printed and f"{100 * figure:.2f}" in printed
    assert tc["vc16_vspw_script"] is None  # no clip has more than 16 frames
    assert tc["cuts"]["count"] == tc["gaps"]["count"] == 0


def test_vc16_of_vspw_is_that_of_its_script():
    metric = next(metric for metric in PROTOCOLS["vspw"] if metric.key == "vc16_vspw_script")
    rng, counted, clips = np.random.default_rng(0), metric.build(19), []
    for length in (17, 20, 16):  # the script leaves out the last window, and so the whole of the third clip
        scene = rng.integers(0, 19, (24, 32))
        noisy = [np.where(rng.random((2, length, *scene.shape)) < 0.01, 255, scene)]
        preds, labels = np.where(noisy[0] == 255, [[[[3]]], [[[255]]]], noisy[0]).astype(np.uint8)
        counted.update(preds, labels)
        clips.append((preds, labels, []))
    expected = script_vc(clips, 16)
    assert 0.5 < expected < 0.95 and metric.figure(counted.compute()) == pytest.approx(expected, abs=1e-9)


def test_without_a_protocol_nothing_else_is_scored_and_with_all_of_them_the_rest_stays(overrides):
    plain = score_clips(load_settings(None, overrides))
    asked = score_clips(load_settings(None, [*overrides, f"TEST.protocols=[{', '.join(NAMES)}]"]))
    assert list(plain.first.results) == [metric.key for metric in METRICS]
    np.testing.assert_equal({key: asked.first.results[key] for key in plain.first.results}, plain.first.results)
    pairs = [[clip.pairs for clip in scores.first.clips] for scores in (asked, plain)]
    assert pairs[0] == pairs[1]
    assert asked.first.coverage == plain.first.coverage


def test_scores_with_protocols_come_back_and_are_compared_where_all_runs_have_them(overrides, tmp_path):
    folder = load_settings(None, overrides).TEST.save_folder
    (tmp_path / "plain").mkdir()
    predictions = f"TEST.predictions={folder}/video/gray"
    assert run("eval_tc", *overrides, predictions, f"TEST.save_folder={tmp_path}/plain") == 0
    asked = [*overrides, predictions, "TEST.protocols=[vspw, per-pair]"]
    assert run("eval_tc", *asked, f"TEST.save_folder={tmp_path}/asked") == 0
    for others, there in ((["asked"], True), (["asked", "plain"], False)):
        out = tmp_path / "_".join(others)
        runs = [f"{name}{i}={tmp_path / name}" for i, name in enumerate([*others, "asked"])]
        assert run("compare", "--runs", *runs, "--out", out, *overrides) == 0
        text = (out / "comparison.csv").read_text()
        assert ("tc_per_pair" in text) == ("tc_vspw low" in text) == there


def test_the_names_of_the_setting_are_those_of_the_list_and_keys_and_labels_are_unique():
    (choices,) = get_args(schema.Test.model_fields["protocols"].annotation)
    assert list(get_args(choices)) == NAMES
    every = metrics_of(NAMES)
    assert len({metric.key for metric in every}) == len({metric.label for metric in every}) == len(every)


def test_a_data_set_without_the_flow_of_windows_is_told_how_to_go_on(overrides):
    words = [*overrides, "FLOW.name=dataset", "TEST.protocols=[majority]"]
    with pytest.raises(
        UserError, match=r"TEST\.protocols majority needs the flow from .* leave out majority, or score"
    ):
        score_clips(load_settings(None, words))


def test_windows_are_counted_at_every_stride(overrides):
    settings = load_settings(None, [*overrides, "TEST.protocols=[majority]", "TEST.strides=[1, 2]"])
    clips, flow = scored_by_hand(settings)
    votes = []
    for preds, _, paths in clips:
        for t in range(4, len(preds) - 4):
            steps = [flow(paths[t], paths[k], preds.shape[1:]) for k in (t - 4, t - 2, t + 2, t + 4)]
            aligned = [preds[t], *(script_warp(preds[t + d], f) for d, f in zip((-4, -2, 2, 4), steps, strict=True))]
            votes += [max(np.bincount(pixel)) / 5 for pixel in np.stack(aligned).reshape(5, -1).T]
    first, second = score_clips(settings).by_flow
    assert second.results["majority"] == pytest.approx(np.mean(votes), abs=1e-12) != first.results["majority"]
