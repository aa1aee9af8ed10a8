"""Data sets held in memory: where they are found, how they are read, and what is refused."""

import gzip
import hashlib
import importlib
import os
import pickle
import struct
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest

from vlls.data import DATASETS, ImageArrays, ImageFiles, load
from vlls.data._known import default_root

datasets = pytest.importorskip("torchvision.datasets")

IDX = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


# ------------------------------------------------------------------ small data sets of each form
def small(shape=(4, 4, 3), classes=10, train=20, test=10):
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "train_y": (np.arange(train) % classes).astype(np.uint8),
        "test_x": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "test_y": (np.arange(test) % classes).astype(np.uint8),
    }


def write_idx(folder, arrays, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in IDX.items():
        array = arrays[key]
        data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)


def write_cifar(root, arrays, monkeypatch, kind="CIFAR10"):
    """Write the pickles of the original archive, and let torchvision expect their md5 sums."""
    cls = getattr(datasets, kind)
    folder = Path(root) / cls.base_folder
    folder.mkdir(parents=True, exist_ok=True)

    def dump(name, entry):
        (folder / name).write_bytes(pickle.dumps(entry))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batches(names, split):
        key = "labels" if kind == "CIFAR10" else "fine_labels"
        images = np.array_split(arrays[f"{split}_x"].transpose(0, 3, 1, 2).reshape(-1, 3072), len(names))
        labels = np.array_split(arrays[f"{split}_y"], len(names))
        return [dump(n, {"data": x, key: y.tolist()}) for n, x, y in zip(names, images, labels, strict=True)]

    train_names, test_names = ([name for name, _ in part] for part in (cls.train_list, cls.test_list))
    monkeypatch.setattr(cls, "train_list", batches(train_names, "train"))
    monkeypatch.setattr(cls, "test_list", batches(test_names, "test"))
    name, md5 = dump(cls.meta["filename"], {cls.meta["key"]: list(DATASETS[kind.lower()].classes)})
    monkeypatch.setattr(cls, "meta", {"filename": name, "key": cls.meta["key"], "md5": md5})


def assert_holds(data, arrays):
    assert isinstance(data, ImageArrays)
    assert not np.shares_memory(data.train_y, data.clean_train_y)
    for key, array in arrays.items():
        found = getattr(data, key)
        expected = array[..., None] if array.ndim == 3 else array
        assert found.dtype == (np.uint8 if key[-1] == "x" else np.int64)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


@pytest.fixture
def no_network(monkeypatch):
    def fail(self):
        raise urllib.error.URLError("no route to host")

    for kind in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(getattr(datasets, kind), "download", fail)


def one_line(caught):
    return "\n" not in str(caught.value)


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
    for fallback in (None, "digits"):  # what is there but wrong is an error, whatever could stand in for it
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


# ------------------------------------------------------------------ idx files
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(tmp_path, name, folder, gz):
    arrays = small((6, 5))
    write_idx(tmp_path / folder / "raw", arrays, gz)
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / folder / "raw", tmp_path):
        path.chmod(0o555)
    try:
        data = load(name, tmp_path)
    finally:
        for path in (tmp_path, tmp_path / folder / "raw"):
            path.chmod(0o755)
    assert_holds(data, arrays)
    assert data.classes == DATASETS[name].classes
    assert sorted(tmp_path.rglob("*")) == before  # nothing was extracted


