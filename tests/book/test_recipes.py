"""The page of recipes: every block prints the page's output, and the frameworks train the same as a plain loop."""

import glob
import importlib.util
import logging
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from chapters import BOOK
from torch.nn import functional as F
from typer.testing import CliRunner

import vlls
from vlls.cli._app import app

pytestmark = pytest.mark.slow  # imports frameworks, trains, starts processes

PAGE = (BOOK / "recipes.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(?:\{code-block\} )?(\w+)\n((?::[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?%?")
FRAMEWORKS = {
    "recipe-lightning": ["lightning"],
    "recipe-transformers": ["transformers", "accelerate"],
    "recipe-accelerate": ["accelerate"],
}


# ---------------------------------------------------------------------- the page
@dataclass
class Block:
    """A block of code and the output that the page shows below it."""

    language: str
    code: str
    file: str | None
    shown: list[str] = field(default_factory=list)


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a recipe's Markdown, in order."""
    blocks: list[Block] = []
    for language, options, code in FENCE.findall(text):
        if language == "text":
            blocks[-1].shown = code.splitlines()
        else:
            caption = re.search(r"^:caption: (\S+)$", options, re.MULTILINE)
            blocks.append(Block(language, code, caption[1] if caption else None))
    return blocks


_PARTS = re.split(r"^\((recipe-[a-z]+)\)=$", PAGE, flags=re.MULTILINE)
TEXTS = dict(zip(_PARTS[1::2], _PARTS[2::2], strict=True))  # Markdown of the recipes by label
RECIPES = {label: blocks_of(text) for label, text in TEXTS.items()}


def needs(label: str) -> None:
    """Skip a recipe whose framework is not installed."""
    for name in FRAMEWORKS.get(label, ()):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install '.[test]' brings it")


