"""Chapter 14: the rungs' optima, their costs, the adaptivity of their noise, and the sentences made of the record."""

import copy
import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from figures import ladder as chapter
from figures.ladder import RUNGS, eigenspace, hold, kronecker_bases, ladder, ladder_step, noise_size, on_contrasts

import vlls
from vlls import GLM, Categorical, Gaussian, GaussianPosterior, Poisson

BOOK = Path(__file__).parents[2] / "book"
RECORD = json.loads((BOOK / "results" / "ladder.json").read_text())
TEXT = "\n\n".join(
    cell.source
    for cell in nbformat.read(BOOK / "14_ladder_of_posteriors.ipynb", as_version=4).cells
    if cell.cell_type == "markdown"
)
P, K = 4, 3
EYE = torch.eye(P * K, dtype=torch.float64)


@pytest.fixture(scope="module")
def glm():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, P, dtype=torch.float64, generator=generator)
    features[:, 1] += features[:, 0]  # correlated, so that the rungs differ
    labels = torch.randint(K, (60,), generator=generator)
    return GLM(Categorical(K, num_points=64, replicates=4), features, labels)


@pytest.fixture(scope="module")
def rungs(glm):
    return ladder(glm, tol=1e-9)


def bases(rungs):
    """Return the orthogonal matrix in which each rung's weights are independent."""
    return {"diagonal": EYE, "eigenspace": torch.kron(*kronecker_bases(rungs["full"].precision, (P, K)))}


def objective(glm, q):
    return -float(glm.elbo(q))


# ---------------------------------------------------------------------- the optimum of a rung
@pytest.mark.guards("prop-rung-optimum")
def test_a_rung_is_at_rest_where_the_projected_hessian_is_its_precision(glm, rungs):
    hessians = {name: glm.expected_hessian(q) for name, q in rungs.items()}
    for name, q in rungs.items():
        assert float(glm.expected_gradient(q).abs().max()) < 1e-6, name
    for name, basis in bases(rungs).items():
        precision = basis.T @ rungs[name].precision @ basis
        expected = (basis.T @ hessians[name] @ basis).diagonal()
        assert precision.numpy() == pytest.approx(torch.diag(expected).numpy(), abs=1e-6)
    trace = float(hessians["isotropic"].trace()) / (P * K)
    assert rungs["isotropic"].precision.numpy() == pytest.approx((trace * EYE).numpy(), abs=1e-6)
    assert rungs["full"].precision.numpy() == pytest.approx(hessians["full"].numpy(), abs=1e-6)


@pytest.mark.guards("prop-rung-optimum")
def test_no_posterior_of_the_rung_is_better(glm, rungs):
    generator = torch.Generator().manual_seed(1)
    for name, basis in {"isotropic": EYE, **bases(rungs)}.items():
        q = rungs[name]
        least, variance = objective(glm, q), (basis.T @ q.covariance @ basis).diagonal()
        for size in (1e-2, 0.3):
            for _ in range(4):
                factor = (size * torch.randn(P * K, dtype=torch.float64, generator=generator)).exp()
                factor = factor[:1].expand(P * K) if name == "isotropic" else factor
                shift = size * torch.randn(P, K, dtype=torch.float64, generator=generator)
                covariance = (basis * (variance * factor)) @ basis.T
                other = GaussianPosterior(q.mean + shift, (covariance + covariance.T) / 2)
                assert objective(glm, other) > least, name
    order = [objective(glm, rungs[name]) for name in ("full", "eigenspace", "isotropic")]
    assert order == sorted(order) and objective(glm, rungs["diagonal"]) < order[-1]
    start = GaussianPosterior(torch.ones(P, K), precision=7 * EYE)  # another start, the same end
    restrict = eigenspace(bases(rungs)["eigenspace"])
    again = vlls.fit(glm, ladder_step, start, restrict=restrict, tol=1e-9, max_iter=300).final
    # the start's precision is in the family of every basis
    assert float(again.kl(rungs["eigenspace"])) < 1e-8


