"""A user's path from a run on noisy labels to its wrong labels and to calibrated probabilities."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from vlls import find_label_errors
from vlls.label_errors import fit_correction, label_errors_from_probabilities, sampled_probabilities
from vlls.train import RunConfig, classification_metrics, load_run, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train on digits of which 40 % are labelled wrong; 330 more, with as many wrong labels, are held out."""
    config = RunConfig(
        dataset="digits",
        method="ivon",
        train_size=1100,
        validation_size=330,
        corruption="symmetric",
        rate=0.4,
        epochs=12,
        eval_every=12,
        eval_samples=0,
    )
    return load_run(run(config, tmp_path_factory.mktemp("runs"), device="cpu").folder)


def predicted(trained, part):
    """Return probabilities and given labels of a part of the images; the test labels are all right."""
    images = trained.images(part)
    return sampled_probabilities(trained.model, trained.posterior, images), images.given


@pytest.mark.slow
def test_wrong_labels_of_the_training_images_come_first(trained):
    images = trained.images("train")
    wrong = (images.given != images.clean).numpy()
    table = find_label_errors(trained.model, trained.posterior, images, images.given, classes=images.classes)
    assert roc_auc_score(wrong[table["index"]], table["score"]) > 0.98
    flagged = table[table["flag"]]
    assert wrong[flagged["index"]].mean() > 0.95 and len(flagged) > wrong.sum() / 2
    right = flagged["suggested"] == [images.classes[c] for c in images.clean[flagged["index"].to_numpy(copy=True)]]
    assert right.mean() > 0.9


@pytest.mark.slow
def test_probabilities_after_wrong_labels_are_calibrated(trained):
    """The correction needs only noisy labels, and keeps the predicted classes."""
    p, given = predicted(trained, "test")
    correct = fit_correction(*predicted(trained, "validation"))
    before, after = (classification_metrics(torch.from_numpy(q), given) for q in (p.mean(axis=0), correct(p)))
    assert before["ece"] > 0.3 and after["ece"] < 0.06, (before, after)
    assert after["nll"] < before["nll"] / 2
    assert after["accuracy"] >= before["accuracy"] - 0.01  # 3 of 360 images


@pytest.mark.slow
def test_a_correction_by_held_out_labels_flags_more_of_the_wrong_ones(trained):
    p, given = predicted(trained, "train")
    wrong = (given != trained.images("train").clean).numpy()
    correction = fit_correction(*predicted(trained, "validation"))
    tables = [
        label_errors_from_probabilities(p, given, flag=flag, correction=of)
        for flag, of in (("confident_joint", None), ("bayes", correction))
    ]
    found = [wrong[table["index"][table["flag"]]] for table in tables]
    assert found[1].sum() > found[0].sum() and found[1].mean() > 0.9
