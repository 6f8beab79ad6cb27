"""The page of a study: what it says, and the curves of seeds that were trained elsewhere."""

from etc.study.page import write_page
from etc.study.plan import Study
from etc.study.runs import FinishedRun
from etc.study.summary import rows_of


def finished(variant: str, seed: int) -> FinishedRun:
    figures = dict.fromkeys(("strict", "boundary", "flicker", "vc8_correct"), 0.5) | {"regions": 12.0}
    counts = [[[8, 9], [10, 10], [9, 10]]] * 3
    return FinishedRun(variant, seed, "", figures, {"dis": 0.1}, counts, counts, 6.0)


def test_the_page_has_all_rows_and_the_curves_of_every_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study(
        name="s",
        config="student.yaml",
        seeds=[0, 1],
        baseline="a",
        variants={"a": {}, "b": {"TRAIN.st_weight": 2}},
        controls={"c": (3, 1, 1), "d": {"TEST.flip": True}},
        note="The labels are pseudo labels.",
    )
    log = study.run_folder("a", 0) / "log.csv"
    log.parent.mkdir(parents=True)
    log.write_text("step,name,value\n" + "".join(f"{step},loss/segmentation,{1 / step}\n" for step in range(1, 40)))
    results = tmp_path / "results"
    results.mkdir()
    (results / "s_curves_seed1.png").write_bytes(b"drawn on another machine")
    runs = [finished(variant, seed) for seed in (0, 1) for variant in study.rows]
    text = write_page(study, "s.yaml", runs, rows_of(study, runs), results).read_text()
    assert "8 of 8 runs are done, on 3 clips; 0.8 hours" in text and "\nThe labels are pseudo labels.\n" in text
    assert "- `b`: `TRAIN.st_weight=2`" in text and "- `a`: `student.yaml` as it is" in text
    assert "- `c`: the predictions of `a`, the majority of 3 frames, 1x1 pixels" in text
    assert "- `d`: not trained: the frames predicted with `TEST.flip=True`" in text
    assert text.count("| 2 |") == 4 and "dis +0.0" in text
    for seed in (0, 1):
        assert f"![learning curves](s_curves_seed{seed}.png)" in text
    assert (results / "s_curves_seed0.png").read_bytes()[1:4] == b"PNG"
    assert (results / "s_curves_seed1.png").read_bytes() == b"drawn on another machine"
