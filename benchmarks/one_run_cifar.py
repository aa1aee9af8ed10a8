"""Does one run find the wrong labels that people gave to CIFAR-10 as well as cross-validation does?

    vlls sweep cifar_n --protocol short --keep-weights --results runs          # on a GPU
    python benchmarks/one_run_cifar.py ask runs/runs/*worse* --output probabilities
    python benchmarks/one_run_cifar.py measure probabilities/*.npz       # writes the record

`ask` saves each run's probabilities of its own training images, and of the test images, at the mean of the weights and,
for IVON, averaged over 8 draws. `measure` ranks the given labels by 1 - p(given) and by `score="bayes"` of
`vlls.find_label_errors`, and reports the area under the ROC curve and the average precision; and the calibration on the
test images, before and after `vlls.label_errors.fit_correction` with the probabilities of the training images. A file
with `p_given_WAY` alone, for each training image, gives the first ranking only. Cells of other runs stay in the record.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_one_run import measured, ranked
from record import RESULTS, output_folder, write_record

from vlls.label_errors import fit_correction, sampled_probabilities
from vlls.train import load_run
from vlls.train._metrics import classification_metrics

RECORD = RESULTS / "one_run_cifar.json"
DRAWS = 8


def ask(runs: list[Path], output: Path, device: str) -> None:
    """Save the probabilities of runs."""
    output.mkdir(parents=True, exist_ok=True)
    for folder in runs:
        loaded = load_run(folder, device=device)
        found: dict[str, Any] = {"about": json.dumps(about(json.loads((folder / "record.json").read_text())))}
        for part in ("train", "test"):
            images, labels = loaded.images(part), getattr(loaded.data, part)
            found[f"{part}_given"] = labels.given
            found[f"{part}_clean"] = labels.given if labels.clean is None else labels.clean
            for way, posterior in {"mean": None, "averaged": loaded.posterior}.items():
                if way == "mean" or posterior is not None:
                    samples = sampled_probabilities(loaded.model, posterior, images, num_samples=DRAWS)
                    found[f"{part}_{way}"] = samples.mean(axis=0).astype(np.float16)
        np.savez_compressed(output / f"{folder.name}.npz", **found)
        print(f"{folder.name}: done", flush=True)


def about(record: dict[str, Any]) -> dict[str, Any]:
    """Describe a run for its cell."""
    config, machine = record["config"], record["machine"]
    errors = config["labels"] or f"{config['corruption']} {100 * config['rate']:g} %"
    return {"errors": errors, "method": config["method"], "seed": config["seed"], "device": machine["device"]}


def measure(path: Path) -> dict[str, Any]:
    """Return the cell of a file."""
    saved = dict(np.load(path))
    cell: dict[str, Any] = {**json.loads(str(saved["about"])), "rankings": {}, "calibration": {}}
    given, wrong = saved["train_given"], saved["train_given"] != saved["train_clean"]
    cell["wrong"] = float(wrong.mean())
    for way in ("mean", "averaged"):
        if f"p_given_{way}" in saved:
            score = 1 - saved[f"p_given_{way}"].astype(np.float64)
            cell["rankings"][f"{way}, self_confidence"] = ranked(score, wrong)
        if f"train_{way}" not in saved:
            continue
        p, test = normal(saved[f"train_{way}"]), normal(saved[f"test_{way}"])
        for score in ("self_confidence", "bayes"):
            cell["rankings"][f"{way}, {score}"] = measured(p, given, wrong, score=score)
        corrected = fit_correction(p, given)(test)
        cell["calibration"][way] = {
            "before": calibration(test, saved["test_clean"]),
            "after": calibration(corrected, saved["test_clean"]),
        }
    return cell


def normal(p: np.ndarray) -> np.ndarray:
    """Return probabilities that were kept in half precision, with rows that sum to 1 again."""
    wide = p.astype(np.float64)
    return wide / wide.sum(axis=1, keepdims=True)


def calibration(p: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Return accuracy and expected calibration error."""
    found = classification_metrics(torch.from_numpy(p), torch.from_numpy(clean.astype(np.int64)))
    return {name: float(found[name]) for name in ("accuracy", "ece")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ask", "measure"))
    parser.add_argument("paths", type=Path, nargs="+", help="folders of runs, or files of probabilities")
    parser.add_argument("--output", type=output_folder, default=Path("probabilities"), help="of `ask`")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.what == "ask":
        return ask(arguments.paths, arguments.output, arguments.device)
    cells = {} if not RECORD.exists() else {key(cell): cell for cell in json.loads(RECORD.read_text())["cells"]}
    for path in arguments.paths:
        cell = measure(path)
        cells[key(cell)] = cell
        print(json.dumps(cell), flush=True)
    data = "CIFAR-10, all images, ResNet-18, 30 epochs (protocol short)"
    write_record(RECORD, __doc__, data=data, cells=[cells[name] for name in sorted(cells)])
    return None


def key(cell: dict[str, Any]) -> tuple[str, str, int]:
    return cell["errors"], cell["method"], cell["seed"]


if __name__ == "__main__":
    main()
