"""The engine against plain loops, its measures against plain formulas, and its errors."""

import dataclasses
import json
import math
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as tv
from training import StopAt, differences, photographs, relative_difference, saved, tiny

import vlls
from vlls.data import ImageArrays, load
from vlls.data.corruption import corrupt
from vlls.train import METHODS, Reporter, RunConfig, _metrics, run
from vlls.train._batches import crop_flip, draw, normalize, pad
from vlls.train._machine import pick_device
from vlls.train._metrics import classification_metrics, memorisation
from vlls.train._prepare import derive_seed, prepare
from vlls.train._trainer import Trainer

CPU = torch.device("cpu")


# ------------------------------------------------------------------ steps against a plain loop
def plain_loop(config, steps, make_optimizer, label_smoothing=0.0):
    """Train as in a tutorial, in float32 and eager, on the engine's batches."""
    config = config.resolved()
    data = prepare(config)
    trainer = Trainer(config, data, CPU)  # for its initial weights, moments and order
    model, order = trainer.model, trainer.batches.order(0)
    images = (torch.from_numpy(data.train.images).permute(0, 3, 1, 2).float() - trainer.mean) / trainer.std
    labels = torch.from_numpy(data.train.given)
    optimizer, sampled = make_optimizer(model, len(labels))
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = trainer.learning_rate(i)
        with sampled(optimizer):
            optimizer.zero_grad()
            logits = model(images[order[i]])
            F.cross_entropy(logits, labels[order[i]], label_smoothing=label_smoothing).backward()
        optimizer.step()
    return model


def engine_steps(config, steps):
    config = config.resolved()
    trainer = Trainer(config, prepare(config), CPU)
    trainer.batches.start(0, 0)
    for i in range(steps):
        trainer.step(i)
    return trainer


@pytest.mark.parametrize("method, smoothing", [("sgd", 0.0), ("ls", 0.3)])
def test_engine_takes_the_steps_of_a_plain_loop(method, smoothing):

    config = tiny(method=method, **({"smoothing": smoothing} if smoothing else {}))

    def make(model, _):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        return optimizer, lambda _: nullcontext()

    plain = plain_loop(config, 6, make, label_smoothing=smoothing)
    assert relative_difference(engine_steps(config, 6).model, plain) < 1e-5


@pytest.mark.parametrize("method", ["ivon", "ivon_ls", "ivon_fixed", "vgd"])
def test_variational_methods_take_ivons_steps(method):
    config = tiny(method=method, hess_init=0.5)
    beta1 = 0.0 if method == "vgd" else 0.9
    learned = method in ("ivon", "ivon_ls")
    beta2 = config.resolved().beta2 if learned else 1.0

    def make(model, number):
        generator = torch.Generator().manual_seed(derive_seed(0, "samples", 0))
        options = {"hess_init": 0.5, "beta1": beta1, "beta2": beta2, "weight_decay": 1e-3, "generator": generator}
        fused = engine.optimizer.fused
        optimizer = vlls.IVON(model.parameters(), 0.1, ess=number, fused=fused, **options)
        return optimizer, lambda optimizer: optimizer.sampled_params(train=True)

    engine = engine_steps(config, 6)
    plain = plain_loop(config, 6, make, label_smoothing=0.1 if method == "ivon_ls" else 0.0)
    assert relative_difference(engine.model, plain) < 1e-5
    moved = any(not torch.equal(s["hess"], torch.full_like(s["hess"], 0.5)) for s in engine.optimizer.state.values())
    assert moved == learned  # the other methods keep their variance


def test_two_samples_see_a_half_of_the_batch_each():
    config = tiny(method="ivon", mc_samples=2, batch_size=20)
    trainer = engine_steps(config, 0)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda model, inputs: seen.append((len(inputs[0]), model[0].weight.detach().clone()))
    )
    trainer.step(0)
    assert [n for n, _ in seen] == [10, 10]
    assert not torch.equal(seen[0][1], seen[1][1])  # each half has its own weights


