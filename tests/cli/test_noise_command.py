"""``vlls noise``: the table and the gallery of a run, and its errors."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from commands import error
from rich.console import Console
from training import tiny
from typer.testing import CliRunner

from vlls import DiagonalPosterior, rank_examples
from vlls.cli import _noise
from vlls.cli._app import app
from vlls.cli._gallery import GalleryExample, gallery
from vlls.train import RunConfig, load_run, run

Image = pytest.importorskip("PIL.Image")
COLUMNS = (
    "rank index label predicted noise label_noise disagreement clean_label label_name predicted_name clean_name".split()
)


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a variational run and one without a posterior."""
    place = tmp_path_factory.mktemp("runs")
    small = {"epochs": 1, "train_size": 100, "eval_samples": 0}
    configs = {"ivon": tiny(method="ivon", validation_size=20, **small), "sgd": tiny(method="sgd", **small)}
    return {name: run(config, place).folder for name, config in configs.items()}


@pytest.fixture
def folder(runs, tmp_path):
    """A copy of the variational run's folder."""
    return shutil.copytree(runs["ivon"], tmp_path / "runs" / runs["ivon"].name)


def noise(*arguments):
    return CliRunner().invoke(app, ["noise", *map(str, arguments)], prog_name="vlls")


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# ------------------------------------------------------------------ files
@pytest.mark.filterwarnings("ignore:the disagreement of .* has a standard error")
def test_the_table_is_the_ranking(folder):
    shown = noise(folder)
    assert shown.exit_code == 0, shown.output
    assert f"table: {folder}/noise.csv" in shown.stdout and f"gallery: {folder}/noise.html" in shown.stdout
    assert "label noise of 100 training images" in shown.stderr
    assert "\x1b" not in shown.output
    loaded = load_run(folder)
    images = loaded.images()
    expected = rank_examples(loaded.model, loaded.posterior, images, images.given)
    table = rows(folder / "noise.csv")
    assert list(table[0]) == COLUMNS
    assert [int(row["rank"]) for row in table] == list(range(1, 101))
    for name, values in expected.columns().items():
        assert [type(values[0].item())(row[name]) for row in table] == values.tolist(), name
    sizes = [float(row["noise"]) for row in table]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
    for row in table:
        index = int(row["index"])
        assert int(row["label"]) == int(images.given[index])
        assert int(row["clean_label"]) == int(images.clean[index])
        assert row["label_name"] == images.classes[int(row["label"])]
        assert row["clean_name"] == images.classes[int(row["clean_label"])]
        assert row["predicted_name"] == images.classes[int(row["predicted"])]
    wrong = sum(row["label"] != row["clean_label"] for row in table[:40])
    assert f"{wrong} of the 40 with the most noise" in shown.stdout
    disputed = sorted(table, key=lambda row: -float(row["disagreement"]))[:40]
    wrong = sum(row["label"] != row["clean_label"] for row in disputed)
    assert f"{wrong} of the 40 that the posterior disagrees with most" in shown.stdout
    for row in disputed[:3]:
        line = (
            f"  example {row['index']}: labelled {row['label_name']}, predicted {row['predicted_name']}, disagreement "
        )
        assert f"{line}{100 * float(row['disagreement']):.1f} %" in shown.stdout
    assert f"example {disputed[3]['index']}:" not in shown.stdout
    assert "labels that the posterior disagrees with most:\n  example" in shown.stdout
    assert not list(folder.glob(".*partial"))

    before = (folder / "noise.csv").read_bytes()
    for options in (["--memory", "4"], []):  # again, over the old files
        assert noise(folder, *options).exit_code == 0
    assert (folder / "noise.csv").read_bytes() == before


