"""Approximations of the label noise against the exact one."""

import pytest
import torch

from vlls import (
    GLM,
    Bernoulli,
    GaussianPosterior,
    Poisson,
    monte_carlo_label_noise,
    second_order_label_noise,
    taylor_label_noise,
)

MEAN = torch.linspace(-4, 4, 9, dtype=torch.float64)


def test_taylor_noise_is_equation_14():
    e = torch.tensor(-0.8, dtype=torch.float64)
    sigma = torch.sigmoid(MEAN)
    reference = sigma * (1 - sigma) * 3.0 * e
    assert torch.allclose(taylor_label_noise(Bernoulli(), MEAN, torch.full_like(MEAN, 9.0), e), reference)


def test_second_order_noise_is_minus_half_the_third_derivative():
    sigma = torch.sigmoid(MEAN)
    third = sigma * (1 - sigma) * (1 - 2 * sigma)
    noise = second_order_label_noise(Bernoulli(), MEAN, torch.full_like(MEAN, 0.2))
    assert torch.allclose(noise, -0.1 * third)


@pytest.mark.parametrize("family", [Bernoulli(), Poisson()], ids=repr)
def test_second_order_error_falls_with_the_square_of_the_variance(family):
    errors = []
    for v in (0.02, 0.01, 0.005):
        var = torch.full_like(MEAN, v)
        errors.append((family.label_noise(MEAN, var) - second_order_label_noise(family, MEAN, var)).abs().max())
    assert float(errors[0] / errors[1]) == pytest.approx(4, rel=0.05)
    assert float(errors[1] / errors[2]) == pytest.approx(4, rel=0.05)


def test_monte_carlo_noise_covers_the_exact_noise():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    glm = GLM(Bernoulli(), features, torch.zeros(200))
    q = GaussianPosterior([0.5, -1.0, 0.3], 0.7)
    noise, error = monte_carlo_label_noise(glm, q, 2000, generator=generator)
    t = (noise - glm.label_noise(q)) / error
    assert float(t.abs().max()) < 5
    again, _ = monte_carlo_label_noise(glm, q, 2000, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(again, noise)


def test_monte_carlo_error_is_the_standard_error_of_the_draws():
    glm = GLM(Poisson(), torch.ones(1, 1), [1.0])
    q = GaussianPosterior([0.2], 0.3)
    _, error = monte_carlo_label_noise(glm, q, 50, generator=torch.Generator().manual_seed(4))
    draws = torch.exp(q.sample(50, generator=torch.Generator().manual_seed(4)))
    assert torch.allclose(error, draws.std(0) / 50**0.5)


def test_a_single_draw_has_no_standard_error():
    glm = GLM(Poisson(), torch.ones(1, 1), [1.0])
    with pytest.raises(ValueError, match="num_samples=1 is not allowed; choose a whole number >= 2"):
        monte_carlo_label_noise(glm, GaussianPosterior([0.0], 1.0), 1)