def test_sam_counts_a_batch_once_and_sees_it_twice():
    trainer = engine_steps(tiny(method="sam", batch_size=20, augment=True), 0)
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    trainer.step(0)
    assert len(seen) == 2 and torch.equal(*seen)  # the same crops and flips
    assert 0 < trainer.epoch_sums()[0] < 20 * 4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method):
    result = run(
        tiny(method=method, corruption="none", rate=0.0, train_size=None, epochs=4, eval_every=4, thorough_every=4)
    )
    assert result.status == "finished"
    assert result.final["test_accuracy"] > 0.5  # chance is 0.1
    assert ("posterior_accuracy" in result.final) == METHODS[method].variational
    assert (result.posterior is not None) == METHODS[method].variational


def test_online_label_smoothing_moves_its_labels_once_an_epoch(tmp_path):
    config = tiny(method="ols", epochs=1)
    first, within = (engine_steps(config, steps).criterion.soft_labels for steps in (0, 3))
    assert torch.equal(first, within)
    state = torch.load(run(config, tmp_path).folder / "checkpoint.pt", weights_only=True)
    assert not torch.equal(first, state["processes"][0]["criterion"]["soft_labels"])


@pytest.mark.parametrize("options", [{"method": "elr"}, {"method": "ivon_elr", "mc_samples": 2}], ids=["elr", "two"])
def test_a_loss_that_remembers_examples_is_told_which_they_are(options):
    config = tiny(**options, epochs=1, augment=True)
    trainer = engine_steps(config, 3)
    visited = trainer.batches.order(0)[:3].reshape(-1)
    count = trainer.criterion._count[:, 0]
    assert len(count) == 300 and count.sum() == len(visited) == 150 and (count[visited] == 1).all()
    means = trainer.criterion._prob_sum[visited].sum(dim=1)
    torch.testing.assert_close(means, torch.full_like(means, 1 - config.resolved()["decay"]))


def test_batches_know_the_indices_of_their_images(tmp_path):
    configs = [tiny(method="sgd"), RunConfig(dataset=str(photographs(tmp_path)), model="cnn3", image_size=16, epochs=1)]
    for config in configs:
        resolved = dataclasses.replace(config, batch_size=10).resolved()
        trainer = Trainer(resolved, prepare(resolved), CPU, workers=0)
        trainer.batches.start(0, 0)
        index = trainer.batches.index
        for expected in trainer.batches.order(0)[:3]:
            trainer.batches.fill()
            _, labels = trainer.batches.batch()
            assert trainer.batches.index is index and torch.equal(index, expected)  # one buffer, for a CUDA graph
            assert torch.equal(labels, torch.from_numpy(trainer.data.train.given)[index])


# ------------------------------------------------------------------ batches and augmentation
def test_crops_and_flips_are_torchvisions():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=generator)
    rows = torch.tensor([5, 0, 3, 3, 1, 2, 4, 0])
    how = draw(8, 8, generator)
    assert {int(v) for v in how[2]} == {0, 1}
    found = crop_flip(pad(images, 4), rows, 8, how)
    for i, (row, top, left, flip) in enumerate(zip(rows, *how, strict=True)):
        image = tv.pad(images[row].permute(2, 0, 1), 4)
        image = tv.crop(image, int(top), int(left), 8, 8)
        image = tv.hflip(image) if flip else image
        assert torch.equal(found[i].permute(2, 0, 1), image)


def test_crops_cover_every_place_alike():
    top, left, flip = draw(90_000, 8, torch.Generator().manual_seed(1))
    for values, cells in ((top, 9), (left, 9), (flip.long(), 2)):
        share = torch.bincount(values, minlength=cells) / len(values)
        assert float((share - 1 / cells).abs().max()) < 4 * ((1 / cells) * (1 - 1 / cells) / len(values)) ** 0.5


