"""Images in files: decoding and what is unreadable, folders by class, and a miniature Clothing1M."""

import pickle
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vlls.data import ImageArrays, ImageFiles, ImageStream, load
from vlls.data._clothing1m import _CHUNK
from vlls.data._known import CLOTHES

Image = pytest.importorskip("PIL.Image")
ImageFile = pytest.importorskip("PIL.ImageFile")


def save(path, colour=(0, 0, 0), size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def photograph(path, size=(640, 480)):
    """Save a JPEG of noise, large enough for the file to be cut in the middle of the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def one_line(caught):
    return "\n" not in str(caught.value)


# ------------------------------------------------------------------ decoding
def test_an_item(tmp_path):
    save(tmp_path / "red.png", (255, 0, 0), (30, 20))
    save(tmp_path / "blue.bmp", (0, 0, 255), (5, 50))
    files = ImageFiles(tmp_path, ["red.png", b"blue.bmp"], [3, 1], size=8)
    image, label, index, failed = files[1]
    assert (image.dtype, image.shape) == (torch.uint8, (8, 8, 3))
    assert image.reshape(-1, 3).unique(dim=0).tolist() == [[0, 0, 255]]
    assert (label, index, failed) == (1, 1, False)
    assert (type(label), type(index), type(failed)) == (int, int, bool)
    assert files[0][0][4, 4].tolist() == [255, 0, 0]
    assert files[-2][1:] == files[0][1:] == (3, 0, False)
    assert files.path(1) == tmp_path / "blue.bmp"
    assert (len(files), files.labels.tolist(), files.labels.dtype) == (2, [3, 1], np.int64)
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"index {index} is outside 0 to 1"):
            files[index]
    assert ImageFiles(tmp_path, ["red.png"], [0])[0][0].shape == (256, 256, 3)
    assert files.resized(5)[0][0].shape == (5, 5, 3)


def test_the_short_side_is_resized_and_the_centre_is_kept(tmp_path):
    rng = np.random.default_rng(1)
    for size in ((90, 60), (60, 90), (60, 60)):  # without a remainder, so that crop and resize commute exactly
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        scaled = Image.fromarray(pixels).resize((size[0] // 3, size[1] // 3), Image.Resampling.BILINEAR)
        left, top = (scaled.width - 20) // 2, (scaled.height - 20) // 2
        expected = np.asarray(scaled)[top : top + 20, left : left + 20].astype(int)
        found = ImageFiles(tmp_path, ["image.png"], [0], size=20)[0][0].numpy()
        # Inside; at the edge of the crop the one-step form does not look beyond it.
        assert np.abs(found[1:-1, 1:-1] - expected[1:-1, 1:-1]).max() <= 1


def test_a_jpeg_is_decoded_small_but_not_below_the_size_asked_for(tmp_path, monkeypatch):
    photograph(tmp_path / "image.jpg", (1024, 768))
    sizes = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: sizes.append(self.size) or convert(self, mode))
    for size in (96, 100, 384, 500, 2000):
        assert ImageFiles(tmp_path, ["image.jpg"], [0], size)[0][0].shape == (size, size, 3)
    assert sizes == [(128, 96), (256, 192), (512, 384), (1024, 768), (1024, 768)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = "image.tif" if mode == "CMYK" else "image.png"
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(tmp_path / name)
    assert ImageFiles(tmp_path, [name], [0], 4)[0][0].unique().tolist() == [255]


GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", GREY.astype(np.uint16) * 257),
        ("rounded.png", (GREY * 257.0 + np.where(GREY % 8, 128, -128)).clip(0)),
        ("16.tif", GREY.astype(">u2") * 257),
        ("float.tif", GREY.astype(np.float32) / 255),
    ],
)
def test_wide_grey_values_are_scaled_not_clipped(tmp_path, name, values):
    kind = np.float32 if name == "float.tif" else np.uint16
    Image.fromarray(values.astype(kind)).save(tmp_path / name)
    image, *rest = ImageFiles(tmp_path, [name], [0], 8)[0]
    assert rest == [0, 0, False]
    assert image.tolist() == np.repeat(GREY[..., None], 3, axis=2).tolist()


def test_a_pgm_of_16_bits(tmp_path):
    (tmp_path / "16.pgm").write_bytes(b"P5 8 8 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    assert ImageFiles(tmp_path, ["16.pgm"], [0], 8)[0][0][..., 1].tolist() == GREY.tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GREY.astype(np.float32), r"grey values go from 0 to 252; scale them to \[0, 1\]"),
        (np.full((8, 8), np.nan, np.float32), "grey values go from nan to nan"),
        (GREY.astype(np.int32) * 257, "grey values of 32 bits have no known range"),
    ],
)
def test_grey_values_of_no_known_range_are_unreadable(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "0.tif")
    save(tmp_path / "1.png")
    assert ImageFiles(tmp_path, ["0.tif", "1.png"], [0, 1], 8)[0][1:] == (1, 1, True)
    with pytest.raises(ValueError, match=message) as caught:
        ImageFiles(tmp_path, ["0.tif"], [0], 8)[0]
    assert one_line(caught)


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {}), ("a.png", {}), ("16.png", {}), ("a.tif", {"compression": "tiff_lzw"})]
)  # Pillow turns TIFFs as it reads them, those without compression wrongly (13.0)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_followed(tmp_path, name, options, orientation):
    quarters = np.array([[0, 80], [160, 240]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.pad(quarters.repeat(16, axis=0).repeat(16, axis=1), ((16, 16), (0, 0)))  # 32 wide, 64 high
    if name == "16.png":
        pixels = pixels.astype(np.uint16) * 257
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    found = ImageFiles(tmp_path, [name], [0], 32)[0][0].numpy()[8:32:16, 8:32:16, 0].astype(int)
    turned = np.rot90(quarters, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])
    if orientation in (2, 4):
        turned = np.fliplr(turned)
    elif orientation in (5, 7):  # a quarter turn and a mirror: the rows of the file are seen as columns
        turned = np.flipud(turned)
    assert np.abs(found - turned).max() <= 3, found


def test_damaged_exif_data_are_no_reason_to_refuse_an_image(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "image.jpg", exif=b"Exif\0\0no such header")
    assert ImageFiles(tmp_path, ["image.jpg"], [0], 8)[0][1:] == (0, 0, False)


def test_a_strip_does_not_grow_to_its_length(tmp_path):
    save(tmp_path / "strip.png", (1, 2, 3), (1, 60_000))
    assert ImageFiles(tmp_path, ["strip.png"], [0], 256)[0][0].shape == (256, 256, 3)


# ------------------------------------------------------------------ unreadable images
def truncate(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


UNREADABLE = {
    "truncated jpeg": lambda path: truncate(photograph(path)),
    "nearly whole jpeg": lambda path: truncate(photograph(path), 0.95),
    "truncated png": lambda path: truncate(save(path, size=(300, 300), format="PNG")),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("lenient", [False, True])
def test_the_next_readable_image_stands_in(tmp_path, monkeypatch, case, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    save(tmp_path / "0.png", (10, 0, 0))
    UNREADABLE[case](tmp_path / "1.jpg")
    save(tmp_path / "2.png", (20, 0, 0))
    files = ImageFiles(tmp_path, ["0.png", "1.jpg", "2.png"], [4, 5, 6], size=4)
    assert files[0][1:] == (4, 0, False)
    image, *rest = files[1]
    assert rest == [6, 2, True]
    assert image[0, 0].tolist() == [20, 0, 0]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient  # the setting for other code is unchanged
    assert files.subset([0, 1])[1][1:] == (4, 0, True)  # past the end it goes on from the start


def test_a_decompression_bomb_is_unreadable(tmp_path, monkeypatch):
    save(tmp_path / "0.png", size=(40, 40))
    save(tmp_path / "1.png", size=(4, 4))
    files = ImageFiles(tmp_path, ["0.png", "1.png"], [0, 1], size=4)
    assert files[0][3] is False
    for limit in (1000, 100):  # of 1600 pixels: Pillow warns above the limit, and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.warns(Image.DecompressionBombWarning) if limit == 1000 else nullcontext():
            assert files[0][1:] == (1, 1, True)


def test_after_a_hundred_unreadable_images_it_is_no_accident(tmp_path):
    save(tmp_path / "good.png")
    names = [f"{i}.png" for i in range(99)]
    assert ImageFiles(tmp_path, [*names, "good.png"], np.arange(100), 4)[0][1:] == (99, 99, True)
    files = ImageFiles(tmp_path, [*names, "99.png", "good.png"], np.arange(101), 4)
    with pytest.raises(ValueError, match=r"0\.png and the 99 images after it cannot be read .*No such file") as caught:
        files[0]
    assert one_line(caught)
    assert files[1][1:] == (100, 100, True)
    with pytest.raises(ValueError, match=r"and the 2 images after it cannot be read"):
        ImageFiles(tmp_path, names[:3], [0, 1, 2], 4)[2]


def test_a_loader_with_workers_counts_the_failures(tmp_path):
    names = [f"{i}.jpg" for i in range(12)]
    for i, name in enumerate(names):
        photograph(tmp_path / name, (64, 64)) if i in (3, 8) else save(tmp_path / name, (20 * i, 0, 0))
    for i in (3, 8):
        truncate(tmp_path / names[i])
    files = ImageFiles(tmp_path, names, np.arange(12) % 5, size=6)
    batches = list(DataLoader(files, batch_size=4, num_workers=2))
    images, labels, indices, failed = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert (images.shape, images.dtype, failed.dtype) == ((12, 6, 6, 3), torch.uint8, torch.bool)
    assert indices.tolist() == [0, 1, 2, 4, 4, 5, 6, 7, 9, 9, 10, 11]
    assert failed.nonzero().flatten().tolist() == [3, 8]
    assert labels.tolist() == files.labels[indices].tolist()
    assert (images[:, 3, 3, 0] - 20 * indices).abs().max() <= 2


def test_files_are_small_to_keep_and_to_send(tmp_path):
    number = 10_000
    names = [f"images/{i % 10}/{i % 100:02d}/{i:010d},{i:010d}.jpg" for i in range(number)]
    files = ImageFiles(tmp_path, names, np.zeros(number, int))
    sent = pickle.dumps(files)
    assert len(sent) < 60 * number
    copy = pickle.loads(sent)
    assert copy.path(1234) == files.path(1234) == tmp_path / names[1234]
    assert copy.paths[1234] == names[1234].encode()


def test_subset(tmp_path):
    files = ImageFiles(tmp_path, ["a.png", "b.png", "ä.png"], [0, 1, 2], size=7)
    part = files.subset(np.array([2, 0]))
    assert [part.path(i).name for i in range(2)] == ["ä.png", "a.png"]
    assert (part.labels.tolist(), part.size, len(files)) == ([2, 0], 7, 3)
    for bad in ([3], [-1], [0.0], [True], [], [[0]]):
        with pytest.raises(ValueError, match=r"^indices are .*; pass at least one integer of 0 to 2"):
            files.subset(bad)


@pytest.mark.parametrize(
    ("paths", "labels", "size", "message"),
    [
        ([], [], 4, "there are no images"),
        (["a"], [0, 1], 4, r"labels are int64 of shape \(2,\) beside 1 paths"),
        (["a"], [0.0], 4, "labels are float64"),
        (["a"], [True], 4, "labels are bool"),
        (["a"], [0], 0, "^size=0 is not allowed; choose a number of pixels"),
        (["a"], [0], 2.5, "^size=2.5 is not allowed"),
        (["a"], [0], True, "^size=True is not allowed"),
    ],
)
def test_bad_files(paths, labels, size, message):
    with pytest.raises(ValueError, match=message) as caught:
        ImageFiles("root", paths, labels, size)
    assert one_line(caught)


def test_a_stream_checks_its_labels():
    good, bad = ImageFiles("root", ["a", "b"], [0, 1]), ImageFiles("root", ["a", "b"], [0, 2])
    assert ImageStream("mine", good, good, ("x", "y")).num_classes == 2
    for splits in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=r"mine: t.* has labels from 0 to 2, but there are 2 classes"):
            ImageStream("mine", *splits, ("x", "y"))


# ------------------------------------------------------------------ folders of images by class
def names(files):
    return [files.path(i).relative_to(files.root).as_posix() for i in range(len(files))]


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_folder_with_a_split(tmp_path, held_out):
    for name in ("train/b/1.jpg", "train/a/2.PNG", "train/a/deep/er/3.bmp", "train/c/4.webp", f"{held_out}/c/5.jpeg"):
        save(tmp_path / name)
    for junk in ("train/a/.hidden.png", "train/.b/7.png", "train/a/notes.txt", "train/8.png", "train/a/.x/9.png"):
        save(tmp_path / junk, format="PNG")
    with pytest.warns(UserWarning, match=r"left out images in no folder of a class \(1\), files that end in"):
        data = load(tmp_path)
    assert isinstance(data, ImageStream)
    assert (data.name, data.classes, data.num_classes) == (tmp_path.name, ("a", "b", "c"), 3)
    assert names(data.train) == ["a/2.PNG", "a/deep/er/3.bmp", "b/1.jpg", "c/4.webp"]
    assert data.train.labels.tolist() == [0, 0, 1, 2]
    assert names(data.test) == ["c/5.jpeg"]
    assert data.test.labels.tolist() == [2]
    assert (data.val, data.clean_train, data.missing_labels) == (None, None, {})
    assert data.train[2][1:] == (1, 2, False)


def test_folder_with_test_and_val(tmp_path):
    for name in ("train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "val/b/4.jpg"):
        save(tmp_path / name)
    data = load(str(tmp_path))
    assert (names(data.test), names(data.val)) == (["a/3.jpg"], ["b/4.jpg"])
    assert (data.test.labels.tolist(), data.val.labels.tolist()) == ([0], [1])


def test_folder_without_a_split(tmp_path):
    counts = {"train": 23, "cat": 5, "dog": 4}  # a class may be called train
    every = [f"{kind}/{i:03d}.jpg" for kind, number in counts.items() for i in range(number)]
    random.Random(1).shuffle(every)
    for name in every:
        save(tmp_path / "one" / name)
    data = load(tmp_path / "one")
    assert data.classes == ("cat", "dog", "train")
    assert np.bincount(data.test.labels, minlength=3).tolist() == [1, 0, 4]
    assert sorted(names(data.train) + names(data.test)) == sorted(every)
    chosen = [int(name[-7:-4]) for name in names(data.test)[1:]]
    assert chosen != list(range(4, 23, 5))  # pseudo-random: names often follow a sequence
    random.Random(2).shuffle(every)
    for name in every:  # written in another order, elsewhere
        save(tmp_path / "two" / name)
    assert names(load(tmp_path / "two").test) == names(data.test)


@pytest.mark.parametrize(
    ("files", "empty", "message"),
    [
        ([], ["train/a", "train/b", "test/a"], r"train/a holds no images \(.jpg"),
        (["train/a/1.jpg", "test/a/1.jpg"], ["train/b"], r"train/b holds no images"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"], ["test/b"], r"test/b holds no images"),
        (
            ["train/a/1.jpg", "test/a/1.jpg", "test/c/1.jpg"],
            [],
            r"test/c is a class without training images; .* are a:",
        ),
        (["train/a/1.jpg"], ["test"], r"test holds no folders of images by class"),
        (["a/1.jpg"], ["b"], r"b holds no images"),
        (["a/1.jpg"], [], r"holds 1 folder\(s\) of images \(a\); it needs one for each of two classes"),
        (["train/a/1.jpg", "train/b/1.jpg"], [], r"holds 1 folder\(s\) of images \(train\).* beside test/<class>"),
        ([], ["."], r"holds 0 folder\(s\) of images \(none\)"),
        ([f"{c}/{i}.jpg" for c in "ab" for i in range(4)], [], r"fewer than five images in every class"),
    ],
)
def test_bad_folders(tmp_path, files, empty, message):
    root = tmp_path / "images"
    for name in files:
        save(root / name)
    for name in empty:
        (root / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=message) as caught:
        load(root, fallback="digits")
    assert str(root) in str(caught.value)
    assert one_line(caught)


def test_which_names_are_folders(tmp_path, monkeypatch):
    for i in range(5):
        for kind in "ab":
            save(tmp_path / "flowers" / kind / f"{i}.png")
            save(tmp_path / "digits" / kind / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("flowers", "./flowers", "~/flowers"):
        assert load(name).name == "flowers"
    assert isinstance(load("digits"), ImageArrays)
    assert isinstance(load("./digits"), ImageStream)
    with pytest.raises(ValueError, match=r"nowhere is no folder; pass a folder that holds train/<class>/\*"):
        load("./nowhere")
    with pytest.raises(ValueError, match="name='nowhere' is unknown"):
        load("nowhere")
    with pytest.warns(UserWarning, match="nowhere is no folder.*going on with 'digits'"):
        assert load(tmp_path / "nowhere", fallback="digits").name == "digits"


# ------------------------------------------------------------------ a miniature Clothing1M
def key(i):
    return f"images/{i % 10}/{i % 100:02d}/{i},{i + 7}.jpg"


def write_clothing(folder, texts="."):
    """Write ten noisy images, of which image 4 has no label, and two of each clean list, one of them without."""
    lists = {"noisy_train": range(10), "clean_train": (10, 11), "clean_val": (12, 13), "clean_test": (14, 15)}
    for i in range(16):
        save(folder / key(i), (10 * i, 0, 0))
    (folder / texts).mkdir(exist_ok=True)
    for name, members in lists.items():
        (folder / texts / f"{name}_key_list.txt").write_text("".join(f"{key(i)}\n" for i in reversed(members)))
    for name, members in (("noisy", [*range(4), *range(5, 12)]), ("clean", [0, *range(10, 15)])):
        lines = [f"{key(i)} {(i + (name == 'clean')) % 14}\n" for i in members]
        random.Random(0).shuffle(lines)
        (folder / texts / f"{name}_label_kv.txt").write_text("".join(lines))


@pytest.mark.parametrize("texts", [".", "annotations"])
@pytest.mark.parametrize("place", [".", "clothing1m", "Clothing1M"])
def test_clothing1m(tmp_path, place, texts):
    write_clothing(tmp_path / place, texts)
    data = load("clothing1m", tmp_path)
    assert isinstance(data, ImageStream)
    assert (data.name, data.num_classes, data.classes) == ("clothing1m", 14, CLOTHES)
    assert names(data.train) == [key(i) for i in (9, 8, 7, 6, 5, 3, 2, 1, 0)]
    assert data.train.labels.tolist() == [9, 8, 7, 6, 5, 3, 2, 1, 0]  # the noisy labels, image 0 has a clean one too
    assert (names(data.val), data.val.labels.tolist()) == ([key(13), key(12)], [0, 13])
    assert (names(data.test), data.test.labels.tolist()) == ([key(14)], [1])
    assert data.clean_train.labels.tolist() == [12, 11]
    assert data.missing_labels == {"noisy_train_key_list": 1, "clean_test_key_list": 1}
    image, label, index, failed = data.train.resized(4)[5]
    assert (label, index, failed) == (3, 5, False)
    assert abs(int(image[2, 2, 0]) - 30) <= 2


def test_clothing1m_without_what_may_lack(tmp_path):
    write_clothing(tmp_path)
    (tmp_path / "clean_train_key_list.txt").unlink()
    (tmp_path / key(9)).unlink()  # the first image: another of the first hundred is there
    (tmp_path / "category_names_eng.txt").write_text("".join(f"name {i}\r\n" for i in range(14)))
    lines = (tmp_path / "noisy_label_kv.txt").read_text().replace(" ", "\t").replace("\n", "\r\n\r\n")
    (tmp_path / "noisy_label_kv.txt").write_text(lines)
    data = load("clothing1m", tmp_path)
    assert data.clean_train is None
    assert data.classes == tuple(f"name {i}" for i in range(14))
    assert data.train.labels.tolist() == [9, 8, 7, 6, 5, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "noisy_label_kv.txt",
            f"{key(0)} 1\n{key(1)}\n",
            r", line 2: 'images/1/01/1,8.jpg' is not <image path> <0\.\.13>",
        ),
        ("noisy_label_kv.txt", f"{key(0)} 14\n", r", line 1: .*14' is not <image path>"),
        ("noisy_label_kv.txt", f"\n\n{key(0)} -1\n", r", line 3: "),
        ("clean_label_kv.txt", f"{key(0)} 1 2\n", r", line 1: "),
        ("clean_label_kv.txt", f"{key(0)} cat\n", r", line 1: "),
        ("noisy_train_key_list.txt", f"{key(0)}\n{key(1)} 3\n", r", line 2: .* is not one image path"),
        ("noisy_train_key_list.txt", "", r"lists 0 images, none of which has a label"),
        ("noisy_label_kv.txt", "", r"lists 10 images, none of which has a label .*\(none\)"),
        ("noisy_label_kv.txt", "other/1.jpg 3\n", r"none of which has a label .*'other/1.jpg'; use the lists"),
        ("clean_test_key_list.txt", f"{key(99)}\n", r"clean_test_key_list.txt lists 1 images, none of which"),
        ("category_names_eng.txt", "a\nb\n", r"has 2 class names; it must have 14"),
        ("clean_val_key_list.txt", None, r"has noisy_train_key_list.txt but no clean_val_key_list.txt; put it"),
        ("clean_test_key_list.txt", None, r"but no clean_test_key_list.txt"),
        ("noisy_label_kv.txt", None, r"but no noisy_label_kv.txt"),
        ("clean_label_kv.txt", None, r"but no clean_label_kv.txt"),
    ],
)
def test_bad_clothing1m(tmp_path, file, text, message):
    write_clothing(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load("clothing1m", tmp_path, fallback="digits")
    assert str(tmp_path) in str(caught.value)
    assert one_line(caught)


def test_clothing1m_names_the_line_beyond_the_first_chunk(tmp_path):
    write_clothing(tmp_path)
    lines = [f"{key(i)} {i % 14}\n" for i in range(_CHUNK + 20)]
    (tmp_path / "noisy_label_kv.txt").write_text("".join(lines))
    assert load("clothing1m", tmp_path).train.labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    lines[_CHUNK + 4] = "broken\n"
    (tmp_path / "noisy_label_kv.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=rf"noisy_label_kv.txt, line {_CHUNK + 5}: 'broken'"):
        load("clothing1m", tmp_path)


def test_clothing1m_without_its_images(tmp_path):
    write_clothing(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(ValueError, match=r"none of the first images of .*noisy_train.* exists, such as .*; unpack"):
        load("clothing1m", tmp_path)


def test_missing_clothing1m(tmp_path):
    with pytest.raises(
        ValueError, match=r"clothing1m is not under .*noisy_train_key_list.txt.*images, or set"
    ) as caught:
        load("clothing1m", tmp_path)
    assert one_line(caught)
    with pytest.warns(UserWarning, match="going on with 'digits'"):
        assert load("clothing1m", tmp_path, fallback="digits").name == "digits"
