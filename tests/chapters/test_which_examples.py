"""Examples that get noise: the bound of Eq. 20, and its independence of the labels; guards Chapter 7."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from vlls import Bernoulli, DiagonalPosterior, label_noise_moments, rank_examples
from vlls.models import cnn3

DOUBLE = torch.float64


def posterior(model, std, generator):
    """Return a Gaussian around the model's weights with unequal standard deviations."""
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    return DiagonalPosterior(
        mean, {name: std * (0.5 + torch.rand(p.shape, generator=generator, dtype=p.dtype)) for name, p in mean.items()}
    )


def network(num_outputs, scale=1.0, seed=0):
    """Return a small network in float64 whose logits are ``scale`` times as large as at its start."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, num_outputs)).double().eval()
    with torch.no_grad():
        model[2].weight *= scale
        model[2].bias *= scale
    return model


def plain_logit_covariance(model, q, x):
    """Return J diag(std²) Jᵀ of each example by autograd, one logit at a time: (B, K, K)."""
    rows = []
    for one in x:
        logits = model(one[None])[0]
        jacobian = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in logits]
        scaled = torch.stack(
            [torch.cat([(g * s).flatten() for g, s in zip(row, q.std.values(), strict=True)]) for row in jacobian]
        )
        rows.append(scaled @ scaled.T)
    return torch.stack(rows)


# ------------------------------------------------------------------ the size of Eq. 20's noise
@pytest.mark.guards("prop-noise-doubt")
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_the_noise_of_a_single_logit_is_slope_times_spread(scale):
    generator = torch.Generator().manual_seed(1)
    model = network(1, scale)
    q = posterior(model, 0.1, generator)
    x = torch.randn(20, 5, dtype=DOUBLE, generator=generator)
    v = plain_logit_covariance(model, q, x)[:, 0, 0]
    p = model(x).detach().sigmoid()[:, 0]
    noise = label_noise_moments(model, q, x, linear=True, curvature_pairs=0, family=Bernoulli())
    torch.testing.assert_close(noise.magnitude, p * (1 - p) * v.sqrt(), rtol=1e-9, atol=1e-14)
    doubt = torch.minimum(p, 1 - p)
    assert bool((noise.magnitude <= doubt * v.sqrt() + 1e-14).all())


@pytest.mark.guards("prop-noise-doubt")
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_noise_of_classes_is_bounded_by_doubt_times_spread(num_classes, scale):
    generator = torch.Generator().manual_seed(2)
    model = network(num_classes, scale)
    q = posterior(model, 0.2, generator)
    x = torch.randn(30, 5, dtype=DOUBLE, generator=generator)
    spread = plain_logit_covariance(model, q, x).diagonal(dim1=1, dim2=2).sum(1).sqrt()
    doubt = 1 - model(x).detach().softmax(1).amax(1)
    linear = label_noise_moments(model, q, x, linear=True, curvature_pairs=0)
    assert bool((linear.magnitude <= 2 * doubt * spread * (1 + 1e-9)).all())
    whole = label_noise_moments(model, q, x, curvature_pairs=0)
    assert bool((whole.magnitude <= spread / 2 * (1 + 1e-3)).all())  # an integration rule, not an integral


@pytest.mark.guards("prop-noise-doubt")
def test_the_constants_of_the_bounds_are_needed():
    """Two logits that move against each other: both bounds are within a factor of root two or reached."""
    doubt = torch.tensor(1e-4, dtype=DOUBLE)
    p = torch.stack([1 - doubt, doubt])
    curvature = torch.diag(p) - torch.outer(p, p)
    against = torch.tensor([1.0, -1.0], dtype=DOUBLE)
    v = torch.outer(against, against)
    ratio = (curvature @ v @ curvature).trace().sqrt() / (2 * doubt * v.trace().sqrt())
    assert 0.99 < float(ratio) <= 1.0
    even = torch.diag(torch.full((2,), 0.5, dtype=DOUBLE)) - 0.25
    assert float(torch.linalg.eigvalsh(even).amax()) == pytest.approx(0.5)


@pytest.mark.guards("prop-noise-doubt")
def test_confidence_takes_the_noise_away_at_a_fixed_spread():
    """Weights of the body are fixed, the last bias is uncertain: V is the same however large the logits are."""
    x = torch.randn(6, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    found = []
    for scale in (1.0, 10.0, 100.0, 1000.0):
        model = network(3, scale)
        mean = {name: p.detach().clone() for name, p in model.named_parameters()}
        std = {name: torch.full_like(p, 0.3 if name == "2.bias" else 0.0) for name, p in mean.items()}
        noise = label_noise_moments(model, DiagonalPosterior(mean, std), x, linear=True, curvature_pairs=0)
        torch.testing.assert_close(noise.logit_covariance, (0.09 * torch.eye(3, dtype=DOUBLE)).expand(6, 3, 3))
        found.append(noise.magnitude)
    assert bool((found[3] < 1e-6 * found[0]).all())


# ------------------------------------------------------------------ the labels are not seen
@pytest.mark.guards("prop-noise-label-blind")
@pytest.mark.parametrize("method", ["exact", "rank", "monte_carlo"])
def test_the_noise_and_its_order_do_not_depend_on_the_labels(method):
    model = cnn3(10, image_size=8).eval()
    generator = torch.Generator().manual_seed(4)
    q = posterior(model, 0.05, generator)
    x = torch.randn(40, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (40,), generator=generator)
    tables = []
    for given in (labels, (labels + 1) % 10, torch.zeros_like(labels)):
        draws = torch.Generator().manual_seed(5)
        tables.append(rank_examples(model, q, x, given, method=method, num_samples=8, generator=draws))
    for table in tables[1:]:
        np.testing.assert_array_equal(table.index, tables[0].index)
        np.testing.assert_array_equal(table.noise, tables[0].noise)
        assert not np.array_equal(table.disagreement, tables[0].disagreement)  # which does look


@pytest.mark.guards("prop-noise-label-blind")
@pytest.mark.parametrize("scores", [[3, 1, 4, 1.5, 9, 2.6], [1, 1, 2, 2, 2, 5], [7, 7, 7, 7, 7, 7]])
@pytest.mark.parametrize("num_changed", [1, 2, 3, 5])
def test_over_all_choices_of_the_changed_labels_the_mean_auroc_is_one_half(scores, num_changed):
    total, choices = Fraction(0), 0
    for changed in itertools.combinations(range(6), num_changed):
        rest = [j for j in range(6) if j not in changed]
        pairs = [(scores[i], scores[j]) for i in changed for j in rest]
        wins = sum(Fraction((a > b) * 2 + (a == b), 2) for a, b in pairs)
        area = wins / len(pairs)
        wrong = [i in changed for i in range(6)]
        assert roc_auc_score(wrong, scores) == pytest.approx(float(area))
        total, choices = total + area, choices + 1
    assert total / choices == Fraction(1, 2)


@pytest.mark.guards("prop-noise-label-blind")
def test_a_choice_by_class_moves_the_auroc_away_from_one_half():
    """The condition of the proposition is needed: here the class with more noise is changed more often."""
    scores = [1.0, 2.0, 3.0, 4.0]  # the last two are of the other class
    areas = [roc_auc_score([i == changed for i in range(4)], scores) for changed in (2, 3)]
    assert np.mean(areas) > 0.8
