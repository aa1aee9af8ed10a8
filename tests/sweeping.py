"""Small sweeps for the tests, and a program that runs one in a separate process."""

import sys

from vlls.experiments import Cell
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._work import Job, work
from vlls.train import RunConfig


def tiny(epochs=2, seeds=2, methods=("ivon", "sgd"), train_size=100, also=""):
    """Return cells whose runs take a second or less."""
    return [
        Cell(
            experiment="fig4" if also else "fig5",
            protocol="smoke",
            panel="digits",
            role="main",
            parameter="",
            config=RunConfig(
                dataset="digits", method=method, train_size=train_size, epochs=epochs, eval_every=epochs, seed=seed
            ).resolved(),
            reduced="all of it",
            also=also,
        )
        for seed in range(seeds)
        for method in methods
    ]


def finished_sweep(folder, **of):
    """Return a results folder with the finished runs of :func:`tiny`, made in this process, and their cells."""
    results, grid = ResultsFolder(folder / "results"), tiny(**of)
    with results.locked():
        results.add_sweep(grid)
        for cell in grid:
            assert work(Job(cell, results.runs)).status == "finished"
    return results, grid


if __name__ == "__main__":  # python sweeping.py FOLDER EPOCHS [killed]: killed after the first run, during another
    import importlib
    import os
    import signal

    from vlls.experiments import LocalExecutor, SweepReporter, sweep

    class Tell(SweepReporter):
        def end(self, cell, outcome):
            if "killed" in sys.argv:
                os.kill(os.getpid(), signal.SIGKILL)

    module = importlib.import_module("vlls.experiments._sweep")
    module.cells = lambda *_, **__: tiny(epochs=int(sys.argv[2]))
    sweep("fig5", protocol="smoke", results=sys.argv[1], executor=LocalExecutor("cpu", 2), reporters=[Tell()])
