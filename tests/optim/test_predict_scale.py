"""Predictions at a scale of the posterior's standard deviations."""

import math

import numpy as np
import pytest
import torch
from ivon_problems import EXECUTORS, batch, cnn, executors, images, ivon, mlp, train_step, weights

import vlls
from vlls import DiagonalPosterior, GaussianPosterior
from vlls.optim.ivon._controls import PermutedIVON


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(outputs=3):
    torch.manual_seed(0)
    return torch.nn.Linear(4, outputs, dtype=torch.float64)


def diagonal(model, scale=1.0):
    stds = {name: scale * (0.1 + torch.rand(p.shape, generator=seeded(1)).double()) for name, p in
            model.named_parameters()}  # fmt: skip
    return DiagonalPosterior(dict(model.named_parameters()), stds)


def joint(model, scale=1.0):
    number = sum(p.numel() for p in model.parameters())
    root = torch.randn(number, number, generator=seeded(2), dtype=torch.float64) / number**0.5
    mean = {name: p.detach() for name, p in model.named_parameters()}
    return GaussianPosterior(mean, scale**2 * (root @ root.T + 0.1 * torch.eye(number)))


posteriors = pytest.mark.parametrize("make", [diagonal, joint])


@posteriors
@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_it_is_the_prediction_of_the_posterior_with_so_many_times_the_standard_deviations(make, scale):
    model, x = linear(), torch.randn(20, 4, dtype=torch.float64)
    found = vlls.predict(model, make(model), x, 6, scale=scale, generator=seeded())
    expected = vlls.predict(model, make(model, scale), x, 6, generator=seeded())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert (found - vlls.predict(model, make(model), x, 6, generator=seeded())).abs().max() > 0.01


@posteriors
def test_of_a_linear_model_it_is_an_integral_over_the_logit(make):
    """The logit is N(m, (s sigma)^2): draws agree with the mean of its sigmoid by Gauss-Hermite quadrature."""
    model, x, draws = linear(1), torch.randn(12, 4, dtype=torch.float64), 4000
    rows = torch.cat([x, torch.ones(12, 1, dtype=torch.float64)], 1)  # weights, then the bias
    if make is diagonal:
        variance = (rows.square() * torch.cat([s.flatten() for s in diagonal(model).std.values()]).square()).sum(1)
    else:
        variance = ((rows @ joint(model).covariance) * rows).sum(1)
    nodes, parts = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(80))
    parts /= parts.sum()
    for scale in (0.4, 1.7):
        logits = model(x).detach() + scale * variance.sqrt()[:, None] * nodes
        exact = logits.sigmoid() @ parts
        error = ((logits.sigmoid() - exact[:, None]).square() @ parts / draws).sqrt()
        found = vlls.predict(model, make(model), x, draws, scale=scale, generator=seeded())[:, 0]
        assert float(((found - exact) / error).abs().max()) < 4.5


@executors
def test_draws_of_an_optimizer_agree_with_its_posterior_s(executor):
    """The draws use its generator; weights, the sample in use, and the model's mode stay unchanged."""
    (model, data), draws = (mlp(), batch()), 300
    optimizer = ivon(model, generator=seeded(3), **EXECUTORS[executor])
    train_step(model, optimizer, data)
    before, state = weights(model), optimizer.generator.get_state()
    found = vlls.predict(model, optimizer, data[0], draws, scale=0.5)
    assert not torch.equal(optimizer.generator.get_state(), state) and torch.equal(weights(model), before)
    q = optimizer.posterior(model)
    halved = DiagonalPosterior(q.mean, {name: std / 2 for name, std in q.std.items()})
    each = torch.stack(
        [torch.func.functional_call(model, halved.sample(seeded(i)), (data[0],)).softmax(1) for i in range(draws)]
    )
    error = (2 * each.var(0) / draws).sqrt()
    assert float(((found - each.mean(0)) / error).abs().max()) < 4.5
    again = vlls.predict(model, optimizer, data[0], draws, scale=0.5, generator=seeded(4))
    assert torch.equal(vlls.predict(model, optimizer, data[0], draws, scale=0.5, generator=seeded(4)), again)
    assert not torch.equal(again, found)


@executors
def test_a_scale_of_one_changes_no_bit_and_of_zero_is_the_mean_s(executor):
    model, (x, _) = cnn(), images()
    optimizer = ivon(model, **EXECUTORS[executor])
    train_step(model, optimizer, images())
    model.eval()
    mean = model(x).softmax(1).detach()
    for posterior in (optimizer, optimizer.posterior(model)):
        as_before = vlls.predict(model, posterior, x, 3, generator=seeded())
        assert torch.equal(vlls.predict(model, posterior, x, 3, scale=1.0, generator=seeded()), as_before)
        assert torch.equal(vlls.predict(model, posterior, x, 3, scale=0.0), mean)
        assert not torch.equal(as_before, mean)


@executors
def test_a_scaled_prediction_between_sample_and_step_changes_nothing(executor):
    results = []
    for asked in (False, True):
        model, data = cnn(), images()
        optimizer = ivon(model, generator=seeded(5), **EXECUTORS[executor])
        for _ in range(2):
            with optimizer.sampled_params(train=True):
                torch.nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            if asked:
                vlls.predict(model, optimizer, data[0], 2, scale=0.7, generator=seeded())
                assert model.training
            optimizer.step()
            optimizer.zero_grad()
        results.append(torch.cat([t.flatten().double() for t in model.state_dict().values()]))
    assert torch.equal(*results)


def test_a_control_is_scaled_about_the_standard_deviations_that_it_samples_with():
    model, data = mlp(), batch()
    optimizer = PermutedIVON(model.parameters(), lr=0.1, ess=5.0, hess_init=0.3, beta2=0.5, seed=1)
    for _ in range(5):
        train_step(model, optimizer, data)
    found = vlls.predict(model, optimizer, data[0], 4, scale=0.5, generator=seeded())
    assert torch.equal(
        found, vlls.predict(model, optimizer.posterior(model), data[0], 4, scale=0.5, generator=seeded())
    )


@pytest.mark.parametrize("scale", [-0.1, math.inf, math.nan, True, None, "half", torch.ones(2)])
def test_other_scales_are_one_line(scale):
    model, data = mlp(), batch()
    for posterior in (ivon(model), ivon(model).posterior(model)):
        with pytest.raises(ValueError, match=r"scale=.* is not allowed; choose a finite number >= 0") as error:
            vlls.predict(model, posterior, data[0], scale=scale)
        assert "\n" not in str(error.value)


def test_inside_a_sample_and_with_another_s_model_it_is_refused():
    model, data = mlp(), batch()
    optimizer = ivon(model)
    with optimizer.sampled_params(), pytest.raises(RuntimeError, match="while the parameters hold a sample"):
        vlls.predict(model, optimizer, data[0], scale=0.5)
    with pytest.raises(ValueError, match="the optimizer trains no parameter of this model"):
        vlls.predict(mlp(), optimizer, data[0], scale=0.5)
