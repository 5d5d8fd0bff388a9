"""report.html: one file with the numbers of results.json and the plots of report.md; its buttons work in a browser."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess

import pytest
import torch

from engine.report.html_report import write_html
from engine.report.markdown_report import write_report
from engine.report.samples import write_pictures
from engine.training.single_run import prepare, train_single
from tests import fake_run as fake
from tests.engine.test_training import run_in, tiny
from tests.helpers import make_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished single run whose class names need escaping in HTML."""
    place = tmp_path_factory.mktemp("html")
    root = make_folder(place / "data", n=7, names=("road & path", "<b>car</b>", "sky"))
    cfg = tiny(root, "train.epochs=2")
    run = run_in(place, cfg, "run")
    prepared = prepare(cfg)
    results = train_single(cfg, run, CPU, prepared)
    write_pictures(run, cfg, [prepared.network.model], prepared.val, CPU, results)
    return run


def test_it_is_one_file_and_says_what_the_results_say(run):
    text = write_html(run).read_text()
    results = json.loads((run / "results.json").read_text())
    page = re.sub(r"base64,[^\"]*", "", text)  # base64 may contain any word by chance
    assert not re.search(r'(src|href)="(?!data:)', page) and "@import" not in page and "http" not in page.lower()
    assert "&lt;b&gt;car&lt;/b&gt;" in text and "<b>car</b>" not in text and "road &amp; path" in text
    assert f"{100 * results['miou']:.2f} %" in text
    for value in results["per_class"].values():
        assert f"{100 * value:.2f}" in text
    total = sum(results["confusion_matrix"][0])
    assert f"({results['confusion_matrix'][0][1]:,} of {total:,} pixels) predicted as &lt;b&gt;" in text


def test_best_median_and_worst_images(run):
    found = json.loads((run / "cases" / "cases.json").read_text())
    by = {where: [c["miou"] for c in found["cases"] if c["where"] == where] for where in ("best", "median", "worst")}
    assert [len(v) for v in by.values()] == [2, 2, 2] and found["images"] == 7
    assert min(by["best"]) >= max(by["median"]) and min(by["median"]) >= max(by["worst"])
    assert len({c["name"] for c in found["cases"]}) == 6
    per_image = json.loads((run / "results.json").read_text())["per_image"]
    scores = dict(zip(per_image["names"], per_image["miou"]))
    assert all(case["miou"] == pytest.approx(scores[case["name"]]) for case in found["cases"])
    assert len(list((run / "cases").glob("*_*.*"))) == 6 * 4
    assert write_html(run).read_text().count('<img data-kind="') == 6 * 4


def test_the_plots_of_report_md_are_embedded(tmp_path):
    """Each plot with its caption, the picture's bytes as they are; the page scales them."""
    run = fake.cross_validated(tmp_path / "run", folds=3, stages=2, plots=True, extra=True)
    report = write_report(run).read_text()
    page = write_html(run).read_text()
    shown = re.findall(r'<figure><img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', page)
    assert [name for name, _ in shown] == re.findall(r"!\[([^\]]*)\]", report) and len(shown) == 12
    for name, data in shown:
        assert base64.b64decode(data) == (run / "plots" / f"{name.replace(' ', '_')}.png").read_bytes()
    captions = re.findall(r"<figcaption><b>[^<]*</b> ([^<]*)</figcaption>", page)
    assert all(html.unescape(caption) in report for caption in captions) and len(captions) == 12
    assert re.search(r"\.plots img {[^}]*max-width: 100%", page)
    plain = write_html(fake.cross_validated(tmp_path / "plain", folds=3, stages=1)).read_text()
    assert "<h2>Plots" not in plain and "<img" not in plain  # log.plots is false


def test_labels_of_a_contaminated_run_are_explained(tmp_path):
    page = write_html(fake.cross_validated(tmp_path / "run", 3, 1, labels=["contaminated"])).read_text()
    assert "contaminated: images that rank or report were also trained on" in page


def test_a_run_without_results_has_a_page_too(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert "Nothing is scored yet" in write_html(tmp_path).read_text()


@pytest.mark.browser
def test_buttons_and_heads_work_in_a_browser(run, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "the browser tests need Chromium"
    clicks = """<script>
    document.querySelector('button[data-kind=error]').click();
    const head = document.querySelectorAll('table.sortable th')[2]; head.click();
    document.querySelector('table.confusion td').click();
    document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(write_html(run).read_text().replace("</body>", clicks))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    dom = subprocess.run([*command, f"file://{page}"], capture_output=True, text=True, timeout=120).stdout
    shown = re.findall(r'<img data-kind="(\w+)"[^>]*?>', re.sub(r'src="data:[^"]*"', "", dom))
    hidden = re.findall(r'<img data-kind="(\w+)"[^>]*hidden', re.sub(r'src="data:[^"]*"', "", dom))
    assert len(shown) == 24 and hidden.count("error") == 0 and hidden.count("prediction") == 6
    assert 'aria-sort="descending"' in dom and 'data-wide="false"' in dom  # no sideways scrolling on a phone
    assert "predicted as road &amp; path" in re.search(r'<p id="cell">(.*?)</p>', dom)[1]
    body = re.search(r'<table class="sortable">.*?</table>', dom, re.S)[0]
    values = [float(v) for v in re.findall(r'data-value="([\d.e-]+)">[\d.]+<span class="track">', body)]
    assert len(values) == 3 and values == sorted(values, reverse=True)
