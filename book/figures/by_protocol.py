"""Finished runs, protocol by protocol, in tables with AdamW, and in words who is ahead of whom (Chapters 9 to 12)."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame, Series, concat

from figures.differences import Gap, accuracies, gap_of, rows_of
from vlls.experiments import PROTOCOLS, accuracy_table, candidates_table, highest_protocol
from vlls.experiments._choice import by_candidate
from vlls.train import METHODS

__all__ = [
    "PAPER_STD",
    "about",
    "accuracies_and_adamw",
    "adamw",
    "beside_sgd",
    "candidates_and_adamw",
    "differences",
    "first_stds",
    "gaps_by_panel",
    "own_values_over_sgd",
    "runs_by_protocol",
    "who_is_ahead",
    "with_label_smoothing",
]

PAPER_STD = (50_000 * (0.9 + 0.001)) ** -0.5
r""":math:`\sigma_0` of IVON on CIFAR-10 with the values of App. C.2."""

_ADAMW, _NOT_RUN = "AdamW", "not run"
_OTHERS = ("sgd", "ls", "sam", "adamw")
_SIDES = {1: "ahead", -1: "behind", 0: "not settled"}


def runs_by_protocol(table: DataFrame) -> dict[str, DataFrame]:
    """Return the runs of each protocol of a table, the highest first.

    Args:
        table: of :func:`~vlls.experiments.load_table`.

    Raises:
        ValueError: for an unknown protocol.
    """
    highest_protocol(table)  # raises for unknown ones
    return {name: rows for name in PROTOCOLS if len(rows := table[table["protocol"] == name])}


def _main(rows: DataFrame) -> DataFrame:
    """Return the finished runs on all images."""
    rows = rows[(rows["role"] == "main") & (rows["status"] == "finished")]
    rows = rows.astype({"value": float, "test_accuracy": float})
    variant = rows["variant"].astype(object).fillna("") if "variant" in rows else ""
    return rows.assign(variant=variant)


def adamw(rows: DataFrame) -> DataFrame:
    """Return AdamW's runs at the protocol and in the panels of some runs, under SGD's name.

    AdamW is not a method of the package: ``benchmarks/adamw.py`` ran it, at one value.
    """
    runs = rows_of("adamw", rows["protocol"].iloc[0] if len(rows) else "")
    return runs[runs["panel"].isin(rows["panel"])].assign(method="sgd")


def accuracies_and_adamw(rows: DataFrame, how: str = "test") -> DataFrame:
    """Return :func:`~vlls.experiments.accuracy_table` with a column for AdamW; cells without a run say so."""
    table = accuracy_table(rows, how=how)
    found = accuracy_table(adamw(rows))["SGD"].reindex(table.index)
    table.insert(table.columns.get_loc("SGD") + 1, _ADAMW, found)
    return table.replace("", _NOT_RUN).fillna(_NOT_RUN)


def candidates_and_adamw(rows: DataFrame) -> DataFrame:
    """Return :func:`~vlls.experiments.candidates_table` with a row for AdamW; cells without a run say so."""
    table = candidates_table(rows)
    found = candidates_table(adamw(rows)).reindex(index=["SGD"], columns=table.columns)
    table = concat([table, found.rename(index={"SGD": _ADAMW})])
    return table.replace("", _NOT_RUN).fillna(_NOT_RUN)


def with_label_smoothing(rows: DataFrame) -> DataFrame:
    r"""Return the runs of one protocol and, in their panels, LS's at :math:`\alpha = 0.5`, which all panels have."""
    protocol = rows["protocol"].iloc[0]
    found = concat(rows_of(name, protocol) for name in ("fig5", "fig7", "cifar_n"))
    found = found[(found["method"] == "ls") & (found["value"] == 0.5)]
    found = found[found["panel"].isin(rows["panel"])].assign(experiment=rows["experiment"].iloc[0])
    return concat([rows, found]).drop_duplicates("key", ignore_index=True)


def _of(rows: DataFrame, method: str, variant: str = "") -> Series:
    """Return the test accuracies of a method, or of AdamW, in one panel (%), by seed."""
    return (
        accuracies(adamw(rows), "sgd") if method == "adamw" else accuracies(rows, method, variant)
    )


def first_stds(rows: DataFrame) -> list[float]:
    r"""Return IVON's :math:`\sigma_0` in the runs of a table, :math:`1/\sqrt{N(h_0 + \delta)}`, each value once."""
    ivon = _main(rows).query("method == 'ivon'")
    size = ivon["ess"].astype(float).fillna(ivon["train_images"].astype(float))
    start = ivon["hess_init"].astype(float) + ivon["weight_decay"].astype(float)
    return sorted({float(f"{std:.3g}") for std in (size * start) ** -0.5})


