"""Data sets on the command line: their names, folders, where they are found again, and networks at chance."""

import base64
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from commands import error_line as error
from PIL import Image
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.train import RunConfig, load_run, run
from vlls.train._chance import at_chance, tell_chance
from vlls.train._keys import older_key

SMALL = ["--model", "cnn3", "--image-size", "16", "--epochs", "1", "--eval-samples", "0", "--workers", "0"]
SMALL += ["--batch-size", "8"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "VLLS_TRACEBACK", "FORCE_COLOR", "GITHUB_ACTIONS", "VLLS_DATA"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="vlls")


def make_photos(folder, classes=("cat", "dog"), number=10, shape=(20, 30)):
    """Write images of noise, with a green left border and a blue right one."""
    rng = np.random.default_rng(0)
    for name in classes:
        for i in range(number):
            pixels = rng.integers(0, 255, (*shape, 3)).astype(np.uint8)
            pixels[:, : shape[1] // 10], pixels[:, -(shape[1] // 10) :] = (0, 255, 0), (0, 0, 255)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


# ------------------------------------------------------------------ names
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cifar11"], "dataset='cifar11' is unknown (did you mean 'cifar10'?)"),
        (["nosuch"], "dataset='nosuch' is unknown; choose one of digits, mnist"),
        (["nosuch"], "or the path of a folder of images by class"),
        (["./nosuch"], "nosuch is no folder; pass a folder that holds train/<class>/*"),
        (["empty"], "empty holds 0 folder(s) of images"),
        (["split"], "hold folders of the same names"),
        (["cifar10", "--labels", "cifar10n:worst"], "labels='cifar10n:worst' is unknown (did you mean 'cifar10n:wo"),
        (["mnist", "--labels", "cifar10n:worse_label"], "belong to 'cifar10', not to 'mnist'"),
        (["digits", "--image-size", "32"], "image_size=32 is for images in files; digits's have their own"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_told_in_one_line(arguments, words, dry_run, tmp_path):
    (tmp_path / "empty").mkdir()
    for part in ("a", "b"):
        make_photos(tmp_path / "split" / part)
    assert words in error(invoke("train", "--dataset", *arguments, *dry_run))
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_what_is_left_out_of_a_folder(tmp_path):
    (make_photos(tmp_path / "photos") / "cat" / "about.txt").write_text("")
    shown = invoke("train", "--dataset", "photos", "--dry-run")
    assert shown.exit_code == 0 and f"dataset          {tmp_path / 'photos'}" in shown.stdout
    assert "note: photos: left out files that end in .txt (1); images end in .jpg" in shown.stderr
    assert invoke("train", "--dataset", "photos", "--dry-run", "--quiet").stderr == ""


@pytest.mark.parametrize("name", [".", "photos/", "../photos", "./photos", "photos/cat/.."])
def test_a_folder_gives_a_run_a_name_and_its_whole_path(name, tmp_path, monkeypatch):
    make_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos" if name in (".", "../photos") else tmp_path)
    config = RunConfig(dataset=name)
    assert config.name.startswith("photos-none-ivon-seed0-") and config.located().name.startswith("photos-none-")
    assert config.located().dataset == str(tmp_path / "photos")
    plan = json.loads(invoke("train", "--dataset", name, "--dry-run", "--json").stdout)
    assert plan["config"]["dataset"] == str(tmp_path / "photos")
    assert Path(plan["folder"]).name == config.located().resolved().name


def test_a_folder_called_as_a_data_set(tmp_path):
    make_photos(tmp_path / "digits")
    shown = invoke("train", "--dataset", "digits", "--dry-run")
    assert "note: digits is the data set of that name; for the folder that lies here pass ./digits" in shown.stderr
    plan = json.loads(invoke("train", "--dataset", "./digits", "--dry-run", "--json").stdout)
    assert plan["config"]["dataset"] == str(tmp_path / "digits")


def test_images_that_cannot_be_read_are_told(tmp_path):
    photos = make_photos(tmp_path / "photos")
    for name in ("cat", "dog"):
        for i in range(3):
            (photos / name / f"{i}.png").write_bytes(b"no image")
    shown = invoke("train", "--dataset", "photos", *SMALL)
    assert shown.exit_code == 0 and re.search(r"^note: [456] training images could not be read$", shown.stderr, re.M)


def test_the_root_of_all_folders_has_a_name_too():
    assert RunConfig(dataset="/").name.startswith("images-none-ivon")


# ------------------------------------------------------------------ runs found again from elsewhere
@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of a run on ./photos, and the place that it was started in."""
    place = tmp_path / "work"
    make_photos(place / "photos")
    monkeypatch.chdir(place)
    shown = invoke("train", "--dataset", "photos", *SMALL)
    assert shown.exit_code == 0, shown.output
    (folder,) = (place / "runs").iterdir()
    monkeypatch.chdir(tmp_path)
    return folder, place


def rename_dataset(folder, dataset):
    """Write a run's files as an older version did, with the path that the user passed."""
    config = replace(load_run(folder).config, dataset=dataset)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**state, "config": config.to_dict(), "key": config.key}, folder / "checkpoint.pt")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "config": config.to_dict(), "key": config.key}))


