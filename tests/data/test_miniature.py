"""The made-up miniature of Clothing1M: its layout, its labels, how it is made, and that a network can learn it."""

import errno
import hashlib
import os
import re
import threading
from collections import Counter

import numpy as np
import pytest

from vlls.data import ImageStream, _miniature, load, plan_miniature
from vlls.data._garments import GARMENTS, draw_garment
from vlls.data._known import CLOTHES
from vlls.train import RunConfig, run

Image = pytest.importorskip("PIL.Image")

NAME = "clothing1m_miniature"
LISTS = ("noisy_train", "clean_train", "clean_val", "clean_test")
TEXTS = {f"{name}_key_list.txt" for name in LISTS}
TEXTS |= {"noisy_label_kv.txt", "clean_label_kv.txt", "category_names_eng.txt", "README.txt"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with data sets that holds the whole miniature."""
    root = tmp_path_factory.mktemp("data")
    load(NAME, root, download=False)  # nothing is downloaded
    return root


@pytest.fixture
def small(monkeypatch):
    """Make it of fewer images, for tests that do not depend on their number."""
    monkeypatch.setattr(_miniature, "SIZES", {name: 14 for name in LISTS})


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def pairs(path):
    return {key: int(label) for key, label in (line.split() for line in lines(path))}


# ------------------------------------------------------------------ layout
@pytest.mark.slow
def test_the_layout_is_that_of_clothing1m(root):
    folder = root / NAME
    assert {entry.name for entry in root.iterdir()} == {NAME}
    assert {entry.name for entry in folder.iterdir()} == TEXTS | {"images"}
    assert tuple(lines(folder / "category_names_eng.txt")) == CLOTHES
    keys = {name: lines(folder / f"{name}_key_list.txt") for name in LISTS}
    assert {name: len(members) for name, members in keys.items()} == _miniature.SIZES
    every = [key for members in keys.values() for key in members]
    images = [path.relative_to(folder).as_posix() for path in (folder / "images").rglob("*.jpg")]
    assert len(set(every)) == len(every) == 2100
    assert sorted(images) == sorted(every)
    for key in every:
        first, second, number = re.fullmatch(r"images/(\d)/(\d\d)/(\d+),\d+\.jpg", key).groups()
        assert number.endswith(second) and second.endswith(first)
    noisy, clean = (pairs(folder / f"{kind}_label_kv.txt") for kind in ("noisy", "clean"))
    assert set(clean) == {key for name in LISTS[1:] for key in keys[name]}
    assert set(keys["noisy_train"]) < set(noisy)
    both = set(noisy) & set(clean)  # as in Clothing1M, from which the transitions between classes are estimated
    assert both == set(keys["clean_train"][::2] + keys["clean_val"][::2])
    assert any(noisy[key] != clean[key] for key in both)


@pytest.mark.slow
def test_it_says_that_it_is_made_up(root):
    text = (root / NAME / "README.txt").read_text(encoding="utf-8")
    assert text.startswith("This is NOT Clothing1M.\n")
    assert "made-up" in text and "No image is a photograph" in text and "38%" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "made up" in load.__doc__


@pytest.mark.slow
def test_the_stream(root):
    data, (lists, true, noisy) = load(NAME, root), plan_miniature()
    assert isinstance(data, ImageStream)
    assert (data.name, data.classes, data.num_classes) == (NAME, CLOTHES, 14)
    assert (len(data.train), len(data.clean_train), len(data.val), len(data.test)) == (1400, 140, 140, 420)
    assert data.missing_labels == {}
    assert np.array_equal(data.train.labels, noisy[lists["noisy_train"]])
    for part, name in ((data.clean_train, "clean_train"), (data.val, "clean_val"), (data.test, "clean_test")):
        assert np.array_equal(part.labels, true[lists[name]])
        assert np.bincount(part.labels).tolist() == [len(part) // 14] * 14
    for files in (data.train, data.clean_train, data.val, data.test):
        assert not any(failed for _, _, _, failed in (files.resized(8)[i] for i in range(0, len(files), 10)))
    with Image.open(data.train.path(0)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
    assert load("clothing1m", root / NAME).name == "clothing1m"  # if it is loaded by that name


def test_the_root_is_that_of_every_data_set(tmp_path, monkeypatch, small):
    monkeypatch.setenv("VLLS_DATA", str(tmp_path / "new" / "data"))
    assert load(NAME).train.root == tmp_path / "new" / "data" / NAME
    with pytest.raises(ValueError, match="clothing1m is not under"):  # the real one is not taken for it
        load("clothing1m")


# ------------------------------------------------------------------ labels
@pytest.mark.slow
def test_the_labels_are_the_same_everywhere(root):
    digest = hashlib.sha256()
    for name in sorted(TEXTS - {"README.txt"}):
        digest.update((root / NAME / name).read_bytes())
    assert digest.hexdigest()[:16] == "ee5a7effd6e7fbc8"


def test_the_share_of_wrong_labels():
    """Over many seeds the shares equal the constants, within four standard errors."""
    true, noisy = (
        np.concatenate(labels) for labels in zip(*(plan_miniature(seed)[1:] for seed in range(50)), strict=True)
    )
    wrong = noisy != true
    p = _miniature.WRONG_SHARE
    assert abs(wrong.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(true))
    alike = [[CLOTHES.index(other) for other in _miniature.LOOK_ALIKES[name]] for name in CLOTHES]
    found = np.array([noisy[i] in alike[true[i]] for i in np.flatnonzero(wrong)])
    chance = np.array([len(alike[k]) for k in true[wrong]]) / 13  # a symmetric error may name a look-alike too
    expected = 1 - _miniature.SYMMETRIC_SHARE * (1 - chance)
    assert abs((found - expected).sum()) < 4 * np.sqrt((expected * (1 - expected)).sum())
    for k, others in enumerate(alike):
        assert k not in others
        rate = wrong[true == k].mean()
        assert abs(rate - p) < 4 * np.sqrt(p * (1 - p) / (true == k).sum())
        strangers = np.bincount(noisy[(true == k) & wrong], minlength=14)
        assert strangers[k] == 0 and (np.delete(strangers, k) > 0).all()
        assert min(strangers[others]) > max(np.delete(strangers, [k, *others]))


def test_the_share_of_wrong_labels_of_the_one_that_is_made():
    lists, true, noisy = plan_miniature()
    train = lists["noisy_train"]
    p = _miniature.WRONG_SHARE
    share = (noisy != true)[train].mean()
    assert abs(share - p) < 2 * np.sqrt(p * (1 - p) / len(train))
    assert np.bincount(true[train]).tolist() == [100] * 14


# ------------------------------------------------------------------ drawings
def test_a_drawing_follows_from_its_seed():
    assert tuple(GARMENTS) == tuple(_miniature.LOOK_ALIKES) == CLOTHES
    drawn = [np.asarray(draw_garment(name, np.random.RandomState(i))) for i in range(3) for name in GARMENTS]
    again = [np.asarray(draw_garment(name, np.random.RandomState(i))) for i in range(3) for name in GARMENTS]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert len({a.tobytes() for a in drawn}) == len(drawn)
    assert all(a.shape == (64, 64, 3) and a.dtype == np.uint8 and a.std() > 5 for a in drawn)


def test_every_detail_and_pattern_is_used_and_known():
    from vlls.data._garments import DETAILS
    from vlls.data._pen import PATTERNS

    details = {detail.rstrip("?") for cut in GARMENTS.values() for detail in cut.details.split()}
    assert details == set(DETAILS)
    assert {pattern for cut in GARMENTS.values() for pattern in cut.patterns.split()} == set(PATTERNS)


# ------------------------------------------------------------------ making it
def test_it_is_the_same_each_time_and_made_once(tmp_path, small, monkeypatch):
    for place in ("one", "two"):
        load(NAME, tmp_path / place)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    monkeypatch.setattr(_miniature, "_write", None)  # the second time nothing is made
    (tmp_path / "one" / NAME / "README.txt").unlink()
    assert len(load(NAME, tmp_path / "one").train) == 14
    assert not (tmp_path / "one" / NAME / "README.txt").exists()


def test_two_at_the_same_time(tmp_path, small, monkeypatch):
    together = threading.Barrier(2)
    rename, outcomes = os.rename, Counter()

    def both_at_once(source, target):
        together.wait(60)
        try:
            rename(source, target)
        except OSError:
            outcomes["late"] += 1
            raise

    monkeypatch.setattr(os, "rename", both_at_once)
    found = []
    threads = [threading.Thread(target=lambda: found.append(load(NAME, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(data.train) for data in found] == [14, 14]
    assert outcomes == {"late": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]
    assert len(contents(tmp_path)) == 4 * 14 + len(TEXTS)


def test_a_full_disk_leaves_nothing(tmp_path, small, monkeypatch):
    def full(self, path, **options):
        if path.name.startswith("000030"):
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr(Image.Image, "save", full)
    message = rf"{NAME} could not be made in .* \(.*No space left on device\); make room, or choose a folder"
    with pytest.raises(ValueError, match=message) as caught:
        load(NAME, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="could not be made.*going on with 'digits' instead"):
        assert load(NAME, tmp_path, fallback="digits").name == "digits"


@pytest.mark.parametrize("place", ["file", "file/data"])
def test_a_root_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"{NAME} could not be made in .*{place} .*VLLS_DATA") as caught:
        load(NAME, tmp_path / place)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=rf"{NAME} could not be made in .*Permission denied"):
        load(NAME, tmp_path)


def test_a_folder_that_is_not_whole(tmp_path, small):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"is there but has no noisy_train_key_list.txt, so it is not whole; remove it"
    ):
        load(NAME, tmp_path)
    assert contents(tmp_path) == {f"{NAME}/notes.txt": b"mine"}


@pytest.mark.slow
def test_without_pillow_it_says_what_to_install(run_bare, tmp_path):
    code = f"from vlls.data import load\ntry:\n    load({NAME!r}, {str(tmp_path)!r})\n"
    done = run_bare(code + "except ValueError as error:\n    print(error)\n")
    assert "needs Pillow" in done.stdout and "pip install 'vlls[train]'" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ training
@pytest.mark.slow
def test_a_network_learns_it(root):
    config = RunConfig(dataset=NAME, image_size=32, method="sgd", epochs=3, eval_every=3, augment=False)
    result = run(config, root=root, workers=0)
    assert (result.config.model, result.config.pretrained, result.counts["train_images"]) == ("cnn3", False, 1400)
    chance = 1 / 14
    assert result.final["test_accuracy"] > chance + 10 * np.sqrt(chance * (1 - chance) / 420)