def about(rows: DataFrame) -> str:
    """Describe one protocol's runs: their size, seeds, and the first width of IVON's posterior."""
    name, runs = rows["protocol"].iloc[0], _main(rows)
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    told = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    size = PROTOCOLS[name].text.partition(";")[0].removesuffix(", as in the book")
    text = f"**{name}** ({size}; {told})."
    stds = first_stds(rows)
    if len(stds) != 1:
        return text
    ratio = stds[0] / PAPER_STD
    than = "as in the paper" if 0.95 < ratio < 1.05 else f"{ratio:.1f} times the paper's"
    return f"{text} IVON begins with σ₀ = {stds[0]:.2g}, {than}."


def gaps_by_panel(
    rows: DataFrame, one: str, other: str, *, variants: tuple[str, str] = ("", "")
) -> dict[str, Gap]:
    """Return by how many points one method is above another at their best values, for panels of one protocol.

    Differences are taken seed by seed; :attr:`~figures.differences.Gap.side` says which are clear.
    """
    found = {
        str(panel): gap_of(_of(of_panel, one, variants[0]), _of(of_panel, other, variants[1]))
        for panel, of_panel in _main(rows).groupby("panel", sort=False)
    }
    return {panel: between for panel, between in found.items() if between is not None}


def own_values_over_sgd(rows: DataFrame, method: str) -> str:
    """Say how far the best of a method's own values is above SGD, panel by panel; SGD itself is none of them."""
    told = []
    for panel, of_panel in _main(rows).groupby("panel", sort=False):
        own = of_panel[of_panel["method"] == method]
        between = gap_of(accuracies(own, method), accuracies(of_panel, "sgd"))
        if between is not None:
            values, symbol = sorted(own["value"].unique()), METHODS[method].symbol
            of = (
                f"best of {len(values)} {symbol}"
                if len(values) > 1
                else f"{symbol} = {values[0]:g}"
            )
            told.append(f"{panel}, {of}: {between}, {_SIDES[between.side]}")
    return "; ".join(told)


def beside_sgd(rows: DataFrame) -> str:
    """Say of every candidate of one protocol whether it is clearly above plain SGD, in a line for each panel."""
    lines = []
    for panel, of_panel in _main(rows).groupby("panel", sort=False):
        plain = accuracies(of_panel, "sgd")
        found = {
            label: gap_of(100 * of_one.set_index("seed")["test_accuracy"], plain)
            for label, of_one in by_candidate(of_panel).items()
            if label != METHODS["sgd"].label
        } | {_ADAMW: gap_of(_of(of_panel, "adamw"), plain)}
        there = {label: between for label, between in found.items() if between is not None}
        parts = []
        for side, words in ((1, "above"), (-1, "below"), (0, "not settled against")):
            of_side = sorted(
                (label for label in there if there[label].side == side),
                key=lambda label: -there[label].points,
            )
            named = ", ".join(f"{label} ({_points(there[label])})" for label in of_side)
            parts += [f"{words} SGD: {named}"] if named else []
        lines += [f"- {panel}. {'; '.join(parts)}."] if parts else []
    return "\n".join(lines)


def _name(method: str) -> str:
    """Return a method's name in texts, with "the best" if several of its values were tried."""
    if method == "adamw":
        return _ADAMW
    record = METHODS[method]
    return f"the best {record.label}" if record.sgd_value is not None else record.label


def differences(rows: DataFrame, others: Sequence[str] = _OTHERS) -> DataFrame:
    """Return a table of IVON's differences to other methods: a row for each panel, and whether each is clear."""
    found = {f"IVON − {_name(other)}": gaps_by_panel(rows, "ivon", other) for other in others}
    panels = [str(panel) for panel in _main(rows)["panel"].unique()]
    return DataFrame(
        {
            column: [f"{g[p]}: {_SIDES[g[p].side]}" if p in g else _NOT_RUN for p in panels]
            for column, g in found.items()
        },
        index=panels,
    )


def who_is_ahead(rows: DataFrame, others: Sequence[str] = _OTHERS) -> str:
    """Say for each other method in which panels IVON is clearly ahead or behind, and in which this is not settled.

    The data set, if it is the same in all panels, is named once.
    """
    panels = list(map(str, _main(rows)["panel"].unique()))
    datasets = {panel.partition(", ")[0] for panel in panels}
    dataset = f"{datasets.pop()}, " if len(datasets) == 1 else ""
    told = []
    for other in others:
        found = gaps_by_panel(rows, "ivon", other)
        parts = []
        for side, words in _SIDES.items():
            there = [
                f"{_short(p, dataset)} ({_points(g)})" for p, g in found.items() if g.side == side
            ]
            parts += [f"{words} in {', '.join(there)}"] if there else []
        told += [f"IVON against {_name(other)}: {'; '.join(parts)}."] if parts else []
    head = f"Differences on {dataset}in points." if dataset else "Differences in points."
    return " ".join([head, *told]) if told else ""


def _short(panel: str, dataset: str) -> str:
    """Return a panel's title without the data set."""
    return panel.removeprefix(dataset) or panel


def _points(between: Gap) -> str:
    """Return a difference and its standard error, without the seeds."""
    return str(between).partition(" in ")[0].partition(", ")[0]
