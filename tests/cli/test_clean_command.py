"""``vlls clean``: from a folder, a list or a run to the table, the page and the corrected list, and its errors."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import error
from training import tiny
from typer.testing import CliRunner

from vlls.cli import _clean
from vlls.cli._app import app
from vlls.data._labelled import labelled_folder
from vlls.label_errors import label_errors_from_probabilities, sampled_probabilities
from vlls.train import load_run, run

Image = pytest.importorskip("PIL.Image")
QUICK = ["--epochs", "2", "--image-size", "8", "--samples", "2", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("alone")


def squares(root, each=30, wrong=3, size=(12, 10)):
    """Write dark and bright grey images by class; the first few of each class are in the wrong one."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("bright", "dark")):
        (root / name).mkdir(parents=True)
        for i in range(each):
            bright = (label == 0) != (i < wrong)
            pixels = rng.integers(170 if bright else 0, 250 if bright else 80, size).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


WRONG = {f"{name}/{i:02d}.png" for name in ("bright", "dark") for i in range(3)}


def clean(*arguments):
    return CliRunner().invoke(app, ["clean", *map(str, arguments)], prog_name="vlls")


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(page):
    return json.loads(re.search(r'id="content">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])


def decide(path, page, decisions):
    """Write the file that the page saves, of decisions by key."""
    told = content(page)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([told["kind"], "given", "decision", "label", "data"])
        writer.writerows([key, "", *decision, told["fingerprint"]] for key, decision in decisions.items())
    return path


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """A folder that was cleaned once, and the command's result."""
    place = tmp_path_factory.mktemp("cleaned")
    folder = squares(place / "photos")
    return folder, place / "out", clean(folder, *QUICK, "--epochs", "12", "--output", place / "out")


@pytest.fixture
def photos(cleaned, tmp_path):
    """A copy of that folder and its files in the current folder."""
    folder, out, _ = cleaned
    shutil.copytree(folder, tmp_path / "photos")
    shutil.copytree(out, tmp_path / "photos-clean")
    return Path("photos")


# ------------------------------------------------------------------ a folder
def test_a_folder_becomes_a_table_of_all_labels_and_a_page_of_suspects(cleaned):
    folder, out, shown = cleaned
    assert shown.exit_code == 0, shown.output
    table = rows(out / "labels.csv")
    assert list(table[0]) == "path given suggested score p_given p_suggested spread flag same_image".split()
    assert len(table) == 60 and {row["path"] for row in table} == set(labelled_folder(folder).keys)
    scores = [float(row["score"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert {row["path"] for row in table[:6]} == WRONG  # dark and bright are easy to tell apart
    flagged = {row["path"] for row in table if row["flag"] == "1"}
    assert flagged >= WRONG
    for row in table:
        assert row["given"] == row["path"].split("/")[0]
        assert float(row["score"]) == pytest.approx(1 - float(row["p_given"]), abs=1e-5)
    told = content(out / "labels.html")
    suspects = [suspect["key"] for suspect in told["suspects"]]
    assert suspects == [row["path"] for row in table]  # as many as 100, if there are
    assert {suspect["key"] for suspect in told["suspects"] if suspect["flag"]} == flagged
    assert told["classes"] == ["bright", "dark"] and told["kind"] == "path"
    first = told["suspects"][0]
    assert (out / first["src"]).samefile(folder / first["key"])  # the image itself, linked
    assert sorted(label for label, _ in first["p"]) == [0, 1] and first["given"] != first["suggested"]
    assert f"{len(flagged)} (" in shown.stdout and "are probably wrong" in shown.stdout
    assert f"labels: {out / 'labels.csv'}" in shown.stdout and f"{out / 'labels.html'}" in shown.stdout
    assert "http" not in (out / "labels.html").read_text("utf-8")
    assert not list(out.glob(".*partial"))
    assert sorted(path.name for path in folder.rglob("*.png")) == sorted(2 * [f"{i:02d}.png" for i in range(30)])


def test_the_same_command_does_not_train_again_and_other_labels_do(photos):
    # the folder is another one than the fixture's, so the network is trained once
    assert clean(photos, *QUICK).exit_code == 0
    runs = sorted(Path("photos-clean/runs").glob("*/whole/*/record.json"))
    again = clean(photos, *QUICK)
    assert again.exit_code == 0 and "was trained before and is kept" in " ".join(again.stderr.split())
    assert "epoch" not in again.stderr
    before = {row["path"] for row in rows("photos-clean/labels.csv")}
    assert sorted(Path("photos-clean/runs").glob("*/whole/*/record.json")) == runs
    Path("photos/bright/00.png").rename("photos/dark/99.png")
    assert "epoch 1/2" in clean(photos, *QUICK).stderr
    assert {"dark/99.png"} == {row["path"] for row in rows("photos-clean/labels.csv")} - before


def test_an_interrupted_training_is_gone_on_with(tmp_path, monkeypatch):
    from training import StopAt

    from vlls.cli import _clean_train

    squares(tmp_path / "photos")
    trained = _clean_train.run
    reporters = {"reporters": [StopAt(5)]}
    monkeypatch.setattr(_clean_train, "run", lambda *a, **options: trained(*a, **{**options, **reporters}))
    stopped = clean("photos", *QUICK)
    assert stopped.exit_code == 128 + 15
    assert "go on with the same command" in stopped.stderr and not Path("photos-clean/labels.csv").exists()
    monkeypatch.setattr(_clean_train, "run", trained)
    went_on = clean("photos", *QUICK)
    assert went_on.exit_code == 0, went_on.output
    assert "going on at step 6" in went_on.stderr


def test_a_split_is_measured_on_its_test_part_and_kept_in_the_list(tmp_path):
    squares(tmp_path / "data" / "train")
    squares(tmp_path / "data" / "test", each=10, wrong=0)
    shown = clean("data", *QUICK)
    assert shown.exit_code == 0, shown.output
    assert "of the test images as they are labelled" in shown.stdout
    table = rows("data-clean/labels.csv")
    assert len(table) == 60 and {row["part"] for row in table} == {"train"}
    everything = clean("data", *QUICK, "--part", "all", "--json")
    summary = json.loads(everything.stdout)
    assert summary["judged"] == summary["images"] == 80 and 0 <= summary["test_accuracy"] <= 1
    decisions = decide(tmp_path / "d.csv", Path("data-clean/labels.html"), {"train/dark/00.png": ("correct", "bright")})
    assert clean("data", "--apply", decisions).exit_code == 0
    corrected = rows("data-clean/corrected.csv")
    assert len(corrected) == 80 and {row["part"] for row in corrected} == {"train", "test"}
    again = clean("data-clean/corrected.csv", "--images", "data", *QUICK, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["judged"] == 60


def test_cross_validation_asks_networks_about_images_they_were_not_trained_on(tmp_path):
    squares(tmp_path / "photos")
    shown = clean("photos", *QUICK, "--epochs", "12", "--cross-validate", "3", "--json")
    assert shown.exit_code == 0, shown.output
    summary = json.loads(shown.stdout)
    assert len(summary["networks"]) == 3 and summary["judged"] == 60
    trained = [json.loads(Path(folder, "record.json").read_text())["counts"] for folder in summary["networks"]]
    assert [counts["train_images"] for counts in trained] == [40, 40, 40]
    assert {row["path"] for row in rows("photos-clean/labels.csv")[:6]} == WRONG


@pytest.mark.parametrize("method", ["sgd", "sam", "evon"])
def test_other_methods(tmp_path, method):
    squares(tmp_path / "photos", each=12, wrong=1)
    shown = clean("photos", *QUICK, "--method", method, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["method"] == method
    spread = [row["spread"] for row in rows("photos-clean/labels.csv")]
    assert all(spread) if method == "evon" else not any(spread)


def test_images_that_browsers_do_not_show_and_embedded_ones_are_in_the_page(tmp_path):
    squares(tmp_path / "photos", each=12, wrong=1)
    with Image.open("photos/dark/00.png") as image:
        image.save("photos/dark/00.tif")
    Path("photos/dark/00.png").unlink()
    assert clean("photos", *QUICK, "--show", "24").exit_code == 0
    sources = {suspect["key"]: suspect["src"] for suspect in content(Path("photos-clean/labels.html"))["suspects"]}
    assert len(sources) == 24 and sources["dark/00.tif"].startswith("data:image/png;base64,")
    assert sources["dark/01.png"] == "../photos/dark/01.png"
    assert clean("photos", *QUICK, "--show", "24", "--embed").exit_code == 0
    embedded = content(Path("photos-clean/labels.html"))["suspects"]
    assert all(suspect["src"].startswith("data:") for suspect in embedded)


# ------------------------------------------------------------------ a run
def test_a_run_is_judged_as_it_was_trained(tmp_path):
    folder = run(tiny(method="ivon", epochs=2), tmp_path / "runs").folder
    before = (folder / "checkpoint.pt").read_bytes()
    shown = clean(folder, "--samples", "2", "--show", "5")
    assert shown.exit_code == 0, shown.output
    loaded = load_run(folder)
    images = loaded.images()
    p = sampled_probabilities(loaded.model, loaded.posterior, images, num_samples=2)
    expected = label_errors_from_probabilities(p, images.given)
    table = rows(folder / "labels.csv")
    assert [int(row["index"]) for row in table] == np.asarray(expected["index"]).tolist()
    assert [row["given"] for row in table[:20]] == [images.classes[label] for label in expected["given"][:20]]
    assert [float(row["score"]) for row in table] == pytest.approx(np.asarray(expected["score"]), rel=1e-5)
    told = content(folder / "labels.html")
    assert len(told["suspects"]) == 5 and told["suspects"][0]["src"].startswith("data:image/png;base64,")
    other = "7" if table[0]["given"] != "7" else "8"
    decisions = decide(tmp_path / "d.csv", folder / "labels.html", {table[0]["index"]: ("correct", other)})
    assert clean(folder, "--apply", decisions).exit_code == 0
    corrected = rows(folder / "corrected.csv")
    assert [row["index"] for row in corrected] == [str(i) for i in range(300)]
    changed = [row for row in corrected if row["label"] != images.classes[images.given[int(row["index"])]]]
    assert changed == [{"index": table[0]["index"], "label": other}]
    assert (folder / "checkpoint.pt").read_bytes() == before
    error(clean(folder, "--epochs", "3"), "--epochs is for a network that is trained here")
    error(clean(folder, "--part", "all"), "choose train, test or validation")
    error(clean(folder, "--part", "test", "--cross-validate", "2"), "goes with --part train")
    error(clean(folder, "--part", "test", "--apply", decisions), "holds decisions on other data")


# ------------------------------------------------------------------ decisions
def test_decisions_become_a_list_and_touch_no_image(photos):
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    page, all_of_them = Path("photos-clean/labels.html"), labelled_folder(photos)
    decided = {"dark/00.png": ("correct", "bright"), "dark/01.png": ("keep", "dark"), "dark/02.png": ("unsure", "")}
    decisions = decide(Path("decided.csv"), page, decided)
    shown = clean(photos, "--apply", decisions)
    assert shown.exit_code == 0, shown.output
    assert "1 of 60 labels corrected, 1 kept and 1 unsure, of 3 that you decided on" in shown.stdout
    corrected = rows("photos-clean/corrected.csv")
    assert list(corrected[0]) == ["path", "label"]
    assert [row["path"] for row in corrected] == list(all_of_them.keys)
    expected = {key: key.split("/")[0] for key in all_of_them.keys} | {"dark/00.png": "bright"}
    assert {row["path"]: row["label"] for row in corrected} == expected
    dropped = clean(photos, "--apply", decisions, "--drop-unsure", "--json")
    summary = json.loads(dropped.stdout)
    assert summary == {
        **{"images": 60, "correct": 1, "keep": 1, "unsure": 1, "left_out": 1},
        "csv": "photos-clean/corrected.csv",
    }
    assert "dark/02.png" not in {row["path"] for row in rows("photos-clean/corrected.csv")}
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    assert clean(photos, "--apply", decisions, "--quiet").output == ""


def test_a_folder_that_was_moved_keeps_its_decisions_and_another_one_is_refused(photos, tmp_path):
    decisions = decide(Path("d.csv"), Path("photos-clean/labels.html"), {"dark/00.png": ("keep", "dark")})
    shutil.move("photos", "elsewhere")
    assert clean("elsewhere", "--apply", decisions).exit_code == 0
    squares(tmp_path / "other", each=31)
    error(clean("other", "--apply", decisions), "holds decisions on other data", "they are of another folder")
    assert not Path("other-clean").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("dark/77.png,dark,keep,dark,{}", "line 3: 'dark/77.png' is no image of photos"),
        ("dark/01.png,dark,perhaps,dark,{}", "line 3: decision='perhaps' is unknown"),
        ("dark/01.png,dark,correct,brigth,{}", "did you mean 'bright'?"),
        ("dark/00.png,dark,correct,bright,{}", "line 3: dark/00.png is decided twice, differently"),
        ("dark/01.png,dark,keep,dark,", "without a fingerprint"),
        ("\n\ndark/77.png,dark,keep,dark,{}", "line 5: 'dark/77.png' is no image of photos"),
        ('dark/01.png,"dark,keep,dark,{}', "the line 3 is broken: unexpected end of data"),
        ("dark/01.png,dark,keep,dark,{},more", "line 3 has 6 entries and the first line names 5 columns"),
    ],
)
def test_decisions_that_make_no_sense(photos, line, told):
    page = Path("photos-clean/labels.html")
    decisions = decide(Path("d.csv"), page, {"dark/00.png": ("keep", "dark")})
    with decisions.open("a") as file:
        file.write(line.format(content(page)["fingerprint"]) + "\n")
    error(clean(photos, "--apply", decisions), "d.csv", told)
    assert not Path("photos-clean/corrected.csv").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label\na,b\n", "lacks the column(s) given, decision, data"),
        ("", "lacks the column(s) path, given, decision, label, data"),
        ("path,given,decision,label,data\n", "holds no decisions"),
        (b"\xff\xfe\x00", "cannot be read as a CSV file"),
        (None, "cannot be read as a CSV file"),
    ],
)
def test_files_that_hold_no_decisions(photos, text, told):
    if text is not None:
        Path("d.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    error(clean(photos, "--apply", "d.csv"), "d.csv", told)


# ------------------------------------------------------------------ bad input
def test_one_class_few_images_and_no_folder(tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    error(clean("one"), "one holds 1 folder(s) of images (cat)")
    error(clean("nothing"), "nothing does not exist; pass a folder of images by class, a CSV file")
    squares(tmp_path / "few", each=3, wrong=0)
    error(clean("few", *QUICK), "few has 6 images to train on; add some, at least 8 are needed")
    error(clean("few", *QUICK, "--cross-validate", "5"), "at least 10 are needed")
    error(clean("few", "--output", "few/inside"), "lies in the folder of images")
    error(clean("few", "--method", "adam"), "method='adam' is unknown")
    error(clean("few", "--part", "val"), "part='val' is unknown")
    error(clean("few", "--images", "few"), "--images is for a list of labels")
    error(clean("few", "--drop-unsure"), "goes with --apply")


def test_wrong_options_are_found_before_the_training(tmp_path, monkeypatch):
    from vlls.cli import _clean_train

    squares(tmp_path / "photos", each=6)
    monkeypatch.setattr(_clean_train, "run", lambda *_, **__: pytest.fail("trained"))
    error(clean("photos", *QUICK, "--flag", "2.5"), "flag")
    error(clean("photos", *QUICK, "--flag", "1000"), "flag=1000 and 12 examples")
    error(clean("photos", *QUICK, "--score", "entropy"), "score='entropy' is unknown")
    error(clean("photos", *QUICK, "--adjust", "--score", "bayes"), "adjust")
    error(clean("photos", *QUICK, "--score", "error_times_variance", "--method", "sgd"), "learns a posterior")
    error(clean("photos", *QUICK, "--part", "test"), "has no part 'test', only train")


def test_unreadable_images_single_ones_and_twins_are_counted_and_kept(tmp_path):
    squares(tmp_path / "photos", each=12, wrong=1)
    Path("photos/dark/05.png").write_bytes(b"no image")
    shutil.copy("photos/dark/06.png", "photos/bright/77.png")
    (tmp_path / "photos" / "odd").mkdir()
    shutil.copy("photos/dark/07.png", "photos/odd/1.png")
    shown = clean("photos", *QUICK)
    assert shown.exit_code == 0, shown.output
    notes = " ".join(shown.stderr.split())
    assert "1 image(s) could not be read, such as dark/05.png" in notes
    assert "1 class(es) have one image only (odd)" in notes
    assert "4 images are the same as another one with another label" in notes
    table = {row["path"]: row for row in rows("photos-clean/labels.csv")}
    assert len(table) == 26
    assert table["dark/05.png"]["score"] == "" and table["dark/05.png"]["given"] == "dark"
    assert table["bright/77.png"]["same_image"] == "dark/06.png" and table["dark/07.png"]["same_image"] == "odd/1.png"
    suspects = {suspect["key"]: suspect for suspect in content(Path("photos-clean/labels.html"))["suspects"]}
    assert {"bright/77.png", "dark/06.png", "dark/07.png", "odd/1.png"} <= suspects.keys()
    assert suspects["bright/77.png"]["same"] == ["dark/06.png", 1]


# ------------------------------------------------------------------ a list
def listed(path, lines, head="path,label"):
    Path(path).write_text("\n".join([head, *lines]) + "\n", "utf-8")
    return path


def lines_of(folder):
    return [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]


def test_a_list_with_missing_unknown_and_contradicting_labels(tmp_path):
    lines = lines_of(squares(tmp_path / "photos", each=12, wrong=1))
    lines[3] = lines[3].partition(",")[0] + ","
    lines[4] = lines[4].partition(",")[0] + ",brihgt"
    lines += [lines[6], lines[7].replace(",bright", ",dark"), "dark/gone.png,dark"]
    shown = clean(listed("l.csv", lines), "--images", "photos", "--classes", "bright,dark", *QUICK)
    assert shown.exit_code == 0, shown.output
    notes = " ".join(shown.stderr.split())
    assert "1 path(s) are listed twice, such as bright/06.png" in notes
    assert "1 path(s) are listed with different labels, such as bright/07.png" in notes
    assert "1 label(s), such as 'brihgt', are none of the classes bright, dark and count as missing" in notes
    assert "1 label(s) are missing" in notes and "1 image(s) could not be read, such as dark/gone.png" in notes
    table = {row["path"]: row for row in rows("l-clean/labels.csv")}
    assert len(table) == 25
    unlabelled = [table["bright/03.png"], table["bright/04.png"]]
    assert [row["given"] for row in unlabelled] == ["", ""] and all(row["suggested"] for row in unlabelled)
    page = Path("l-clean/labels.html")
    suspects = {suspect["key"]: suspect for suspect in content(page)["suspects"]}
    assert suspects["bright/03.png"]["given"] == -1
    decisions = decide(tmp_path / "d.csv", page, {"bright/03.png": ("correct", "bright")})
    options = ["--images", "photos", "--classes", "bright,dark"]
    assert clean("l.csv", *options, "--apply", decisions).exit_code == 0
    corrected = {row["path"]: row["label"] for row in rows("l-clean/corrected.csv")}
    assert len(corrected) == 25 and corrected["bright/03.png"] == "bright" and corrected["bright/04.png"] == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.png,cat\nb.png,dog\n", "has the columns a.png, cat; its first line must name a column path"),
        ("path,label\n", "lists no images"),
        ("path,label\na.png,cat\nb.png,cat\n", "all labels are 'cat'"),
        ("path,label\na.png,\nb.png,\n", "fewer than two classes have labels"),
        ("path,label\n,cat\nb.png,dog\n", "line 2 has no path"),
        ('\n\npath,label\n\n"a.png","c\nat"\n , \n,dog\n', "line 8 has no path"),
        ('path,label\na.png,"cat\nb.png,dog\nc.png,cat\n', "the line 2 is broken: unexpected end of data; look at"),
        ('path,label\na.png,dog\nb.png,"cat"s\n', "the line 3 is broken: "),
        ("path,label\na,1.png,cat\nb.png,dog\n", "line 2 has 3 entries and the first line names 2 columns"),
        ("path,label,part\na.png,cat,train\nb.png,dog,middle\n", "of the part 'middle'"),
        ("path,label\na.png,cat\nb.png,dog\n", "none of the 2 images can be read"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lists_that_cannot_be_used(text, told):
    Path("l.csv").write_text(text)
    error(clean("l.csv", *QUICK), "l.csv" if "none of" not in told else "a.png", told)


def test_files_of_other_columns_and_numbers_as_classes(tmp_path):
    from vlls.data._labelled import read_list

    head = "Split,Filename,Category"
    data = read_list(Path(listed("l.csv", ["val,a,10", "Test,b,9", "train,c,9", "train,d,010"], head)))
    assert data.classes == ("9", "10", "010")  # by number, and then as they are listed
    assert data.parts.tolist() == ["validation", "test", "train", "train"] and data.keys == ("a", "b", "c", "d")
    text = data.table(["9"] * 4).decode()
    assert list(csv.reader(io.StringIO(text)))[:2] == [["path", "label", "part"], ["a", "9", "validation"]]


@pytest.mark.parametrize("missing", ["-1", "nan", "NaN", ""])
def test_beside_numbers_minus_one_and_nan_are_missing_labels(missing):
    from vlls.data._labelled import read_list

    with pytest.warns(UserWarning, match="1 label.s. are missing"):
        data = read_list(Path(listed("l.csv", ["a,2", f"b,{missing}", "c,10"])))
    assert data.classes == ("2", "10") and data.labels.tolist() == [0, -1, 1]
    if missing:  # beside other names it is one
        assert missing in read_list(Path(listed("l.csv", ["a,2", f"b,{missing}", "c,cat"]))).classes


def test_a_list_may_have_empty_lines_a_byte_order_mark_and_entries_with_commas():
    from vlls.data._labelled import read_list

    Path("l.csv").write_bytes('\ufeff\r\n"path",label,\r\n\r\n"a,1.png","cat, big",\r\nb.png,dog\r\n'.encode())
    data = read_list(Path("l.csv"))
    assert data.keys == ("a,1.png", "b.png") and data.classes == ("cat, big", "dog")


@pytest.mark.parametrize("classes", ["cat,dog,cat", "cat,,dog"])
def test_classes_of_the_command_line_have_names_that_differ(classes):
    listed("l.csv", ["a.png,cat", "b.png,dog"])
    error(clean("l.csv", "--classes", classes), "need names that differ and are not empty")


# ------------------------------------------------------------------ help
def test_help_has_examples_and_needs_no_torch():
    shown = clean("--help")
    assert shown.exit_code == 0
    words = " ".join(re.sub(r"[│\s]+", " ", shown.stdout).split())
    for example in ("vlls clean photos", "--apply ~/Downloads/photos-decisions.csv", "--cross-validate 5", "130 by"):
        assert example in words
    flags = set(re.findall(r"--[a-z-]+", shown.stdout))
    assert flags >= {"--apply", "--method", "--cross-validate", "--json", "--quiet", "--overwrite", "--show", "--embed"}


def test_the_output_is_beside_a_folder_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert _clean._default_output(Path("photos"), False) == Path("photos-clean")
    monkeypatch.chdir(tmp_path / "photos" / "cat")
    assert _clean._default_output(Path(".."), False) == tmp_path / "photos-clean"