# ---------------------------------------------------------------------- running it
def run_command(line: str, folder: Path) -> str:
    """Run one command of a shell block: ``vlls`` in this process, ``torchrun`` in others."""
    words = shlex.split(line.replace("\\\n", ""), comments=True)
    words = [path for word in words for path in (sorted(glob.glob(word)) or [word])]
    if words[0] == "vlls":
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output
        return result.stdout
    assert words[0] == "torchrun", f"the tests do not know how to run {line!r}"
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def execute(blocks: list[Block], folder: Path) -> tuple[dict, list[str]]:
    """Run the blocks of a recipe in a folder; return their names and the output of each block."""
    names, printed = {"__name__": "recipe"}, []
    for block in blocks:
        output = StringIO()
        if block.file is not None:
            (folder / block.file).write_text(block.code)
        elif block.language == "python":
            with redirect_stdout(output):
                exec(compile(block.code, "book/recipes.md", "exec"), names)
        else:
            for line in re.split(r"(?<!\\)\n", block.code.strip()):
                output.write(run_command(line, folder))
        printed.append(output.getvalue())
    return names, printed


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return a function that runs a recipe, once: its names, its outputs, its folder."""
    done: dict[str, SimpleNamespace] = {}

    def run(label: str) -> SimpleNamespace:
        needs(label)
        if label not in done:
            folder, before = tmp_path_factory.mktemp(label), Path.cwd()
            threads = torch.get_num_threads()
            os.chdir(folder)
            torch.set_num_threads(1)
            try:
                names, printed = execute(RECIPES[label], folder)
            finally:
                os.chdir(before)
                torch.set_num_threads(threads)
            done[label] = SimpleNamespace(names=names, printed=printed, folder=folder)
        return done[label]

    for name in ("lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return run


def agrees(line: str, shown: str) -> bool:
    """Whether a line is the one shown: the same words, times of any length, whole numbers, others about equal.

    Other processors and versions of torch round differently, so a training run ends slightly differently.
    """
    if NUMBER.split(line) != NUMBER.split(shown):
        return False
    for found, expected in zip(NUMBER.finditer(line), NUMBER.finditer(shown), strict=True):
        a, b = (float(match[0].replace(",", "").rstrip("%")) for match in (found, expected))
        if shown[expected.end() :].startswith(" s"):
            continue
        if expected[0].endswith("%"):
            close = abs(a - b) <= 8
        elif "." in expected[0]:
            close = abs(a - b) <= 0.35 * b
        else:
            close = a == b
        if not close:
            return False
    return True


@pytest.mark.parametrize("label", RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_runs_and_prints_what_the_page_shows(label, executed):
    for block, printed in zip(RECIPES[label], executed(label).printed, strict=True):
        lines = iter(printed.splitlines())
        for shown in block.shown:
            assert any(agrees(line, shown) for line in lines), f"{shown!r} is not in\n{printed}"


def test_every_recipe_shows_a_result():
    assert len(RECIPES) >= 8
    for label, blocks in RECIPES.items():
        assert any(block.shown for block in blocks), label


@pytest.mark.parametrize(
    "line, shown, expected",
    [
        ("SGD: 87% right", "SGD: 85% right", True),
        ("SGD: 76% right", "SGD: 85% right", False),
        ("SGD: 87% right", "IVON: 87% right", False),
        ("150 of 1441", "151 of 1441", False),
        ("1,441 images in 9.9 s: 0.10", "1,441 images in 3.7 s: 0.11", True),
        ("noise 0.2", "noise 0.1", False),
        ("equal: False", "equal: True", False),
    ],
)
def test_what_counts_as_the_same_output(line, shown, expected):
    assert agrees(line, shown) is expected


# ---------------------------------------------------------------------- Lightning is a plain loop
def assert_equal(model, reference, *, rtol=0.0, atol=0.0):
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def at_mean(optimizer) -> bool:
    """Whether the weights are the mean: state_dict() raises an error if they are a sample."""
    try:
        optimizer.state_dict()
    except RuntimeError:
        return False
    return True


def differ(model, reference) -> bool:
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    return any(float((ours - theirs).detach().abs().max()) > 1e-4 for ours, theirs in pairs)


@pytest.fixture
def lightning(executed):
    """Return the parts that the tests of the Lightning recipe share."""
    names = executed("recipe-lightning").names
    x, y = names["x"][:256], names["y"][:256]
    dataset = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32)

    def made(kind, **options):
        torch.manual_seed(0)
        model = kind()
        quiet = {**names["options"], "enable_checkpointing": False, "max_epochs": 2}
        return model, names["L"].Trainer(**{**quiet, **options})

    def fitted(kind, **options):
        model, trainer = made(kind, **options)
        trainer.fit(model, loader, loader)
        return model, trainer

    def plain(accumulate=1, *, batches=8, steps=None, clip=None, kept=False):
        torch.manual_seed(0)
        model = names["Digits"]()
        generator = torch.Generator().manual_seed(1)
        optimizer = vlls.IVON(model.parameters(), lr=0.3, ess=len(names["x"]), hess_init=0.5, generator=generator)
        epoch = list(loader)[:batches]
        groups = [epoch[i : i + accumulate] for i in range(0, len(epoch), accumulate)] * 2
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(groups))
        with optimizer.keep_sampled() if kept else nullcontext():
            for group in groups[:steps]:
                with nullcontext() if kept else optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    for images, labels in group:
                        (F.cross_entropy(model.net(images), labels) / accumulate).backward()
                    if clip is not None:
                        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                scheduler.step()
        return model, optimizer

    return SimpleNamespace(
        Digits=names["Digits"],
        Accumulating=names["Accumulating"],
        made=made,
        fitted=fitted,
        plain=plain,
        loader=loader,
        options=names["options"],
    )


@pytest.mark.filterwarnings("ignore")
class TestLightning:
    @pytest.mark.parametrize("kind, accumulate", [("Digits", 1), ("Accumulating", 1), ("Accumulating", 2)])
    def test_it_trains_what_a_plain_loop_trains(self, lightning, kind, accumulate):
        model, trainer = lightning.fitted(getattr(lightning, kind), accumulate_grad_batches=accumulate)
        reference, optimizer = lightning.plain(accumulate)
        assert trainer.global_step == 16 // accumulate
        assert_equal(model, reference)
        ours, theirs = trainer.optimizers[0].posterior(model).std, optimizer.posterior(reference).std
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    @pytest.mark.parametrize("options", [{"limit_train_batches": 5}, {"gradient_clip_val": 0.5}], ids=str)
    def test_accumulating_an_odd_number_of_batches_and_clipping(self, lightning, options):
        model, trainer = lightning.fitted(lightning.Accumulating, accumulate_grad_batches=2, **options)
        reference, _ = lightning.plain(
            2, batches=options.get("limit_train_batches", 8), clip=options.get("gradient_clip_val")
        )
        assert trainer.global_step == (6 if "limit_train_batches" in options else 8)
        assert_equal(model, reference)
        assert differ(model, lightning.plain(2)[0])

    @pytest.mark.parametrize("how", ["should_stop", "max_time", "exception", "interrupt", "exception in a callback"])
    @pytest.mark.parametrize("validated", [True, False])
    def test_training_that_ends_between_two_batches_leaves_the_mean(self, lightning, tmp_path, how, validated):
        from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer

        where = []

        class Ends(Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                if batch_idx != 2:
                    return
                if how == "max_time":
                    (timer,) = (one for one in trainer.callbacks if isinstance(one, Timer))
                    timer._duration = 0.0
                elif how == "should_stop":
                    trainer.should_stop = True
                elif "callback" in how:
                    raise ValueError("a callback failed")

            def on_validation_batch_start(self, trainer, *_):
                where.append(at_mean(trainer.optimizers[0]))

        class Module(lightning.Accumulating):
            def training_step(self, batch, batch_idx):
                if batch_idx == 3 and how in ("exception", "interrupt"):
                    raise ValueError if how == "exception" else KeyboardInterrupt
                return super().training_step(batch, batch_idx)

        keep = ModelCheckpoint(tmp_path, save_last=True, save_on_exception=True)
        options = {"callbacks": [Ends(), keep], "enable_checkpointing": True, "max_time": {"hours": 1}}
        options |= {} if validated else {"limit_val_batches": 0}
        model, trainer = lightning.made(Module, accumulate_grad_batches=2, **options)
        if how in ("should_stop", "max_time"):
            trainer.fit(model, lightning.loader, lightning.loader)
        else:
            with pytest.raises(SystemExit if how == "interrupt" else ValueError):
                trainer.fit(model, lightning.loader, lightning.loader)
        assert at_mean(trainer.optimizers[0]) and all(where)
        assert bool(where) == validated
        reference, _ = lightning.plain(2, steps=1)  # the third batch was thrown away
        assert_equal(model, reference)
        checkpoints = list(tmp_path.glob("*.ckpt"))
        assert checkpoints
        for saved in checkpoints:  # the saved weights are the mean
            state = torch.load(saved, weights_only=True)["state_dict"]
            assert all(torch.equal(state[name], value) for name, value in reference.state_dict().items())

    def test_validation_between_two_batches_is_refused(self, lightning):
        with pytest.raises(RuntimeError, match="validation falls between"):
            lightning.fitted(lightning.Accumulating, accumulate_grad_batches=2, val_check_interval=3)

    def test_accumulating_without_the_hooks_is_something_else(self, lightning):
        assert differ(lightning.fitted(lightning.Digits, accumulate_grad_batches=2)[0], lightning.plain(2)[0])

    @pytest.mark.parametrize("kind, accumulate", [("Digits", 1), ("Accumulating", 2)])
    def test_gradients_are_taken_at_a_sample_and_validation_is_at_the_mean(self, lightning, kind, accumulate):
        seen = []

        class Watched(getattr(lightning, kind)):
            def _where(self):
                return "mean" if at_mean(self.trainer.optimizers[0]) else "sample"

            def training_step(self, batch, batch_idx):
                seen.append(("training", self._where()))
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch, batch_idx):
                seen.append(("validation", self._where()))
                return super().validation_step(batch, batch_idx)

        lightning.fitted(Watched, accumulate_grad_batches=accumulate)
        assert set(seen) == {("training", "sample"), ("validation", "mean")}

    def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(self, lightning, tmp_path):
        from lightning.pytorch.callbacks import ModelCheckpoint

        keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        whole, _ = lightning.fitted(lightning.Digits, enable_checkpointing=True, callbacks=[keep])
        resumed, trainer = lightning.made(lightning.Digits)
        with torch.no_grad():
            for weight in resumed.parameters():
                weight.zero_()
        path = tmp_path / "epoch=0.ckpt"
        trainer.fit(resumed, lightning.loader, lightning.loader, ckpt_path=path, weights_only=True)
        assert_equal(resumed, whole)

    @pytest.mark.parametrize("with_closure", [True, False])
    def test_manual_optimization_wants_a_closure(self, lightning, with_closure):
        class Manual(lightning.Digits):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch, batch_idx):
                optimizer, step = self.optimizers(), super().training_step

                def closure():
                    optimizer.zero_grad()
                    loss = step(batch, batch_idx)
                    self.manual_backward(loss)
                    return loss

                if with_closure:
                    optimizer.step(closure)
                else:
                    with optimizer.sampled_params(train=True):
                        closure()
                    optimizer.step()
                self.lr_schedulers().step()

        if not with_closure:
            with pytest.raises(RuntimeError, match="a gradient of sampled_params"):
                lightning.fitted(Manual)
            return
        reference, _ = lightning.plain()
        model, _ = lightning.fitted(Manual)
        assert not differ(model, reference)

    @pytest.mark.parametrize("how", ["sampled_params", "keep_sampled"])
    def test_lightning_s_wrapper_samples_as_the_optimizer_inside_it(self, lightning, how):
        class Manual(lightning.Digits):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
                self.kept = ExitStack()

            def training_step(self, batch, batch_idx):
                wrapper = self.optimizers()
                if how == "keep_sampled" and self.global_step == 0:
                    self.kept.enter_context(wrapper.keep_sampled())
                with wrapper.sampled_params(train=True) if how == "sampled_params" else nullcontext():
                    wrapper.zero_grad()
                    self.manual_backward(super().training_step(batch, batch_idx))
                    assert not at_mean(wrapper.optimizer) and not at_mean(wrapper)
                (wrapper if how == "keep_sampled" else wrapper.optimizer).step()
                self.lr_schedulers().step()

            def on_train_end(self):
                self.kept.close()
                vlls.predict(self.net, self.optimizers(), torch.zeros(2, 64), generator=torch.Generator())

        model, _ = lightning.fitted(Manual, limit_val_batches=0)
        reference, _ = lightning.plain(kept=how == "keep_sampled")
        assert not differ(model, reference)

    def test_half_precision(self, lightning):
        from lightning.pytorch.plugins import MixedPrecision

        model, _ = lightning.fitted(lightning.Digits, precision="bf16-mixed")
        reference, _ = lightning.plain()
        assert_equal(model, reference, rtol=0.05, atol=0.02)
        scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
        with pytest.raises(RuntimeError, match="no sample"):
            lightning.fitted(lightning.Digits, plugins=[scaled])


# ---------------------------------------------------------------------- so is the Trainer
@pytest.fixture
def transformers(executed, tmp_path):
    """Return the parts that the tests of the Trainer's recipe share."""
    names = executed("recipe-transformers").names
    items = names["train"][:112]  # seven batches: the last step of an epoch accumulates one alone

    class Ordered(names["Trainer"]):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(items)

    def network(checkpoint=None):
        torch.manual_seed(0)
        kind = names["ViTForImageClassification"]
        model = kind(names["config"]) if checkpoint is None else kind.from_pretrained(checkpoint)
        generator = torch.Generator().manual_seed(1)
        optimizer = vlls.IVON(model.parameters(), lr=1.0, ess=len(items), hess_init=100.0, generator=generator)
        return model, optimizer

    def trainer(accumulate, *, callbacks=None, save=False, checkpoint=None):
        model, optimizer = network(checkpoint)
        arguments = names["TrainingArguments"](
            str(tmp_path / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=accumulate,
            save_strategy="epoch" if save else "no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        callbacks = [names["SampledWeights"]()] if callbacks is None else callbacks
        made = Ordered(model, arguments, train_dataset=items, optimizers=(optimizer, None), callbacks=callbacks)
        return made, model, optimizer

    def plain(accumulate):
        model, optimizer = network()
        batches = [items[i : i + 16] for i in range(0, len(items), 16)]
        groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)] * 2
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(groups))
        for group in groups:
            total = sum(map(len, group))  # the last group of an epoch may be smaller
            with optimizer.sampled_params(train=True):
                model.zero_grad()
                for batch in group:
                    pixels = torch.stack([item["pixel_values"] for item in batch])
                    labels = torch.tensor([item["labels"] for item in batch])
                    (F.cross_entropy(model(pixels).logits, labels, reduction="sum") / total).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        return model, optimizer

    return SimpleNamespace(
        trainer=trainer, plain=plain, callback=names["TrainerCallback"], sampled=names["SampledWeights"]
    )


