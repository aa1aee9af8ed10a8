"""Fixtures of the commands' tests."""

import pytest


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Run a test in an empty folder, as the only process, with one thread: the networks are small."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "VLLS_TRACEBACK", "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
