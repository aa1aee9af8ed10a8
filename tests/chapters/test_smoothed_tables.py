"""Smoothed labels class by class: the similarity of IVON's table to online label smoothing's; guards Chapter 8."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from torch import nn
from torch.func import functional_call, jacrev

from vlls import Bernoulli, DiagonalPosterior, label_noise, label_noise_moments
from vlls.experiments import smoothed_labels
from vlls.smoothing import OnlineLabelSmoothing, smooth_labels
from vlls.train import RunConfig, load_run, run

DOUBLE = torch.float64


def problem(classes=4, scale=3.0, seed=0):
    """Return a small network in float64, a posterior with unequal standard deviations, and inputs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes)).double().eval()
    with torch.no_grad():
        model[2].weight.mul_(scale)
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    q = DiagonalPosterior(mean, {name: 0.05 + 0.1 * torch.rand_like(p) for name, p in mean.items()})
    return model, q, torch.randn(24, 5, dtype=DOUBLE)


def prediction_and_spread(model, q, x):
    """Return p of the network and s of {eq}`eq-prediction-times-spread`, from Jacobians by autograd."""
    jacobian = jacrev(lambda mean: functional_call(model, mean, (x,)))(dict(q.mean))
    with torch.no_grad():
        p = model(x).softmax(1)
        scaled = torch.cat([(jacobian[name] * q.std[name]).flatten(2) for name in q.mean], 2)
    less_mean = scaled - (p[:, None, :] @ scaled)  # rows e_k - p, times J and the standard deviations
    return p, less_mean.norm(dim=2)


@pytest.mark.guards("prop-smoothed-tables")
def test_noise_sums_to_zero_in_every_draw_and_in_the_mean():
    model, q, x = problem()
    generator = torch.Generator().manual_seed(0)
    mean = dict(q.mean)
    for _ in range(20):
        draw = {
            name: m + q.std[name] * torch.randn(m.shape, generator=generator, dtype=DOUBLE) for name, m in mean.items()
        }
        with torch.no_grad():
            noise = model(x).softmax(1) - functional_call(model, draw, (x,)).softmax(1)
        assert float(noise.sum(1).abs().max()) < 1e-14 < 1e-3 < float(noise.abs().max())
    for options in ({}, {"method": "rank"}, {"method": "monte_carlo", "num_samples": 3}):
        shift = label_noise(model, q, x, **options)
        assert float(shift.sum(1).abs().max()) < 1e-13 < 1e-4 < float(shift.abs().max())


@pytest.mark.guards("prop-smoothed-tables")
@pytest.mark.parametrize("classes", [2, 4])
def test_noise_of_eq_20_is_prediction_times_spread(classes):
    model, q, x = problem(classes)
    p, spread = prediction_and_spread(model, q, x)
    noise = label_noise_moments(model, q, x, linear=True, curvature_pairs=0)
    torch.testing.assert_close(noise.std, p * spread, rtol=1e-9, atol=1e-13)
    without = p * noise.logit_covariance.diagonal(dim1=1, dim2=2).sqrt()  # the logit's own spread is another one
    assert float((noise.std / without - 1).abs().max()) > 0.1


@pytest.mark.guards("prop-smoothed-tables")
def test_an_entry_lies_between_the_spreads_times_the_rms_prediction():
    for seed in range(5):
        model, q, x = problem(seed=seed)
        p, spread = prediction_and_spread(model, q, x)
        std = label_noise_moments(model, q, x, linear=True, curvature_pairs=0).std
        entry, rms = (value.square().mean(0).sqrt() for value in (std, p))
        assert bool((entry >= spread.min(0).values * rms * (1 - 1e-12)).all())
        assert bool((entry <= spread.max(0).values * rms * (1 + 1e-12)).all())


@pytest.mark.guards("prop-smoothed-tables")
def test_mean_labels_of_two_classes_leave_the_unit_interval_and_those_of_smoothing_do_not():
    for f in (-4.0, -0.3, 0.7, 3.0):
        for v in (0.1, 1.0, 9.0):
            averaged = quad(lambda e, f=f, v=v: expit(f + v**0.5 * e) * np.exp(-e * e / 2), -12, 12)[0]
            averaged /= np.sqrt(2 * np.pi)
            noise = float(Bernoulli().label_noise(*torch.tensor([f, v], dtype=DOUBLE)))
            assert noise == pytest.approx(expit(f) - averaged, abs=1e-9)
            right = float(f > 0)
            label = np.array([right + noise, 1 - right - noise])
            assert label.min() < 0 and label.max() > 1 and label.sum() == pytest.approx(1)
            assert min(expit(f), 0.5) < averaged < max(expit(f), 0.5)
    ols = OnlineLabelSmoothing(alpha=0.5, n_classes=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ols(4 * torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator))
        ols.next_epoch()
        for table in (0.5 * torch.eye(3) + 0.5 * ols.soft_labels, smooth_labels(torch.eye(3), 0.1)):
            assert float(table.min()) >= 0 and float(table.max()) <= 1
            assert table.sum(1).numpy() == pytest.approx(np.ones(3))


@pytest.mark.slow
def test_the_table_of_ivon_holds_the_size_of_the_noise_and_its_mean(tmp_path):
    size = {"dataset": "digits", "epochs": 2, "eval_every": 2, "train_size": 120, "eval_samples": 0}
    loaded = load_run(run(RunConfig(method="ivon", lr=0.3, **size), tmp_path, device="cpu").folder)
    labels = smoothed_labels(loaded)
    table, mean = np.array(labels["smoothed"]), np.array(labels["mean_noise"])
    train = loaded.images("train")
    noise = label_noise_moments(loaded.model, loaded.posterior, train.batch(range(len(train))), method="rank")
    square = (noise.std.square() + noise.mean_shift.square()).double()
    for c in range(10):
        own, others = train.given == c, np.arange(10) != c
        assert table[c, others] == pytest.approx(square[own].mean(0).sqrt().numpy()[others], rel=1e-4)
        assert mean[c] == pytest.approx(noise.mean_shift[own].mean(0).numpy(), abs=1e-6)
    assert table.sum(1) == pytest.approx(np.ones(10)) and mean.sum(1) == pytest.approx(np.zeros(10), abs=1e-6)
    assert (table[~np.eye(10, dtype=bool)] > 0).all()


def test_the_tables_of_smoothing_are_what_the_loss_takes_for_the_label(tmp_path):
    size = {"dataset": "digits", "epochs": 1, "train_size": 120, "eval_samples": 0}
    folder = run(RunConfig(method="ls", smoothing=0.1, **size), tmp_path, device="cpu").folder
    assert np.array(smoothed_labels(load_run(folder))["smoothed"]) == pytest.approx(0.9 * np.eye(10) + 0.01)
    folder = run(RunConfig(method="sgd", **size), tmp_path, device="cpu").folder
    with pytest.raises(ValueError, match="does not smooth labels"):
        smoothed_labels(load_run(folder))