def test_idx_files_may_be_mixed_and_the_plain_one_goes_first(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, small((6, 5)), gz=True)
    (raw / IDX["test_y"]).write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 10) + bytes([7] * 10))
    assert load("mnist", tmp_path).test_y.tolist() == [7] * 10


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train_x", lambda b: b[:-1], r"states the shape \(20, 6, 5\) and so 616 bytes, but holds 615"),
        ("train_x", lambda b: b + b"0", "and so 616 bytes, but holds 617"),
        ("train_x", lambda b: b"", r"starts with the bytes \(none\), not 00 00 08 03"),
        ("train_x", lambda b: b[:9], r"ends inside its header \(9 bytes\)"),
        ("train_y", lambda b: b"<html>" + b, "starts with the bytes 3c 68 74 6d, not 00 00 08 01"),
        ("train_y", lambda b: b"\0\0\x0d\x01" + b[4:], "starts with the bytes 00 00 0d 01"),
        ("test_x", lambda b: b[:3] + b"\x02" + b[4:], "starts with the bytes 00 00 08 02, not 00 00 08 03"),
        ("test_y", lambda b: b[:-1] + b"\x0a", "test_y holds 1 label.* outside 0 to 9, the first 10"),
        ("test_y", lambda b: struct.pack(">4BI", 0, 0, 8, 1, 2) + b"\0\0", r"test_y has shape \(2,\) beside 10"),
    ],
)
def test_bad_idx_files(tmp_path, file, change, message):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, small((6, 5)))
    path = raw / IDX[file]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", tmp_path, fallback="digits")
    assert str(raw) in str(caught.value)
    assert one_line(caught)


def test_truncated_or_false_gzip(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, small((28, 28)), gz=True)
    path = raw / f"{IDX['train_x']}.gz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-4], b"not gzip at all", whole[:200] + b"\xff" * 50 + whole[250:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"ubyte\.gz cannot be read as a gzip file \(.*\); replace it") as caught:
            load("mnist", tmp_path)
        assert one_line(caught)


# ------------------------------------------------------------------ CIFAR in torchvision's layout
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_pickles(tmp_path, monkeypatch, name, classes):
    arrays = small((32, 32, 3), classes, train=110)
    write_cifar(tmp_path, arrays, monkeypatch, name.upper())
    data = load(name, tmp_path, download=False)
    assert_holds(data, arrays)
    assert data.classes == DATASETS[name].classes


def test_damaged_cifar_pickles(tmp_path, monkeypatch):
    write_cifar(tmp_path, small((32, 32, 3)), monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cifar-10-batches-py is incomplete or damaged .*delete the folder") as caught:
        load("cifar10", tmp_path, fallback="digits")
    assert one_line(caught)


def test_known_classes_are_those_of_torchvision():
    assert DATASETS["fashion_mnist"].classes == tuple(datasets.FashionMNIST.classes)
    assert DATASETS["cifar10"].classes == tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
    assert DATASETS["cifar100"].classes == tuple(sorted(set(DATASETS["cifar100"].classes)))


# ------------------------------------------------------------------ where it is looked for
def test_the_arrays_file_goes_before_torchvisions_layout(tmp_path):
    first, second = small((6, 5), classes=2), small((6, 5), classes=9)
    write_idx(tmp_path / "MNIST" / "raw", second)
    assert_holds(load("mnist", tmp_path), second)
    np.savez(tmp_path / "mnist.npz", **first)
    assert_holds(load("mnist", tmp_path), first)


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


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_says_what_to_put_where(tmp_path, name):
    layout = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}
    with pytest.raises(ValueError, match=f"{name} is not under .*; put there {name}.npz with train_x") as caught:
        load(name, tmp_path / "nowhere", download=False)
    assert str(tmp_path / "nowhere" / layout.get(name, "cifar-100-python")) in str(caught.value)
    assert "download=True" in str(caught.value)
    assert one_line(caught)
    assert not (tmp_path / "nowhere").exists()