# ---------------------------------------------------------------------- the price
@pytest.mark.guards("prop-rung-price")
def test_the_price_of_a_rung_is_half_a_ratio_of_determinants():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(30, 6, dtype=torch.float64, generator=generator)
    linear = GLM(Gaussian(), features, torch.randn(30, generator=generator))
    full = vlls.fit(linear, vlls.von_step).final
    hessian, eye = full.precision, torch.eye(6, dtype=torch.float64)
    prices = {}
    random = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    eigen = torch.linalg.eigh(hessian).eigenvectors
    for name, basis in {"diagonal": eye, "random": random, "eigen": eigen}.items():
        q = vlls.fit(linear, ladder_step, GaussianPosterior(full.mean, 1.0), restrict=eigenspace(basis), lr=1.0).final
        prices[name] = float((basis.T @ hessian @ basis).diagonal().log().sum() - hessian.logdet()) / 2
        assert float(q.kl(full)) == pytest.approx(prices[name], abs=1e-9)
        assert objective(linear, q) - objective(linear, full) == pytest.approx(prices[name], abs=1e-8)
    single = GaussianPosterior(full.mean, precision=float(hessian.trace()) / 6)
    price = (6 * np.log(float(hessian.trace()) / 6) - float(hessian.logdet())) / 2
    assert float(single.kl(full)) == pytest.approx(price, abs=1e-9)
    assert abs(prices["eigen"]) < 1e-9 < prices["diagonal"] < price and prices["random"] < price


@pytest.mark.guards("prop-unseen-directions")
def test_directions_that_change_no_prediction_keep_the_prior(glm, rungs):
    ones = torch.ones(K, dtype=torch.float64)
    for u in torch.eye(P, dtype=torch.float64):
        direction = torch.kron(u, ones)
        for q in rungs.values():
            assert (glm.expected_hessian(q) @ direction).numpy() == pytest.approx(direction.numpy(), abs=1e-10)
        for name in ("full", "eigenspace"):
            assert (rungs[name].covariance @ direction).numpy() == pytest.approx(direction.numpy(), abs=1e-6)
        assert float((rungs["diagonal"].covariance @ direction - direction).abs().max()) > 0.1
    whole = {name: float(q.kl(rungs["full"])) for name, q in rungs.items()}
    seen = {name: float(on_contrasts(q).kl(on_contrasts(rungs["full"]))) for name, q in rungs.items()}
    assert seen["eigenspace"] == pytest.approx(whole["eigenspace"], abs=1e-6)
    assert seen["diagonal"] < whole["diagonal"] - 0.1


# ---------------------------------------------------------------------- adaptive variances
def variation(x):
    return float(x.std(correction=0) / x.mean())


@pytest.mark.guards("prop-even-or-apart")
@pytest.mark.parametrize("decay", [1e-3, 0.3, 20.0])
def test_a_learned_covariance_evens_lengths_out_and_sets_copies_apart(decay):
    generator = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator)).Q
    uneven = 5 * torch.rand(8, dtype=torch.float64, generator=generator)
    for squares in (uneven, torch.tensor([1.0] * 7 + [4.0], dtype=torch.float64)):
        features = squares.sqrt()[:, None] * axes
        linear = GLM(Gaussian(), features, torch.zeros(8), regularizer=vlls.Ridge(decay))
        learned = vlls.fit(linear, vlls.von_step).final.marginal(features)[1]
        assert learned.numpy() == pytest.approx((squares / (squares + decay)).numpy(), rel=1e-9)
        assert variation(learned) < variation(squares)
    counts = torch.arange(1, 9).double()
    features = 1.5 * axes.repeat_interleave(counts.long(), dim=0)
    linear = GLM(Gaussian(), features, torch.zeros(len(features)), regularizer=vlls.Ridge(decay))
    learned = vlls.fit(linear, vlls.von_step).final.marginal(1.5 * axes)[1]
    assert learned.numpy() == pytest.approx((2.25 / (2.25 * counts + decay)).numpy(), rel=1e-9)
    same = GaussianPosterior(torch.zeros(8), 0.3).marginal(1.5 * axes)[1]
    assert variation(same) < 1e-12 < 0.1 < variation(learned)


@pytest.mark.slow
# ---------------------------------------------------------------------- the order of a method
@pytest.mark.guards("prop-same-end")
def test_all_orders_end_at_the_same_mean(glm):
    generator = torch.Generator().manual_seed(4)
    root = torch.randn(P * K, P * K, dtype=torch.float64, generator=generator)
    preconditioner = root @ root.T / (P * K) + EYE
    for kept in (1.0, 0.05):
        start = GaussianPosterior(torch.zeros(P, K), kept)
        newton = vlls.fit(glm, ladder_step, start, restrict=hold(1 / kept), tol=1e-11, max_iter=200).final
        hessian = glm.expected_hessian(newton)
        spectrum = torch.linalg.eigvalsh(hessian)
        lr = float(2 / (spectrum[0] + spectrum[-1]))
        first = vlls.fit(glm, vlls.variational_gd_step, start, lr=lr, tol=1e-11, max_iter=5000)
        assert (first.final.mean - newton.mean).abs().max() < 1e-8
        errors = [float((q.mean - newton.mean).norm()) for q in first.states]
        at = next(i for i, error in enumerate(errors) if error < 1e-4)
        ratio = float(spectrum[-1] / spectrum[0])
        assert (errors[at + 20] / errors[at]) ** (1 / 20) <= (ratio - 1) / (ratio + 1) + 1e-3
        q, rho = start, 0.5 / float(torch.linalg.eigvals(preconditioner @ hessian).real.max())
        for _ in range(20_000):
            move = rho * (preconditioner @ glm.expected_gradient(q).flatten()).reshape(P, K)
            q = q._moved(q.mean - move, {})
            if float(move.abs().max()) < 1e-10:
                break
        assert (q.mean - newton.mean).abs().max() < 1e-5
    assert (vlls.fit(glm, vlls.newton_step).final - newton.mean).abs().max() > 1e-4  # another Σ, another mean


