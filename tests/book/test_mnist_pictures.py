"""The digits of MNIST on the front page, in the README and at the head of two chapters: pixels, and the words below."""

import base64
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from chapters import BOOK
from figures import openings

from vlls.data import load

RECORD = openings.of_mnist()
ORDERS, DOUBTED = RECORD["orders"], RECORD["doubted"]


def text_of(path):
    return " ".join(Path(path).read_text().split())


def caption(chapter):
    return " ".join(nbformat.read(BOOK / chapter, as_version=4).cells[2].source.split())


@pytest.mark.skipif(not os.environ.get("VLLS_DATA"), reason="VLLS_DATA has no MNIST")
def test_images_and_labels_are_those_of_the_data_set():
    data = load("mnist", download=False)
    noisy = [digit for order in ORDERS.values() for end in ("most", "least") for digit in order[end]]
    assert len(noisy) == 40 and "MNIST" in RECORD["source"]
    grey = (255 * data.train_x).round().astype(np.uint8)
    labels = {image.tobytes(): label for image, label in zip(grey, data.train_y, strict=True)}
    for digit in [*noisy, *DOUBTED["first"]]:
        assert labels[base64.b64decode(digit["pixels"])] == digit.get("label", digit.get("right"))


def test_the_ends_are_those_of_the_order():
    for order in ORDERS.values():
        noise = np.array(order["noise"])
        assert len(noise) == RECORD["setting"]["train_size"] and (np.diff(noise) <= 0).all()
        for end, there in (("most", noise[:10]), ("least", noise[-10:])):
            np.testing.assert_allclose([digit["noise"] for digit in order[end]], there, rtol=0.01)


def test_the_words_below_the_front_page_s_picture_are_those_of_the_record():
    words = text_of(BOOK / "intro.md")
    (told,) = re.findall(
        r"the hundredth with the most noise has (\d+) % of it all under one posterior and (\d+) %", words
    )
    share = [np.array(order["noise"]) for order in ORDERS.values()]
    assert [int(each) for each in told] == [round(100 * n[: len(n) // 100].sum() / n.sum()) for n in share]
    (above,) = re.findall(r"Only (\d+) % get more than label smoothing would give", words)
    most = max((noise > RECORD["smoothing"]["noise"]).mean() for noise in share)
    assert int(above) == round(100 * most)
    assert f"{len(share[0]):,} digits of MNIST" in words


def test_chapter_7_opens_with_the_same_picture():
    words, noise = caption("07_which_examples_get_noise.ipynb"), np.array(ORDERS["learned Σ"]["noise"])
    assert f"{len(noise):,} digits of MNIST" in words
    assert noise[0] > 1000 * noise[len(noise) // 2] and "a thousand times" in words


def test_the_run_doubts_the_labels_that_are_wrong():
    wrong = [digit["given"] != digit["right"] for digit in DOUBTED["first"]]
    assert all(wrong) and len(wrong) == 12
    found = round(100 * DOUBTED["found"] / DOUBTED["wrong"])
    for words in (text_of(BOOK.parent / "README.md"), caption("13_one_run.ipynb")):
        assert "all twelve are" in words or "All twelve are" in words
        assert f"{DOUBTED['wrong']:,} wrong" in words and f"{found} %" in words
    colors = {ax.title.get_color() for ax in openings.plot_found_labels().axes}
    assert colors == {openings._RED}
