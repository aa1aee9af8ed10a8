"""Reporters of runs: progress on the terminal, and TensorBoard."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from vlls._errors import missing
from vlls._files import expanded, make_folder

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as error:
    raise missing(error, "vlls.train._reporters") from None

from vlls.train._config import ResolvedConfig
from vlls.train._loop import Reporter

__all__ = ["Progress", "TensorBoard"]

_SHOWN = {  # the metrics of an epoch that are shown, and their names there
    "train_loss": "loss",
    "train_accuracy": "train",
    "validation_accuracy": "held out",
    "test_accuracy": "test",
    "posterior_accuracy": "posterior",
    "ema_accuracy": "averaged",
}


class Progress(Reporter):
    """A bar on a terminal, or a line for each epoch if the console is not a terminal (log files, ``torchrun``).

    Use it as a context manager, so that the terminal is restored however the run ends.

    Args:
        console: where to write; None for stderr.

    Example:
        >>> import sys
        >>> from vlls.train import RunConfig, run
        >>> config = RunConfig(dataset="digits", method="sgd", epochs=2, train_size=200)
        >>> with Progress(Console(file=sys.stdout)) as progress:
        ...     result = run(config, reporters=[progress])  # doctest: +ELLIPSIS
        digits-none-sgd-seed0-...: 200 training images, 2 epochs
        epoch 1/2: loss ...
        epoch 2/2: loss ...
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self._live: Live | None = None
        self._metrics: dict[str, float] = {}

    # ------------------------------------------------------------------ events
    def start(self, config: ResolvedConfig, step: int, steps_per_epoch: int, images: dict[str, int]) -> None:
        """Name the run and show the bar."""
        self._epochs, self._batch_size, self._steps_per_epoch = config.epochs, config.batch_size, steps_per_epoch
        self._total = config.epochs * steps_per_epoch
        self._first = self._step = step
        self._began = time.perf_counter()
        self._known = self._mark = step, self._began
        self._images_per_second: float | None = None
        self._metrics = {}
        epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
        if step:
            epochs = f"going on at step {step + 1:,} of {self._total:,} ({epochs})"
        self._line(f"{config.name}: {images['train']:,} training images, {epochs}")
        if self.console.file.isatty() and not self.console.is_dumb_terminal:
            self._live = Live(get_renderable=self._view, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()

    def note(self, text: str) -> None:
        """Print the line."""
        self._line(f"note: {text}")

    def step(self, step: int) -> None:
        """Count the step; the bar's thread reads the count."""
        self._step = step

    def done(self, step: int) -> None:
        """Update the speed, of the steps since the last epoch, and the time left, of all steps."""
        self._known = step, time.perf_counter()
        first, began = self._mark
        self._images_per_second = (step - first) * self._batch_size / max(self._known[1] - began, 1e-9)

    def epoch(self, metrics: dict[str, float]) -> None:
        """Show the epoch's metrics, on a line if there is no bar."""
        if self._known[0] < self._step:
            self.done(self._step)
        self._metrics = metrics
        self._known = self._mark = self._step, time.perf_counter()  # evaluation is no training time
        if self._live is None:
            self._line(f"epoch {metrics['epoch']:g}/{self._epochs}: {', '.join([*_told(metrics), *self._pace()])}")

    def close(self) -> None:
        """Take the bar away."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # ------------------------------------------------------------------ the bar
    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=not self.console.file.isatty(), markup=False, highlight=False)

    def _pace(self) -> list[str]:
        """Return speed and time left, as far as they are known."""
        pace = [] if self._images_per_second is None else [f"{self._images_per_second:,.0f} images/s"]
        step, when = self._known
        if step == self._first:
            return pace
        left = (when - self._began) / (step - self._first) * (self._total - step) - (time.perf_counter() - when)
        minutes, seconds = divmod(round(max(left, 0.0)), 60)
        return [*pace, f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"]

    def _view(self) -> Group:
        epoch = min(self._step // self._steps_per_epoch + 1, self._epochs)
        width = max(20, self.console.width - 3)  # room for the terminal's own ^C, which would push the bar out of place
        row = Table.grid(padding=(0, 1))
        row.width = width
        for _ in range(2):
            row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        share = f"{100 * self._step / max(self._total, 1):3.0f} %"
        bar = ProgressBar(total=self._total, completed=self._step)
        row.add_row(f"epoch {epoch}/{self._epochs}", share, bar, ", ".join(self._pace()))
        if not self._metrics:
            return Group(row)
        last = Text(f"epoch {self._metrics['epoch']:g}: {', '.join(_told(self._metrics))}", style="dim", no_wrap=True)
        last.truncate(width, overflow="ellipsis")
        return Group(row, last)


def _told(metrics: dict[str, float]) -> list[str]:
    """Return the loss and the accuracies of an epoch in words."""
    return [
        f"{word} {metrics[name]:.4f}" if name.endswith("loss") else f"{word} {100 * metrics[name]:.2f} %"
        for name, word in _SHOWN.items()
        if metrics.get(name) is not None
    ]


class TensorBoard(Reporter):
    """A writer of every metric of every epoch for TensorBoard; each run has a sub-folder of its name.

    TensorBoard's steps are epochs; ``images_seen`` stands beside the metrics. A run that is resumed or trained again
    replaces the epochs that it writes again.

    Args:
        folder: to pass to ``tensorboard --logdir``.

    Raises:
        ValueError: if the package ``tensorboard`` is not installed.
        OSError: if the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(f"TensorBoard's package is not installed ({error}); pip install tensorboard") from error
        self.folder = expanded(folder)
        make_folder(self.folder)
        self._make = SummaryWriter
        self._writer: Any = None

    def start(self, config: ResolvedConfig, step: int, steps_per_epoch: int, images: dict[str, int]) -> None:
        """Open the run's file and write its config as text."""
        self._epoch_images = steps_per_epoch * config.batch_size
        purge = step // steps_per_epoch + 1  # the first epoch that is to come
        self._writer = self._make(log_dir=str(self.folder / config.name), purge_step=purge)
        text = json.dumps(config.to_dict(), indent=1)
        self._writer.add_text("config", "    " + text.replace("\n", "\n    "), global_step=purge)

    def note(self, text: str) -> None:
        """Write the line as text."""
        self._writer.add_text("note", text)

    def epoch(self, metrics: dict[str, float]) -> None:
        """Write the epoch's metrics."""
        epoch = int(metrics["epoch"])
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, global_step=epoch)
        self._writer.add_scalar("images_seen", epoch * self._epoch_images, global_step=epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
