"""launch/sweep.py as a user starts it, and the report on what it leaves."""

import csv
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.commands import call
from helpers.sweeps import start, sweep, write_sweep

from mtlflax.errors import UserError
from mtlflax.report import __main__ as report
from mtlflax.run import config_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return write_sweep(folder)


@pytest.fixture(scope="module")
def runs(folder):
    """All runs of the sweep, and what it said."""
    return folder / "runs", sweep(folder, "mine.py", "--out=runs", "--jobs=2")


def test_a_sweep_trains_all_and_prints_their_table(runs):
    out, said = runs
    assert "6 runs in" in said
    assert len(re.findall(r"^\w+/seed0: 2 × 12 steps × [\d.e-]+ s = \d+s$", said, re.MULTILINE)) == 3
    assert re.search(r"^cost: \d+s of training steps, 2 at a time", said, re.MULTILINE)
    assert said.count(": started") == 6
    assert "[6/6]" in said
    assert "0 to go" in said
    assert "| both | 2 |" in said
    assert (out / "report" / "table.md").read_text() in said


def test_the_table_is_read_from_the_runs(runs):
    out, _ = runs
    with open(out / "report" / "table.csv") as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"both", "segmentation", "depth"}
    best = {
        (tasks, seed): json.loads((out / tasks / f"seed{seed}" / "best.json").read_text())
        for tasks in lines
        for seed in range(2)
    }
    scores = [best["both", seed]["val/segmentation/miou"] for seed in range(2)]
    mean, deviation = sum(scores) / 2, abs(scores[0] - scores[1]) / 2**0.5
    assert lines["both"]["segmentation/miou ↑"] == f"{mean:.4f} ± {deviation:.4f}"
    assert lines["depth"]["segmentation/miou ↑"] == ""
    assert lines["depth"]["Δm % ↓"] == ""
    single = sum(best["segmentation", seed]["val/segmentation/miou"] for seed in range(2)) / 2
    depth = sum(best["depth", seed]["val/depth/rmse"] for seed in range(2)) / 2
    worse = []
    for seed in range(2):
        miou, rmse = (best["both", seed][f"val/{name}"] for name in ("segmentation/miou", "depth/rmse"))
        worse.append(50 * ((single - miou) / single + (rmse - depth) / depth))
    assert lines["both"]["Δm % ↓"].startswith(f"{sum(worse) / 2:.2f} ± ")
    assert lines["both"]["Δp % ↑"].startswith(f"{-sum(worse) / 2:.2f} ± ")
    with open(out / "report" / "differences.csv") as file:
        differences = {line["metric"]: line for line in csv.DictReader(file)}
    assert set(differences) == {"segmentation/miou", "depth/rmse"}
    for line in differences.values():
        assert float(line["from"]) <= float(line["difference"]) <= float(line["to"])
    assert "best epoch by val/segmentation/miou; scored at 32×64 on 4 frames" in (out / "report/table.md").read_text()


def test_the_page_stands_alone_and_renders(runs, tmp_path):
    """In a real browser, if there is one: as wide as a screen and as a phone, light and dark."""
    page = (runs[0] / "report" / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!#)|@import|<script""", page)
    for section in ("Results", "Learning curves", "Weights", "Classes", "Depth error", "Pictures", "Configurations"):
        assert f"<h2>{section}</h2>" in page
    assert page.count("<svg") == page.count("</svg>") >= 8
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)  # two charts that share an id would share a clip path
    both = cv2.imread(str(sorted((runs[0] / "both" / "seed0" / "pictures").glob("*.png"))[-1]))
    columns = 7  # image; truth, prediction, errors of two tasks
    assert both.shape[1] == columns * (64 + 4) + 4
    frames = (both.shape[0] - 4) // (32 + 4)
    # For each frame and task: what is true, and what two models made of it.
    assert page.count("<img") == frames * 2 * 3
    assert page.count(">image, truth<") == frames * 2
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    url = (runs[0] / "report" / "index.html").as_uri()
    for name, width, scheme in (("screen", 1200, 1), ("phone", 400, 0)):
        command = [
            browser,
            *quiet.split(),
            "--disable-component-update",
            "--disable-sync",
            f"--window-size={width},3000",
        ]
        command += [f"--user-data-dir={tmp_path / name}", f"--blink-settings=preferredColorScheme={scheme}"]
        subprocess.run(
            [*command, f"--screenshot={tmp_path / name}.png", url], check=True, capture_output=True, timeout=90
        )
        shot = cv2.imread(str(tmp_path / f"{name}.png"))
        background = shot[2, 2].mean()
        assert (background > 250) == (scheme == 1)
        assert 0.01 < np.mean(np.abs(shot.astype(int) - shot[2, 2]).max(axis=2) > 60) < 0.6


