"""The command line: its output, its files and its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from commands import error_line as error
from rich.console import Console
from typer.testing import CliRunner

from vlls.cli import _train
from vlls.cli._app import app
from vlls.cli._options import PANELS, run_config_help
from vlls.cli._report import comparison, describe
from vlls.train import Interrupted, Reporter, RunConfig, RunResult, run
from vlls.train._reporters import Progress, TensorBoard

SMALL = ["--method", "sgd", "--epochs", "1", "--train-size", "200", "--eval-samples", "0"]
CONFIG = RunConfig(dataset="digits", method="sgd", epochs=1, train_size=200, eval_samples=0)
COMMAND = [sys.executable, "-m", "vlls.cli", "train"]
STOPPING = str(Path(__file__).parents[1] / "stopping.py")


pytestmark = pytest.mark.usefixtures("alone")


def invoke(*arguments, env=None):
    return CliRunner().invoke(app, list(arguments), env=env, prog_name="vlls")


def train(*arguments, env=None):
    return invoke("train", *SMALL, *arguments, env=env)


# ------------------------------------------------------------------ help
def test_help_lists_every_option_with_its_help_and_examples():
    shown = invoke("train", "--help", env={"TERMINAL_WIDTH": "80", "COLUMNS": "80"})
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    flags = set(re.findall(r"--[a-z0-9-]+", shown.stdout))
    own = (
        "data output resume overwrite device workers threads checkpoint-seconds tensorboard json quiet dry-run".split()
    )
    assert flags >= {"--" + field.name.replace("_", "-") for field in fields(RunConfig) if field.name != "options"}
    assert flags >= {f"--{name}" for name in own} | {"--option", "--no-augment", "--no-pretrained"}
    for panel in (*PANELS, "Output"):
        assert f"─ {panel} ─" in shown.stdout
    words = " ".join(re.sub(r"[│\s]+", " ", shown.stdout).split())
    for example in (
        "vlls train --dataset cifar10 --method ivon",
        "vlls train --dataset mnist --corruption symmetric --rate 0.4",
        "--labels cifar10n:worse_label",
        "--rate 0.4 --posterior learned",
        "--resume",
        "torchrun --nproc-per-node=2 -m vlls.cli train",
        "δ of IVON",
        "peak learning rate",
    ):
        assert example in words


def test_options_and_their_help_follow_the_fields_of_the_config():
    names = [field.name for field in fields(RunConfig)]
    assert sorted(name for panel in PANELS.values() for name in panel.split()) == sorted(names)
    helps = run_config_help()
    assert list(helps) == names
    for name, text in helps.items():
        assert text, name
        assert not re.search(r"[`\\]|:\w+:`|None", text), (name, text)
    assert helps["rate"] == (
        "share of corrupted labels, in [0, 1), above 0 with a corruption unless rate_step is; κ of Eq. 21 for "
        "class-dependent errors"
    )
    assert "σ² = 1/(λ(h₀ + δ))" in helps["hess_init"]
    assert helps["model"].startswith("cnn3, resnet18")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_command_alone_shows_its_commands_and_examples(arguments):
    shown = invoke(*arguments)
    assert shown.exit_code == 0
    assert shown.stdout.count("Usage: vlls") == 1
    assert "train" in shown.stdout
    assert "torchrun" in shown.stdout


def test_without_the_extra_one_line_says_what_to_install(run_bare):
    done = run_bare("from vlls.cli import main; main(['train'])")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install 'vlls[train]'" in line


# ------------------------------------------------------------------ a run
def test_a_run_is_reported_kept_and_not_trained_again(tmp_path):
    first = train("--corruption", "symmetric", "--rate", "0.4")
    assert first.exit_code == 0, first.output
    (record,) = tmp_path.glob("runs/*/record.json")
    assert f"record: {record.relative_to(tmp_path)}" in first.stdout
    kept = json.loads(record.read_text())
    assert f"{100 * kept['final']['test_accuracy']:.2f} %" in first.stdout
    assert f"{kept['final']['test_nll']:.4f} nats" in first.stdout
    assert f"{100 * kept['final']['memorised']:.2f} %" in first.stdout
    assert "40 % symmetric label errors, 1 epoch, seed 0" in first.stdout
    assert "images/s" in first.stdout
    assert "epoch 1/1: loss" in first.stderr  # no terminal: a line an epoch
    assert "\x1b" not in first.output

    before = record.stat().st_mtime_ns
    second = train("--corruption", "symmetric", "--rate", "0.4")
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    assert "finished before and is not trained again" in second.stderr
    assert "epoch 1/1" not in second.stderr
    assert record.stat().st_mtime_ns == before

    third = train("--corruption", "symmetric", "--rate", "0.4", "--overwrite")
    assert third.exit_code == 0
    assert "epoch 1/1" in third.stderr
    assert record.stat().st_mtime_ns > before


def test_the_posterior_has_a_column_and_the_held_out_part_too():
    options = "--method ivon --epochs 1 --train-size 100 --validation-size 50 --eval-samples 2".split()
    shown = invoke("train", *options)
    assert shown.exit_code == 0, shown.output
    assert "at the mean" in shown.stdout
    assert "the posterior" in shown.stdout
    assert "held-out part" in shown.stdout
    (accuracies,) = (line for line in shown.stdout.splitlines() if line.strip().startswith("accuracy"))
    assert len(re.findall(r"\d+\.\d\d %", accuracies)) == 3


def test_json_is_the_record_and_all_of_stdout(tmp_path):
    shown = train("--json")
    assert shown.exit_code == 0, shown.output
    (record,) = tmp_path.glob("runs/*/record.json")
    assert json.loads(shown.stdout) == json.loads(record.read_text())
    assert "epoch 1/1" in shown.stderr
    again = train("--json", "--quiet")
    assert again.stdout == shown.stdout
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("option", "value"), [("seed", 3), ("epochs", 2), ("eval-every", 2), ("batch-size", 20), ("lr", 0.3)]
)
def test_the_comparison_stays_unless_data_or_method_are_named(option, value):
    told = json.loads(invoke("train", f"--{option}", str(value), "--dry-run", "--json").stdout)
    configs = [run["config"] for run in told] if isinstance(told, list) else [told["config"]]
    methods, rates = ["ivon"] if option == "lr" else ["ivon", "sgd"], {0.0 if option == "lr" else 0.4}
    assert [config["method"] for config in configs] == methods and {config["rate"] for config in configs} == rates
    assert {config[option.replace("-", "_")] for config in configs} == {value}


def test_quiet_prints_nothing():
    shown = train("--quiet")
    assert (shown.exit_code, shown.output) == (0, "")


def test_other_processes_print_nothing():
    shown = train(env={"RANK": "1"})
    assert (shown.exit_code, shown.output) == (0, "")
    assert train("--rate", "2", env={"RANK": "1"}).output == ""
    # but why this one cannot take part, where the first one does not know
    failed = train("--output", __file__, env={"RANK": "1"})
    assert failed.exit_code == 2
    assert failed.stderr.startswith("error: process 1: ")


def test_dry_run_shows_the_config_and_writes_nothing(tmp_path):
    shown = invoke("train", "--dataset", "cifar10", "--lr", "0.3", "--milestones", "0.25,0.5", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"lr +0\.3 +given", shown.stdout)
    assert re.search(r"milestones +0\.25,0\.5 +given", shown.stdout)
    assert re.search(r"epochs +200 *\n", shown.stdout)
    config = RunConfig(dataset="cifar10", lr=0.3, milestones=(0.25, 0.5))
    assert f"kept in runs/{config.name} (new)" in shown.stdout
    as_json = json.loads(invoke("train", "--dataset", "cifar10", "--lr", "0.3", "--dry-run", "--json").stdout)
    assert as_json["config"]["hess_init"] == 0.9
    both = json.loads(invoke("train", "--dry-run", "--json").stdout)
    assert [one["config"]["method"] for one in both] == ["ivon", "sgd"]
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_a_learned_posterior_are_shown_before_the_run():
    shown = invoke("train", "--dataset", "mnist", "--posterior", "learned", "--hess-every", "2", "--dry-run")
    assert shown.exit_code == 0, shown.output
    for name, value in {"posterior": "learned", "hess_every": "2"}.items():
        assert re.search(rf"{name} +{value} +given", shown.stdout)
    for name, value in {"ess": "60000000.0", "hess_init": "0.001", "hess_clip": "100.0"}.items():
        assert re.search(rf"{name} +{value} *\n", shown.stdout)
    assert "posterior" not in invoke("train", "--method", "sgd", "--dry-run").stdout.replace("the posterior", "")


def test_switches_are_unset_on_or_off(tmp_path):
    for arguments, value in (((), None), (("--augment",), True), (("--no-augment",), False)):
        shown = train(*arguments, "--dry-run", "--json")
        assert json.loads(shown.stdout)["config"]["augment"] is value


# ------------------------------------------------------------------ wrong use
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "ivn"), ("method='ivn'", "did you mean 'ivon'?")),
        (("--rate", "1.5"), ("rate=1.5", "[0, 1)")),
        (("--smoothing", "0.1"), ("smoothing=0.1", "sgd", "ols")),
        (("--posterior", "learned"), ("posterior='learned'", "sgd", "ivon")),
        (("--method", "ivon", "--posterior", "narrow"), ("posterior='narrow'", "paper, learned")),
        (("--dataset", "cifar11"), ("cifar11", "cifar10")),
        (("--train-size", "5000"), ("5000", "1437")),
        (("--milestones", "half"), ("milestones='half'", "0.5,0.75")),
        (("--epochs", "many"), ("--epochs", "many|integer")),
        (("--workers", "-1"), ("--workers", "-1|greater")),
        (("--epoch", "3"), ("--epoch", "--epochs")),
        (("--device", "tpu"), ("tpu", "cpu")),
        (("--resume", "--overwrite"), ("--resume", "--overwrite")),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    line = error(train(*arguments, "--quiet"))
    for word in words:
        assert any(part in line for part in word.split("|")), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none():
    assert "no GPU" in error(train("--device", "cuda"))


def test_output_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("mine")
    line = error(train("--output", "taken"))
    assert "taken" in line
    assert "Errno" not in line
    assert (tmp_path / "taken").read_text() == "mine"


def test_checkpoints_that_cannot_be_gone_on_from(tmp_path):
    own = tmp_path / "runs" / CONFIG.name
    own.mkdir(parents=True)
    (own / "checkpoint.pt").write_bytes(b"PK\x03\x04 truncated")
    assert "--resume" in error(train("--quiet"))
    assert "truncated" in error(train("--resume"))
    other = RunConfig(dataset="digits", method="sgd", epochs=1, train_size=100, eval_samples=0)
    saved = run(other, tmp_path / "other").folder / "checkpoint.pt"
    (own / "checkpoint.pt").write_bytes(saved.read_bytes())
    assert "belongs to another config" in error(train("--resume"))
    assert train("--overwrite").exit_code == 0


def test_traceback_when_asked_for():
    shown = train("--rate", "2", env={"VLLS_TRACEBACK": "1"})
    assert shown.exit_code == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("error: rate=2.0")


@pytest.mark.slow
def test_a_real_process_leaves_with_the_code_and_no_traceback():
    done = subprocess.run([*COMMAND, "--method", "ivn"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert done.stderr.startswith("error: method='ivn' is unknown")


def test_a_diverged_run_is_exit_code_1_and_keeps_its_record(tmp_path):
    for _ in range(2):
        shown = train("--lr", "1e20", "--json")
        assert shown.exit_code == 1
        assert json.loads(shown.stdout)["status"] == "diverged"
        line = shown.stderr.splitlines()[-1]
        assert line.startswith("error: SGD on digits")
        assert "smaller lr" in line
        assert "record" in line
    assert "had diverged before" in shown.stderr


# ------------------------------------------------------------------ interruptions
LONG = ["--method", "sgd", "--epochs", "100", "--eval-every", "100", "--train-size", "200", "--eval-samples", "0"]


@pytest.mark.slow
def test_sigterm_saves_and_resume_finishes(tmp_path):
    command = [sys.executable, STOPPING, "9", "train", *LONG]  # four steps an epoch: it waits in the third
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGTERM)
            break
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 143, stderr
    assert stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith("stopped by SIGTERM; saved to runs/")
    assert last.endswith("go on with the same command and --resume")
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert not (checkpoint.parent / "record.json").exists()

    assert "unfinished run of this config; pass --resume" in error(invoke("train", *LONG))
    done = invoke("train", *LONG, "--resume")
    assert done.exit_code == 0, done.output
    assert "going on at step" in done.stderr
    assert "epoch 1/100" not in done.stderr
    assert [e["epoch"] for e in json.loads((checkpoint.parent / "record.json").read_text())["epochs"]] == [
        *range(1, 101)
    ]


def test_ctrl_c_saves_too(monkeypatch, tmp_path):
    monkeypatch.setattr(Progress, "epoch", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    shown = invoke("train", *LONG)
    assert shown.exit_code == 130
    assert shown.stderr.splitlines()[-1].startswith("stopped by SIGINT; saved to runs/")
    assert list(tmp_path.glob("runs/*/checkpoint.pt"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_before_training_stop_at_once(monkeypatch, signum, code):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(_train, "run", lambda *_, **__: os.kill(os.getpid(), signum))
    shown = train()
    assert shown.exit_code == code
    assert shown.stderr.splitlines() == [f"stopped by {signum.name} at once; nothing was saved"]
    assert signal.getsignal(signal.SIGTERM) is before


# ------------------------------------------------------------------ without arguments
@pytest.mark.slow
def test_without_arguments_ivon_is_trained_beside_sgd(tmp_path):
    first = invoke("train")
    assert first.exit_code == 0, first.output
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/*/record.json"))]
    assert [record["config"]["method"] for record in records] == ["ivon", "sgd"]
    assert {record["config"]["rate"] for record in records} == {0.4}
    for record in records:
        assert f"{100 * record['final']['test_accuracy']:.2f} %" in first.stdout
    ivon, sgd = (record["final"] for record in records)
    assert ivon["test_accuracy"] > sgd["test_accuracy"] + 0.05  # the paper's claim, on the smallest data
    assert "IVON is ahead by" in first.stdout
    again = invoke("train", "--resume")  # options of the machine and the output do not name another run
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert again.stderr.count("finished before") == 2


def result_of(method, accuracy, memorised):
    config = RunConfig(dataset="digits", method=method, corruption="symmetric", rate=0.4).resolved()
    final = {"test_accuracy": accuracy} | ({} if memorised is None else {"memorised": memorised})
    return RunResult(config, "finished", [], final, {}, {})


@pytest.mark.parametrize(
    ("ivon", "sgd", "words"),
    [
        ((0.97, 0.01), (0.77, 0.7), "IVON is ahead by 20.00 points. SGD has learned 70.00 % of the wrong labels"),
        ((0.70, 0.4), (0.77, 0.2), "SGD is ahead by 7.00 points. IVON has learned 40.00 % of the wrong labels"),
        ((0.77, None), (0.77, None), "IVON name 77.00 % of the clean test images right, both alike."),
    ],
)
def test_the_sentence_follows_from_the_numbers(ivon, sgd, words):
    assert words in comparison(result_of("ivon", *ivon), result_of("sgd", *sgd))


def test_describe_names_human_labels():
    config = RunConfig(dataset="cifar10", labels="cifar10n:worse_label").resolved()
    assert describe(config) == "IVON on cifar10, labels cifar10n:worse_label, 200 epochs, seed 0"


# ------------------------------------------------------------------ reporters
class Terminal:
    """A stream that a console takes for a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_on_a_terminal_a_bar_shows_where_the_run_is():
    terminal = Terminal()
    console = Console(file=terminal, width=100, force_terminal=True, color_system=None)
    with Progress(console) as progress:
        progress.start(CONFIG.resolved(), 0, 4, {"train": 200, "test": 360})
        assert progress._live is not None
        progress.step(2)
        progress.done(2)
        progress.epoch({"epoch": 1, "train_loss": 1.25, "test_accuracy": 0.5})
        with console.capture() as captured:
            console.print(progress._view())
    for words in ("epoch 1/1", "50 %", "images/s", "left", "loss 1.2500, test 50.00 %"):
        assert words in captured.get()
    assert progress._live is None
    assert "\x1b[?25h" in terminal.text  # the cursor is shown again
    assert CONFIG.name in terminal.text


