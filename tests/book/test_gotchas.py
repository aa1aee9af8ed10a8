"""The page of questions and answers on IVON: its code runs from top to bottom, its numbers are the package's."""

import re

import pytest
import torch
from chapters import ROOT

from vlls import IVON

PAGE = (ROOT / "book" / "gotchas.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_code_of_the_page_runs_with_torch_and_numpy_alone(run_bare):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    done = run_bare("\n".join(blocks))
    assert done.returncode == 0, done.stderr


def test_every_question_users_ask_has_an_answer():
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)).lower()
    for word in ("hessian", "parameters", "accumulate", "mixed precision", "several gpus", "set"):
        assert word in headings


def path(optimizer, parameter, steps):
    """Return a parameter's value after each step with a constant gradient of -1."""
    found = []
    for _ in range(steps):
        parameter.grad = -torch.ones_like(parameter)
        if isinstance(optimizer, IVON):
            with optimizer.sampled_params(train=True):
                parameter.grad = -torch.ones_like(parameter)
        optimizer.step()
        found.append(float(parameter.detach()))
    return found


def test_a_learning_rate_carries_over_from_sgd_as_the_page_says():
    """Proposition 10.2: ten times the rate of SGD with momentum 0.9, and the rate itself without momentum."""
    words = " ".join(PAGE.split())
    with_momentum, here = map(float, re.search(r"([\d.]+) there is `lr=([\d.]+)` here", words).groups())
    rates = r"the paper's ([\d.]+) to ([\d.]+) are SGD's ([\d.]+) to ([\d.]+)\)"
    paper = [float(rate) for rate in re.search(rates, words).groups()]
    assert here * (1 - 0.9) == pytest.approx(with_momentum)
    assert [0.1 * x for x in paper[:2]] == pytest.approx(paper[2:])
    ivon, momentum, plain = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(3))
    there = path(IVON([ivon], here, 1e12, hess_init=1.0, beta2=1.0, weight_decay=0.0), ivon, 400)
    beside = path(torch.optim.SGD([momentum], with_momentum, momentum=0.9), momentum, 400)
    without = path(torch.optim.SGD([plain], here), plain, 400)
    assert there == pytest.approx(without, rel=1e-9)
    assert there[-1] - there[-2] == pytest.approx(beside[-1] - beside[-2], rel=1e-9)
    assert there[-1] == pytest.approx(beside[-1], rel=0.03)
    same = path(torch.optim.SGD([momentum], here, momentum=0.9), momentum, 400)
    assert (same[-1] - same[-2]) / (there[-1] - there[-2]) == pytest.approx(10, rel=1e-3)