def test_finished_runs_are_skipped_and_the_table_stays(runs, folder):
    out, _ = runs
    before = (out / "report" / "table.md").read_bytes()
    cut_off = out / "compiled" / "a-cache"
    cut_off.parent.mkdir(exist_ok=True)
    cut_off.write_bytes(b"x")
    said = sweep(folder, "mine.py", "--out=runs")
    assert "6 finished before, 0 to train" in said
    assert not cut_off.exists()
    assert (out / "report" / "table.md").read_bytes() == before
    listed = sweep(folder, "mine.py", "--out=runs", "--list")
    assert listed.count("finished") == 6


def test_a_sweep_that_was_changed_does_not_take_the_runs_of_another_for_its_own(runs, folder):
    original = (folder / "mine.py").read_text()
    try:
        (folder / "mine.py").write_text(
            original.replace('"optimizer.learning_rate": 0.01', '"optimizer.learning_rate": 0.02')
        )
        said = sweep(folder, "mine.py", "--out=runs", code=1)
    finally:
        (folder / "mine.py").write_text(original)
    assert said.count("its folder holds a run of another config: give another --out") == 6


def test_a_broken_run_is_named_and_does_not_stop_the_rest(runs, folder, tmp_path):
    shutil.copytree(runs[0], tmp_path / "runs")
    for tasks in ("segmentation", "depth", "both"):  # as if they had been trained
        shutil.copytree(tmp_path / "runs" / tasks / "seed0", tmp_path / "runs" / tasks / "seed2")
        (tmp_path / "runs" / tasks / "seed2" / "sweep.json").unlink()
        path = tmp_path / "runs" / tasks / "seed2" / "config.json"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 2', 1))
    said = sweep(folder, "mine.py:3", f"--out={tmp_path / 'runs'}", code=1)
    assert "FAILED broken: error: " in said
    assert "/nowhere" in said
    assert "| both | 3 |" in said


def test_mistakes_are_one_line(folder):
    assert "no such file: none.py" in sweep(folder, "none.py", "--out=x", code=1)
    assert "--only=6: there are 6 runs" in sweep(folder, "mine.py", "--out=x", "--only=6", code=2)
    assert "mine.py, line 8: ValueError: invalid literal" in sweep(folder, "mine.py:many", "--out=x", code=1)
    assert not (folder / "x").exists()


