"""A run that is cut for any reason resumes without a difference; its files are whole at any moment."""

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from training import StopAt, differences, normalizing, photographs, saved, tiny, without_machine

from vlls import _files
from vlls._files import write_atomically
from vlls.train import Interrupted, Reporter, RunConfig, _trainer, run
from vlls.train._files import folder_lock, load_checkpoint, save_checkpoint

CASES = {
    "ivon": {"method": "ivon"},
    "ivon with two samples": {"method": "ivon", "mc_samples": 2},
    "ols": {"method": "ols"},
    "elr": {"method": "elr"},
    "ivon with elr, two samples": {"method": "ivon_elr", "mc_samples": 2},
    "ivon, permuted": {"method": "ivon_permuted"},
    "ivon, isotropic, two samples": {"method": "ivon_isotropic", "mc_samples": 2},
    "evon, two samples": {"method": "evon", "mc_samples": 2, "options": {"interval": 2}},
    "sam": {"method": "sam"},
    "sgd with augmentation": {"method": "sgd", "augment": True},
}


# ------------------------------------------------------------------ going on
@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_the_uninterrupted_one(tmp_path, case):
    config = tiny(**CASES[case])
    whole = run(config, tmp_path / "whole")
    for at in (2, 6, 13):  # in the first epoch, at its end, in the last
        with pytest.raises(Interrupted):
            run(config, tmp_path / "cut", resume=True, reporters=[StopAt(at)])
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(whole.folder), saved(cut.folder)) == []
    assert differences(dict(whole.model.state_dict()), dict(cut.model.state_dict())) == []


@pytest.mark.parametrize("method", ["ivon", "sam"])
def test_running_statistics_are_resumed_too(tmp_path, method, monkeypatch):
    monkeypatch.setattr(_trainer, "build", lambda *_, **__: normalizing())
    config = tiny(method=method, train_size=100, epochs=2)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", reporters=[StopAt(3)])
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(whole.folder), saved(cut.folder)) == []
    assert float(cut.model.state_dict()["1.running_mean"].abs().max()) > 0


HOW = ["before it is saved", "half written", "written, not in its place", "in its place"]


class KillAt(Reporter):
    """Kill this process after a step, at a chosen moment of writing its checkpoint."""

    def __init__(self, at, how):
        self.at, self.moment, self.sync, self.synced = at, HOW.index(how), os.fsync, None

    def step(self, step):
        if step == self.at:
            self.synced = 0
            if self.moment == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, handle):
        """Stand in for ``os.fsync``, which is called for the file, and for its folder after the file is moved there."""
        if self.synced is not None:
            self.synced += 1
            if self.moment == 1:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            if self.synced == max(self.moment - 1, 1):
                os.kill(os.getpid(), signal.SIGKILL)
        self.sync(handle)


def _child(folder, config, at, how):
    torch.set_num_threads(1)
    killer = KillAt(at, how)
    os.fsync = killer.fsync
    run(config, folder, resume=True, checkpoint_seconds=0, reporters=[killer])


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed(tmp_path):
    config = tiny(method="ivon", epochs=6, train_size=600, thorough_every=6)  # 72 steps, each of them saved
    whole = run(config, tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vlls.train", "sklearn.datasets", "torchmetrics.functional.classification"])
    folder, rng = tmp_path / "cut" / config.name, random.Random(0)
    for i, at in enumerate(sorted(rng.sample(range(1, 73), 20))):
        how = HOW[i % len(HOW)]
        child = context.Process(target=_child, args=(tmp_path / "cut", config, at, how))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL and not (folder / "record.json").exists()
        kept = at if how == "in its place" else at - 1
        if kept:  # the file is readable, whatever the moment of the kill
            assert load_checkpoint(folder / "checkpoint.pt", config.key)["step"] == kept
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(whole.folder), saved(cut.folder)) == []


def test_ctrl_c_and_sigterm_save_and_say_where(tmp_path):
    for signum in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(Interrupted, match=f"stopped by {signum.name}; saved to .*checkpoint.pt") as caught:
            run(tiny(method="sgd", seed=int(signum)), tmp_path, reporters=[StopAt(4, signum)])
        assert caught.value.signum == signum
        assert load_checkpoint(caught.value.checkpoint, tiny(method="sgd", seed=int(signum)).key)["step"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # handlers are put back
    with pytest.raises(Interrupted, match="nothing was saved"):
        run(tiny(method="sgd"), reporters=[StopAt(1)])


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    class Twice(Reporter):
        def step(self, step):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tiny(method="sgd"), tmp_path, reporters=[Twice()])


def test_runs_in_a_thread_of_a_program_leave_its_signals_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tiny(method="sgd", epochs=1))))
    thread.start()
    thread.join()
    assert results[0].status == "finished"


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tiny(method="sgd"), tmp_path)
    again = run(tiny(method="sgd"), tmp_path)
    assert without_machine(first.record()) == without_machine(again.record())
    assert again.machine == first.machine  # the same run, including its dates
    anew = run(tiny(method="sgd"), tmp_path, overwrite=True)
    assert anew.model is not None and anew.final == first.final


def test_an_unfinished_run_wants_to_be_told(tmp_path):
    with pytest.raises(Interrupted):
        run(tiny(method="sgd"), tmp_path, reporters=[StopAt(2)])
    with pytest.raises(ValueError, match="unfinished run.*--resume to go on or --overwrite"):
        run(tiny(method="sgd"), tmp_path)
    assert run(tiny(method="sgd"), tmp_path, overwrite=True).status == "finished"


