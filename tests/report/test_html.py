"""report.html: what it holds, and, in a headless Chromium, whether it works.

Two runs on the tiny world: the labels themselves ("steady"), and the labels with all classes exchanged from frame 9 of
the first clip on ("broken"), so that the pair 8 -> 9 is the worst by construction.
"""

import base64
import io
import json
import re
import shutil
from contextlib import closing

import av
import numpy as np
import pytest
from PIL import Image

from etc.config import load_settings
from etc.data.images import write_png
from etc.data.labels import IGNORE, label_table, read_train_ids
from etc.data.lists import prediction_names
from etc.data.sources import clips_to_score
from etc.report.clip_views import ClipViewer
from etc.report.runs import read_run
from tests.conftest import tiny_overrides
from tests.scripts import run

BREAK = 9
SIZE_LIMIT = 15e6
RUNS = ("steady", "broken")


def write_predictions(root, settings, folder, *, broken: bool) -> None:
    clips = clips_to_score(settings)
    names = iter(prediction_names([frame for clip in clips for frame in clip]))
    table = label_table("cityscapes", 19, IGNORE)
    for c, clip in enumerate(clips):
        for t, frame in enumerate(clip):
            ids = read_train_ids(root / frame.label, table)
            if broken and c == 0 and t >= BREAK:
                ids = np.where(ids == IGNORE, ids, (ids + 1) % 19).astype(np.uint8)
            write_png(folder / "video" / "gray" / f"{next(names)}.png", ids)


@pytest.fixture(scope="module")
def report(tiny_world, tmp_path_factory):
    """Folder of the comparison of the two runs."""
    folder = tmp_path_factory.mktemp("report")
    overrides = [*tiny_overrides(tiny_world), f"FLOW.cache={folder}/store", "TEST.device=cpu"]
    for name in RUNS:
        write_predictions(tiny_world, load_settings(None, overrides), folder / name, broken=name == "broken")
        assert run("eval_tc", *overrides, f"TEST.save_folder={folder}/{name}") == 0
    words = [f"{name}={folder}/{name}" for name in RUNS]
    assert run("compare", "--runs", *words, "--out", folder / "out", *overrides) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def page(report) -> str:
    return (report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def players(page) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def frames_of(data: str) -> np.ndarray:
    """The pictures of an embedded video, RGB ``[T, H, W, 3]``."""
    with av.open(io.BytesIO(base64.b64decode(data))) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def test_it_is_one_small_file_that_asks_for_no_other(page):
    assert len(page) < SIZE_LIMIT
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert links and all("".join(link).startswith("data:") for link in links)
    assert not re.findall(r"https?://", page)


def test_the_worst_moment_is_where_the_classes_are_exchanged(page):
    assert re.search(rf"Worst moment of broken: frames {BREAK - 1}&rarr;{BREAK}\b", page)


def test_what_is_said_of_the_runs_is_what_was_scored(page, report):
    rows = json.loads((report / "comparison.json").read_text())
    assert rows[0]["strict"] == 1.0 and rows[0]["segmentation"] == 1.0
    assert rows[1]["strict difference"] < -0.01 and f"{100 * rows[1]['strict']:.2f}" in page
    assert rows[0]["gflops"] is None and "GFLOPs" not in page  # nobody knows what made these predictions


def test_a_steady_run_is_dark_in_the_heat_map_and_the_broken_one_is_not(page):
    shares = [float(share) for share in re.findall(r"([\d.]+)% of the counted pixels change", page)]
    assert len(shares) == 4 and shares[0] == 0
    # One pair of 29 changes everywhere in the first clip, none in the second.
    assert 2 < shares[1] < 5 and shares[2:] == [0, 0]


def test_videos_hold_every_frame_of_frames_labels_and_runs(players):
    for clip in players:
        assert [caption for caption, _ in clip["videos"]] == ["frames", "ground truth", *RUNS]
        assert [len(frames_of(data)) for _, data in clip["videos"]] == [30] * 4


def test_the_steady_run_shows_the_labels(players):
    _, labels, steady, broken = (frames_of(data).astype(int) for _, data in players[0]["videos"])
    assert np.abs(labels - steady).max() == 0
    distance = np.abs(labels - broken).mean(axis=(1, 2, 3))
    assert distance[: BREAK - 1].max() < 2 and distance[BREAK:].min() > 10


def test_it_begins_with_a_loop_a_profile_and_where_the_runs_stand(page, report):
    look = re.search(r'<section id="look">(.*?)</section>', page, re.S)[1]
    loop = Image.open(io.BytesIO(base64.b64decode(re.search(r"data:image/webp;base64,([^\"]+)", look)[1])))
    assert loop.n_frames == 30 and (report / "loop.webp").is_file() and "data:image/png;base64," in look
    rows = json.loads((report / "comparison.json").read_text())
    described = re.search(r'aria-label="TC strict against mIoU: ([^"]*)"', look)[1]
    expected = [f"{row['run']} {100 * row['segmentation']:.2f}, {100 * row['strict']:.2f}" for row in rows]
    assert [part.strip() for part in described.split(";") if part.strip()] == expected


def test_names_cannot_break_the_page(report, tiny_world):
    folder = report.parent
    words = [f"</script><b>={folder}/steady", f'"&={folder}/broken']
    out = folder / "odd"
    overrides = [*tiny_overrides(tiny_world), f"FLOW.cache={folder}/store"]
    assert run("compare", "--runs", *words, "--out", out, "--clips", "1", *overrides) == 0
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "</script><b>" not in text and text.count("</script>") == 2


def test_only_the_flow_that_is_shown_is_loaded(report, tiny_world):
    """The second one has no weight file, and would be refused."""
    settings = load_settings(None, [*tiny_overrides(tiny_world), "FLOW.evaluate_with=[dataset, flownet2]"])
    run = read_run("steady", report.parent / "steady")
    assert ClipViewer([run], settings).flow.key == run.scores.first.flow == "dataset"


# ---- in the browser


@pytest.fixture(scope="module")
def browser(report, tmp_path_factory):
    """The report in a headless Chromium, 1000 pixels wide; skipped, visibly, where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e '.[dev]')")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no headless browser (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync disable-dev-shm-usage window-size=1000,900"
    for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(60)
    try:
        driver.get((report / "report.html").resolve().as_uri())
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def opened(browser):
    """The browser with the first clip opened and paused at its first frame; afterwards nothing may be logged."""
    browser.execute_script("open(0)")
    settled(browser)
    with closing(LogIsEmpty(browser)):
        yield browser


class LogIsEmpty:
    def __init__(self, browser) -> None:
        self.browser = browser

    def close(self) -> None:
        assert self.browser.get_log("browser") == []


def wait(browser, condition: str) -> None:
    """Until a JavaScript expression is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda b: b.execute_script(f"return {condition}"), condition)


