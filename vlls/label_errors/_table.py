"""A table of examples: pandas' if it is installed, or else a small one with the same columns."""

from __future__ import annotations

import csv
import io
import os
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vlls._files import expanded, write_atomically

Columns = dict[str, npt.NDArray[Any]]


class Table:
    """Columns of one length by name, for users without pandas.

    ``table["score"]`` is a column, ``table[:10]`` or ``table[mask]`` a table of some rows.

    Args:
        columns: arrays of one length by name.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = dict(columns)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, str):
            return self._columns[which]
        return Table({name: column[which] for name, column in self._columns.items()})

    def to_csv(self, path: str | os.PathLike[str], index: bool = False) -> None:
        """Write the table; the file is the old one or the whole new one at any moment.

        Args:
            path: of the file.
            index: write the number of the row in front, as pandas does by default.

        Raises:
            OSError: if it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = {"": np.arange(len(self)), **self._columns} if index else self._columns
        writer.writerow(columns)
        for row in zip(*(column.tolist() for column in columns.values()), strict=True):
            writer.writerow("" if value != value else value for value in row)  # NaN as pandas writes it
        write_atomically(expanded(path), text.getvalue().encode())

    def __repr__(self) -> str:
        return f"Table({len(self)} rows: {', '.join(self._columns)})"


def make_table(columns: Columns) -> Any:
    """Return a ``pandas.DataFrame``, or a :class:`Table` if pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        return Table(columns)
    return pandas.DataFrame(columns)