def test_noise_from_another_folder(kept):
    folder, place = kept
    shown = invoke("noise", folder)
    assert shown.exit_code == 0, shown.output
    assert f"  {place / 'photos'}/" in shown.stdout


@pytest.mark.parametrize("dataset", ["photos", "./photos", "../photos"])
def test_runs_of_older_versions_find_their_images_beside_them(kept, dataset, monkeypatch, tmp_path):
    folder, place = kept
    rename_dataset(folder, dataset)
    make_photos(tmp_path / "photos", number=7)  # others, of the same name, where it is looked for first
    shown = invoke("noise", folder)
    assert shown.exit_code == 0, shown.output
    assert f"  {place / 'photos'}/" in shown.stdout


def test_a_project_that_was_moved_and_images_that_are_gone(kept, tmp_path):
    folder, place = kept
    moved = tmp_path / "moved"
    place.rename(moved)
    assert invoke("noise", moved / "runs" / folder.name).exit_code == 0
    (moved / "photos").rename(tmp_path / "elsewhere")
    line = error(invoke("noise", moved / "runs" / folder.name, "--quiet"))
    assert f"{place / 'photos'} is no folder, and none of that name lies beside the run; put it back, or" in line
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "store" / "photos")
    assert invoke("noise", moved / "runs" / folder.name, "--data", tmp_path / "store").exit_code == 0


@pytest.mark.filterwarnings("ignore:.*left out folders of runs:UserWarning")
def test_a_run_within_the_folder_that_it_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(make_photos(tmp_path / "photos"))
    assert invoke("train", "--dataset", ".", *SMALL).exit_code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("photos-none-ivon")
    shown = invoke("noise", folder)
    assert shown.exit_code == 0 and "left out folders of runs (1)" in shown.stderr
    again = invoke("train", "--dataset", ".", *SMALL)
    assert "was finished before" in again.stderr and "older version" not in again.stderr
    older = folder.with_name(f"none-ivon-seed0-{older_key(load_run(folder).config)}")
    folder.rename(older)
    again = invoke("train", "--dataset", ".", *SMALL)
    assert f"note: {older} holds this run as an older version named it, and keeps it; vlls migrate" in again.stderr
    assert "was finished before" in again.stderr and list(Path("runs").iterdir()) == [older]
    rename_dataset(older, ".")
    relative = older.with_name(f"none-ivon-seed0-{older_key(load_run(older).config)}")
    older.rename(relative)
    again = invoke("train", "--dataset", ".", *SMALL, "--dry-run")
    assert f"note: {relative} holds this run as an older version named it, by a relative path; it" in again.stderr


