"""Reports from run folders in every state, and the tables that eval.py prints."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.tables import format_table, markdown_table
from engine.evaluation.protocol import protocol_line
from engine.report.html_report import write_html
from engine.report.markdown_report import write_report
from engine.report.score_tables import candidates_table, class_table
from tests import fake_run as fake

ROOT = Path(__file__).parents[2]


def report_of(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.md"
    text = path.read_text()
    assert not re.search(r"\bnan\b|\bNone\b|\{", text.replace("{train", "")), "raw values in the report"
    for plot in re.findall(r"\((plots/[^)]+)\)", text):
        assert (run / plot).stat().st_size > 1000, plot
    return text


def row(text: str, first: str) -> list[str]:
    """Cells of the first table row whose first cell is `first`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cross_validated_run_with_stages(tmp_path):
    text = report_of(fake.cross_validated(tmp_path / "run", folds=5, stages=2, plots=True))
    results = json.loads((tmp_path / "run/stage1/results.json").read_text())
    best, top3 = results["candidates"][0], results["candidates"][2]
    assert f"**val mIoU {100 * top3['miou']:.2f} %** (`top3`" in text
    assert "5-fold cross-validation" in text and "not finished" not in text
    assert "scored at 128x256 (H x W), absent classes are left out of the mean" in text
    assert "start 84, fold 120, select 36" in text
    cells = row(text, "top3 *")
    assert (
        cells[1] == "0 2 4" and cells[3] == f"{100 * top3['miou']:.2f}" and cells[4] == f"{100 * top3['miou_raw']:.2f}"
    )
    assert cells[5] == "+1.40 [+0.30, +2.30]" and cells[6] == f"{100 * top3['fw_iou']:.2f}"
    assert row(text, "best")[5] == "reference"
    assert "out-of-fold mIoU (contaminated)" in text and "slightly optimistic" not in text
    assert f"standard deviation {100 * results['fold_sd']:.2f} points (5 folds, ddof 1)" in text
    assert text.index("## Winner after each stage") < text.index("## Distances")
    assert row(text, fake.ABSENT)[2:] == ["-", "-"]
    road = [f"{100 * c['per_class']['road']:.2f}" for c in (top3, best)]
    assert row(text, "road")[1:] == ["33.00", *road]
    assert "python train.py configs/deeplabv3plus_cv.yaml" in text and "| torch | 2.11.0 |" in text
    kinds = {"curves", "learning_rate", "candidates", "folds", "stages", "line", "class_iou", "confusion_matrix",
             "frequency_iou"}  # fmt: skip
    assert {p.stem for p in (tmp_path / "run/plots").iterdir()} == kinds
    assert all(f"(plots/{kind}.png)" in text for kind in kinds)


def test_probabilities_and_images_of_the_winner(tmp_path):
    run = fake.cross_validated(tmp_path / "run", folds=3, stages=1, plots=True, extra=True)
    text = report_of(run)
    results = json.loads((run / "stage0/results.json").read_text())
    top3 = results["candidates"][2]
    drawn = {p.stem for p in (run / "plots").iterdir()}
    assert {"roc", "reliability", "per_image"} <= drawn and "plots/per_image.png" in text
    heads, cells = row(text, "candidate"), row(text, "top3 *")
    for label, key in (("mIoU per image", "miou_per_image"), ("expected calibration error", "ece")):
        assert cells[heads.index(label)] == f"{100 * top3[key]:.2f}"
    heads = row(text, "class")
    assert heads[-2:] == ["boundary IoU", "AUC"] and "boundary IoU and AUC: of top3." in text
    assert row(text, "road")[-1] == f"{100 * top3['auc']['road']:.2f}" and row(text, fake.ABSENT)[-1] == "-"


def test_one_stage_says_that_out_of_fold_is_optimistic(tmp_path):
    text = report_of(fake.cross_validated(tmp_path / "run", folds=3, stages=1))
    assert "out-of-fold mIoU (slightly optimistic)" in text and "contaminated" not in text
    assert "## Winner after each stage" not in text


