"""One training run, from its config to its record: progress, evaluations, checkpoints, signals."""

from __future__ import annotations

import math
import os
import signal
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from vlls.optim import VariationalOptimizer
from vlls.posterior import Posterior
from vlls.train._chance import label_counts
from vlls.train._config import ResolvedConfig, RunConfig
from vlls.train._evaluate import evaluate
from vlls.train._files import (
    CHECKPOINT,
    RECORD,
    folder_lock,
    load_checkpoint,
    load_run_record,
    save_checkpoint,
    save_record,
)
from vlls.train._keys import older_key, run_folder
from vlls.train._machine import (
    circumstances,
    gathered,
    pick_device,
    process_group,
    provenance,
    stop_signals,
    synchronize,
)
from vlls.train._metrics import import_torchmetrics
from vlls.train._prepare import RunData, prepare
from vlls.train._trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Interrupted", "Reporter", "RunResult", "run"]

_ENTRIES = ("status", "reason", "counts", "labels", "epochs", "final", "machine")  # of a record
AGREE_EVERY = 10  # steps after which processes agree again whether to stop or to save


class Reporter:
    """A listener to a run, and a context manager that closes it: override the events that you want to hear of."""

    def start(self, config: ResolvedConfig, step: int, steps_per_epoch: int, images: dict[str, int]) -> None:
        """Hear that the run begins, or is resumed.

        Args:
            config: of the run.
            step: number of steps that were taken before.
            steps_per_epoch: steps an epoch.
            images: number of images by part (``train``, ``test``, ...).
        """

    def note(self, text: str) -> None:
        """Hear a line that the run's user must know; a warning unless overridden."""
        warnings.warn(text, stacklevel=2)

    def step(self, step: int) -> None:
        """Hear that this many steps have been taken, or on a GPU, launched."""

    def done(self, step: int) -> None:
        """Hear that this many steps are done: the device was waited for, so that a clock can be read now."""

    def epoch(self, metrics: dict[str, float]) -> None:
        """Hear the metrics of an epoch that is over."""

    def finish(self, result: RunResult) -> None:
        """Hear that the run is over."""

    def close(self) -> None:
        """Free resources; called at the end, however the run ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Interrupted(Exception):
    """A signal asked the run to stop, and it saved a checkpoint if it has a folder.

    Attributes:
        signum: number of the signal.
        checkpoint: the file, or None without a folder.
    """

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        where = f"saved to {checkpoint}" if checkpoint is not None else "nothing was saved: the run has no folder"
        super().__init__(f"stopped by {signal.Signals(signum).name}; {where}")
        self.signum, self.checkpoint = signum, checkpoint


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        config: of the run, resolved.
        status: ``"finished"``, or ``"diverged"`` where the loss became NaN or infinite.
        epochs: metrics of each epoch: ``epoch``, ``lr``, ``train_loss``, ``train_accuracy`` (both while training, with
            augmentation and at the weights that the method trains at), and those of the evaluations when it was time.
        final: the last evaluation.
        reason: for a status other than finished.
        counts: number of training images, and of those left out: without a label, or with an unreadable file.
        machine: how long it took, images a second, peak memory, device, the optimizer's executor, versions, commit,
            date and ``changes``, those circumstances that differ since the run was resumed, by step; of
            several runs side by side in one process, the peak memory is that of all.
        folder: where its record and last checkpoint are, or None.
        model: the network at the mean of its weights; None for a run that was finished before.
        posterior: the learned one, for the variational methods.
        labels: the counts of training and test images, and of the most frequent label among each.
    """

    config: ResolvedConfig
    status: str
    epochs: list[dict[str, float]]
    final: dict[str, float]
    counts: dict[str, int]
    machine: dict[str, Any]
    reason: str = ""
    folder: Path | None = None
    model: torch.nn.Module | None = field(default=None, repr=False, compare=False)
    posterior: Posterior | None = field(default=None, repr=False, compare=False)
    labels: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the JSON record; on a CPU all but ``machine`` follows from the config."""
        entries = {name: getattr(self, name) for name in _ENTRIES}
        return {"key": self.config.key, "config": self.config.to_dict(), **entries}


def run(
    config: RunConfig,
    folder: str | os.PathLike[str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    resume: bool = False,
    overwrite: bool = False,
    reporters: Sequence[Reporter] = (),
    checkpoint_seconds: float = 60.0,
    workers: int = 2,
    cuda_graph: bool = True,
    compile: bool = False,
    data: RunData | None = None,
) -> RunResult:
    """Train a network, measure it and keep a record; a run that is finished in this folder is not trained again.

    The run has its own folder in ``folder``, named after the config, or as an older version named it. It saves a
    checkpoint every ``checkpoint_seconds``, when it finishes and when it is stopped. On a CPU a resumed run equals the
    uninterrupted one bit for bit if its circumstances are the same: executor (a compiled kernel or torch's
    operations), whether the network is compiled, processor, threads and versions. If they have changed, a note and the
    record say so. SIGTERM and Ctrl-C save and raise :class:`Interrupted`. Processes that ``torchrun`` starts share each
    batch.

    Args:
        config: what to train.
        folder: where runs are kept; None keeps nothing.
        root: where data are, as :func:`.load` takes it.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        resume: go on from the checkpoint, if there is one.
        overwrite: forget an earlier checkpoint or record of this config.
        reporters: listeners to the run, called in the first process only.
        checkpoint_seconds: time between checkpoints.
        workers: processes that decode images, for data sets of files. Where a GPU is used they are started
            afresh instead of forked: a script then keeps its call below ``if __name__ == "__main__":``, or passes 0.
        cuda_graph: whether a GPU's step is captured in a CUDA graph; turn off to look for errors.
        compile: whether the network is compiled by ``torch.compile``, which takes up to a minute and makes the steps of
            a large network on a GPU quicker; where torch cannot, a note says so and the run goes on without. Numbers
            agree to rounding: it is one of the circumstances, not of the config.
        data: to train on in place of the data set that the config names.

    Raises:
        ValueError: if the config, the data, the device or an earlier checkpoint do not allow the run.
        OSError: if the folder cannot be written, or is full; earlier files are kept.
        Interrupted: after a signal.

    Example:
        >>> result = run(RunConfig(dataset="digits", method="sgd", epochs=1))
        >>> result.status, sorted(result.final)[:2]
        ('finished', ['clean_part_accuracy', 'test_accuracy'])
    """
    import_torchmetrics()  # before it trains, not at its first evaluation
    config = config.located().resolved()
    device = pick_device(device)
    path = None if folder is None else run_folder(Path(folder), config)
    with process_group(device) as rank:
        if path is not None and not overwrite:
            if (path / RECORD).exists():
                return finished_run(path, config)
            if (path / CHECKPOINT).exists() and not resume:
                remedy = "pass --resume to go on or --overwrite to start again"
                raise ValueError(f"{path} holds an unfinished run of this config; {remedy}")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the record has this run's peak, not an earlier one's
        # errors of data and config are found before anything is written
        how: Any = {"workers": workers, "cuda_graph": cuda_graph, "compile": compile}
        trainer = Trainer(config, data or prepare(config, root), device, **how)
        training = _Run(trainer, path, reporters if rank == 0 else (), checkpoint_seconds)
        with folder_lock(path) if path is not None and rank == 0 else nullcontext():
            return training.from_start_to_end(overwrite)


def finished_run(folder: Path, config: RunConfig) -> RunResult:
    """Return the result of a run that is over, from its record."""
    record, found = load_run_record(folder / RECORD, config)
    values = {name: record[name] for name in _ENTRIES if name in record}  # older records have no labels
    return RunResult(found.resolved(), **values, folder=folder)


class _Run:
    """The loop of a run, and the state that its checkpoints hold."""

    def __init__(
        self, trainer: Trainer, folder: Path | None, reporters: Sequence[Reporter], checkpoint_seconds: float
    ) -> None:
        self.trainer, self.config, self.data = trainer, trainer.config, trainer.data
        self.folder, self.reporters, self.checkpoint_seconds = folder, reporters, checkpoint_seconds
        self.step = 0
        self.epochs: list[dict[str, float]] = []
        self.final: dict[str, float] = {}
        self.seconds = {"training": 0.0, "evaluation": 0.0, "compiling": trainer.compile_seconds}
        self.saved_at = time.monotonic()
        self.changes: list[dict[str, Any]] = []  # of the circumstances, for each time that they differed after resuming
        self.notes = [trainer.note] if trainer.note else []

    def from_start_to_end(self, overwrite: bool) -> RunResult:
        """Load the checkpoint or, with ``overwrite``, delete it; train; write the record."""
        if self.folder is not None and overwrite and self.trainer.rank == 0:
            for name in (RECORD, CHECKPOINT):
                (self.folder / name).unlink(missing_ok=True)
        elif self.folder is not None and not overwrite:
            if self.trainer.world == 1 and (self.folder / RECORD).exists():  # another process was quicker
                return finished_run(self.folder, self.config)
            if (self.folder / CHECKPOINT).exists():
                keys = self.config.key, older_key(self.config)
                self.load_state_dict(load_checkpoint(self.folder / CHECKPOINT, *keys))
        try:
            with stop_signals() as asked:
                return self.finish(self.go(asked))
        finally:
            for reporter in self.reporters:
                reporter.close()

    # ------------------------------------------------------------------ the loop
    def go(self, asked: list[int]) -> str:
        """Train to the end, or until a signal asks to stop; return the status."""
        trainer, steps = self.trainer, self.trainer.steps_per_epoch
        parts = {"train": self.data.train, "test": self.data.test, "validation": self.data.validation}
        images = {name: len(part) for name, part in parts.items() if part is not None}
        for reporter in self.reporters:
            reporter.start(self.config, self.step, steps, images)
        for text in self.notes:
            for reporter in self.reporters or [Reporter()] * (trainer.rank == 0):
                reporter.note(text)
        for epoch in range(self.step // steps, self.config.epochs):
            began = time.perf_counter()
            trainer.batches.start(epoch, self.step % steps)
            while self.step < (epoch + 1) * steps:
                trainer.step(self.step)
                self.step += 1
                for reporter in self.reporters:
                    reporter.step(self.step)
                if self.step % steps and self.step % self.look_every == 0:
                    self._count_time(began)
                    if not self._go_on(asked):
                        return "diverged"
                    began = time.perf_counter()
            loss, correct = trainer.epoch_sums()
            self._count_time(began)
            if not math.isfinite(loss):
                return "diverged"
            self._end_epoch(epoch, loss, correct)
            self._go_on(asked)
        return "finished"

    def _count_time(self, began: float) -> None:
        """Wait for the device, and add the time since ``began`` to the training's."""
        synchronize(self.trainer.device)
        self.seconds["training"] += time.perf_counter() - began
        for reporter in self.reporters:
            reporter.done(self.step)

    @property
    def look_every(self) -> int:
        """Steps between looks at signals, the clock and the loss: many if a look waits for the device or a process."""
        if self.trainer.world > 1:
            return AGREE_EVERY
        return 1 if self.trainer.device.type == "cpu" else 50

    def _end_epoch(self, epoch: int, loss: float, correct: float) -> None:
        """Evaluate if it is time to, and report the epoch's metrics."""
        trainer, config = self.trainer, self.config
        seen = trainer.steps_per_epoch * trainer.batches.batch_size
        metrics: dict[str, float] = {"epoch": epoch + 1, "lr": trainer.learning_rate(self.step - 1)}
        metrics |= {"train_loss": loss / seen, "train_accuracy": correct / seen}
        if (next_epoch := getattr(trainer.criterion, "next_epoch", None)) is not None:
            next_epoch()
        thorough = (epoch + 1) % config.thorough_every == 0 or epoch + 1 == config.epochs
        if thorough or (epoch + 1) % config.eval_every == 0:
            began = time.perf_counter()
            self.final = evaluate(trainer, epoch + 1, thorough=thorough)
            synchronize(trainer.device)
            self.seconds["evaluation"] += time.perf_counter() - began
            metrics |= self.final
        self.epochs.append(metrics)
        for reporter in self.reporters:
            reporter.epoch(metrics)

    def _go_on(self, asked: list[int]) -> bool:
        """Stop or save if a signal or the clock asks for it; return False if the loss is no longer finite."""
        signum = asked[0] if asked else 0
        due = time.monotonic() - self.saved_at >= self.checkpoint_seconds
        bad = not math.isfinite(float(self.trainer.sums[0]))
        if self.trainer.world > 1:
            flags = torch.tensor([signum, due, bad], dtype=torch.int64, device=self.trainer.device)
            dist.all_reduce(flags, dist.ReduceOp.MAX)
            signum, due, bad = int(flags[0]), bool(flags[1]), bool(flags[2])
        if bad:
            return False
        if signum or due:
            self.save()
        if signum:
            raise Interrupted(signum, None if self.folder is None else self.folder / CHECKPOINT)
        return True

    # ------------------------------------------------------------------ checkpoint and record
    def save(self) -> None:
        """Write the checkpoint; every process must call this."""
        self.saved_at = time.monotonic()
        state = self.trainer.state_dict()
        if self.folder is None or self.trainer.rank != 0:
            return
        progress = {"step": self.step, "epochs": self.epochs, "final": self.final, "seconds": self.seconds}
        progress |= {"circumstances": circumstances(self.trainer), "changes": self.changes}
        run = {"key": self.config.key, "config": self.config.to_dict(), "fingerprints": self.data.fingerprints}
        save_checkpoint(self.folder / CHECKPOINT, {**run, **progress, **state})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.trainer.load_state_dict(state)
        self.step, self.epochs, self.final = state["step"], state["epochs"], state["final"]
        self.seconds = {name: seconds + state["seconds"].get(name, 0.0) for name, seconds in self.seconds.items()}
        self.changes = state.get("changes", [])
        before, now = state.get("circumstances", {}), circumstances(self.trainer)  # older checkpoints kept none
        changed = {name: [before[name], now[name]] for name in before if now.get(name) != before[name]}
        if changed:
            self.changes.append({"step": self.step, **changed})
            told = "; ".join(f"{name}: {was}, now {is_}" for name, (was, is_) in changed.items())
            self.notes.append(
                f"{self.config.name} goes on under other circumstances ({told}), which its record tells: the numbers "
                "are not exactly those of an uninterrupted run; for those, resume it where it was begun"
            )

    def finish(self, status: str) -> RunResult:
        """Save the record and, unless the run diverged, the last checkpoint; return the result."""
        trainer, reason, posterior = self.trainer, "", None
        if status == "finished":
            self.save()
        else:
            epoch = (self.step - 1) // trainer.steps_per_epoch + 1
            reason = f"the loss was no finite number by step {self.step}, in epoch {epoch}; choose a smaller lr"
        images = self.step * trainer.batches.batch_size
        machine = {
            "wall_seconds": sum(self.seconds.values()),
            "training_seconds": self.seconds["training"],
            "compile_seconds": self.seconds["compiling"],
            "images_per_second": images / max(self.seconds["training"], 1e-9),
            **provenance(trainer),
            "changes": self.changes,
        }
        counts = {"train_images": len(self.data.train), "unlabelled": self.data.skipped}
        counts["unreadable"] = len(set().union(*gathered(trainer.batches.unreadable)))
        if isinstance(trainer.optimizer, VariationalOptimizer) and status == "finished":  # after a divergence: none
            posterior = trainer.optimizer.posterior(trainer.model)
        outcome: Any = {"status": status, "reason": reason, "epochs": self.epochs, "final": self.final}
        outcome |= {"counts": counts, "labels": label_counts(self.data), "machine": machine}
        result = RunResult(self.config, **outcome, folder=self.folder, model=trainer.model, posterior=posterior)
        if self.folder is not None and trainer.rank == 0:
            save_record(self.folder / RECORD, result.record())
        for reporter in self.reporters:
            reporter.finish(result)
        return result
