"""The HTML report in a real browser: whole, self-contained, readable in light and dark and on a phone."""

import shutil

import pytest
import torch

from trainer import html_charts
from trainer.evaluation_clips import HeldOut
from trainer.film_strip import MOST_FRAMES, film_strip
from trainer.html_report import controls, page, ranked
from trainer.score_table import combine, curves, score_clip


@pytest.fixture(scope="module")
def made():
    """(report, rows) of three clips, from pictures instead of a model."""
    clips, rows = HeldOut(3), []
    for index in range(3):
        clip = clips[index]
        noise = 0.02 * (index + 1) * torch.randn(clip.target.shape, generator=torch.Generator().manual_seed(index))
        result, mask = (clip.target + noise).clamp(0, 1), torch.nn.functional.avg_pool2d(clip.mask, 8)
        rows.append({
            "clip": clip.name, "seed": clip.seed, "notes": ["a <note>"] if index == 0 else [],
            "result": score_clip(result, clip, mask), "seconds": {"encode": 1.0},
            "floors": {"copy_source": score_clip(clip.source, clip)},
            "curves": {"result": curves(result, clip), "copy_source": curves(clip.source, clip)},
            "strip": film_strip({"source": clip.source, "result": result, "truth": clip.target}, mask),
        })  # fmt: skip
    values = {"clips": 2, "shuffled_source_drop": 5.5, "other_keyframe_change_inside": 40.0}
    return combine(rows, controls=values, frames=8, size=[128, 128], checkpoint="0123", seed=0), rows


def test_worst_median_and_best_are_shown(made):
    names = [row["clip"] for _, row in ranked(made[1])]
    assert names == [row["clip"] for row in made[1]][::-1], "the noisiest is the worst"
    assert [what for what, _ in ranked(made[1][:1])] == ["best by PSNR"]


def test_long_clips_are_thinned_out_and_tiles_are_small():
    strip = film_strip({"source": torch.rand(60, 3, 90, 320), "result": torch.rand(60, 3, 90, 320)})
    assert len(strip["frames"]) == MOST_FRAMES and strip["frames"][0] == 0 and strip["frames"][-1] == 59
    assert strip["size"] == [160, 45] and strip["rows"] == ["source", "result"]


def test_charts_hold_every_clip_and_skip_what_is_empty():
    chart = html_charts.dots("x", {"result": [(1.0, "a&b"), (1.0, "c")], "none": []}, 2)
    assert chart.count("<circle") == 2 and "a&amp;b: 1.00" in chart and "none" not in chart
    curve = html_charts.lines("x", {"result": [1.0, None, 3.0], "none": [None, None, None]})
    assert curve.count("<path") == 1 and "none" not in curve
    for low, high in ((0, 1), (17.2, 31.9), (0.00012, 0.0007), (-3, 250)):
        ticks = html_charts._ticks(low, high)
        assert 2 <= len(ticks) <= 9 and all(low <= t <= high for t in ticks)


def test_a_control_that_failed_is_not_called_a_proof():
    def said(drop, change):
        values = {"clips": 2, "shuffled_source_drop": drop, "other_keyframe_change_inside": change}
        return controls({"controls": values})

    good, bad = said(5.0, 0.4), said(4.9, 0.0)
    assert "falls by 5.0 dB: the background is read" in good and "0.4/255: the edit comes from the keyframe" in good
    assert "failed" not in good and bad.count("this control failed") == 2 and "the edit comes" not in bad
    assert "rises by 2.0 dB: this control failed" in said(-2.0, None)
    assert said(None, None) == "<p>The controls were not run.</p>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_in_a_browser(made, tmp_path, scheme, width):
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    if browser_path is None:
        pytest.skip("no Chromium found")
    file = tmp_path / "report.html"
    file.write_text(page(*made), encoding="utf-8")
    asked, errors = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(file.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 600) == (scheme == "light")
        strip = tab.locator(".strip").first
        tile = strip.locator(".tile div").nth(1)
        before = tile.evaluate("e => getComputedStyle(e).backgroundPosition")
        strip.locator("input").fill("7")
        assert strip.locator("output").inner_text() == "7"
        after = tile.evaluate("e => getComputedStyle(e).backgroundPosition")
        assert before.startswith("0%") and after.startswith("100%") and before.split()[1] == after.split()[1]
        small = tab.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
        assert min(small) >= 9, "labels can be read"
        assert tab.locator("td").count() > 10 and "a <note>" in tab.inner_text("body")
        browser.close()
    assert errors == [] and all(url.startswith(("file:", "data:")) for url in asked)