def test_labels_are_explained_and_appear_in_their_rows(tmp_path):
    text = report_of(fake.cross_validated(tmp_path / "a", 3, 1, labels=["contaminated"], start="train", select="val"))
    assert "**contaminated**:" in text and "out-of-fold mIoU (contaminated)" in text
    assert "ranked first on the val images themselves" in text and "honest" not in row(text, "best")[-1]
    assert row(text, "best")[-1] == "contaminated"
    text = report_of(fake.cross_validated(tmp_path / "b", 3, 1, labels=["unconnected"], start="none"))
    assert "**unconnected**:" in text and row(text, "mean")[-1] == "unconnected" and row(text, "best")[-1] == ""


def test_a_single_run(tmp_path):
    text = report_of(fake.single(tmp_path / "run", plots=True))
    miou = json.loads((tmp_path / "run/results.json").read_text())["miou"]
    assert f"**val mIoU {100 * miou:.2f} %** (epoch 18" in text and "too good" in text
    assert "single run" in text and "## Candidates" not in text and "frequency-weighted IoU" in text
    assert {p.stem for p in (tmp_path / "run/plots").iterdir()} == {
        "curves", "learning_rate", "class_iou", "confusion_matrix", "frequency_iou"
    }  # fmt: skip


def test_unfinished_runs_say_so(tmp_path):
    run = fake.cross_validated(tmp_path / "a", 3, 3, finished=1)
    text = report_of(run)
    assert "not finished:** 1 of 3 stages" in text and "slightly optimistic" in text
    with open(run / "log.jsonl", "a") as log:
        log.write('{"epoch": 9, "fo')  # killed while writing
    assert "not finished" in report_of(run)
    text = report_of(fake.single(tmp_path / "b", finished=False, plots=True))
    assert "not finished:** it has not been scored, 20 epochs" in text and "curves.png" in text
    for name in ("log.jsonl", "environment.json"):
        (tmp_path / "b" / name).unlink()
    (tmp_path / "b/plots/curves.png").unlink()
    text = report_of(tmp_path / "b")
    assert "No epoch has been logged yet" in text and "curves.png" not in text
    run = fake.cross_validated(tmp_path / "c", 3, 1, plots=True)
    (run / "splits.json").unlink()
    results = json.loads((run / "stage0/results.json").read_text())
    results |= {"line": None, "pairwise_distance": None, "class_frequency": {}}
    fake.write(run / "stage0/results.json", results)
    text = report_of(run)
    assert "## Distances" not in text and "images by role" not in text and "frequency_iou.png" not in text


def test_a_folder_that_is_no_run_and_damaged_files_give_one_line(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    run = fake.cross_validated(tmp_path / "run", 3, 1)
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([lines[0], "{oops", *lines[2:]]))
    with pytest.raises(UserError, match="log.jsonl: line 2 is damaged"):
        write_report(run)
    (run / "log.jsonl").write_text("\n".join(lines))
    (run / "stage0/results.json").write_text('{"stage": 0,')
    with pytest.raises(UserError, match="results.json: damaged") as e:
        write_report(run)
    assert "\n" not in str(e.value)


def test_plots_can_be_turned_off(tmp_path, capsys):
    run = fake.single(tmp_path / "run", plots=False)
    assert "## Plots" not in report_of(run) and not (run / "plots").exists()
    assert capsys.readouterr().out == ""


def test_a_page_of_samples_is_shown_where_there_is_one(tmp_path):
    run = fake.single(tmp_path / "run")
    (run / "plots").mkdir()
    (run / "plots/samples.png").write_bytes(b"x" * 2000)
    assert "(plots/samples.png)" in report_of(run)


def test_plots_of_an_earlier_report_are_replaced(tmp_path):
    run = fake.single(tmp_path / "run", plots=True)
    report_of(run)
    (run / "log.jsonl").unlink()
    assert "curves.png" not in report_of(run) and not (run / "plots/curves.png").exists()
    assert "(plots/class_iou.png)" in report_of(run)


