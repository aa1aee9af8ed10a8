"""Approximations of the label noise against the exact one."""

import pytest
import torch

from vlls import GLM, Bernoulli, GaussianPosterior, Poisson, second_order_label_noise, taylor_label_noise

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


def test_draws_of_the_parameters_have_the_exact_noise_of_a_glm():
    generator, n = torch.Generator().manual_seed(0), 2000
    features = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    glm, q = GLM(Bernoulli(), features, torch.zeros(200)), GaussianPosterior([0.5, -1.0, 0.3], 0.7)
    noise = torch.sigmoid(features @ q.mean) - torch.sigmoid(q.sample(n, generator=generator) @ features.T)
    t = (noise.mean(0) - glm.label_noise(q)) / (noise.std(0) / n**0.5)
    assert float(t.abs().max()) < 5