class StopAt(Reporter):
    """Asks the run to stop after an epoch."""

    def __init__(self, at):
        self.at = at

    def epoch(self, metrics):
        if metrics["epoch"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_tensorboard_holds_every_epoch_once_also_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = RunConfig(
        dataset="digits", method="sgd", epochs=3, train_size=100, eval_every=2, thorough_every=3, eval_samples=0
    )
    with TensorBoard(tmp_path / "board") as board, pytest.raises(Interrupted):
        run(config, tmp_path / "runs", reporters=[board, StopAt(2)])
    with TensorBoard(tmp_path / "board") as board:
        result = run(config, tmp_path / "runs", resume=True, reporters=[board])
    events = accumulator.EventAccumulator(str(tmp_path / "board" / config.name)).Reload()
    losses = events.Scalars("train_loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([e["train_loss"] for e in result.epochs])
    assert [event.step for event in events.Scalars("test_accuracy")] == [2, 3]
    assert [event.value for event in events.Scalars("images_seen")] == [100, 200, 300]


def test_tensorboard_from_the_command(tmp_path):
    pytest.importorskip("tensorboard")
    assert train("--tensorboard", "board").exit_code == 0
    assert list(tmp_path.glob(f"board/{CONFIG.name}/events.out.tfevents.*"))
    (tmp_path / "file").touch()
    assert "file could not be made" in error(train("--overwrite", "--tensorboard", "file"))


def test_tensorboard_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in error(train("--tensorboard", "board"))