def test_the_page_shows_disputed_labels_first_then_both_ends_and_needs_nothing_else(folder):
    assert noise(folder, "--show", "12").exit_code == 0
    table, html = rows(folder / "noise.csv"), page(folder / "noise.html")
    figures = html.find_all("figure")
    assert [re.search(r"\d+", f.find(class_="index").text)[0] for f in figures] == [
        row["index"]
        for row in [*sorted(table, key=lambda row: -float(row["disagreement"]))[:12], *table[:12], *table[:-13:-1]]
    ]
    headings = [heading.text for heading in html.find_all("h2")]
    assert headings == ["All examples", "Labels that may be wrong", "Most label noise", "Least label noise"]
    targets = {link["href"]: link.text for link in html.find("nav").find_all("a")}
    assert targets == {f"#{heading['id']}": heading.text for heading in html.find_all("h2", id=True)}
    assert list(targets.values()) == headings[1:]
    by_index, images = {row["index"]: row for row in table}, load_run(folder).images()
    for figure in figures:
        row = by_index[figure.find(class_="index").text[1:]]
        image, text = figure.find("img"), " ".join(figure.get_text(" ").split())
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.array_equal(shown, images.pixels(int(row["index"]))[..., 0])
        assert (
            f"example {row['index']}, labelled {row['label_name']}, predicted {row['predicted_name']}" in image["alt"]
        )
        assert f"label {row['label_name']} predicted {row['predicted_name']}" in text
        assert f"{float(row['noise']):#.3g}" in text and f"{100 * float(row['disagreement']):.1f} %" in text
        is_wrong = row["label"] != row["clean_label"]
        assert (f"wrong label: is {row['clean_name']}" in text) == is_wrong
        assert ("correctly" in image["alt"]) == is_wrong
    assert any(figure.find(class_="mark") for figure in figures)
    facts = {div.dt.text: div.dd.text for div in html.find_all("div") if div.dt}
    assert folder.name in facts["run"] and "finished" in facts["run"]
    assert facts["method"] == "ivon"
    assert re.match(
        r"standard deviation [\d.]+, the same for all of [\d,]+ weights, as at the start: not learned",
        (facts["posterior"]),
    )
    wrong = sum(row["label"] != row["clean_label"] for row in table)
    assert facts["examples"] == f"100 training images; {wrong} labels are known to be wrong"
    assert "--method rank" in facts["computed by"]
    assert "histogram of the label noise of 100 examples" in html.find("svg")["aria-label"]
    assert "prefers-color-scheme: dark" in html.find("style").text
    assert html.find("meta", attrs={"name": "viewport"})
    whole = (folder / "noise.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", whole)
    assert all(tag["src"].startswith("data:") for tag in html.find_all(src=True))
    assert all(tag["href"].startswith("#") for tag in html.find_all(href=True))


def test_the_histogram_counts_every_example(folder):
    assert noise(folder).exit_code == 0
    every, wrong = (
        sum(float(v) for v in re.findall(r"v-([\d.]+)h", path["d"]))
        for path in page(folder / "noise.html").find_all("path", class_="bar")
    )
    table = rows(folder / "noise.csv")
    assert wrong / every == pytest.approx(sum(row["label"] != row["clean_label"] for row in table) / 100, abs=0.01)


def test_json_is_the_summary_and_all_of_stdout(folder, tmp_path):
    shown = noise(folder, "--json", "--output", tmp_path / "look" / "here", "--limit", "30", "--show", "10")
    assert shown.exit_code == 0, shown.output
    summary = json.loads(shown.stdout)
    table = rows(tmp_path / "look" / "here" / "noise.csv")
    assert len(table) == summary["examples"] == 30
    assert sorted(int(row["index"]) for row in table) == list(range(30))
    assert summary["noise"]["max"] == float(table[0]["noise"])
    assert summary["noise"]["min"] == float(table[-1]["noise"])
    assert (summary["method"], summary["rank"], summary["samples"], summary["part"]) == ("rank", 3, None, "train")
    assert summary["wrong_labels_in_shown"] == sum(row["label"] != row["clean_label"] for row in table[:10])
    assert summary["csv"] == str(tmp_path / "look" / "here" / "noise.csv")
    assert os.path.exists(summary["html"])
    assert not (folder / "noise.csv").exists()
    assert len(page(tmp_path / "look" / "here" / "noise.html").find_all("figure")) == 30
    disputed = sorted(table, key=lambda row: -float(row["disagreement"]))[:10]
    assert [dispute["index"] for dispute in summary["most_disputed"]] == [int(row["index"]) for row in disputed]
    first = summary["most_disputed"][0]
    assert (first["part"], first["file"]) == ("train", None)
    assert (first["label"], first["predicted"]) == (disputed[0]["label_name"], disputed[0]["predicted_name"])
    assert first["disagreement"] == pytest.approx(float(disputed[0]["disagreement"]), abs=1e-6)


