"""Data sets held in memory: digits, arrays files, names, and the folder that they are looked for in."""

import importlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from small_data import assert_holds, one_line, small

from vlls.data import DATASETS, ImageArrays, ImageFiles, load
from vlls.data._known import default_root


# ------------------------------------------------------------------ digits
def test_digits_are_those_of_scikit_learn_split_once_and_for_all():
    data = load("digits")
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    assert (data.train_x.shape, data.test_x.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert data.classes == tuple("0123456789")
    assert data.num_classes == 10
    assert (data.train_x.min(), data.train_x.max(), data.train_x.dtype) == (0, 255, np.uint8)
    assert np.bincount(data.train_y).min() > 120
    order = np.random.RandomState(0).permutation(1797)
    images, labels = np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
    assert np.array_equal(labels, bunch.target[order])
    assert np.abs(images[..., 0] - bunch.images[order] * 255 / 16).max() <= 0.5
    assert np.array_equal(load("digits").test_x, data.test_x)


def test_clean_labels_are_a_copy():
    data = load("digits")
    assert np.array_equal(data.clean_train_y, data.train_y)
    data.train_y[0] = (data.train_y[0] + 1) % 10
    assert data.clean_train_y[0] != data.train_y[0]
    assert repr(data) == "ImageArrays(name='digits', train=1437, test=360, image=8x8x1, classes=10)"


# ------------------------------------------------------------------ arrays files
@pytest.mark.parametrize(("name", "shape"), [("mnist", (5, 4)), ("cifar10", (4, 4, 3)), ("fashion_mnist", (3, 3, 1))])
def test_arrays_file(tmp_path, name, shape):
    arrays = small(shape)
    np.savez(tmp_path / f"{name}.npz", **arrays, extra=np.arange(3))
    data = load(name, tmp_path)
    assert_holds(data, arrays)
    assert data.classes == DATASETS[name].classes  # the file has none
    assert data.name == name
    assert np.array_equal(data.clean_train_y, arrays["train_y"])


def test_arrays_file_with_its_own_classes(tmp_path):
    arrays = small(classes=3)
    for classes in (np.array(["a", "bb", "c"]), np.array([b"a", b"bb", b"c"])):
        np.savez_compressed(tmp_path / "cifar100.npz", **arrays, classes=classes)
        assert load("cifar100", str(tmp_path)).classes == ("a", "bb", "c")
    np.savez_compressed(tmp_path / "cifar100.npz", **arrays, classes=np.array([b"a", b"\xe9", b"c"]))  # no UTF-8
    assert load("cifar100", tmp_path).classes == ("a", r"\xe9", "c")


BAD = {
    "key": (lambda a: a.pop("test_y"), r"lacks test_y and holds train_x, train_y, test_x; write it with np.savez"),
    "image dtype": (lambda a: a.update(train_x=a["train_x"] / 255), "train_x is float64; images must be uint8"),
    "image shape": (lambda a: a.update(train_x=a["train_x"][0, 0]), r"train_x has shape .*must be \(N, H, W, C\)"),
    "channels first": (lambda a: a.update(test_x=a["test_x"].swapaxes(1, 3)), "channels last, with C 1 or 3"),
    "sizes": (lambda a: a.update(test_x=a["test_x"][:, :3]), r"of shape \(5, 4, 3\) and test_x of shape \(3, 4, 3\)"),
    "empty": (
        lambda a: a.update(test_x=a["test_x"][:0], test_y=a["test_y"][:0]),
        r"test_x has shape \(0, 5, 4, 3\), so it is empty",
    ),
    "lengths": (lambda a: a.update(train_y=a["train_y"][1:]), r"train_y has shape \(19,\) beside 20 images"),
    "label shape": (lambda a: a.update(train_y=a["train_y"][:, None]), r"train_y has shape \(20, 1\)"),
    "label dtype": (lambda a: a.update(test_y=a["test_y"] * 1.0), "test_y is float64; labels must be integers"),
    "huge label": (lambda a: a.update(test_y=a["test_y"] + np.uint64(2**63)), "test_y holds the label 92233720368"),
    "label": (lambda a: a.update(test_y=a["test_y"] + 1), "test_y holds 1 label.* outside 0 to 9, the first 10"),
    "negative": (lambda a: a.update(train_y=a["train_y"].astype(int) - 1), "train_y holds 2 label.* the first -1"),
    "classes": (lambda a: a.update(classes=np.arange(10)), r"classes is int64 of shape \(10,\); it must be the names"),
    "few classes": (lambda a: a.update(classes=np.array(["a", "b"])), "outside 0 to 1, .* but there are 2 classes"),
    "pickle": (lambda a: a.update(classes=np.array(["a", 1], dtype=object)), "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_file(tmp_path, case):
    change, message = BAD[case]
    arrays = small((5, 4, 3))
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert load("cifar10", tmp_path).num_classes == 10
    change(arrays)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    for fallback in (None, "digits"):  # damaged data are an error, whatever the fallback
        with pytest.raises(ValueError, match=message) as caught:
            load("cifar10", tmp_path, fallback=fallback)
        assert str(tmp_path / "cifar10.npz") in str(caught.value)
        assert one_line(caught)


def test_arrays_file_that_is_none(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, **small((28, 28)))
    whole = path.read_bytes()
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF  # caught by the checksum of the archive
    for content in (b"", b"no archive", whole[: len(whole) // 2], array.read_bytes(), bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist\.npz cannot be read as an arrays file .*; replace it") as caught:
            load("mnist", tmp_path)
        assert one_line(caught)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"mnist\.npz cannot be read as an arrays file"):
        load("mnist", tmp_path)


def test_arrays_made_by_hand_are_checked_too():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="mine: train_y is int32; labels must be int64"):
        ImageArrays("mine", images, labels.astype(np.int32), images, labels, ("a",), labels)
    with pytest.raises(ValueError, match=r"mine: clean_train_y has shape \(1,\) beside 2"):
        ImageArrays("mine", images, labels, images, labels, ("a",), labels[:1])
    with pytest.raises(ValueError, match="mine: test_x is list; images must be uint8"):
        ImageArrays("mine", images, labels, images.tolist(), labels, ("a",), labels)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_type_are_read_as_int64(tmp_path, dtype):
    """With more classes than the type can count: uint8 and 300 classes, int8 and 130."""
    classes = 130 if dtype == "int8" else 300
    labels = (np.arange(classes) % min(classes, np.iinfo(dtype).max + 1)).astype(dtype)
    images = np.zeros((classes, 4, 4, 1), np.uint8)
    names = np.array([f"class {i}" for i in range(classes)])
    np.savez(tmp_path / "mnist.npz", train_x=images, train_y=labels, test_x=images, test_y=labels, classes=names)
    data = load("mnist", tmp_path)
    assert data.num_classes == classes
    for found in (data.train_y, data.clean_train_y, data.test_y):
        assert found.dtype == np.int64 and found.tolist() == labels.tolist()
    assert ImageFiles("photos", ["a.png"] * classes, labels).labels.tolist() == labels.tolist()


# ------------------------------------------------------------------ names
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar",
            r"^name='cifar' is unknown \(did you mean 'cifar10'\?\); choose one of digits, .*, or the path of a folder",
        ),
        ("MNIST", r"did you mean 'mnist'\?"),
        ("", "^name='' is unknown; choose one of digits"),
        (5, "^name=5 is unknown"),
        (None, "^name=None is unknown"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


# ------------------------------------------------------------------ where they are looked for
def test_root_then_environment_then_cache(tmp_path, monkeypatch):
    homes = {}
    for classes, name in enumerate(("given", "environment", "xdg/vlls", "home/.cache/vlls"), start=2):
        homes[name] = tmp_path / name
        homes[name].mkdir(parents=True)
        np.savez(homes[name] / "cifar10.npz", **small(classes=classes))
    monkeypatch.setenv("VLLS_DATA", str(homes["environment"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load("cifar10", homes["given"]).train_y.max() == 1
    assert load("cifar10").train_y.max() == 2
    monkeypatch.setenv("VLLS_DATA", "")  # empty counts as not set
    assert load("cifar10").train_y.max() == 3
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert load("cifar10").train_y.max() == 4
    monkeypatch.setenv("VLLS_DATA", "~/data")
    assert default_root() == tmp_path / "home" / "data"


def test_without_a_home_data_are_among_the_temporary_files(tmp_path, monkeypatch):
    """A container's user may have no home, neither in HOME nor in the table of users."""
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "VLLS_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert len(load("digits").train_y) == 1437
    with pytest.raises(ValueError, match=f"cifar10 is not under {tmp_path / 'vlls'}"):
        load("cifar10")
    (tmp_path / "vlls").mkdir(exist_ok=True)
    np.savez(tmp_path / "vlls" / "cifar10.npz", **small(classes=3))
    assert load("cifar10").train_y.max() == 2


def test_a_home_folder_that_is_not_known_is_told():
    for name in ("~nobody-of-this-name/images", Path("~nobody-of-this-name")):
        with pytest.raises(ValueError, match="^~nobody.* names a home folder that is not known; write the path out$"):
            load(name)
    with pytest.raises(ValueError, match="names a home folder that is not known"):
        load("cifar10", "~nobody-of-this-name")


@pytest.mark.slow
def test_without_the_libraries_it_says_what_to_install(run_bare, tmp_path):
    np.savez(tmp_path / "cifar10.npz", **small())
    (tmp_path / "images" / "a").mkdir(parents=True)
    done = run_bare(
        f"""
from vlls.data import ImageFiles, load
print(load("cifar10", {str(tmp_path)!r}))
files = ImageFiles({str(tmp_path)!r}, ["a.jpg"], [0])
for call in (lambda: load("digits"), lambda: load("mnist", {str(tmp_path)!r}), lambda: files[0]):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0].startswith("ImageArrays(name='cifar10'")
    for line, library in zip(lines[1:], ("scikit-learn", "torchvision", "Pillow"), strict=True):
        assert f"needs {library}" in line
        assert "pip install 'vlls[train]'" in line
