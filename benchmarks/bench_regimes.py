"""In which settings does IVON learn its covariance, and with which accuracy and calibration?

    python benchmarks/bench_regimes.py                        # digits, two seeds, half an hour on a CPU
    python benchmarks/bench_regimes.py --data mnist --seeds 1 # needs MNIST ($VLLS_DATA), an hour on a CPU
    python benchmarks/bench_regimes.py --quick                # four cells, to try the script; no record

The 3-layer CNN on scikit-learn's digits (30 epochs, as the protocol ``smoke``) and on 5,000 images of MNIST (12 epochs,
as ``mnist``), batches of 50, with symmetric errors at 40 % and with right labels. The grid: ess of N to 2,000 N, and
for each the first Hessians 0.001, 0.01, 0.1, 0.9 and the one at which the posterior begins as wide as the paper's;
β2 = 1 - 2/T.

A row of ``book/results/regimes.csv`` is a run. Existing rows are not made again: the script goes on where it was
stopped, and adds further data and seeds. Beside the usual metrics are those of the *drift*: the quadratic term that
keeps IVON's Hessian positive adds ess (1 - β2)²/2 times the squared gradient in every step, whatever the curvature is.
``hess_mean`` and ``drift_mean`` are means over the weights, at the end, of Hessian and drift; ``drift_share`` is the
learned share of the median weight if nothing but the drift were learned; ``drift_rank`` is the rank correlation, over
the weights, of the Hessian with the drift. Beside the map, for digits: four ``live`` cells that the book trains again,
``clipped`` ones with ``hess_clip``, and ``long`` ones of 200 epochs.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from record import RESULTS, add_output
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.stats import spearmanr
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from vlls._files import write_atomically
from vlls.experiments import PROTOCOLS
from vlls.train import RunConfig, RunResult, run

PAPER_PRECISION = 50_000 * (0.9 + 0.001)  # 1/sigma_0^2 with the values of App. C.2
RATIOS = (1, 4, 20, 200, 2000)  # ess / N
STARTS = (0.001, 0.01, 0.1, 0.9)  # h_0, beside the one that matches the paper's precision
WEIGHT_DECAY = 1e-3
ERRORS = ("symmetric", "none")
LIVE: tuple[tuple[float, float | str], ...] = ((1, "matched"), (20, 0.1), (200, 0.01), (2000, 0.001))
LIVE_EPOCHS, LONG_EPOCHS = 8, 200
# ess / N, h_0 and bound on the estimate; the last are those of RunConfig(posterior="learned")
CLIPS = ((200, 0.01, 1.0), (200, 0.01, 10.0), (200, 0.001, 100.0), (1000, 0.001, 100.0))
PROTOCOL_OF = {"digits": "smoke", "mnist": "mnist"}
SHARES = ("learned_share_5", "learned_share", "learned_share_95")
STDS = ("std_start", "std_5", "std_50", "std_95")
METRICS = [f"{at}_{name}" for at in ("test", "posterior") for name in ("accuracy", "nll", "ece")]
DRIFT = ("hess_mean", "drift_mean", "drift_share", "drift_rank")
COLUMNS = "dataset protocol corruption rate ess_over_n start seed status".split()
COLUMNS += [*SHARES, *STDS, *DRIFT, *METRICS, "memorised", "train_loss", "train_images"]
COLUMNS += "epochs steps batch_size lr ess hess_init hess_clip beta2 weight_decay eval_samples".split()
COLUMNS += "seconds device torch vlls commit date key".split()


@dataclass(frozen=True)
class Cell:
    """A run: its place in the map, and how it differs from the runs of the map.

    Attributes:
        dataset: digits or mnist.
        corruption: of the labels, at 40 %, or none.
        ratio: ess / N.
        start: h_0, or ``"matched"`` for a posterior that begins as wide as the paper's.
        seed: of the run.
        protocol: the data set's, or one word for the difference from it.
        epochs: None for the protocol's.
        clip: bound on the estimate of the Hessian.
    """

    dataset: str
    corruption: str
    ratio: float
    start: float | str
    seed: int
    protocol: str
    epochs: int | None = None
    clip: float | None = None


def config_of(cell: Cell) -> RunConfig:
    """Return the config of a cell."""
    fields: dict[str, Any] = {"dataset": "cifar10", "method": "ivon", "corruption": cell.corruption}
    fields["rate"] = 0.4 if cell.corruption != "none" else 0.0
    fields = PROTOCOLS[PROTOCOL_OF[cell.dataset]].apply(fields)
    fields["epochs"] = cell.epochs or fields["epochs"]
    fields |= {"thorough_every": fields["epochs"], "eval_every": fields["epochs"]}
    ess = float(cell.ratio * (RunConfig.of(fields).images or 0))
    hess_init = PAPER_PRECISION / ess - WEIGHT_DECAY if cell.start == "matched" else float(cell.start)
    fields |= {"ess": ess, "hess_init": hess_init, "hess_clip": cell.clip}
    return RunConfig.of({**fields, "weight_decay": WEIGHT_DECAY, "seed": cell.seed})


class Drift:
    """The sum that the quadratic term adds to an IVON's Hessian while it is trained in this block."""

    def __enter__(self) -> Drift:
        self._momentum: dict[Tensor, Tensor] = {}
        self._squares: dict[Tensor, Tensor] = {}
        self._hook = register_optimizer_step_post_hook(self._add)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _add(self, optimizer: Optimizer, *_: object) -> None:
        self._optimizer = optimizer
        for group in optimizer.param_groups:
            for param in group["params"]:
                momentum, beta1 = optimizer.state[param]["momentum"].clone(), group["beta1"]
                grad = (momentum - beta1 * self._momentum.get(param, torch.zeros_like(momentum))) / (1 - beta1)
                before = self._squares.get(param, torch.zeros_like(momentum))
                self._momentum[param], self._squares[param] = momentum, group["beta2"] * before + grad.square()

    def measures(self) -> dict[str, float]:
        """Return means over the weights of Hessian and drift, the drift's learned share, and its rank correlation."""
        group = self._optimizer.param_groups[0]
        hess, squares = (
            torch.cat([found[param].double().flatten() for param in group["params"]])
            for found in ({param: self._optimizer.state[param]["hess"] for param in group["params"]}, self._squares)
        )
        step = int(self._optimizer.state[group["params"][0]]["step"])
        kept = group["hess_init"] * group["beta2"] ** step
        drift = 0.5 * (1 - group["beta2"]) ** 2 * group["ess"] * squares
        values = float(hess.mean()), float(drift.mean()), float((drift / (drift + kept)).median())
        return dict(zip(DRIFT, (*values, float(spearmanr(hess, drift)[0])), strict=True))