# ---------------------------------------------------------------------- measures
def test_the_size_of_the_noise_is_that_of_draws(glm, rungs):
    for q in (rungs["full"], rungs["isotropic"]):
        draws = q.sample(20_000, generator=torch.Generator().manual_seed(5))
        moved = torch.softmax(torch.einsum("np,spk->snk", glm.features[:8], draws), -1)
        square = (moved - torch.softmax(glm.features[:8] @ q.mean, -1)).square().sum(-1)
        error = square.std(0) / len(draws) ** 0.5
        off = (noise_size(glm, q)[:8].square() - square.mean(0)).abs() / error
        assert float(off.max()) < 4.5


def test_the_matched_variance_has_noise_of_the_same_size(glm, rungs):
    start = chapter.climb(glm, hold(1e3), chapter.laplace(glm))
    q = chapter.matched(glm, rungs["full"], start)
    assert float(noise_size(glm, q).mean()) == pytest.approx(float(noise_size(glm, rungs["full"]).mean()), rel=2e-3)
    assert float(q.covariance[0, 0]) * EYE.numpy() == pytest.approx(q.covariance.numpy())


def test_a_rung_of_another_family_rests_too():
    generator = torch.Generator().manual_seed(6)
    poisson = GLM(Poisson(), torch.randn(40, 3, generator=generator) / 2, torch.randint(4, (40,), generator=generator))
    restrict = eigenspace(torch.eye(3, dtype=torch.float64))
    q = vlls.fit(poisson, ladder_step, GaussianPosterior(torch.zeros(3), 1.0), restrict=restrict).final
    assert (q.precision.diagonal() - poisson.expected_hessian(q).diagonal()).abs().max() < 1e-7


def test_digits_are_split_and_spoilt_by_the_seed():
    one, right, test = chapter.digits_glm(0.4, 1)
    wrong = one.targets.argmax(1) != right
    assert one.parameter_shape == (65, 10) and len(right) == 1437 and len(test[1]) == 360
    assert 0.34 < float(wrong.double().mean()) < 0.46 and float(one.features.max()) == 1.0
    other = chapter.digits_glm(0.0, 2)
    assert (other[0].targets.argmax(1) == other[1]).all() and not torch.equal(other[1], right)


# ---------------------------------------------------------------------- the record
def of(rate, posterior, number):
    return chapter.values(RECORD, rate, posterior, number)


def test_the_record_meets_its_goal():
    assert len({cell["seed"] for cell in RECORD["cells"]}) >= 3 and RECORD["rates"] == [0.0, 0.2, 0.4]
    assert len(RECORD["cells"]) == 3 * len({cell["seed"] for cell in RECORD["cells"]})
    assert (of(0.4, "eigenspace", "kl") < of(0.4, "diagonal", "kl") / 3).all()
    for rate in RECORD["rates"]:
        for name in RUNGS[:-1]:
            assert (of(rate, name, "elbo") < of(rate, "full", "elbo")).all()
        assert of(rate, "eigenspace", "kl_contrasts") == pytest.approx(of(rate, "eigenspace", "kl"), abs=0.1)