def test_quiet_prints_nothing(folder):
    shown = noise(folder, "--quiet", "--limit", "10")
    assert (shown.exit_code, shown.output) == (0, "")


@pytest.mark.parametrize("part, number", [("test", 360), ("validation", 20)])
def test_other_parts(folder, part, number):
    shown = noise(folder, "--part", part, "--limit", "40", "--json")
    assert json.loads(shown.stdout)["examples"] == min(number, 40)
    loaded = load_run(folder).images(part)
    table = rows(folder / "noise.csv")
    assert all(int(row["label"]) == int(loaded.given[int(row["index"])]) for row in table)


@pytest.mark.parametrize("arguments", [(), ("--method", "monte_carlo", "--samples", "8")])
def test_all_parts_in_one_table_are_the_parts_by_themselves(folder, arguments):
    single = []
    for part in ("train", "test", "validation"):
        assert noise(folder, "--part", part, "--limit", "30", *arguments).exit_code == 0
        single += [row | {"part": part} for row in rows(folder / "noise.csv")]
    shown = noise(folder, "--part", "all", "--limit", "30", "--show", "5", *arguments)
    assert shown.exit_code == 0, shown.output
    table = rows(folder / "noise.csv")
    assert list(table[0]) == [*COLUMNS, "part"]
    assert len(table) == len(single) == 80
    assert [row.pop("rank") for row in table] == [str(i) for i in range(1, 81)]
    sizes = [float(row["noise"]) for row in table]
    assert sizes == sorted(sizes, reverse=True)
    alike = {(row["part"], row["index"]): row for row in single}
    assert all(row.items() < alike[row["part"], row["index"]].items() for row in table)
    assert "label noise of 80 training, test and validation images" in shown.stderr

    names = {"train": "training", "test": "test", "validation": "validation"}
    disputed = sorted(table, key=lambda row: -float(row["disagreement"]))
    assert f"  {names[disputed[0]['part']]} example {disputed[0]['index']}: labelled" in shown.stdout
    figures = page(folder / "noise.html").find_all("figure")
    places = [f"{names[row['part']]} #{row['index']}" for row in [*disputed[:5], *table[:5], *table[:-6:-1]]]
    assert [figure.find(class_="index").text for figure in figures] == places
    images = {part: load_run(folder).images(part) for part in names}
    for figure, row in zip(figures, disputed[:5], strict=False):
        data = figure.find("img")["src"].partition(",")[2]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.array_equal(pixels, images[row["part"]].pixels(int(row["index"]))[..., 0])


def test_all_parts_of_a_run_that_held_none_out(runs, tmp_path):
    options = ("--std", "0.1", "--output", tmp_path, "--json", "--limit", "10", "--show", "0")
    summary = json.loads(noise(runs["sgd"], "--part", "all", *options).stdout)
    assert (summary["part"], summary["examples"], summary["most_disputed"]) == ("all", 20, [])
    assert {row["part"] for row in rows(tmp_path / "noise.csv")} == {"train", "test"}
    assert page(tmp_path / "noise.html").find("nav") is None


