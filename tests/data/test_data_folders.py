"""Folders of images in many forms: parts by many names, links, files that are not images."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from vlls.data import load
from vlls.data._folders import EXTENSIONS


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path, format="PNG")


def fill(root, *parts, classes=("cat", "dog"), number=1):
    for part in parts:
        for name in classes:
            for i in range(number):
                save(root / part / name / f"{i}.png")


def names(files):
    return [files.path(i).relative_to(files.root).as_posix() for i in range(len(files))]


@pytest.fixture(autouse=True)
def _quiet():
    """Turn warnings that a test does not expect into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ------------------------------------------------------------------ parts of a split
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("train", "Val"),
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("train", "dev"),
        ("TRAIN", "TEST"),
        ("trn", "tst"),
        ("train", "eval"),
        ("train-images", "validation images"),
        ("train2017", "val2017"),
        ("train", "Development"),
        ("train", "Evaluation"),
    ],
)
def test_the_parts_of_a_split_may_be_called_as_people_call_them(tmp_path, train, test):
    fill(tmp_path, train, test)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog") and data.val is None
    assert data.train.root.name == train and data.test.root.name == test


@pytest.mark.parametrize("test, val", [("test", "val"), ("Test", "dev"), ("eval", "val"), ("test", "eval")])
def test_of_three_parts_the_one_for_testing_is_told_by_its_name(tmp_path, test, val):
    fill(tmp_path, "train", test, val)
    data = load(tmp_path)
    assert (data.train.root.name, data.test.root.name, data.val.root.name) == ("train", test, val)


def test_an_archive_that_was_unpacked_into_a_folder_of_its_own_name(tmp_path):
    fill(tmp_path, "training_set/training_set", "test_set/test_set")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog") and names(data.test) == ["cat/0.png", "dog/0.png"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("a", "b"), r"a, b hold folders of the same names \(cat, dog\): if they are the parts of a split, call them "),
        (("seg_train/seg_train", "seg_test/seg_test"), r"seg_test, seg_train hold folders of the same names"),
        (("train", "holdout"), r"holdout, train hold folders of the same names"),
        (("fold1", "fold2", "fold3", "fold4"), r"fold1, fold2, fold3, \.\.\. hold"),
        (("train", "Train", "test"), r"holds Train and train, each of which could be its part 'train'"),
        (("train", "test", "tst"), r"holds test and tst, each of which could be its part 'test'"),
        (("train", "val", "validation"), r"each of which could be its part 'val'"),
        (("train", "test", "val", "eval"), r"holds val and eval, each of which could be its part 'val'"),
        (("train/x", "train/y", "test/x", "test/y"), r"train: x, y hold folders of the same names \(cat, dog\)"),
    ],
)
def test_parts_that_would_pass_for_classes_are_refused(tmp_path, parts, message):
    if "Train" in parts and (tmp_path / "TRAIN").exists():
        pytest.skip("a system that does not tell capitals")
    fill(tmp_path, *parts, number=5)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_whose_other_part_is_not_to_be_told_is_refused(tmp_path):
    fill(tmp_path, "train", number=5)
    for i in range(5):
        save(tmp_path / "holdout" / f"{i}.png")
    with pytest.raises(ValueError, match=r"train looks like a part of a split, with folders in it \(cat, dog\)"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"holds 1 folder\(s\) of images \(train\).* beside test/<class>"):
        fill(tmp_path / "one", "train")
        load(tmp_path / "one")


def test_one_class_is_no_data_set(tmp_path):
    fill(tmp_path, "train", "test", classes=("images",))
    with pytest.raises(ValueError, match="train holds one class, images; it needs a folder for each of two or more"):
        load(tmp_path)


def test_classes_with_folders_in_them_stay_classes(tmp_path):
    for name in ("n01", "n02"):  # one folder in each, as some archives have it
        fill(tmp_path / "one", name, classes=("images",), number=5)
    assert load(tmp_path / "one").classes == ("n01", "n02")
    for name, inner in (("cat", "black"), ("cat", "white"), ("dog", "large"), ("dog", "small"), ("train", "")):
        for i in range(5):
            save(tmp_path / "two" / name / inner / f"{i}.png")
    assert load(tmp_path / "two").classes == ("cat", "dog", "train")


def test_what_lies_beside_the_parts_is_told(tmp_path):
    fill(tmp_path, "train", "test", "extra")
    save(tmp_path / "loose.png")
    (tmp_path / "README.txt").write_text("of the whole, no image that somebody misses")
    with pytest.warns(UserWarning, match=r"left out images in no .* class \(1\), folders beside its parts: ext"):
        data = load(tmp_path)
    assert data.left_out == {"images in no folder of a class": 1, "folders beside its parts: extra": 1}