# ------------------------------------------------------------------ images that are not square
def test_the_page_shows_images_whole(tmp_path):
    config = RunConfig(
        dataset=str(make_photos(tmp_path / "photos", shape=(100, 300))), model="cnn3", pretrained=False, image_size=16,
        epochs=1, batch_size=8, eval_samples=0,
    )  # fmt: skip
    folder = run(config, tmp_path / "runs", workers=0).folder
    images = load_run(folder).images()
    assert images.pixels(0).shape == (16, 16, 3) and images.whole(0, 60).shape == (20, 60, 3)
    assert images.whole(0, 1000).shape == (100, 300, 3)
    assert invoke("noise", folder, "--show", "3").exit_code == 0
    page = BeautifulSoup((folder / "noise.html").read_text(), "html.parser")
    for image in page.find_all("img"):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
        assert pixels.shape == (43, 128, 3)
        assert pixels[20, 2].tolist() == [0, 255, 0] and pixels[20, -3].tolist() == [0, 0, 255]  # both its borders
    assert "object-fit: contain" in page.find("style").text
    facts = {div.dt.text: div.dd.text for div in page.find_all("div") if div.dt}
    assert "shown whole; the network sees the middle of each, a square scaled to 16 pixels" in facts["images"]
    assert "the rest of images that are not square is cut off" in " ".join(
        re.sub(r"[│\s]+", " ", invoke("train", "--help").stdout).split()
    )


def test_whole_images_are_turned_as_their_orientation_says(tmp_path):
    from vlls.data._streams import decode_whole

    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert decode_whole(tmp_path / "a.jpg", 128).shape == (30, 10, 3)


# ------------------------------------------------------------------ networks at chance
@pytest.mark.slow
def test_a_network_at_chance_is_told_with_the_remedy(tmp_path):
    """With 200 images of three classes and a folder's defaults, IVON learns nothing in two epochs."""
    make_photos(tmp_path / "photos", ("cat", "dog", "eel"), 67)
    shown = invoke("train", "--dataset", "photos", *SMALL)
    assert shown.exit_code == 0, shown.output
    told = (
        r"the network ended at chance: it names [\d.]+ % of the test images right, and always naming the most frequent"
    )
    assert re.search(rf"{told} class 33.33 %; train it again with a larger --hess-init than 0.9 ", shown.stdout)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.search(told, invoke("train", "--dataset", "photos", *SMALL).stdout)  # of a record alone
    as_json = invoke("train", "--dataset", "photos", *SMALL, "--json")
    assert re.search(told, as_json.stderr) and json.loads(as_json.stdout)["status"] == "finished"

    shown = invoke("noise", folder)
    assert re.search(rf"^note: the ranking says nothing about the images or their labels: {told}", shown.stdout, re.M)
    summary = json.loads(invoke("noise", folder, "--json").stdout)
    assert summary["at_chance"] is True
    page = BeautifulSoup((folder / "noise.html").read_text(), "html.parser")
    assert re.search(told, page.find("p", role="note").text)


def test_a_network_that_has_learned_is_not_at_chance(tmp_path):
    result = run(RunConfig(dataset="digits", method="sgd", epochs=3, train_size=300, eval_samples=0), tmp_path)
    assert result.labels["train_images"] == 300 and result.labels["test_images"] == 360
    assert result.labels["test_most_frequent"] == int(np.bincount(load_run(result.folder).data.test.given).max())
    assert tell_chance(result.config, result.labels, result.epochs) == ""
    summary = json.loads(invoke("noise", result.folder, "--std", "0.01", "--limit", "9", "--json").stdout)
    assert summary["at_chance"] is False and summary["learned_share"] is None
    page = BeautifulSoup((result.folder / "noise.html").read_text(), "html.parser")
    assert page.find("p", role="note") is None