def test_a_run_whose_miou_is_undefined_has_its_reports(tmp_path):
    """Binary data without its background, and the class is in no image: every mIoU is null."""
    run = fake.cross_validated(tmp_path / "run", folds=3, stages=2, plots=True)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    fake.write_log(run, [row | {"train_miou": None, "val_miou": None} for row in rows])
    for path in run.glob("stage*/results.json"):
        results = json.loads(path.read_text())
        results |= {"fold_mean": None, "fold_sd": None}
        for part in (*results["folds"], *results["candidates"]):
            part |= {key: None for key in ("miou", "val_miou", "select_miou", "miou_raw") if key in part}
        fake.write(path, results)
    assert "val mIoU - %" in report_of(run)
    assert "<h1>" in write_html(run).read_text()


def test_without_matplotlib_the_report_is_written_and_one_line_printed(tmp_path):
    run = fake.cross_validated(tmp_path / "run", 3, 1, plots=True)
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
import numpy as np
from engine.report.html_report import write_html
from engine.report.markdown_report import write_report
from engine.report.picture_pages import samples_page
page = np.zeros((8, 8), np.uint8)
image, run = np.zeros((8, 8, 3), np.uint8), Path(sys.argv[1])
samples_page([image], [page], [page], [(1, 2, 3)], ["a"], run / "plots/samples.png")
write_report(run)
write_html(run)
"""
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plots skipped: matplotlib is not installed\n"
    text = (run / "report.md").read_text()
    assert "## Candidates" in text and re.findall(r"plots/(\w+)", text) == ["samples"]
    page = re.sub(r"base64,[^\"]*", "", (run / "report.html").read_text())
    assert re.findall(r'<img alt="([^"]*)"', page) == ["samples"]
    for report in (text, page):
        assert report.count("plots skipped: matplotlib is not installed.") == 1


def test_matplotlib_is_imported_in_one_module():
    importers = set()
    for path in [p for folder in ("", "*/", "*/*/") for p in ROOT.glob(f"{folder}*.py")]:
        if path.relative_to(ROOT).parts[0] in ("tests", ".venv"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importers |= {path.name for n in names if n.split(".")[0] == "matplotlib"}
    assert importers == {"plots.py"}


# --- tables ---------------------------------------------------------------------------------------------------------


def test_format_table_aligns_text_left_and_numbers_right():
    rows = [["best", "61.50", "-"], ["ensemble", "7.00", "+0.10 [-0.20, +0.40]"]]
    assert format_table(rows, ["name", "mIoU", "diff"]).splitlines() == [
        "name       mIoU                  diff",
        "--------  -----  --------------------",
        "best      61.50                     -",
        "ensemble   7.00  +0.10 [-0.20, +0.40]",
    ]
    assert format_table([], ["a", "b"]) == "a  b\n-  -"
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        format_table([["x"]], ["a", "b"])
    assert markdown_table([["a|b", 1]], ["x", "y"]).splitlines() == ["| x | y |", "| --- | ---: |", "| a\\|b | 1 |"]


def test_candidates_table_for_the_terminal():
    results = fake.stage_results(0, 1, 3, labels=["unconnected"], start="none")
    results["candidates"][2]["notes"] = ["K clamped to the 3 folds"]
    lines = candidates_table(results).splitlines()
    assert lines[0].startswith("streets val, 40 images, scored at 128x256 (H x W)") and lines[0].endswith("mIoU in %")
    assert re.split(r" {2,}", lines[1].strip())[:5] == ["candidate", "members", "select mIoU", "val mIoU", "raw"]
    top3 = next(line for line in lines if line.startswith("top3 *"))
    assert f"{100 * results['candidates'][2]['miou']:.2f}" in top3 and top3.endswith("unconnected")
    assert "top3: K clamped to the 3 folds" in lines
    assert max(map(len, lines)) < 140


def test_class_table_and_the_line_of_the_protocol():
    result = fake.scores(fake.confusion(0.7, 0))
    protocol = fake.protocol("test") | {
        "native": True,
        "scales": [0.5, 1.0],
        "flip": True,
        "window": [64, 96],
        "absent": "zero",
    }
    text = class_table(result, protocol)
    assert f"mIoU  {100 * result['miou']:.2f}" in re.sub(" +", "  ", text)
    assert re.search(r"^train +-$", text, re.M) and text.startswith("streets test")
    said = protocol_line(protocol)
    for part in ("labels' own size", "scales 0.5, 1", "mirrored", "window 64x96", "absent classes count 0"):
        assert part in said
