"""Benchmarks: the arithmetic of ratios and budgets, what is compared with what, and the script at tiny sizes."""

import json

import numpy as np
import pytest
import torch

from etc.benchmark import free_network, measure, training
from etc.benchmark.bench import Bench
from etc.benchmark.measure import Figure, in_new_process, interleaved, peak_memory, ratios
from etc.benchmark.operators import shifted_products
from etc.benchmark.page import Measured, Origin, as_json, text_table
from etc.data.images import read_image, read_label
from tests.flownet.reference import correlate
from tests.scripts import run


def test_rounds_are_taken_in_turn_in_both_orders_and_the_first_does_not_count(monkeypatch):
    clock, calls = [0.0], []

    def work(name, seconds):
        calls.append(name)
        clock[0] += seconds if len(calls) > 2 else 100 * seconds

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    times = interleaved([lambda: work("a", 1.0), lambda: work("b", 2.0)], 3)
    assert "".join(calls) in ("abbaabba", "baabbaab")
    assert times == [[1.0] * 3, [2.0] * 3]


def test_a_ratio_is_taken_round_by_round():
    assert ratios([2.0, 9.0], [1.0, 3.0], 100) == [200.0, 300.0]


def test_what_counts_is_the_median_and_the_spread_is_the_middle_half():
    figure = Figure("work", [1.0, 2.0, 3.0, 4.0, 100.0], "x")
    assert figure.measured == np.median(figure.values)
    assert figure.spread == tuple(np.quantile(figure.values, [0.25, 0.75]))
    assert Figure("work", [3.0, 1.0], "x").spread == (1.0, 3.0)


@pytest.mark.parametrize(
    ("value", "budget", "at_least", "verdict"),
    [
        (2.0, 2.0, False, "ok"),
        (2.1, 2.0, False, "over"),
        (2.1, 2.0, True, "ok"),
        (1.9, 2.0, True, "over"),
        (1.0, None, False, ""),
    ],
)
def test_a_budget_is_a_bound_from_above_or_from_below(value, budget, at_least, verdict):
    assert Figure("work", [value], "x", budget, at_least).verdict == verdict


def test_a_figure_that_this_machine_cannot_measure_says_why_wherever_it_is_shown():
    figure = Figure("work", [], "x", budget=0.5, skipped="the CPU has none")
    measured = [Measured("name", "Title", "explanation", [figure])]
    assert "skipped: the CPU has none" in text_table(measured)
    record = json.loads(as_json(measured, Origin("command", "machine", "frames")))["benchmarks"]["name"][0]
    assert (record["measured"], record["rounds"], record["verdict"]) == (None, [], "skipped: the CPU has none")


def test_a_cpu_without_bfloat16_skips_the_step_in_it(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "cpu_bfloat16", lambda: None)
    (figure,) = training.bfloat16_step(Bench(tmp_path, quick=True))
    assert figure.verdict.startswith("skipped: the CPU has none of avx512_bf16")


def test_the_network_that_costs_nothing_predicts_the_label_map_it_was_given():
    ids = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((16, 32), np.uint8))
    ids[:16, :32] = 255
    network = free_network.make(19)
    network.load_state_dict(free_network.weights_for(ids, 19))
    logits = network(torch.zeros(2, 3, 48, 128))
    predicted = torch.nn.functional.interpolate(logits, ids.shape, mode="nearest").argmax(1).numpy()
    expected = np.where(ids == 255, 0, ids)
    assert predicted.shape == (2, 48, 128)
    assert (predicted == expected).mean() > 0.95  # but for the rounding of positions at the edges


@pytest.mark.slow
def test_memory_of_a_new_process_does_not_count_what_this_one_holds():
    ballast = np.ones(1 << 30, np.uint8)
    assert peak_memory() > ballast.nbytes
    assert 20 << 20 < in_new_process(peak_memory) < ballast.nbytes


def test_the_plain_loop_is_the_same_correlation():
    f1, f2 = torch.randn(2, 2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shifted_products(f1, f2), correlate(f1, f2), rtol=0, atol=1e-6)


def test_rendered_frames_follow_each_other_and_one_is_labelled(tmp_path):
    clip = Bench(tmp_path).clip(64, 128, 3)
    assert [int(frame.image.split("_")[-2]) for frame in clip.frames] == [0, 1, 2]
    assert read_image(clip.root / clip.frames[2].image).shape == (64, 128, 3)
    assert read_label(clip.root / clip.frames[0].label).shape == (64, 128)


def test_real_frames_are_taken_around_a_labelled_one(real_data, tmp_path):
    data = real_data / "cityscapes_mini"
    clip = Bench(tmp_path, data=data).clip(64, 128, 25)
    numbers = [int(frame.image.split("_")[-2]) for frame in clip.frames]
    assert numbers == list(range(5, 30))
    assert [number for number, frame in zip(numbers, clip.frames, strict=True) if frame.label] == [19]
    sample = Bench(tmp_path / "two", quick=True, data=data).samples(65, None)[0, 0]
    assert sample["neighbour"].shape == (3, 65, 65) and sample["has_neighbour"]
    assert len(sample["label"].unique()) > 1


def test_the_script_writes_a_page_with_its_command_and_the_same_figures_as_json(tmp_path, capsys):
    names = ("scoring", "store", "again", "resample2d", "sample")
    assert run("benchmark", "--quick", *names, "--out", tmp_path / "page.md") == 0
    printed, page = capsys.readouterr().out, (tmp_path / "page.md").read_text(encoding="utf-8")
    for word in (
        "published, relative to one remap",
        "size of the cached flow of a real pair, relative to .flo",
        "scoring a pair again, relative to imread of the frame",
        "training sample, relative to three imread",
    ):
        assert word in printed and f"| {word} |" in page
    assert "python tool/benchmark.py --quick scoring store again resample2d sample --out" in page
    assert "figures mean nothing" in printed and "figures mean nothing" in page and "over" not in printed
    assert run("benchmark", "--quick", "store", "--out", tmp_path / "figures.json") == 0
    content = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    size, _, error = content["benchmarks"]["store"]
    assert size["unit"] == "%" and 0 < size["measured"] < 100 and error["measured"] <= 1 / 128


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward", "gen_video", "labels", "memory", "step", "correlation", "workers"])
def test_every_other_benchmark_runs_at_tiny_sizes(name, capsys):
    assert run("benchmark", "--quick", name) == 0
    figures = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} ")]
    assert figures and "nan" not in " ".join(figures)


def test_wrong_words_are_one_line(tmp_path, capsys):
    assert run("benchmark", "speed") == 2
    assert "unknown benchmark speed: forward, gen_video, " in capsys.readouterr().err
    assert run("benchmark", "store", "--data", tmp_path / "none") == 2
    assert f"--data {tmp_path / 'none'} is not a folder" in capsys.readouterr().err
    assert run("benchmark", "--quick", "store", "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path} holds no labelled Cityscapes snippet of 2 frames" in error
