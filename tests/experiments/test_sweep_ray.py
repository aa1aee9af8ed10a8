"""A sweep on a real Ray cluster of two nodes on this machine, one of which is killed."""

import importlib
import time

import pandas as pd
import pytest
from sweeping import tiny

from vlls.experiments import Job, SweepReporter, collate, sweep
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._work import work

ray = pytest.importorskip("ray")
module = importlib.import_module("vlls.experiments._sweep")

from vlls.experiments._ray import RayExecutor  # noqa: E402

RESULTS = ["method", "seed", "status", "test_accuracy", "test_nll", "key"]
QUIET = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # at Ray's 15, workers would wait for other programs
    nodes = Cluster(initialize_head=True, head_node_args=QUIET)
    nodes.second = nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


class KillSecondNode(SweepReporter):
    """Kills a node when the first run is over, and others are under way."""

    def __init__(self, cluster):
        self.cluster, self.ended, self.where, self.alive = cluster, [], "", 0

    def start(self, result, where):
        self.where = where

    def end(self, cell, outcome):
        self.ended.append(outcome.status)
        if len(self.ended) == 1:
            self.cluster.remove_node(self.cluster.second, allow_graceful=False)
            until = time.monotonic() + 300  # for Ray to notice
            while (alive := sum(node["Alive"] for node in ray.nodes())) > 1 and time.monotonic() < until:
                time.sleep(0.2)
            self.alive = alive


def table(folder):
    return collate(folder)[RESULTS].sort_values(["method", "seed"]).reset_index(drop=True)


@pytest.mark.slow
def test_nothing_is_lost_when_a_node_is_killed(cluster, monkeypatch, tmp_path):
    grid = tiny(epochs=40, seeds=3)
    monkeypatch.setattr(module, "cells", lambda *_, **__: grid)
    watch = KillSecondNode(cluster)
    executor = RayExecutor(cluster.address)
    result = sweep("fig5", protocol="smoke", results=tmp_path / "ray", executor=executor, reporters=[watch])
    assert watch.where == "a Ray cluster: 2 nodes, 2 runs side by side, 1 core each"
    assert set(result.finished) == set(grid) and not result.failed and not result.left
    assert watch.ended == ["finished"] * len(grid)
    assert watch.alive == 1
    whole = ResultsFolder(tmp_path / "here")
    with whole.locked():
        whole.add_sweep(grid)
        for cell in grid:
            assert work(Job(cell, whole.runs)).status == "finished"
    pd.testing.assert_frame_equal(table(tmp_path / "ray"), table(tmp_path / "here"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port", "auto"])
def test_a_cluster_that_cannot_be_reached_is_told(address):
    with pytest.raises(ValueError, match=rf"the Ray cluster '{address}' cannot be reached .*pass its address"):
        RayExecutor(address, timeout=2)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "options, said",
    [({"device": "cuda:1"}, "choose auto, cpu or cuda"), ({"workers_per_device": 0}, "whole number >= 1")],
)
def test_what_a_cluster_cannot_do_is_refused_before_it_is_joined(options, said):
    with pytest.raises(ValueError, match=said):
        RayExecutor(**options)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_without_a_shared_folder_the_record_travels(tmp_path):
    from vlls.experiments._ray import _work_there

    cell = tiny(epochs=1, methods=("sgd",))[0]
    there = tmp_path / "not_here" / "results" / "runs"  # the other machine does not see the sweep's folder
    outcome = _work_there(Job(cell, there))
    assert outcome.status == "finished" and not there.exists()
    folder = ResultsFolder(tmp_path / "results")
    with folder.locked():
        folder.add_sweep([cell])
        folder.keep(cell.config, outcome.record, outcome.labels)
    assert collate(tmp_path / "results")["test_accuracy"].tolist() == [outcome.record["final"]["test_accuracy"]]