def test_chance_is_the_share_of_the_most_frequent_class_and_three_standard_errors():
    labels = {"train_images": 1000, "train_most_frequent": 900, "test_images": 100, "test_most_frequent": 90}
    margin = 3 * math.sqrt(0.9 * 0.1 / 100)
    for accuracy, expected in ((0.5, True), (0.9, True), (0.9 + 0.99 * margin, True), (0.9 + 1.01 * margin, False)):
        assert at_chance(labels, [{"train_accuracy": 0.9, "test_accuracy": accuracy}]) is expected
    assert not at_chance(labels, [{"train_accuracy": 0.99, "test_accuracy": 0.9}])  # it has learned its training images
    last = [{"train_accuracy": 0.9, "test_accuracy": 0.9}, {"train_accuracy": 0.9}]  # not measured in every epoch
    assert at_chance(labels, last) and tell_chance(RunConfig(method="sgd").resolved(), labels, last).endswith(
        "it names 90.00 % of the test images right, and always naming the most frequent class 90.00 %; train it again "
        "with another --lr or more --epochs"
    )
    assert not at_chance({}, last) and not at_chance(labels, [])  # records of older versions


def test_the_false_alarms_of_chance_are_rare_and_its_misses_too():
    """Guesses of 4 classes: three standard errors are exceeded by chance in 0.1 to 0.3 % of the cases."""
    rng = np.random.default_rng(0)
    labels = {"train_images": 400, "train_most_frequent": 100, "test_images": 100, "test_most_frequent": 25}
    guessed = rng.binomial((400, 100), 0.25, (2000, 2)) / (400, 100)
    found = [at_chance(labels, [{"train_accuracy": a, "test_accuracy": b}]) for a, b in guessed]
    assert np.mean(found) > 0.99
    learned = rng.binomial((400, 100), 0.5, (2000, 2)) / (400, 100)
    assert not any(at_chance(labels, [{"train_accuracy": a, "test_accuracy": b}]) for a, b in learned)


# ------------------------------------------------------------------ posteriors that have not moved
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--method", "ivon"],
            r"standard deviation 0\.00471, the same for all of [\d,]+ weights, as at the start: not learned yet; "
            r"[\d.e-]+ % of the Hessian is learned \(median\), the rest is its start's \(--hess-init\), and more",
        ),
        (
            ["--method", "ivon", "--beta2", "0.5"],
            r"as learned; standard deviations of [\d,]+ weights from [\d.e-]+ to [\d.e-]+, median [\d.e-]+; "
            r"[\d.]+ % of the Hessian is learned \(median\), the rest is its start's",
        ),
        (
            ["--method", "vgd"],
            r"standard deviation 0\.00471, the same for all of [\d,]+ weights: set with --hess-init, not learned$",
        ),
    ],
)
def test_the_page_says_how_much_of_the_posterior_is_learned(options, words, tmp_path):
    small = "--epochs 1 --train-size 100 --batch-size 50 --eval-samples 0 --quiet".split()
    assert invoke("train", "--dataset", "digits", *options, *small).exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    learned = json.loads(invoke("noise", folder, "--limit", "9", "--json").stdout)["learned_share"]
    page = BeautifulSoup((folder / "noise.html").read_text(), "html.parser")
    facts = {div.dt.text: div.dd.text for div in page.find_all("div") if div.dt}
    assert re.match(words, facts["posterior"]), facts["posterior"]
    run = load_run(folder)
    config = run.config
    if config.method == "vgd":
        assert learned is None
        return
    precision = 1 / torch.cat([std.flatten().double() for std in run.posterior.std.values()]).square()
    hess = precision / config.ess_for(100) - config.weight_decay
    expected = (1 - config.beta2**2 * config.hess_init / hess).median()  # two steps
    assert learned == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    shown = 100 * max(0.0, learned)
    assert float(re.search(r"([\d.e-]+) % of the Hessian", facts["posterior"])[1]) == pytest.approx(shown, rel=0.05)
