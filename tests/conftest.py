"""Fixtures and settings for all tests."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
import torch
from hypothesis import settings
from packaging.requirements import Requirement

os.environ.setdefault("MPLBACKEND", "Agg")

torch.set_num_threads(1)  # the tensors of most tests are small, and the tests run side by side

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a shell's background commands
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("vlls", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("vlls")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


# Hides, in a subprocess, every module that an environment made by `pip install vlls` would lack: importing it fails as
# if it were not installed, and searching for it, as torch does for some, finds nothing.
BLOCKER = """
import sys

class Blocker:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

BLOCKED = {blocked!r}
sys.meta_path[:] = map(Blocker, sys.meta_path)
"""


def distribution(name: str) -> str:
    """Return a distribution's name in the form that is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(*names: str) -> set[str]:
    """Return these distributions and, in turn, everything that they require without an extra."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = distribution(waiting.pop())
        if name in found:
            continue
        found.add(name)
        for line in requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="session")
def run_bare(tmp_path_factory):
    """Return a function that runs code where only torch, numpy, their dependencies and vlls can be imported."""
    allowed = with_dependencies("vlls")
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not allowed.intersection(map(distribution, owners))
    }

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", BLOCKER.format(blocked=blocked) + code]
        folder = tmp_path_factory.mktemp("bare")
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)

    return run