def test_an_incomplete_idx_folder_names_what_lacks(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", small((6, 5)))
    (tmp_path / "MNIST" / "raw" / IDX["test_y"]).unlink()
    with pytest.raises(ValueError, match=r"there is no t10k-labels-idx1-ubyte, with or without .gz"):
        load("mnist", tmp_path, download=False)


# ------------------------------------------------------------------ downloads
def test_download(tmp_path, monkeypatch):
    mnist, cifar = small((28, 28)), small((32, 32, 3))
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_idx(Path(self.raw_folder), mnist))
    write_cifar(tmp_path / "archive", cifar, monkeypatch)
    monkeypatch.setattr(
        datasets.CIFAR10, "download", lambda self: write_cifar(Path(self.root), cifar, monkeypatch, "CIFAR10")
    )
    root = tmp_path / "new" / "root"
    assert_holds(load("mnist", root), mnist)
    assert_holds(load("cifar10", root), cifar)
    assert sorted(path.name for path in root.iterdir()) == ["MNIST", "cifar-10-batches-py"]
    monkeypatch.setattr(datasets.MNIST, "download", None)  # the second time nothing is downloaded
    assert_holds(load("mnist", root, download=False), mnist)
    assert_holds(load("mnist", root), mnist)


def test_download_completes_what_is_there(tmp_path, monkeypatch):
    arrays = small((28, 28))
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, arrays)
    (raw / IDX["test_y"]).unlink()
    (tmp_path / "cifar-10-batches-py").mkdir()  # an empty folder is no data set
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_idx(Path(self.raw_folder), arrays))
    assert_holds(load("mnist", tmp_path), arrays)
    cifar = small((32, 32, 3))
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: write_cifar(self.root, cifar, monkeypatch))
    assert_holds(load("cifar10", tmp_path), cifar)


def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch):
    def half(self):
        folder = Path(self.root) / "cifar-10-batches-py"
        folder.mkdir()
        (folder / "data_batch_1").write_bytes(b"half")
        (Path(self.root) / "cifar-10-python.tar.gz").write_bytes(b"half")
        raise urllib.error.URLError("the line was cut")

    monkeypatch.setattr(datasets.CIFAR10, "download", half)
    for _ in range(2):  # the second call meets the same state as the first
        with pytest.raises(
            ValueError, match=r"cifar10 is not under .*the download of cifar10 .* failed .*line was cut"
        ):
            load("cifar10", tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_made(tmp_path, no_network):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the download of cifar10 into .* failed") as caught:
        load("cifar10", tmp_path / "file" / "root")
    assert one_line(caught)


def test_fallback(tmp_path, no_network):
    with pytest.warns(UserWarning, match=r"cifar10 is not under .*; going on with 'digits' instead") as caught:
        data = load("cifar10", tmp_path, fallback="digits")
    assert data.name == "digits"
    assert Path(caught[0].filename) == Path(__file__)
    with pytest.warns(UserWarning, match=r"going on with 'digits' without labels='cifar10n:worse_label' instead"):
        assert load("cifar10", tmp_path, labels="cifar10n:worse_label", fallback="digits").name == "digits"
    with pytest.warns(UserWarning, match="'mnist'"), pytest.raises(ValueError, match=r"mnist .* no route to host"):
        load("cifar10", tmp_path, fallback="mnist")  # cannot be had either
    with pytest.raises(ValueError, match=r"fallback='digit' is unknown \(did you mean 'digits'\?\)"):
        load("cifar10", tmp_path, fallback="digit")
    np.savez(tmp_path / "cifar10.npz", **small())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("cifar10", tmp_path, fallback="digits").name == "cifar10"


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


# ------------------------------------------------------------------ human labels
@pytest.fixture
def human(tmp_path):
    arrays = small(train=30)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    labels = {"clean_label": arrays["train_y"], "worse_label": (arrays["train_y"] + 3) % 10}
    np.savez(tmp_path / "cifar10n.npz", **labels)
    return tmp_path, arrays, labels


def test_human_labels_replace_the_training_labels(human):
    root, arrays, labels = human
    data = load("cifar10", root, labels="cifar10n:worse_label")
    assert data.train_y.tolist() == labels["worse_label"].tolist()
    assert data.clean_train_y.tolist() == arrays["train_y"].tolist()
    assert (data.train_y.dtype, data.clean_train_y.dtype) == (np.int64, np.int64)
    assert_holds(data, {key: arrays[key] for key in ("train_x", "test_x", "test_y")})
    assert np.array_equal(load("cifar10", root, labels="cifar10n:clean_label").train_y, arrays["train_y"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "cifar10n:worst_label",
            r"unknown \(did you mean 'cifar10n:worse_label'\?\); .*cifar10n:aggre_label.*cifar100n",
        ),
        ("cifar1n:worse_label", r"did you mean 'cifar10n:worse_label'\?"),
        ("cifar10n", "^labels='cifar10n' is unknown.*choose one of cifar10n:clean_label"),
        ("cifar100n:noisy_label", "^labels='cifar100n:noisy_label' belong to 'cifar100', not to 'cifar10'; load"),
        (7, "^labels=7 is unknown"),
        ("cifar10n:aggre_label", "cifar10n.npz lacks aggre_label and holds clean_label, worse_label"),
    ],
)
def test_unknown_human_labels(human, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", human[0], labels=labels)
    assert one_line(caught)


@pytest.mark.parametrize("name", ["mnist", "digits", "clothing1m", "a/folder"])
def test_human_labels_of_another_data_set(name):
    with pytest.raises(ValueError, match=f"belong to 'cifar10', not to '{name}'"):
        load(name, labels="cifar10n:worse_label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clean_label": np.roll(np.arange(30) % 10, 1)},
            "clean_label differs from .* for 30 of 30 .* the order differs",
        ),
        ({"worse_label": np.zeros(29, int)}, r"worse_label has shape \(29,\) beside 30 training images"),
        ({"clean_label": np.zeros((30, 1), int)}, r"clean_label has shape \(30, 1\)"),
        ({"worse_label": np.full(30, 10)}, "worse_label as cifar10: train_y holds 30 label.* outside 0 to 9"),
        ({"worse_label": np.zeros(30)}, "worse_label is float64; labels must be integers"),
    ],
)
def test_bad_human_labels(human, change, message):
    root, _, labels = human
    np.savez(root / "cifar10n.npz", **(labels | change))
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", root, labels="cifar10n:worse_label", fallback="digits")
    assert str(root / "cifar10n.npz") in str(caught.value)
    assert one_line(caught)