@pytest.mark.filterwarnings("ignore")
class TestTransformers:
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_it_trains_what_a_plain_loop_trains(self, transformers, accumulate):
        trainer, model, optimizer = transformers.trainer(accumulate)
        before = [weight.detach().clone() for weight in model.parameters()]
        trainer.train()
        reference, plain = transformers.plain(accumulate)
        assert_equal(model, reference, rtol=1e-4, atol=1e-5)
        moved = max(float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), before, strict=True))
        assert moved > 0.01  # beside which the tolerance is nothing
        ours, theirs = optimizer.posterior(model).std, plain.posterior(reference).std
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-5) for name in theirs)

    def test_without_the_callback_the_step_is_refused(self, transformers):
        trainer, *_ = transformers.trainer(1, callbacks=[])
        with pytest.raises(RuntimeError, match="no sample"):
            trainer.train()

    def test_a_run_that_was_cut_goes_on_bit_for_bit(self, transformers):
        whole, model, _ = transformers.trainer(2, save=True)
        whole.train()
        first, *_ = sorted(Path(whole.args.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        resumed, again, _ = transformers.trainer(2, checkpoint=first)
        resumed.train(resume_from_checkpoint=str(first))
        assert resumed.state.global_step == whole.state.global_step
        assert_equal(again, model)

    @pytest.mark.parametrize("evaluated", [True, False])
    def test_training_that_stops_between_two_batches_leaves_the_mean(self, transformers, evaluated):
        where = []

        class Stop(transformers.callback):
            def on_substep_end(self, args, state, control, **others):
                control.should_training_stop = True

            def on_prediction_step(self, args, state, control, **others):
                where.append(at_mean(optimizer))

        trainer, model, optimizer = transformers.trainer(2)
        trainer.add_callback(Stop())
        if evaluated:
            trainer.args.eval_strategy, trainer.eval_dataset = "epoch", trainer.train_dataset
        before = [weight.detach().clone() for weight in model.parameters()]
        trainer.train()
        assert at_mean(optimizer) and all(where) and bool(where) == evaluated
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
    def test_an_exception_between_two_batches_leaves_the_mean(self, transformers, kind):
        class Fail(transformers.callback):
            def on_substep_end(self, args, state, control, **others):
                raise kind

        sampled = transformers.sampled()
        trainer, model, optimizer = transformers.trainer(2, callbacks=[sampled, Fail()])
        before = [weight.detach().clone() for weight in model.parameters()]
        with pytest.raises(kind), sampled.sample:  # as the recipe does
            trainer.train()
        assert at_mean(optimizer)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
        assert "with sampled.sample:" in RECIPES["recipe-transformers"][0].code


# ---------------------------------------------------------------------- and a loop over Accelerate
@pytest.mark.filterwarnings("ignore")
class TestAccelerate:
    def trained(self, change=lambda code: code):
        """Run the recipe on batches in order, an odd number of them."""
        code = RECIPES["recipe-accelerate"][0].code
        for old, new in (
            ("batch_size=32, shuffle=True", "batch_size=50"),
            ("hess_init=0.5)", "hess_init=0.5, generator=torch.Generator().manual_seed(1))"),
            ("range(8)", "range(2)"),
        ):
            assert old in code
            code = code.replace(old, new)
        names = {"__name__": "recipe"}
        with redirect_stdout(StringIO()):
            exec(change(code), names)
        return names

    def plain(self, names, factor=1.0):
        torch.manual_seed(0)
        model = names["network"]()
        generator = torch.Generator().manual_seed(1)
        optimizer = vlls.IVON(model.parameters(), lr=0.3, ess=len(names["x"]), hess_init=0.5, generator=generator)
        batches = list(zip(names["x"].split(50), names["y"].split(50), strict=True))
        assert len(batches) % 2 == 1
        for group in [batches[i : i + 2] for i in range(0, len(batches), 2)] * 2:
            for images, labels in group:  # a sample for each
                with optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    (factor * F.cross_entropy(model(images), labels)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        return model, optimizer

    def test_it_trains_what_a_plain_loop_trains(self, executed):
        needs("recipe-accelerate")
        names = self.trained()
        reference, optimizer = self.plain(names)
        assert_equal(names["model"], reference)
        ours, theirs = names["ivon"].posterior(names["model"]).std, optimizer.posterior(reference).std
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_without_the_factor_gradients_are_half_as_large(self, executed):
        needs("recipe-accelerate")
        names = self.trained(lambda code: code.replace("batches * loss", "loss"))
        assert_equal(names["model"], self.plain(names, 0.5)[0])
        assert differ(names["model"], self.plain(names)[0])

    def test_the_wrapped_optimizer_is_named(self, executed):
        needs("recipe-accelerate")
        names = self.trained()
        with pytest.raises(
            ValueError, match="AcceleratedOptimizer; pass .* the IVON optimizer itself, here its .optimizer"
        ):
            vlls.predict(names["model"], names["optimizer"], names["test_x"])