def test_what_the_chapter_says_by_hand_is_in_the_record():
    gaps = chapter.ladder_gaps
    for lower, upper in pairwise(RUNGS):
        assert all(gap.side == 1 for gap in gaps(RECORD, upper, lower, "variation").values())
    matched = gaps(RECORD, "full", "matched", "variation")
    assert [matched[rate].side for rate in RECORD["rates"]] == [0, 1, 1]
    for rate, left in {0.2: 0.5, 0.4: 0.75}.items():  # of the difference to one variance, at the same amount of noise
        full, isotropic, same_noise = (of(rate, name, "variation") for name in ("full", "isotropic", "matched"))
        assert (full - same_noise > left * (full - isotropic)).all()
    assert gaps(RECORD, "full", "isotropic", "variation_eq20")[0.0].side == -1
    mean_noise = gaps(RECORD, "full", "isotropic", "variation_eq16")
    assert all(gap.side == 1 for gap in mean_noise.values())
    assert gaps(RECORD, "eigenspace", "full", "variation_eq16")[0.4].side == 1
    assert (of(0.4, "diagonal", "kl") > 20 * of(0.4, "eigenspace", "kl")).all()
    for rate in RECORD["rates"]:
        isotropic, diagonal, eigen = (of(rate, name, "kl") for name in RUNGS[:-1])
        assert (isotropic - diagonal < 0.5 * (isotropic - eigen)).all()
        assert all((of(rate, name, "elbo") < of(rate, "full", "elbo")).all() for name in chapter.FIRST_ORDER)
    numbers = ("accuracy", "noise", "variation")
    last = {name: {n: of(0.4, name, n).mean() for n in numbers} for name in (*RUNGS, *chapter.FIRST_ORDER)}
    assert max(last, key=lambda name: last[name]["accuracy"]) == "identity"
    assert max(last, key=lambda name: last[name]["noise"]) == "identity"
    assert min(last, key=lambda name: last[name]["variation"]) == "identity"
    assert gaps(RECORD, "full", "identity", "accuracy")[0.4].side == -1
    compared = ("full", "diagonal", *chapter.FIRST_ORDER)
    assert min(compared, key=lambda name: of(0.0, name, "accuracy").mean()) == "identity"
    assert all(gap.side == 0 for gap in gaps(RECORD, "full", "matched", "accuracy").values())
    assert all(gap.side == 1 for gap in gaps(RECORD, "full", "matched", "nll").values())
    found = np.concatenate([of(rate, name, "auroc_wrong") for rate in (0.2, 0.4) for name in RUNGS])
    assert found.max() < 0.65
    assert (of(0.4, "eigenspace", "kl") < of(0.2, "eigenspace", "kl")).all()
    assert (of(0.2, "eigenspace", "kl") < of(0.0, "eigenspace", "kl")).all()


def changed(**numbers):
    """Return the record with numbers replaced, such as ``full__variation=2.0``, for all seeds up to 1e-3."""
    record = copy.deepcopy(RECORD)
    for name, value in numbers.items():
        posterior, _, number = name.partition("__")
        for cell in record["cells"]:
            cell["posteriors"][posterior][number] = value * (1 + 1e-3 * cell["seed"])
    return record


def test_words_follow_the_record():
    words = chapter.fidelity_in_words(RECORD)
    share = of(0.4, "eigenspace", "kl") / of(0.4, "diagonal", "kl")
    told = re.search(r"keeps ([\d.]+) to ([\d.]+) % of the diagonal's distance, less than a third", words)
    assert list(map(float, told.groups())) == [round(100 * share.min(), 1), round(100 * share.max(), 1)]
    assert f"diagonal {of(0.0, 'diagonal', 'kl').mean():.0f} ± " in words
    assert "not less than a third" in chapter.fidelity_in_words(changed(eigenspace__kl=300.0, diagonal__kl=400.0))

    above = {"full__variation": 3.0, "eigenspace__variation": 2.0, "diagonal__variation": 1.0}
    words = chapter.adaptivity_in_words(changed(isotropic__variation=0.5, matched__variation=4.0, **above))
    assert words.count("more unequal at 0, 20 and 40 %") >= 3
    assert "as much noise (*matched*): less unequal at 0, 20 and 40 %" in words
    words = chapter.adaptivity_in_words(changed(isotropic__variation=5.0, **above))
    assert "diagonal against isotropic: less unequal at 0, 20 and 40 %" in words

    record = changed(**{f"{name}__auroc_wrong": 0.8 for name in RUNGS})
    assert "noise tells which labels" in chapter.order_in_words(record)
    assert "says little about" in chapter.order_in_words(changed(**{f"{name}__auroc_wrong": 0.55 for name in RUNGS}))
    words = chapter.best_in_words(changed(full__accuracy=0.9, identity__accuracy=0.95, h0__accuracy=0.85))
    assert "descent with Σ = I: test accuracy lower at 0, 20 and 40 %" in words
    assert "descent with Σ from h₀ = 0.9: test accuracy higher at 0, 20 and 40 %" in words
    table = chapter.table_of(RECORD, ["full", "identity"], {"accuracy": ".3f"})
    found = of(0.4, "full", "accuracy")
    assert table["accuracy", "40 %"]["full"] == f"{found.mean():.3f} ± {found.std(ddof=1):.3f}"