def test_images_are_normalised_and_channels_last():
    data = load("digits")
    trainer = Trainer(RunConfig(method="sgd").resolved(), prepare(RunConfig(method="sgd").resolved()), CPU)
    x = normalize(torch.from_numpy(data.train_x), trainer.mean, trainer.std)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5) and float(x.std()) == pytest.approx(1, abs=1e-3)
    colour = normalize(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(3), torch.ones(3))
    assert colour.shape == (2, 3, 4, 4) and colour.is_contiguous(memory_format=torch.channels_last)


def test_every_epoch_has_an_order_of_its_own():
    trainer = engine_steps(tiny(method="sgd", batch_size=32), 0)
    orders = [trainer.batches.order(epoch) for epoch in range(3)]
    assert [tuple(order.shape) for order in orders] == [(9, 32)] * 3
    assert all(len(order.unique()) == 288 for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[2], trainer.batches.order(2))


# ------------------------------------------------------------------ data of a run
def test_labels_are_corrupted_in_the_data_sets_order_before_the_subset_is_drawn():
    config = tiny(rate=0.4, seed=3).resolved()
    data, digits = prepare(config), load("digits")
    everything = corrupt(digits.train_y, "symmetric", rate=0.4, num_classes=10, seed=3)
    where = [int(np.flatnonzero((digits.train_x == image).all(axis=(1, 2, 3)))[0]) for image in data.train.images]
    assert len(set(where)) == 300 and where == sorted(where)
    assert np.array_equal(data.train.given, everything[where])
    assert np.array_equal(data.train.clean, digits.train_y[where])
    assert np.array_equal(data.test.given, digits.test_y)


def test_held_out_images_are_others_with_labels_as_wrong():
    data = prepare(tiny(train_size=None, validation_size=400).resolved())
    assert (len(data.train), len(data.validation)) == (1037, 400)
    rows = {image.tobytes() for image in data.train.images}
    assert sum(image.tobytes() in rows for image in data.validation.images) == 0
    assert 0.3 < (data.validation.given != data.validation.clean).mean() < 0.5
    result = run(tiny(method="sgd", validation_size=100, epochs=1))
    assert {"validation_accuracy", "validation_nll"} <= result.final.keys()