@pytest.mark.parametrize(
    "options", [{"method": "exact"}, {"method": "monte_carlo", "samples": 8}, {"method": "direction"}, {"rank": 1}]
)
def test_other_methods(folder, options):
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    first, second = (noise(folder, "--json", "--limit", "20", *arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    a, b = (json.loads(shown.stdout) for shown in (first, second))
    assert a["noise"] == b["noise"]  # the draws are those of the run's seed
    assert a["method"] == options.get("method", "rank")
    assert a["rank"] == options.get("rank")
    assert a["samples"] == {"monte_carlo": 8, "direction": 64}.get(a["method"])
    facts = page(folder / "noise.html").find("dl").get_text(" ")
    assert f"--method {a['method']}" in facts
    assert {"monte_carlo": "8 draws", "direction": "64 Gaussian directions"}.get(a["method"], "") in facts


# ------------------------------------------------------------------ a posterior that was not learned
def test_a_run_without_a_posterior_needs_a_standard_deviation(runs, tmp_path):
    error(noise(runs["sgd"]), "sgd, learns no posterior", "--std X", "such as --std 0.01")
    shown = noise(runs["sgd"], "--std", "0.02", "--output", tmp_path)
    assert shown.exit_code == 0, shown.output
    loaded = load_run(runs["sgd"])
    means = dict(loaded.model.named_parameters())
    fixed = DiagonalPosterior(
        {name: mean.detach() for name, mean in means.items()}, {n: torch.full_like(m, 0.02) for n, m in means.items()}
    )
    images = loaded.images()
    expected = rank_examples(loaded.model, fixed, images, images.given)
    assert [float(row["noise"]) for row in rows(tmp_path / "noise.csv")] == expected.noise.tolist()
    assert "standard deviation 0.02 for each of" in page(tmp_path / "noise.html").find("dl").text


# ------------------------------------------------------------------ images in files
@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat, <b>", "dog & ü")):
        for i in range(10):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((rng.integers(0, 100, (300, 200, 3)) + 100 * k).astype(np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_folder_of_images(photos, tmp_path):
    config = RunConfig(
        dataset=str(photos), method="ivon", model="cnn3", pretrained=False, image_size=140, epochs=1, batch_size=4,
        eval_samples=0,
    )  # fmt: skip
    folder = run(config, tmp_path / "runs", workers=0).folder
    (photos / "cat, <b>" / "0.png").write_bytes(b"damaged")
    (photos / "dog & ü" / "0.png").write_bytes(b"damaged")
    shown = noise(folder, "--json")
    assert shown.exit_code == 0, shown.output
    summary, table = json.loads(shown.stdout), rows(folder / "noise.csv")
    assert summary["examples"] + summary["unreadable"] == 16
    assert 1 <= summary["unreadable"] <= 2 and summary["wrong_labels"] is None
    assert list(table[0]) == [name for name in COLUMNS if "clean" not in name] + ["file"]
    images = load_run(folder).images()
    for row in table:
        assert row["file"] == str(images.path(int(row["index"])))
        assert row["label_name"] == os.path.basename(os.path.dirname(row["file"]))
        assert not row["file"].endswith("/0.png")
    html = page(folder / "noise.html")
    assert html.find("b") is None and "cat, <b>" in html.find("figure").parent.text
    assert "could not be read" in html.find("dl").text
    assert {figure["title"] for figure in html.find_all("figure")} == {row["file"] for row in table}
    for figure in html.find_all("figure"):  # as a phone shows it, which has no titles
        assert figure.find(class_="index").text.endswith(" " + "/".join(figure["title"].split("/")[-2:]))
    lines = noise(folder).stdout.splitlines()
    at = lines.index("labels that the posterior disagrees with most:")
    for line, row in zip(lines[at + 1 :], sorted(table, key=lambda row: -float(row["disagreement"]))[:3], strict=False):
        said = f"labelled {row['label_name']}, predicted {row['predicted_name']}, disagreement"
        assert line == f"  {row['file']}: {said} {100 * float(row['disagreement']):.1f} %"
    assert "wrong" not in "".join(lines)
    assert summary["most_disputed"][0]["file"] == max(table, key=lambda row: float(row["disagreement"]))["file"]

    summary = json.loads(noise(folder, "--part", "all", "--json").stdout)  # the test labels are unchecked too
    assert summary["wrong_labels"] is None
    table = rows(folder / "noise.csv")
    assert list(table[0]) == [name for name in COLUMNS if "clean" not in name] + ["file", "part"]
    assert {row["file"] for row in table} == {str(p) for p in photos.glob("*/*.png") if p.name != "0.png"}
    assert summary["examples"] == 18 and summary["unreadable"] == 2
    noise(folder, "--part", "test")
    assert "known to be wrong" not in page(folder / "noise.html").text
    assert "clean_label" not in rows(folder / "noise.csv")[0]
    data = html.find("img")["src"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (85, 128)  # 200 x 300, whole
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"damaged")
    error(noise(folder), "cannot be read")


def test_images_that_cannot_be_read_are_told(photos, tmp_path):
    config = RunConfig(
        dataset=str(photos), method="vgd", model="cnn3", pretrained=False, image_size=16, epochs=1, batch_size=4,
        eval_samples=0,
    )  # fmt: skip
    folder = run(config, tmp_path / "runs", workers=0).folder
    load_run(folder).images().path(1).write_bytes(b"damaged")
    assert "1 image could not be read: left out of the ranking" in noise(folder).stdout


# ------------------------------------------------------------------ wrong use
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--part", "tests"), ("part='tests'", "did you mean 'test'?")),
        (("--part", "al"), ("part='al'", "did you mean 'all'?")),
        (("--method", "ranks"), ("method='ranks'", "did you mean 'rank'?")),
        (("--rank", "0"), ("'--rank'", "greater than or equal to 1")),
        (("--rank", "2", "--method", "exact"), ("--rank is read by --method rank only, not by exact",)),
        (("--samples", "9"), ("--samples is read by --method direction and monte_carlo only",)),
        (("--samples", "1", "--method", "monte_carlo"), ("--samples 1 is not allowed", "at least 2")),
        (("--std", "0"), ("--std 0 is not allowed", "> 0")),
        (("--std", "nan"), ("--std nan is not allowed",)),
        (("--memory", "-1"), ("--memory -1 is not allowed",)),
        (("--memory", "0.001"), ("raise --memory, use --method rank with a small rank, or use --method monte_carlo",)),
        (("--limit", "0"), ("'--limit'", "greater than or equal to 1")),
        (("--show", "-1"), ("'--show'", "greater than or equal to 0")),
        (("--device", "tpu"), ("device='tpu' is unknown; choose auto, cpu",)),
        (("--sample", "3"), ("--sample", "--samples")),
        (("--output", __file__), ("test_noise_command.py could not be made", "choose another one")),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(runs, arguments, words):
    error(noise(runs["ivon"], *arguments, "--quiet"), *words)
    assert not (runs["ivon"] / "noise.csv").exists()


def test_a_posterior_that_is_too_wide_for_a_few_draws_is_said_in_one_line(runs, tmp_path):
    wide = noise(runs["ivon"], "--std", "0.1", "--output", str(tmp_path / "wide"))
    told = [line for line in wide.stderr.splitlines() if line.startswith("note: ")]
    assert len(told) == 1 and re.fullmatch(r"note: the disagreement of .* is wide; pass --method monte_carlo", told[0])
    narrow = noise(runs["ivon"], "--output", str(tmp_path / "narrow"))
    assert "note: " not in narrow.stderr


def test_a_part_that_there_is_not(runs):
    error(noise(runs["sgd"], "--part", "validation", "--std", "0.1"), "held no images out", "choose train or test")


def test_folders_that_are_none_of_a_run(folder, tmp_path):
    error(noise(), "RUN_FOLDER")
    error(noise(tmp_path / "no"), "no does not exist", "vlls train")
    error(noise(folder / "record.json"), "is a file")
    error(noise(folder.parent), "a folder of runs", folder.name)
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    error(noise(folder), "truncated")
    assert "Traceback" not in noise(folder).output


@pytest.mark.slow
def test_a_real_process(tmp_path):
    command = [sys.executable, "-m", "vlls.cli", "noise", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere does not exist") and len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------ interruptions and disks
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_the_old_files_are_kept(folder, monkeypatch, signum, code):
    def stop(*arguments, **options):
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(_noise, "rank_parts", stop)
    before = signal.getsignal(signal.SIGTERM)
    for old in (None, "old"):
        if old:
            (folder / "noise.csv").write_text(old)
        shown = noise(folder)
        assert shown.exit_code == code
        assert shown.stderr.splitlines()[-1] == f"stopped by {signum.name}; noise.csv and noise.html are as they were"
        assert not (folder / "noise.html").exists()
    assert (folder / "noise.csv").read_text() == "old"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_place_that_cannot_be_written(folder):
    (folder / "noise.csv").mkdir()
    error(noise(folder, "--limit", "10"), "noise.csv could not be written", "make room or choose another folder")
    assert not list(folder.glob(".*partial"))


# ------------------------------------------------------------------ help, progress, the page by itself
def test_help():
    shown = CliRunner().invoke(app, ["noise", "--help"], env={"TERMINAL_WIDTH": "80", "COLUMNS": "80"})
    assert shown.exit_code == 0
    words = " ".join(re.sub(r"[│\s]+", " ", shown.stdout).split())
    for word in (
        "vlls noise runs/*-ivon-*", "--std 0.01", "[default: 3]", "[default: 64]", "[default: the folder of the run]",
        "130 by Ctrl-C", "RUN_FOLDER",
    ):  # fmt: skip
        assert word in words, word
    names = "part method rank samples std limit data device threads memory output show json quiet".split()
    assert set(re.findall(r"--[a-z-]+", shown.stdout)) >= {f"--{name}" for name in names}
    assert "noise" in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.slow
def test_the_examples_of_the_help_run_as_they_are_printed(runs, tmp_path):
    for folder in (runs["ivon"], runs["sgd"]):
        shutil.copytree(folder, tmp_path / "runs" / folder.name)
    examples = re.findall(r"\[cyan\]vlls noise (.*)\[/cyan\]", _noise.HELP)
    assert len(examples) == 5
    for example in examples:
        pattern, *options = example.split()
        (folder,) = Path().glob(pattern)
        done = noise(folder, *options, "--threads", "1")
        assert done.exit_code == 0, (example, done.output)
    assert (tmp_path / "look" / "noise.csv").exists()


def test_on_a_terminal_a_bar_shows_how_far_it_is():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    console = Console(file=Terminal(), width=80, force_terminal=True, color_system=None)
    with _noise._progress(console, "noise of a run") as told:
        told(30, 120)
    assert "noise of a run" in console.file.getvalue()
    assert "30/120 images" in console.file.getvalue() and "25%" in console.file.getvalue()
    with _noise._progress(Console(file=io.StringIO()), "noise of a run") as told:
        assert told is None


def test_a_page_of_noise_that_is_all_one_or_none():
    example = GalleryExample(np.zeros((8, 8, 3), np.uint8), 0, "a", "b", 0.5, 0.25)
    for noise_of_all in (np.zeros(3), np.full(3, 0.5), np.array([0.5]), np.array([1.0, 1e-300, 0.0])):
        html = BeautifulSoup(gallery("t", [], noise_of_all, [example], []), "html.parser")
        assert len(html.find_all("figure")) == 1 and "wrong" not in html.find("main").text
        bars = [float(v) for p in html.find_all("path", class_="bar") for v in re.findall(r"v-([\d.]+)h", p["d"])]
        assert np.isfinite(bars).all() and bool(bars) == bool(noise_of_all.max() > 0)
        assert "nan" not in str(html.find("svg")).lower()
