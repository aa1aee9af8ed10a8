"""The page of measured numbers: its tables show the benchmarks' records."""

import json

import pytest
from chapters import ROOT

PAGE = (ROOT / "book" / "measured.md").read_text(encoding="utf-8")
PAIRS = [("exact", "exact, no pairs"), ("rank 3", "rank 3, no pairs")]


def record(name):
    return json.loads((ROOT / "benchmarks" / "records" / f"{name}-cpu.json").read_text())


def rows_of_glm():
    for row in json.loads((ROOT / "benchmarks" / "records" / "glm.json").read_text())["rows"]:
        draws = f"{row['monte_carlo_over_von']:.0f} ×" if "monte_carlo" in row else "not run"
        times = " | ".join(f"{1e3 * row[name]:.1f} ms" for name in ("newton", "von"))
        yield f"| {row['n']:,} | {times} | {row['von_over_newton']:.1f} × | {draws} |"


def rows_of_optimizers():
    rows = {row["method"]: row for row in record("optimizer")["rows"]}

    def numbers(*names):
        of = [rows[name] for name in names]
        columns = [
            [f"{row['ms']:.1f}" for row in of],
            [f"{row['over_adamw_fused']:.1f}" for row in of],
            [f"{row['peak_bytes_a_parameter']:.0f}" for row in of],
        ]
        return " | ".join(" / ".join(column) for column in columns)

    yield f"| AdamW fused / foreach | {numbers('adamw fused', 'adamw foreach')} |"
    yield f"| SAM over fused SGD | {numbers('sam')} |"
    yield f"| `ivon-opt` 0.1.3 | {numbers('ivon-opt')} |"
    yield f"| `vlls.IVON(fused=False)`: the numbers of `ivon-opt` | {numbers('ivon single, context')} |"
    yield f"| `vlls.IVON`: `sampled_params` and `step()` | {numbers('ivon default, context')} |"
    yield f"| the same, `step(closure)` | {numbers('ivon default, closure')} |"
    yield f"| the same, within `keep_sampled()` | {numbers('ivon fused, kept')} |"


def rows_of_noise():
    found = record("noise")
    errors = found["error"]["rows"]

    def ms(name):
        return f"{found['speed'][name]['ms']:.0f}"

    def peak(name):
        return f"{found['peak_megabytes'][name]:.0f}"

    def error(name, digits=1):
        return f"{100 * errors[name]['magnitude']:.{digits}f} %"

    def joined(names, *columns):
        return " | ".join("; ".join(column(name) for name in names) for column in columns)

    yield f"| `vlls.label_noise_moments`, exact; without curvature pairs | {joined(PAIRS[0], ms, peak, error)} |"
    yield f'| the same, `method="rank"`; without curvature pairs | {joined(PAIRS[1], ms, peak, error)} |'
    yield f"| one direction, Eq. 20 | {ms('direction')} | {peak('direction')} | {error('direction', 0)} |"
    name = "monte carlo, 64 draws"
    yield f"| Monte Carlo, 64 draws | {ms(name)} | {peak(name)} | {error(name, 0)} |"
    (chunks,) = (name for name in found["speed"] if name.startswith("laplace-torch BackPACK, chunks of "))
    of_backpack = joined(["laplace-torch BackPACK", chunks], ms, peak)
    yield f"| `laplace-torch`, BackPACK: all at once; chunks of {chunks.split()[-1]} | {of_backpack} | |"
    others = {
        "laplace-torch default, chunks of 1": "`laplace-torch`, its default in chunks of 1",
        "torch.func vmap(jacrev)": "`torch.func`, `vmap(jacrev)`",
        "loop of autograd.grad": "a loop of `autograd.grad`",
    }
    for name, label in others.items():
        yield f"| {label} | {ms(name)} | {peak(name)} | |"


def rows_of_errors():
    found = record("noise")

    def of(part):
        return "; ".join(f"{100 * found[part]['rows'][name]['magnitude']:.1f} %" for name in ("exact", "rank 3"))

    size = "| size of a network's noise against 4096 draws of the weights, rms | 3-layer CNN, MNIST: exact; rank 3"
    yield f"{size} | {of('error')} | 3 %; 5 % |"
    yield f"| the same, where σ has grown as in the paper's runs | exact; rank 3 | {of('error_wider')} | none |"
    yield (
        "| the same, ResNet-18 after four epochs on 2,000 images | CIFAR-10, 16 images: exact; rank 3 | "
        f"{of('error_resnet18')} | none |"
    )


def rows_of_training():
    found = record("training")
    for name, pixels in (("digits", "8×8"), ("mnist", "28×28")):
        plain, ours, sgd = (round(speed) for speed in found[name]["medians"].values())
        yield f"| {pixels} pixels | {plain:,} | {ours:,} | {found[name]['ratio']:.1f} × | {sgd:,} |"


TABLES = [rows_of_glm, rows_of_optimizers, rows_of_noise, rows_of_errors, rows_of_training]


@pytest.mark.parametrize("rows", TABLES)
def test_a_table_of_the_page_is_that_of_its_record(rows):
    expected = list(rows())
    assert len(expected) > 1
    for row in expected:
        assert f"\n{row}\n" in PAGE


@pytest.mark.parametrize("name", ["glm", "optimizer-cpu", "noise-cpu", "training-cpu"])
def test_the_page_names_machine_and_torch_of_a_record(name):
    found = json.loads((ROOT / "benchmarks" / "records" / f"{name}.json").read_text())
    machine = "AMD EPYC" if "AMD" in found["machine"] else "Intel Xeon"
    torch = found["torch"].partition("+")[0]
    script = f"`benchmarks/bench_{name.removesuffix('-cpu')}.py`; {machine}, torch {torch}"
    assert script in PAGE.replace("\n", " ")


def test_the_time_to_rank_images_is_that_of_the_record():
    found = record("noise")["throughput"]
    one, two = (f"{found['seconds_by_threads'][threads]:.0f} s" for threads in ("1", "2"))
    assert f"ranks {found['images']:,} images of MNIST in {one} on one core and in {two} on two" in PAGE