# ------------------------------------------------------------------ measures
def test_metrics_are_their_definitions():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(500, 7, generator=generator).mul(2).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    found = classification_metrics(probabilities, labels)
    p, y = probabilities.double().numpy(), labels.numpy()
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.clip(np.ceil(confidence * 15) - 1, 0, 14)
    ece = sum((bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean()) for b in set(bins))
    expected = {
        "accuracy": right.mean(),
        "nll": -np.log(p[np.arange(500), y]).mean(),
        "ece": ece,
        "brier": ((p - np.eye(7)[y]) ** 2).sum(1).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_certain_mistakes_cost_much_and_not_infinity():
    found = classification_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert found["nll"] == pytest.approx(87.34, abs=0.01) and found["brier"] == 2.0


def calibration_error(p, y):
    """Return the calibration error with fifteen bins, [0, 1/15) to [14/15, 1], in plain Python."""
    bins = [[] for _ in range(15)]
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        confidence = max(row)
        bins[min(int(confidence * 15), 14)].append((row.index(confidence) == label) - confidence)
    return sum(abs(sum(gaps)) for gaps in bins) / len(p)


def test_a_confidence_of_one_is_in_the_last_bin():
    p = torch.tensor([[1.0, 0.0]] * 10 + [[0.95, 0.05]] * 10)
    y = torch.tensor([0] * 5 + [1] * 5 + [0] * 5 + [1] * 5)
    assert classification_metrics(p, y)["ece"] == pytest.approx(0.475, abs=1e-6)
    p = torch.tensor([[1.0, 0.0]] * 20 + [[0.95, 0.05]] * 20)  # overconfident at 1, underconfident at 0.95
    y = torch.tensor([0] * 18 + [1] * 2 + [0] * 20)
    assert calibration_error(p, y) == pytest.approx(0.025)  # with a separate bin for 1 it would be 0.075
    assert classification_metrics(p, y)["ece"] == pytest.approx(0.025, abs=1e-6)


def test_confidences_that_saturate_and_those_on_the_edges_of_bins():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(500, 4, generator=generator)
    p, y = logits.softmax(1), torch.randint(0, 4, (500,), generator=generator)
    assert int((p == 1).sum()) > 100
    assert classification_metrics(p, y)["ece"] == pytest.approx(calibration_error(p, y), abs=1e-5)
    p[p[:, 0] == 1, 0] = 1 + 1e-6  # an average that was rounded up to more than 1 is not taken for a logit
    assert p.max() > 1
    assert classification_metrics(p, y)["ece"] == pytest.approx(calibration_error(p.clamp(max=1), y), abs=1e-5)
    of_one = (
        torch.tensor([8.0, 9, 10, 12, 15]) / 16
    )  # 0.5 and up, none a fifteenth; then 0.6, 0.8 and 1, all fifteenths
    for confidence in (of_one, torch.tensor([0.6, 0.8, 1.0, 1.0, 0.6])):
        p, y = torch.stack([1 - confidence, confidence], 1), torch.tensor([0, 1, 1, 0, 1])
        expected = calibration_error(p.double() + 1e-7 * (p.double() > 0.5), y)
        assert classification_metrics(p, y)["ece"] == pytest.approx(expected, abs=1e-5)
    certain = torch.eye(3)
    assert classification_metrics(certain, torch.tensor([0, 1, 2]))["ece"] == pytest.approx(0, abs=1e-6)
    assert classification_metrics(certain, torch.tensor([1, 2, 0]))["ece"] == pytest.approx(1, abs=1e-6)


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("classes", [128, 256, 300])
def test_metrics_of_labels_in_narrow_types(dtype, classes):
    p = torch.rand(100, classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    y = torch.arange(100) + (100 if dtype != torch.int8 and classes > 200 else 0)
    assert classification_metrics(p, y.to(dtype)) == classification_metrics(p, y)
    wrong = y.clone()
    wrong[:50] = 0
    assert memorisation(y.to(dtype), y.to(dtype), wrong.to(dtype)) == memorisation(y, y, wrong)
    assert memorisation(y, y.to(dtype), wrong) == memorisation(y, y, wrong)


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_metrics_of_the_probability_of_class_one(shape):
    of_one = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 2
    expected = classification_metrics(torch.stack([1 - of_one, of_one], dim=1), labels)
    assert classification_metrics(of_one.reshape(shape), labels) == expected
    assert expected["brier"] == pytest.approx(float(2 * (of_one - labels).square().mean()), rel=1e-5)


def test_metrics_of_a_run_that_diverges_are_nan():
    found = classification_metrics(torch.full((3, 2), math.nan), torch.tensor([0, 1, 1]))
    assert math.isnan(found["nll"]) and math.isnan(found["brier"])


HALVES, TWO = torch.full((2, 2), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.tensor([[2.0, -1.0], [0.0, 1.0]]), TWO, r"^probabilities hold 2, outside \[0, 1\]; pass softmax"),
        (torch.tensor([0.5, -3.0]), TWO, r"^probabilities hold -3, outside .* sigmoid"),
        (HALVES / 2, TWO, "^probabilities do not sum to 1 in 2 of 2 rows"),
        (TWO, TWO, r"^probabilities are of dtype int64 and shape \(2,\); pass floats of shape \(N, K\)"),
        (torch.ones(2, 2, 2) / 2, TWO, r"^probabilities are of dtype float32 and shape \(2, 2, 2\)"),
        (torch.zeros(0, 2), TWO[:0], r"^probabilities are of dtype float32 and shape \(0, 2\).* at least one example"),
        (HALVES, TWO.float(), "^labels are torch.float32; pass whole numbers from 0 to 1"),
        (HALVES, TWO[:1], r"^labels have shape \(1,\); 2 examples need \(2,\)"),
        (HALVES, TWO + 1, r"^labels\[1\] is 2 .*; labels go from 0 to 1"),
    ],
)
def test_metrics_refuse(probabilities, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        classification_metrics(probabilities, labels)
    assert "\n" not in str(caught.value)


def test_the_import_of_torchmetrics_does_not_warn_of_a_bar_that_nobody_asked_for(monkeypatch):
    def imported(*_):
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", UserWarning, stacklevel=2)
        warnings.warn("something else", UserWarning, stacklevel=2)

    monkeypatch.setattr(_metrics, "needs", imported)
    with pytest.warns(UserWarning) as told:
        _metrics.import_torchmetrics.__wrapped__()
    assert [str(warning.message) for warning in told] == ["something else"]


def test_memorisation_tells_the_parts_apart():
    given, clean = torch.tensor([0, 1, 2, 0, 0]), torch.tensor([0, 1, 2, 1, 2])
    found = memorisation(torch.tensor([0, 1, 0, 0, 2]), given, clean)
    assert found == pytest.approx({"clean_part_accuracy": 2 / 3, "memorised": 0.5, "recovered": 0.5})
    assert memorisation(given, given, given) == {"clean_part_accuracy": 1.0}


def test_posterior_average_is_the_mean_of_predictions_at_samples():
    from vlls.train._evaluate import predict_probabilities

    trainer = engine_steps(tiny(method="ivon", hess_init=0.01), 5)
    data = prepare(trainer.config)
    found, read = predict_probabilities(trainer, data.test, samples=3, epoch=7)
    expected = torch.zeros(len(data.test), 10)
    x = normalize(torch.from_numpy(data.test.images), trainer.mean, trainer.std)
    for i in range(3):
        trainer.optimizer.generator = torch.Generator().manual_seed(derive_seed(0, "evaluation", 7, i))
        with torch.no_grad(), trainer.optimizer.sampled_params():
            expected += trainer.model(x).softmax(1) / 3
    assert torch.allclose(found, expected, atol=1e-5) and bool(read.all())
    mean, _ = predict_probabilities(trainer, data.test)
    assert float((mean - found).abs().max()) > 1e-3


def test_measuring_does_not_touch_the_training():
    rare = run(tiny(method="ivon", eval_every=2, thorough_every=3, eval_samples=0, epochs=3))
    often = run(tiny(method="ivon", eval_every=1, eval_samples=3, epochs=3))
    assert relative_difference(rare.model, often.model) == 0.0
    assert ["test_accuracy" in epoch for epoch in rare.epochs] == [False, True, True]
    assert ["memorised" in epoch for epoch in rare.epochs] == [False, False, True]
    assert all("posterior_nll" in epoch for epoch in often.epochs)


def test_running_accuracy_and_loss_are_those_of_the_epochs_images():
    losses = []

    class Watch(Reporter):
        def epoch(self, metrics):
            losses.append(metrics["train_loss"])

    config = tiny(method="sgd", lr=0.0, epochs=2, batch_size=300)  # fixed weights: the loss is of all images
    result = run(config, reporters=[Watch()])
    assert result.epochs[0]["train_loss"] == pytest.approx(result.epochs[1]["train_loss"], rel=1e-6)
    data = prepare(config.resolved())
    trainer = Trainer(config.resolved(), data, CPU)
    logits = trainer.logits(trainer.model, torch.from_numpy(data.train.images)).detach()
    assert losses[0] == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(data.train.given))), rel=1e-5)