def test_a_slurm_array_is_printed(folder):
    """Its task, run as Slurm would, trains the run of its number; folders may have blanks."""
    said = sweep(folder, "mine.py", "--out=of slurm", "--slurm", "--jobs=4")
    assert "#SBATCH --array=0-5%4" in said
    assert f'#SBATCH --output="{folder}/of slurm/slurm-%a.txt"' in said
    assert (folder / "of slurm").is_dir()  # Slurm does not make it
    assert "#SBATCH --array=0-5\n" in sweep(folder, "mine.py", "--out=of slurm", "--slurm")
    script = folder / "job.sh"
    script.write_text(said.replace("exec ", "exec echo "))
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(["bash", str(script)], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.endswith(f"mine.py --out={folder}/of slurm --only=3\n")


def test_a_sweep_that_is_told_to_end_ends_its_runs(folder):
    process = start(folder, "mine.py", "--out=ended", "--no-cost")
    while not list((folder / "ended").rglob("lock")):
        time.sleep(0.1)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert "stopped; run the same command again to resume" in said
    assert not subprocess.run(["pgrep", "-f", str(folder / "ended")], check=False, capture_output=True).stdout


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("report/seed0",), "that does not begin with report or cost or compiled"),
        (("a", "a/b"), "each needs a folder of its own"),
        (("x", "./x"), "each needs a folder of its own"),
        (("../x",), "give a relative path"),
    ],
)
def test_names_that_would_get_into_each_others_way(tmp_path, names, message):
    adds = "".join(f"    add({name!r}, 'configs/ewdw.py:quick')\n" for name in names)
    (tmp_path / "s.py").write_text(f"def sweep(add):\n{adds}")
    with pytest.raises(UserError, match=message):
        config_file.load_sweep(str(tmp_path / "s.py"))
    (tmp_path / "s.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"s\.py: has no function sweep"):
        config_file.load_sweep(str(tmp_path / "s.py"))


def test_a_report_on_runs_of_any_state(runs, tmp_path):
    """A run of one task, one that died, a damaged metrics.jsonl, three runs of different tasks, an empty folder."""
    out, _ = runs
    said = call([str(out / "depth" / "seed0"), f"--out={tmp_path / 'one'}"], report.main)
    assert "depth/rmse ↓" in said
    assert "segmentation" not in said

    died = tmp_path / "died"
    shutil.copytree(out / "both" / "seed0", died)
    for name in ("best.json", "results.json"):
        (died / name).unlink()
    said = call([str(died), f"--out={tmp_path / 'two'}"], report.main)
    assert "is stopped at step" in said

    damaged = tmp_path / "damaged"
    shutil.copytree(out / "both" / "seed0", damaged)
    path: Path = damaged / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:20], "[1, 2]", *lines[4:]]) + "\n" + '{"step": 9, "tr')
    said = call([str(damaged), f"--out={tmp_path / 'three'}"], report.main)
    assert "2 lines of metrics.jsonl are damaged and left out" in said

    whole = tmp_path / "some" / "checkpoints"  # a folder of any name
    shutil.copytree(out / "both", whole / "both")
    (whole / "broken").mkdir()
    (whole / "broken" / "config.json").write_text("{")
    (whole / "nothing").mkdir()
    (whole / "both" / "seed0" / "best.json").write_text("{")
    pictures = whole / "both" / "seed0" / "pictures"
    shutil.copy(next(pictures.glob("*.png")), pictures / "zzz.png")
    (pictures / "val_9999999.png").write_bytes(b"being written")
    said = call([str(whole), str(whole / "both"), f"--out={tmp_path / 'six'}"], report.main)
    assert "broken is left out: " in said
    assert "seed0: best.json cannot be read" in said
    assert "| both | 2 |" in said
    assert (tmp_path / "six" / "index.html").read_text().count("<img") == 4 * 2 * 2

    (tmp_path / "empty").mkdir()
    said = call([str(tmp_path / "empty"), f"--out={tmp_path / 'four'}"], report.main, code=1)
    assert "holds no runs" in said
    said = call([str(out), f"--out={tmp_path / 'five'}", "--metrics=depth/rmsee"], report.main, code=1)
    assert "no run has 'depth/rmsee'; there are" in said


def test_the_last_evaluation_when_asked_for(runs, tmp_path):
    """Such as one at full size, which --mode=evaluate writes to results.json."""
    shutil.copytree(runs[0], tmp_path / "runs", ignore=shutil.ignore_patterns("checkpoints"))
    for seed in range(2):
        path = tmp_path / f"runs/both/seed{seed}/results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"size": [64, 128], "val/depth/rmse": 0.5 + seed}))
    asked = [str(tmp_path / "runs"), f"--out={tmp_path / 'report'}"]
    assert "scored at 64×128" not in call(asked, report.main)
    said = call([*asked, "--evaluation=last"], report.main)
    assert "| 1.0000 ± 0.7071 |" in said
    assert "both: last evaluation, of step 12; scored at 64×128 on 4 frames" in said
    assert "No Δ for both" in said  # the single-task networks were scored at another size