def test_missing_human_labels(human):
    (human[0] / "cifar10n.npz").unlink()
    with pytest.raises(ValueError, match=r"cifar10n is not under .*; put there cifar10n.npz with clean_label"):
        load("cifar10", human[0], labels="cifar10n:worse_label")
    with pytest.warns(UserWarning, match="going on with 'digits' without labels"):
        assert load("cifar10", human[0], labels="cifar10n:worse_label", fallback="digits").name == "digits"


# ------------------------------------------------------------------ the real ones, where they are
REAL = os.environ.get("VLLS_DATA")


def real(*names):
    there = REAL is not None and all(any(Path(REAL).glob(name)) for name in names)
    return pytest.mark.skipif(not there, reason=f"VLLS_DATA has no {', '.join(names)}")


@real("MNIST/raw/*images*")
def test_real_mnist():
    data = load("mnist", download=False)
    assert (data.train_x.shape, data.test_x.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(data.train_y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train_x.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


@real("cifar10.npz", "cifar10n.npz")
def test_real_cifar10_with_human_labels():
    data = load("cifar10", labels="cifar10n:worse_label", download=False)
    assert (data.train_x.shape, data.test_x.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert np.bincount(data.clean_train_y).tolist() == [5000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert (data.train_y != data.clean_train_y).mean() == pytest.approx(0.402, abs=5e-4)
    assert data.train_x.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-4)


@real("cifar100.npz", "cifar100n.npz")
def test_real_cifar100_with_human_labels():
    data = load("cifar100", labels="cifar100n:noisy_label", download=False)
    assert data.classes == DATASETS["cifar100"].classes
    assert np.bincount(data.clean_train_y).tolist() == [500] * 100
    assert (data.train_y != data.clean_train_y).mean() == pytest.approx(0.402, abs=5e-4)