def settled(browser) -> None:
    wait(browser, "videos.length > 0 && videos.every((v) => v.readyState >= 2 && !v.seeking)")


def slide(browser, frame: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));",
        frame,
    )
    settled(browser)


CROP = np.s_[:, 64:128, 200:328]
PICTURES = """
return videos.map((video) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return Array.from(context.getImageData(200, 64, 128, 64).data.filter((_, i) => i % 4 < 3));
});"""


def test_every_player_is_there_and_can_play(opened):
    assert opened.execute_script("return videos.map((v) => v.videoWidth)") == [512] * 4
    assert opened.execute_script("return videos.map((v) => v.error)") == [None] * 4


@pytest.mark.parametrize("frame", [BREAK, 29])
def test_the_slider_puts_all_videos_to_the_same_frame(opened, players, frame):
    slide(opened, frame)
    for picture, (caption, data) in zip(opened.execute_script(PICTURES), players[0]["videos"], strict=True):
        frames = frames_of(data)[CROP].astype(int)
        shown = np.array(picture).reshape(frames.shape[1:])
        distances = np.abs(frames - shown).mean(axis=(1, 2, 3))
        assert distances.argmin() == frame and distances[frame] < 3, caption
    assert f"({frame + 1} of 30)" in opened.execute_script("return document.getElementById('frame').textContent")


def test_all_videos_play_in_step_and_the_slider_follows(opened):
    opened.execute_script("document.getElementById('play').click()")
    wait(opened, "videos.every((v) => !v.paused && v.currentTime > 0.2)")
    times = opened.execute_script("return videos.map((v) => v.currentTime)")
    assert max(times) - min(times) < 0.2
    wait(opened, "Number(document.getElementById('slider').value) > 2")
    opened.execute_script("document.getElementById('play').click()")
    settled(opened)
    # Paused, they stand at the very same frame.
    times = opened.execute_script("return videos.map((v) => v.currentTime)")
    assert max(times) - min(times) < 1e-6
    assert opened.execute_script("return videos.every((v) => v.paused)")


def test_another_clip_and_a_worst_moment_can_be_chosen(opened):
    opened.execute_script(
        "const c = document.getElementById('clip'); c.value = 1; c.dispatchEvent(new Event('change'));"
    )
    settled(opened)
    assert opened.execute_script("return [clip === clips[1], videos.length]") == [True, 4]
    opened.execute_script(f"document.querySelector('.jump[data-frame=\"{BREAK - 1}\"]').click()")
    settled(opened)
    assert opened.execute_script("return [clip === clips[0], document.getElementById('slider').value]") == [True, "8"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(opened, scheme):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor];"
    ink, paper = (luminance(color) for color in opened.execute_script(script))
    assert (ink > paper) == (scheme == "dark")
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7  # WCAG AAA


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_need_not_scroll_sideways(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        assert opened.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
