"""The training step of a run: batch, loss and optimizer, on a GPU in one CUDA graph."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vlls._compiled import Compiled
from vlls._errors import one_line
from vlls.models._networks import build
from vlls.optim import VariationalOptimizer
from vlls.optim._running import nothing_listens
from vlls.train._batches import Batches, DeviceBatches, FileBatches, normalize
from vlls.train._config import ResolvedConfig
from vlls.train._machine import gathered
from vlls.train._prepare import FILE_IMAGE_SIZE, Images, RunData, derive_seed
from vlls.train.methods import METHODS, make_criterion, make_optimizer

WARMUP = 3  # steps taken directly before the step is captured in a CUDA graph
# Of the runs in threads of one process, one at a time builds its network from the global generator, tries cuDNN's
# algorithms, which is a global switch, or launches steps: while one is captured, none may be replayed.
ONE_AT_A_TIME = threading.RLock()


class Trainer:
    """The state of a run while it trains, and its training step; between steps the model's weights are at the mean."""

    def __init__(
        self,
        config: ResolvedConfig,
        data: RunData,
        device: torch.device,
        *,
        workers: int = 2,
        cuda_graph: bool = True,
        compile: bool = False,
    ) -> None:
        self.config, self.data, self.device, self.workers = config, data, device, workers
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._samples = config.mc_samples or 1
        shares = self.world * self._samples
        if config.batch_size % shares:
            raise ValueError(
                f"batch_size={config.batch_size} cannot be shared by {self.world} processes with {self._samples} "
                f"weight samples each; choose a multiple of {shares}"
            )
        self.rows_per_sample = config.batch_size // shares
        each = self.rows_per_sample * self._samples
        rows = slice(self.rank * each, (self.rank + 1) * each)
        options: dict[str, Any] = {"batch_size": config.batch_size, "rows": rows, "device": device, "seed": config.seed}
        self.batches: Batches
        if isinstance(data.train.images, np.ndarray):
            augment = data.train.images.shape[3] == 3 if config.augment is None else config.augment
            self.batches = DeviceBatches(data.train, augment=augment, **options)
        else:
            size, augment = seen_size(config, data), config.augment is not False
            self.batches = FileBatches(data.train, image_size=size, workers=workers, augment=augment, **options)
        self.mean, self.std = pixel_moments(data.train, device)
        self.model = make_model(config, data, device)
        self.criterion = make_criterion(config, data.num_classes, len(data.train)).to(device)
        self.optimizer = make_optimizer(config, self.model, len(data.train), together=self.world > 1)
        first = self.rank * self._samples
        self.samplers = [  # one stream of weight noise for each share of the batch, in any process
            torch.Generator(device).manual_seed(derive_seed(config.seed, "samples", first + i))
            for i in range(self._samples)
        ]
        if isinstance(self.optimizer, VariationalOptimizer):
            self.optimizer.generator = self.samplers[0]
        self.average = None if config.ema is None else averaged(self.model, config.ema)
        self._net: nn.Module = self.model
        self.compile_seconds, self.note = 0.0, ""
        if compile:
            self._compile()
        self.compiled = self._net is not self.model
        if self.world > 1:
            devices = [device.index] if device.type == "cuda" else None
            self._net = nn.parallel.DistributedDataParallel(self._net, device_ids=devices)
        self._held: dict[int, Tensor] = {}  # images that are measured again and again, on a GPU
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and correct predictions of the epoch
        self.steps_per_epoch = self.batches.steps
        self._warm = 0
        capturable = getattr(self.optimizer, "capturable", self.optimizer.defaults.get("capturable", True))
        self._use_graph = cuda_graph and device.type == "cuda" and self.world == 1 and capturable
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device) if self._use_graph else None

    @property
    def captured(self) -> bool:
        """Whether the steps replay a CUDA graph."""
        return self._graph is not None

    def _compile(self) -> None:
        """Make steps call the compiled network, if torch can compile it forward and backward for their batches."""
        began = time.perf_counter()
        size = self.batches.image_size
        images = torch.zeros(self.rows_per_sample, size, size, len(self.mean), dtype=torch.uint8, device=self.device)
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        with ONE_AT_A_TIME, nothing_listens(), torch.random.fork_rng(devices):
            try:
                net = Compiled(self.model)
                weights = [p for p in self.model.parameters() if p.requires_grad]
                torch.autograd.grad(self.logits(net, images).sum(), weights, allow_unused=True)
                self._net = net
            except Exception as error:  # of any part of it: a compiler, Triton, a folder, a network with branches
                self.note = f"torch cannot compile the network, which is trained as it is ({one_line(error):.200})"
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        self.compile_seconds = time.perf_counter() - began

    # ------------------------------------------------------------------ numbers
    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """Return float32 logits (B, K) of uint8 images (B, H, W, C), in the config's precision on the way."""
        precision = self.config.precision
        half = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False) if half else nullcontext():
            logits = net(normalize(images, self.mean, self.std))
        return logits.float()

    def on_device(self, images: np.ndarray, rows: slice) -> Tensor:
        """Return rows of uint8 images (N, H, W, C) of the run's data on the device; on a GPU all of them stay there."""
        if self.device.type == "cpu":
            return torch.tensor(images[rows])
        if id(images) not in self._held:
            self._held[id(images)] = torch.tensor(images, device=self.device)
        return self._held[id(images)][rows]

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the run."""
        config, warmup = self.config, round(self.config.warmup_epochs * self.steps_per_epoch)
        steps: Any = {"total_steps": self.steps_per_epoch * config.epochs, "warmup_steps": warmup}
        return learning_rate(step, lr=config.lr, schedule=config.schedule, milestones=config.milestones, **steps)

    # ------------------------------------------------------------------ the step
    def step(self, step: int) -> None:
        """Take a step of the run; the batches must stand at it."""
        lr = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.batches.fill()
        self._advance()
        if self.average is not None:  # outside of the graph
            self.average.update_parameters(self.model)

    def _advance(self) -> None:
        """Take the step directly, capture it in a CUDA graph, or replay it."""
        with ONE_AT_A_TIME if self._use_graph or self.device.type == "cuda" else nullcontext():
            self._launch()

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        # cuDNN tries its algorithms once for each shape, which pays because the shapes stay the same
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            if self._stream is None or not self._use_graph:
                self._take()
            elif self._warm < WARMUP:
                current = torch.cuda.current_stream(self.device)
                self._stream.wait_stream(current)
                with torch.cuda.stream(self._stream):
                    self._take()
                current.wait_stream(self._stream)
                self._warm += 1
            else:
                self._graph = self._captured_step()
                self._graph.replay()
        finally:
            torch.backends.cudnn.benchmark = before

    def _take(self) -> None:
        images, labels = self.batches.batch()
        index = self.batches.index
        if self._samples > 1:
            return self._take_shares(images, labels, index)
        first = True

        def closure() -> Tensor:
            nonlocal first
            self.optimizer.zero_grad()
            loss = self._loss(images, labels, index, count=first)
            first = False  # SAM calls a second time, at other weights
            loss.backward()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]

    def _take_shares(self, images: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take the step of several weight samples, each with its own rows of the batch and its own noise."""
        assert isinstance(self.optimizer, VariationalOptimizer)
        self.optimizer.zero_grad()
        for i, sampler in enumerate(self.samplers):
            rows = slice(i * self.rows_per_sample, (i + 1) * self.rows_per_sample)
            self.optimizer.generator = sampler
            with self.optimizer.sampled_params(train=True):
                self._loss(images[rows], labels[rows], index[rows]).backward()
        self.optimizer.step()

    def _loss(self, images: Tensor, labels: Tensor, index: Tensor, count: bool = True) -> Tensor:
        logits = self.logits(self._net, images)
        by_example = METHODS[self.config.method].by_example
        loss: Tensor = self.criterion(logits, labels, index) if by_example else self.criterion(logits, labels)
        if count:
            with torch.no_grad():
                correct = (logits.argmax(dim=1) == labels).sum()
                self.sums += torch.stack([loss.detach() * len(labels), correct]).to(self.sums.dtype)
        return loss

    def epoch_sums(self) -> tuple[float, float]:
        """Return the loss and the correct predictions summed over an epoch and all processes, and reset them."""
        if self.world > 1:
            dist.all_reduce(self.sums)
        loss, correct = self.sums.tolist()
        self.sums.zero_()
        return loss, correct

    def _captured_step(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in (self.batches.generator, *self.samplers):
            graph.register_generator_state(generator)
        self.optimizer.zero_grad()
        # other threads may go on, such as the one that pins a DataLoader's batches
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._take()
        return graph

    # ------------------------------------------------------------------ saving
    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer, loss and random numbers; every process must call this."""
        of_process = {
            "criterion": {name: value.cpu() for name, value in self.criterion.state_dict().items()},
            "augmentation": self.batches.generator.get_state().cpu(),
            "samplers": [generator.get_state().cpu() for generator in self.samplers],
            "sums": self.sums.tolist(),
            "unreadable": sorted(self.batches.unreadable),
        }
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "model": self.model.state_dict(),
            **average,
            "optimizer": self.optimizer.state_dict(),
            "fused": getattr(self.optimizer, "fused", None),
            "processes": gathered(of_process),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; without a fused kernel if the run was begun without one."""
        if len(state["processes"]) != self.world:
            raise ValueError(
                f"the checkpoint was saved by {len(state['processes'])} processes and there are {self.world}; "
                "resume it with as many, or pass --overwrite to start again"
            )
        of_process = state["processes"][self.rank]
        if of_process["augmentation"].shape != self.batches.generator.get_state().shape:
            raise ValueError(
                f"the checkpoint was saved on another kind of device than {self.device.type}, with other random "
                "numbers; resume it where it was begun (--device), or pass --overwrite to start again"
            )
        rates = [group["lr"] for group in self.optimizer.param_groups]
        try:
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.criterion.load_state_dict(of_process["criterion"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint does not fit this model and data ({one_line(error):.200}); have the data changed? "
                "pass --overwrite to start again"
            ) from error
        if state.get("fused") is False and hasattr(self.optimizer, "fused"):  # older checkpoints do not tell
            self.optimizer.fused = self._use_graph = False
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # a GPU's stays the tensor that is there, not the one that was loaded to the CPU
        self.batches.generator.set_state(of_process["augmentation"])
        for generator, saved in zip(self.samplers, of_process["samplers"], strict=True):
            generator.set_state(saved)
        self.sums.copy_(torch.tensor(of_process["sums"], dtype=self.sums.dtype))
        self.batches.unreadable = set(of_process["unreadable"])


# ---------------------------------------------------------------------- the schedule
def learning_rate(
    step: int, *, lr: float, total_steps: int, schedule: str, warmup_steps: int = 0, milestones: Sequence[float] = ()
) -> float:
    """Return the learning rate of a step, counted from 0, on the paper's schedules (App. C.2).

    ``"step"`` multiplies by 0.1 after each milestone, a fraction of the run (SGD, LS, SAM); ``"cosine"`` falls from
    ``lr`` to zero on half a cosine (IVON). Both rise linearly over the first ``warmup_steps``.
    """
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    if schedule == "step":
        return float(lr * 0.1 ** sum(step >= round(fraction * total_steps) for fraction in milestones))
    if schedule == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return lr * 0.5 * (1 + math.cos(math.pi * done))
    return lr


# ---------------------------------------------------------------------- the network
def seen_size(config: ResolvedConfig, data: RunData) -> int:
    """Return the height and width in pixels of the images that the network sees."""
    if isinstance(data.train.images, np.ndarray):
        return data.train.images.shape[1]
    return config.image_size or FILE_IMAGE_SIZE


def pixel_moments(train: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel, (C,) and (C,); ImageNet's for images in files."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    if isinstance(images := train.images, np.ndarray):  # exact: from the counts of the 256 values
        values, counts = np.arange(256), np.zeros((images.shape[3], 256), dtype=np.int64)
        for start in range(0, len(images), 4096):  # counting makes each byte eight
            for channel, count in enumerate(counts):
                count += np.bincount(images[start : start + 4096, ..., channel].ravel(), minlength=256)
        total = counts.sum(axis=1)
        mean = (counts * values).sum(axis=1) / total
        variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
        std = np.maximum(np.sqrt(variance), 1.0)
    options: Any = {"dtype": torch.float32, "device": device}
    return torch.tensor(mean, **options), torch.tensor(std, **options)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential average of a network's weights and running statistics, which begins at its first update."""
    device = next(model.parameters()).device
    return AveragedModel(model, device, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def make_model(
    config: ResolvedConfig, data: RunData, device: torch.device, *, pretrained: bool | None = None
) -> nn.Module:
    """Return the run's network with its first weights, on the device, channels last in memory.

    ``pretrained`` replaces the config's value, for a caller that replaces the weights anyway.
    """
    channels = data.train.images.shape[3] if isinstance(data.train.images, np.ndarray) else 3
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        pretrained = config.pretrained if pretrained is None else pretrained
        shape: Any = {"in_channels": channels, "image_size": seen_size(config, data)}
        model = build(config.model, data.num_classes, pretrained=pretrained, **shape)
    return model.to(device).to(memory_format=torch.channels_last)
