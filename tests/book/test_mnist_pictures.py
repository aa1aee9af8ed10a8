"""The digits of MNIST on the front page, in the README and at the beginning of two chapters: pixels and captions."""

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
    assert data.train_x.dtype == np.uint8
    labels = {image.tobytes(): label for image, label in zip(data.train_x, data.train_y, strict=True)}
    for digit in [*noisy, *DOUBTED["first"]]:
        assert labels[base64.b64decode(digit["pixels"])] == digit.get("label", digit.get("right"))


def test_the_ends_are_those_of_the_order():
    for order in ORDERS.values():
        noise = np.array(order["noise"])
        assert order["images"] == 10 * len(noise) == RECORD["setting"]["train_size"] and (np.diff(noise) <= 0).all()
        most, least = ([digit["noise"] for digit in order[end]] for end in ("most", "least"))
        assert most[0] == pytest.approx(noise[0], rel=0.01) and least[0] == pytest.approx(noise[-1], rel=0.01)
        assert most == sorted(most, reverse=True) and least == sorted(least, reverse=True) and most[-1] > noise[1]


def test_the_words_below_the_front_page_s_picture_are_those_of_the_record():
    words, orders = text_of(BOOK / "intro.md"), list(ORDERS.values())
    (told,) = re.findall(r"the (\d+) with the most noise carry (\d+) % of it, whether the covariance is learned", words)
    for order in orders:
        share = round(100 * order["share_of_first_hundredth"])
        assert [int(each) for each in told] == [order["images"] // 100, share]
    (above,) = re.findall(r"Only (\d+) % get more than label smoothing would give", words)
    assert int(above) == round(100 * max(order["share_above_smoothing"] for order in orders))
    assert f"{orders[0]['images']:,} digits of MNIST" in words


def test_chapter_7_opens_with_the_same_picture():
    words = caption("07_which_examples_get_noise.ipynb")
    assert f"{ORDERS['learned Σ']['images']:,} digits of MNIST" in words and "a thousand times" in words
    for order in ORDERS.values():
        assert order["noise"][0] > 1000 * order["noise"][len(order["noise"]) // 2]


def test_the_run_doubts_the_labels_that_are_wrong():
    wrong = [digit["given"] != digit["right"] for digit in DOUBTED["first"]]
    assert all(wrong) and len(wrong) == 12
    found, count = round(100 * DOUBTED["found"] / DOUBTED["wrong"]), f"{DOUBTED['wrong']:,}"
    for words in (text_of(BOOK.parent / "README.md"), caption("13_one_run.ipynb")):
        assert (
            "all twelve are wrong" in words and f"the first {count} in its list" in words and f"{found} % are" in words
        )
    colors = {ax.title.get_color() for ax in openings.plot_found_labels().axes}
    assert colors == {openings._RED}