def grid(dataset: str, seeds: int) -> Iterator[Cell]:
    """Yield the cells of the map, symmetric errors at seed 0 first, and for digits those beside it."""
    places: list[tuple[float, float | str]] = sorted(
        product(RATIOS, ("matched", *STARTS[::-1])), key=lambda place: place not in LIVE
    )
    for seed, corruption in product(range(seeds), ERRORS):
        yield from (Cell(dataset, corruption, *place, seed, PROTOCOL_OF[dataset]) for place in places)
    if dataset == "digits":
        yield from live_cells()
        clips = product(range(seeds), CLIPS)
        for seed, (ratio, start, clip) in clips:
            yield Cell(dataset, "symmetric", ratio, start, seed, "clipped", clip=clip)
        yield from (Cell(dataset, corruption, 100, 0.01, 0, "long", LONG_EPOCHS) for corruption in ERRORS)


def live_cells() -> list[Cell]:
    """Return four cells of digits with few epochs, which the book trains again."""
    return [Cell("digits", "symmetric", *place, 0, "live", LIVE_EPOCHS) for place in LIVE]


def measured(cell: Cell) -> dict[str, Any]:
    """Train a cell; return its row of the table: its place, its metrics and its provenance."""
    with Drift() as drift, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the noise is")  # some cells are there to show that
        result = run(config_of(cell), device="cpu")
    row = row_of(result) | {"protocol": cell.protocol, "ess_over_n": cell.ratio, "start": cell.start}
    return row | (drift.measures() if result.status == "finished" and cell.clip is None else {})


def row_of(result: RunResult) -> dict[str, Any]:
    """Return a row of the table without the cell's place and the drift."""
    config, machine = result.config, result.machine
    row: dict[str, Any] = {name: getattr(config, name, None) for name in COLUMNS}
    row |= {name: result.final.get(name) for name in (*SHARES, *STDS, *METRICS, "memorised")}
    row |= {name: machine.get(name) for name in ("device", "torch", "vlls", "commit", "date")}
    images = result.counts["train_images"]
    row |= {"status": result.status, "train_images": images, "steps": config.epochs * (images // config.batch_size)}
    row |= {"seconds": round(machine["wall_seconds"], 1), "key": config.key}
    row["train_loss"] = result.epochs[-1]["train_loss"] if result.epochs else None
    return row


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Write a row into the table, in order; rows that others have added since are kept."""
    rows = [pd.read_csv(path, dtype=str)] if path.exists() else []
    table = pd.concat([*rows, pd.DataFrame([row], columns=COLUMNS).astype(object)], ignore_index=True)
    table = table.drop_duplicates("key", keep="last")
    order = {name: table[name].astype(float) for name in ("seed", "ess_over_n")} | {"start": table["start"].astype(str)}
    table = table.assign(**{f"_{name}": values for name, values in order.items()})
    table = table.sort_values(["dataset", "corruption", "_seed", "_ess_over_n", "_start"]).filter(COLUMNS)
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=PROTOCOL_OF, default=["digits"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    add_output(parser, RESULTS)
    parser.add_argument("--quick", action="store_true", help="four cells of two epochs; no record")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.output / "regimes.csv"
    cells = [cell for name in arguments.data for cell in grid(name, arguments.seeds)]
    if arguments.quick:
        cells = [replace(cell, epochs=2) for cell in cells[:4]]
        path = Path(tempfile.mkdtemp()) / "regimes.csv"
    keys = [config_of(cell).key for cell in cells]
    done = set(pd.read_csv(path)["key"]) if path.exists() else set()
    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for cell, key in bar.track(list(zip(cells, keys, strict=True)), description="cells"):
            if key in done:
                continue
            row = measured(cell)
            add_row(path, row)
            told = "{dataset} ({protocol}), {corruption}, seed {seed}, ess {ess_over_n} N, h0 {start}: {status}".format(
                **row
            )
            if row["status"] == "finished":
                told += ", learned {learned_share:.1%}, test {test_accuracy:.1%} ({seconds} s)".format(**row)
            console.print(told, highlight=False)
    print(f"{len(cells)} cells, of which {len(done.intersection(keys))} were there before; table in {path}")


if __name__ == "__main__":
    main()