# ------------------------------------------------------------------ two at once
@pytest.mark.slow
def test_runs_that_share_a_folder_do_not_touch_each_other(tmp_path):
    code = (
        "import sys; from vlls.train import RunConfig, run\n"
        "config = RunConfig.from_dict(__import__('json').loads(sys.argv[2]))\n"
        "try: run(config, sys.argv[1], checkpoint_seconds=0.05)\n"
        "except ValueError as error: print(error); sys.exit(2)\n"
    )
    measured = {"epochs": 12, "eval_every": 12, "thorough_every": 12}
    configs = [tiny(method="sgd", seed=seed, **measured) for seed in (0, 1, 0)]
    command = [sys.executable, "-c", code, str(tmp_path / "shared")]
    processes = [
        subprocess.Popen([*command, json.dumps(config.to_dict())], stdout=subprocess.PIPE, text=True)
        for config in configs
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[1] == 0
    # of the two processes with the same run, one is refused or finds it finished; neither harms the other
    assert sorted((codes[0], codes[2])) in ([0, 2], [0, 0])
    assert all("another process is at work on this very run" in out for out, c in zip(outputs, codes, strict=True) if c)
    for config in configs[:2]:
        alone = run(config, tmp_path / "alone")
        assert differences(saved(alone.folder), saved(tmp_path / "shared" / config.name)) == []


def test_a_folder_is_held_by_one_process_and_freed_at_its_end(tmp_path):
    code = (
        f"from vlls.train._files import folder_lock; from pathlib import Path; import sys\n"
        f"with folder_lock(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", code], **pipes, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is at work"), folder_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with folder_lock(tmp_path):
        assert (tmp_path / ".lock").exists()


# ------------------------------------------------------------------ faulty checkpoints and disks
def damaged(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        torch.save({"epoch": 3}, path)
    elif how == "not even torch's":
        path.write_text("hello")
    elif how == "a pickle":
        path.write_bytes(b"cos\nsystem\n(S'echo hacked'\ntR.")


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "not even torch's", "a pickle"])
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path, how, capfd):
    config = tiny(method="sgd")
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path, reporters=[StopAt(2)])
    damaged(caught.value.checkpoint, how)
    with pytest.raises(ValueError, match="checkpoint.*--overwrite to start again") as error:
        run(config, tmp_path, resume=True)
    assert "\n" not in str(error.value)
    assert "hacked" not in capfd.readouterr().out


def test_checkpoint_of_another_config_is_refused(tmp_path):
    config, other = tiny(method="sgd"), tiny(method="sgd", lr=0.01)
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path, reporters=[StopAt(2)])
    (tmp_path / other.name).mkdir()
    shutil.copy(caught.value.checkpoint, tmp_path / other.name / "checkpoint.pt")
    with pytest.raises(ValueError, match=f"belongs to another config .key {config.key}, not {other.key}"):
        run(other, tmp_path, resume=True)


def test_a_full_disk_stops_in_one_line_and_keeps_what_was_there(tmp_path, monkeypatch):
    config = tiny(method="sgd")
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path, reporters=[StopAt(2)])
    before = caught.value.checkpoint.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(OSError, match=r"checkpoint.pt could not be written \(No space left on device\); .*kept"):
        run(config, tmp_path, resume=True, checkpoint_seconds=0)
    assert caught.value.checkpoint.read_bytes() == before
    assert [path.name for path in caught.value.checkpoint.parent.iterdir() if "partial" in path.name] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
@pytest.mark.slow
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"key": "k", "x": torch.zeros(10)})
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from vlls.train._files import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))\n"
        "try: save_checkpoint(Path(sys.argv[1]), {'key': 'k', 'x': torch.zeros(10**6)})\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "could not be written (File too large); the one before it is kept" in done.stdout
    assert load_checkpoint(path, "k")["x"].numel() == 10
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_readers_never_see_half_a_file(tmp_path):
    path, stop, seen = tmp_path / "file", threading.Event(), set()
    contents = [bytes([i]) * 300_000 for i in range(8)]
    write_atomically(path, contents[0])

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in itertools.islice(itertools.cycle(contents), 10_000):
        write_atomically(path, content)
        if len(seen) == len(contents):
            break
    stop.set()
    reader.join()
    assert seen == set(contents)


def test_output_that_is_a_file_or_read_only(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="the folder .* could not be made"):
        run(tiny(method="sgd"), tmp_path / "file")
    with contextlib.suppress(FileNotFoundError):
        assert (tmp_path / "file").read_text() == ""


def test_checkpoint_of_other_data_under_the_same_name(tmp_path):
    root = photographs(tmp_path / "photos", each=10)
    values = {"model": "cnn3", "pretrained": False, "image_size": 8, "epochs": 2, "batch_size": 4}
    config = RunConfig(dataset=str(root), method="sgd", **values)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "runs", reporters=[StopAt(2)])
    photographs(root, classes=("bird",), each=10)  # a third class has come
    with pytest.raises(ValueError, match="does not fit this model and data .*have the data changed"):
        run(config, tmp_path / "runs", resume=True)


def test_images_that_could_not_be_read_before_the_cut_are_counted(tmp_path):
    root = photographs(tmp_path / "photos", each=10)
    values = {"model": "cnn3", "pretrained": False, "image_size": 8, "epochs": 1, "batch_size": 4}
    config = RunConfig(dataset=str(root), method="sgd", eval_samples=0, **values)
    for path in root.glob("cat/*.png"):
        path.write_bytes(b"no image")
    whole = run(config, tmp_path / "whole", workers=0)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", workers=0, reporters=[StopAt(3)])
    cut = run(config, tmp_path / "cut", workers=0, resume=True)
    assert whole.counts == cut.counts and whole.counts["unreadable"] > 4  # of the last of four steps there are four
