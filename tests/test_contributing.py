"""The "Add a ..." sections of CONTRIBUTING work literally: each block is saved as a module, as a reader would do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlls import label_noise_moments, predict, rank_examples
from vlls.noise import logit_covariance
from vlls.posterior import Posterior

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def block(title: str) -> str:
    """Return the first Python block of a section."""
    section = CONTRIBUTING.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def vlls(folder: Path, *arguments: str) -> str:
    """Run the command in a folder and return what it prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "vlls", *arguments], cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_loss_trains_from_the_command_line(tmp_path):
    (tmp_path / "my_methods.py").write_text(block("Add a loss or an optimizer"))
    train = ("train", "--method", "confidence_penalty", "--epochs", "2", "--option", "strength=0.3")
    assert "CP on digits" in vlls(tmp_path, "--import", "my_methods", *train)


def test_a_posterior_serves_label_noise_and_predictions():
    names: dict = {}
    exec(block("Add a posterior"), names)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    mean = {name: p.detach() for name, p in model.named_parameters()}
    factors = {name: 0.2 * torch.randn(m.numel(), 2) for name, m in mean.items()}
    posterior = names["LowRank"](mean, factors, 0.1)
    assert isinstance(posterior, Posterior)
    x, y = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, x))(mean)
    expected = torch.zeros(6, 3, 3).double()
    for name, factor in factors.items():
        j = jacobian[name].flatten(2)
        root = torch.cat([factor.double(), 0.1 * torch.eye(len(factor)).double()], 1)
        expected += (j @ root) @ (j @ root).mT
    torch.testing.assert_close(logit_covariance(model, posterior, x), expected)
    assert label_noise_moments(model, posterior, x, method="monte_carlo", num_samples=8).magnitude.shape == (6,)
    assert len(rank_examples(model, posterior, x, y)) == 6
    torch.testing.assert_close(predict(model, posterior, x, 4).sum(1), torch.ones(6).double())


@pytest.mark.slow
def test_a_data_set_is_trained_on(tmp_path):
    (tmp_path / "my_data.py").write_text(block("Add a data set"))
    printed = vlls(tmp_path, "--import", "my_data", "train", "--dataset", "stripes", "--epochs", "3")
    accuracy = float(re.search(r"test accuracy +([0-9.]+) %", printed)[1])
    assert accuracy > 90  # chance is 50


@pytest.mark.slow
def test_an_experiment_runs_and_its_figure_is_drawn(tmp_path):
    (tmp_path / "my_experiment.py").write_text(block("Add an experiment or a figure"))
    common = ("--import", "my_experiment")
    vlls(tmp_path, *common, "sweep", "digits_errors", "--protocol", "smoke", "--seeds", "1", "--no-tune")
    vlls(tmp_path, *common, "figure", "digits_errors", "--results", "results", "--output", "errors.png")
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