# ------------------------------------------------------------------ record
def test_record_tells_all_that_a_figure_needs(tmp_path):
    result = run(tiny(method="ivon", epochs=2), tmp_path)
    record = json.loads((result.folder / "record.json").read_text())
    assert record["config"] == result.config.to_dict() and record["key"] == result.config.key
    assert record["status"] == "finished" and [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    names = {f"{part}_{m}" for part in ("test", "posterior") for m in ("accuracy", "nll", "ece", "brier")}
    names |= {"clean_part_accuracy", "memorised", "recovered", "std_start", "std_5", "std_50", "std_95"}
    names |= {"learned_share_5", "learned_share", "learned_share_95"}
    assert set(record["final"]) == names and record["final"].items() <= record["epochs"][-1].items()
    machine = record["machine"]
    assert machine["images_per_second"] > 0 and machine["torch"] == torch.__version__ and machine["device"]
    assert machine["peak_memory_bytes"] > 1e7 and machine["date"].endswith("Z") and machine["wall_seconds"] > 0
    assert record["counts"] == {"train_images": 300, "unlabelled": 0, "unreadable": 0}


def test_the_same_config_gives_the_same_run_and_leaves_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, second = (run(tiny(method="ivon", epochs=1)) for _ in range(2))
    assert first.epochs == second.epochs and first.final == second.final
    assert torch.equal(torch.rand(1), expected)
    other = run(tiny(method="ivon", epochs=1, seed=1))
    assert other.final != first.final


# ------------------------------------------------------------------ errors
@pytest.mark.parametrize("method", ["sgd", "ivon", "ols"])
def test_a_loss_that_is_no_number_stops_the_run_with_a_record(tmp_path, method):
    result = run(tiny(method=method, lr=1e30, epochs=5, corruption="none", rate=0.0), tmp_path)
    assert result.status == "diverged" and "no finite number by step" in result.reason
    record = json.loads((result.folder / "record.json").read_text())
    assert record["status"] == "diverged" and record["reason"] == result.reason


def test_no_gpu_where_one_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match="device='cuda' was asked for and torch finds no GPU; choose device=cpu or auto"
    ):
        run(tiny(method="sgd"), device="cuda")
    assert pick_device("auto") == CPU
    for name in ("gpu", "cuda:x", "mps"):
        with pytest.raises(ValueError, match=f"device='{name}'"):
            pick_device(name)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dataset": "cifar11"}, "cifar11.*did you mean 'cifar10'"),
        ({"train_size": 5000}, "train_size=5000 and validation_size=0 ask for more than the 1437"),
        ({"validation_size": 1400}, "train_size=300 and validation_size=1400 ask for more"),
        ({"train_size": 20}, "batch_size=50 exceeds the 20 training images"),
        ({"mc_samples": 3}, "batch_size=50 cannot be shared by 1 processes with 3 weight samples"),
        ({"image_size": 32}, "image_size=32 is for images in files"),
        ({"labels": "cifar10n:worse_label", "corruption": "none", "rate": 0.0}, "belong to 'cifar10', not to 'digits'"),
        ({"corruption": "class_dependent", "rate": 0.5, "rate_step": 0.06}, "rate_step of at most 0.05"),
    ],
)
def test_what_the_data_do_not_allow_is_said_in_one_line_and_nothing_is_left(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        run(tiny(**changes), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_always_wrong_class_is_allowed():
    result = run(tiny(method="sgd", corruption="class_dependent", rate=0.5, rate_step=0.05, epochs=1))
    assert result.status == "finished"


# ------------------------------------------------------------------ images in files
@pytest.mark.slow
def test_folders_of_images_train_and_count_what_cannot_be_read(tmp_path):
    root = photographs(tmp_path / "photos")
    (root / "cat" / "3.png").write_bytes(b"not an image")
    config = RunConfig(
        dataset=str(root), method="ivon", model="cnn3", pretrained=False, image_size=16, epochs=3, batch_size=8,
        lr=0.05, eval_samples=2, corruption="symmetric", rate=0.1,
    )  # fmt: skip
    result = run(config, tmp_path / "runs")
    assert result.status == "finished" and result.final["test_accuracy"] == 1.0
    assert result.counts == {"train_images": 48, "unlabelled": 0, "unreadable": 1}

    with pytest.raises(vlls.train.Interrupted):
        run(config, tmp_path / "cut", reporters=[StopAt(8)])
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(result.folder), saved(cut.folder)) == []


@pytest.mark.slow
def test_unreadable_test_images_are_left_out_of_the_measures(tmp_path):
    root = photographs(tmp_path / "photos" / "train").parent
    photographs(root / "test", each=5)
    config = RunConfig(
        dataset=str(root), method="sgd", model="cnn3", pretrained=False, image_size=16, epochs=2, batch_size=8, lr=0.05
    )
    assert run(config).final["test_accuracy"] == 1.0
    for i in range(5):
        (root / "test" / "cat" / f"{i}.png").write_bytes(b"")  # unreadable: in training, dogs would replace them
    assert run(config).final["test_accuracy"] == 1.0


# ------------------------------------------------------------------ on a GPU
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("method", ["sgd", "sam", "ols", "elr", "ivon", "ivon_elr"])
def test_captured_steps_are_the_eager_ones(method):
    config = tiny(method=method, augment=True, precision="float32", epochs=2).resolved()
    data = prepare(config)
    trainers = [Trainer(config, data, torch.device("cuda", 0), cuda_graph=graph) for graph in (True, False)]
    for trainer in trainers:
        trainer.batches.start(0, 0)
        for i in range(6):
            trainer.step(i)
    captured, eager = trainers
    assert captured.captured and not eager.captured
    assert relative_difference(captured.model, eager.model) < 1e-3
    assert captured.epoch_sums() == pytest.approx(eager.epoch_sums(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "sam", "ls", "ivon"])
def test_the_setting_of_the_gpu_test_learns_with_bfloat16(method):
    config = tiny(method=method, corruption="none", rate=0.0, train_size=None, epochs=6, precision="bfloat16")
    options = {"eval_every": 6, "thorough_every": 6, "eval_samples": 0}
    assert run(dataclasses.replace(config, **options)).final["test_accuracy"] > 0.7  # it asks for 0.5; chance is 0.1


@needs_gpu
@pytest.mark.parametrize("method", ["sgd", "sam", "ls", "ivon"])
def test_gpu_run_with_bfloat16_learns_and_resumes(tmp_path, method):
    # no augmentation: with crops and flips of 8x8 pixels, so few epochs teach little
    config = tiny(method=method, corruption="none", rate=0.0, train_size=None, epochs=6)
    with pytest.raises(vlls.train.Interrupted):
        run(config, tmp_path, device="cuda", reporters=[StopAt(40)])
    result = run(config, tmp_path, device="cuda", resume=True)
    assert result.machine["cuda_graph"] and result.final["test_accuracy"] > 0.5


def test_arrays_can_be_handed_over():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    arrays = ImageArrays("mine", x, y, x[:30], y[:30], ("a", "b", "c"), y)
    from vlls.train._prepare import Images, RunData

    data = RunData(Images(arrays.train_x, y, None), None, Images(arrays.test_x, y[:30], None), arrays.classes, 0)
    result = run(dataclasses.replace(tiny(method="sgd"), batch_size=10, train_size=None), data=data)
    assert result.status == "finished" and "clean_part_accuracy" not in result.final


def test_graph_takes_over_after_three_steps(monkeypatch):
    """The code around the capture, with a stand-in whose replay runs the step."""
    config = tiny(method="ivon", augment=True).resolved()
    eager, graphed = (Trainer(config, prepare(config), CPU) for _ in range(2))
    events = []

    class Graph:
        def register_generator_state(self, generator):
            events.append(("registered", generator))

        def replay(self):
            events.append("replay")
            Trainer._take(graphed)

    class Capture:
        def __init__(self, graph, stream, capture_error_mode):
            graphed._take = lambda: events.append("captured")  # a capture computes nothing

        def __enter__(self):
            pass

        def __exit__(self, *_):
            del graphed._take

    class Stream:
        def wait_stream(self, other):
            events.append("waited")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    graphed._use_graph, graphed._stream = True, Stream()
    for trainer in (eager, graphed):
        trainer.batches.start(0, 0)
        for i in range(6):
            trainer.step(i)
    assert graphed.captured and not eager.captured
    generators = [graphed.batches.generator, *graphed.samplers]
    assert events == ["waited"] * 6 + [("registered", g) for g in generators] + ["captured"] + ["replay"] * 3
    assert relative_difference(graphed.model, eager.model) == 0.0
