"""The processes that decode images are forked from a clean process if this one has used a GPU."""

import pytest
import torch
from training import differences, photographs, without_machine

from vlls.data import ImageFiles
from vlls.train import RunConfig, run
from vlls.train._batches import file_loader


@pytest.mark.slow
def test_workers_are_no_forks_of_a_process_that_has_used_a_gpu(tmp_path, monkeypatch):
    root = photographs(tmp_path, each=2)
    files = ImageFiles(root, sorted(str(path.relative_to(root)) for path in root.rglob("*.png")), [0, 0, 1, 1], size=8)
    expected = [files[i][0] for i in range(4)]
    for used, workers in ((False, 2), (True, 2), (True, 0)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        loader = file_loader(files, [[0, 1], [2, 3]], workers)
        started = loader.multiprocessing_context
        assert (started is None) if not (used and workers) else started.get_start_method() == "forkserver"
        images = torch.cat([batch[0] for batch in loader])
        assert torch.equal(images, torch.stack(expected))


@pytest.mark.slow
def test_a_run_is_the_same_whoever_decodes_its_images(tmp_path, monkeypatch):
    root = photographs(tmp_path / "photos", each=12)
    config = RunConfig(
        dataset=str(root), method="sgd", model="cnn3", pretrained=False, image_size=16, epochs=2, batch_size=8, lr=0.05
    )
    forked = run(config)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    clean = run(config)
    assert differences(without_machine(forked.record()), without_machine(clean.record())) == []
    assert differences(dict(forked.model.state_dict()), dict(clean.model.state_dict())) == []