# ------------------------------------------------------------------ which files are images
@pytest.mark.parametrize("ending", [".jfif", ".JPG", ".Jpeg", ".jpe", ".webp", ".avif", ".JP2", ".pbm", ".tga", ".PNG"])
def test_every_ending_of_an_image_is_one(tmp_path, ending):
    for name in ("cat", "dog"):
        for i in range(5):
            save(tmp_path / name / f"{i}{ending}")
    data = load(tmp_path)
    assert len(data.train) == 8 and len(data.test) == 2
    assert not data.train[0][3]  # decoded by its content


def test_what_pillow_reads_as_one_image_is_known():
    formats = "JPEG PNG WEBP BMP DIB GIF TIFF AVIF JPEG2000 PPM TGA PCX SGI QOI DDS ICO MSP XBM XPM IM MPO".split()
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in formats}
    assert known - {".icb", ".vda", ".vst"} <= set(EXTENSIONS)


def test_files_that_are_no_images_are_counted_and_told(tmp_path):
    fill(tmp_path, "", number=5)
    for name in ("a.txt", "b.TXT", "c.heic", "noending"):
        (tmp_path / "cat" / name).write_text("")
    for name in (".hidden.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "cat" / name).write_text("")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    told = (
        r"left out files that end in .txt \(2\), files that end in .heic \(1\), files whose names have no ending \(1\)"
    )
    with pytest.warns(UserWarning, match=told):
        data = load(tmp_path)
    assert data.classes == ("cat", "dog") and len(data.train) == 8
    assert sum(data.left_out.values()) == 4


# ------------------------------------------------------------------ links
def test_links_to_classes_folders_and_images_are_followed(tmp_path):
    store = tmp_path / "store"
    for i in range(5):
        save(store / "cat" / f"{i}.png")
        save(store / "dogs" / f"{i}.png")
        save(tmp_path / "photos" / "dog" / f"own{i}.png")
        save(tmp_path / f"one{i}.png")
    (tmp_path / "photos" / "cat").symlink_to(store / "cat")
    (tmp_path / "photos" / "dog" / "more").symlink_to(store / "dogs")
    (tmp_path / "photos" / "dog" / "one.png").symlink_to(tmp_path / "one0.png")
    data = load(tmp_path / "photos")
    found = sorted(names(data.train) + names(data.test))
    assert found == sorted(
        [f"cat/{i}.png" for i in range(5)]
        + [f"dog/more/{i}.png" for i in range(5)]
        + [f"dog/own{i}.png" for i in range(5)]
        + ["dog/one.png"]
    )
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path / "photos")  # the whole of it
    assert names(load(linked).train) == names(data.train)


def test_links_that_lead_nowhere_or_round_in_circles_are_told(tmp_path):
    fill(tmp_path, "", number=5)
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "dog" / "a").symlink_to(tmp_path / "dog" / "b")
    (tmp_path / "dog" / "b").symlink_to(tmp_path / "dog" / "a")
    with pytest.warns(UserWarning, match=r"links that lead nowhere \(4\), links to a folder above them \(3\)"):
        data = load(tmp_path)
    assert data.classes == ("cat", "dog") and len(data.train) + len(data.test) == 10


def test_an_image_that_is_there_twice_by_a_link(tmp_path):
    fill(tmp_path, "", number=5)
    (tmp_path / "cat" / "again.png").symlink_to(tmp_path / "cat" / "0.png")
    with pytest.warns(UserWarning, match=r"links to images of the same class \(1\)"):
        data = load(tmp_path)
    assert len(data.train) + len(data.test) == 10 and "cat/again.png" not in names(data.train) + names(data.test)
    (tmp_path / "dog" / "wrong.png").symlink_to(tmp_path / "cat" / "0.png")  # with two labels
    with pytest.raises(ValueError, match=r"cat/0\.png and .*dog/wrong\.png are one image, by a link; remove one"):
        load(tmp_path)


def test_an_image_is_not_for_training_and_testing(tmp_path):
    fill(tmp_path, "train", number=2)
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match=r"test/cat/0\.png are one image, by a link; remove one of them"):
        load(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may look everywhere")
def test_a_folder_that_may_not_be_looked_into(tmp_path):
    fill(tmp_path, "", number=5)
    (tmp_path / "cat").chmod(0)
    try:
        with pytest.raises(ValueError, match="Permission denied"):
            load(tmp_path)
    finally:
        (tmp_path / "cat").chmod(0o755)


def test_runs_that_lie_in_the_folder_are_no_class(tmp_path):
    fill(tmp_path, "", number=5)
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    (tmp_path / "runs" / "a-run" / "checkpoint.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out folders of runs \(1\)$"):
        assert load(tmp_path).classes == ("cat", "dog")
