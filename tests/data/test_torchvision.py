"""Data sets in torchvision's layout: idx files, pickles, downloads, and fallbacks for missing data."""

import hashlib
import pickle
import struct
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_data import IDX, assert_holds, one_line, small, write_idx

from vlls.data import DATASETS, load

datasets = pytest.importorskip("torchvision.datasets")


def write_cifar(root, arrays, monkeypatch, kind="CIFAR10"):
    """Write the pickles of the original archive, and make torchvision expect their md5 sums."""
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


@pytest.fixture
def no_network(monkeypatch):
    def fail(self):
        raise urllib.error.URLError("no route to host")

    for kind in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(getattr(datasets, kind), "download", fail)


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
    assert DATASETS["cifar100"].classes == tuple(CIFAR100.split())


CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


# ------------------------------------------------------------------ where it is looked for
def test_the_arrays_file_goes_before_torchvisions_layout(tmp_path):
    first, second = small((6, 5), classes=2), small((6, 5), classes=9)
    write_idx(tmp_path / "MNIST" / "raw", second)
    assert_holds(load("mnist", tmp_path), second)
    np.savez(tmp_path / "mnist.npz", **first)
    assert_holds(load("mnist", tmp_path), first)


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
