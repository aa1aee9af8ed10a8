"""The recipes of the frameworks in two gloo processes: the steps of one process that takes a sample for each."""

import pytest
import torch
from processes import in_two_processes, needs_gloo
from test_recipes import RECIPES, needs
from torch.nn import functional as F

import vlls

pytestmark = [
    pytest.mark.slow,
    needs_gloo,
    pytest.mark.filterwarnings("ignore"),
]

BATCH, BATCHES, EPOCHS, CLIP = 8, 14, 2, 0.05
CASES = {  # batches a step of each process, and whether a process has a block for each of its batches
    "transformers": (1, False),
    "transformers, accumulating": (2, False),
    "lightning": (1, False),
    "lightning, accumulating": (2, False),
    "accelerate": (2, True),
}


def problem(framework):
    """Return a small network and its examples."""
    torch.manual_seed(0)
    x, y = torch.randn(BATCH * BATCHES, 1, 8, 8), torch.arange(BATCH * BATCHES) % 3
    if framework != "transformers":
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), x, y
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8, "intermediate_size": 8}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3, "initializer_range": 0.5}
    return ViTForImageClassification(ViTConfig(**sizes, **layers)), x, y


def ivon(model, rank=None):
    """Return IVON with strong noise and a Hessian that moves."""
    generator = torch.Generator() if rank is None else torch.Generator().manual_seed(100 + rank)
    options = {"lr": 1.0, "ess": BATCH * BATCHES, "hess_init": 10.0, "beta2": 0.9, "generator": generator}
    return vlls.IVON(model.parameters(), sync=rank is not None, **options)


def of_recipe(label, block, *names):
    """Return classes of a recipe, without running the rest of it."""
    found, imports = {}, [line for b in RECIPES[label] for line in b.code.splitlines() if "import" in line[:30]]
    exec("\n".join(line for line in imports if line.startswith(("import", "from"))), found)
    for name in names:
        (code,) = [b.code for b in RECIPES[label] if f"\nclass {name}(" in b.code]
        exec(code[code.index(f"class {name}(") :].split("\n\n\n")[0], found)
    return found


def transformers(rank, accumulate, folder):
    names = of_recipe("recipe-transformers", 0, "SampledWeights")
    model, x, y = problem("transformers")
    optimizer = ivon(model, rank)
    items = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, y, strict=True)]

    class Ordered(names["Trainer"]):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(items)

    arguments = names["TrainingArguments"](
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=CLIP,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
    )
    sampled = names["SampledWeights"]()
    trainer = Ordered(model, arguments, train_dataset=items, optimizers=(optimizer, None), callbacks=[sampled])
    with sampled.sample:
        trainer.train()
    return model, optimizer


def lightning(rank, accumulate, folder):
    import lightning as L

    network, x, y = problem("lightning")
    dataset = torch.utils.data.TensorDataset(x, y)

    class Digits(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network

        def training_step(self, batch, batch_idx):
            images, labels = batch
            return F.cross_entropy(self.net(images), labels)

        def configure_optimizers(self):
            return ivon(self, rank)

    names = {"L": L, "Digits": Digits}
    code = next(b.code for b in RECIPES["recipe-lightning"] if "class Accumulating" in b.code)
    exec(code.split("\n\n\nmodel = ")[0], names)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=EPOCHS,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=CLIP,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        use_distributed_sampler=False,  # it shuffles
    )
    model = names["Accumulating"]() if accumulate > 1 else Digits()
    share = torch.utils.data.DistributedSampler(dataset, 2, rank, shuffle=False)
    trainer.fit(model, torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=share))
    return network, trainer.optimizers[0]


def accelerate(rank, accumulate, folder):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import GradientAccumulationPlugin

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    network, x, y = problem("accelerate")
    code = RECIPES["recipe-accelerate"][0].code
    loop = code[code.index("model, optimizer, loader = accelerator.prepare") : code.index("averaged =")]
    for old, new in (("range(8)", f"range({EPOCHS})"), ("model.parameters(), 5.0", f"model.parameters(), {CLIP}")):
        assert old in loop
        loop = loop.replace(old, new)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH)
    plugin = GradientAccumulationPlugin(num_steps=accumulate, sync_each_batch=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
    names = {"F": F, "accelerator": accelerator, "loader": loader, "model": network, "optimizer": ivon(network, rank)}
    exec(loop, names)
    return network, names["ivon"]


def results(model, optimizer):
    named = {name.removeprefix("net."): p for name, p in model.named_parameters()}
    return {name: (p.detach().clone(), optimizer.state[p]["hess"].clone()) for name, p in named.items()}


def alone(case):
    """Train in one process, with a sample for each of the two, or for each of their batches."""
    accumulate, each = CASES[case]
    model, x, y = problem(case.split(",")[0])
    optimizer = ivon(model)
    generators = [torch.Generator().manual_seed(100 + rank) for rank in range(2)]
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    if case.startswith("lightning"):  # the sampler distributes examples, not batches
        shares = [list(zip(x[r::2].split(BATCH), y[r::2].split(BATCH), strict=True)) for r in range(2)]
        batches = [batch for pair in zip(*shares, strict=True) for batch in pair]
    for group in [batches[i : i + 2 * accumulate] for i in range(0, len(batches), 2 * accumulate)] * EPOCHS:
        for rank in range(2):
            optimizer.generator, mine = generators[rank], group[rank::2]
            # Lightning divides by the number of batches that it would accumulate, even if an epoch has fewer left
            divisor = accumulate if case.startswith("lightning") else len(mine)
            for part in [[batch] for batch in mine] if each else [mine]:
                with optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    for images, labels in part:
                        logits = model(images)
                        logits = getattr(logits, "logits", logits)
                        (F.cross_entropy(logits, labels) / (1 if each else divisor)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return results(model, optimizer)


def trained(rank, folder, cases):
    runs = {"transformers": transformers, "lightning": lightning, "accelerate": accelerate}
    return {case: results(*runs[case.split(",")[0]](rank, CASES[case][0], folder)) for case in cases}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the results of both processes from the same start, by case."""
    folder, cases = tmp_path_factory.mktemp("ranks"), []
    for case in CASES:
        try:
            needs(f"recipe-{case.split(',')[0]}")
        except pytest.skip.Exception:
            continue
        cases.append(case)
    started = {"RANK": "", "LOCAL_RANK": "", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0"}
    first, second = in_two_processes(folder, trained, folder, cases, ACCELERATE_USE_CPU="1", **started)
    return {case: (first[case], second[case]) for case in cases}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(ran, case):
    needs(f"recipe-{case.split(',')[0]}")
    first, second = ran[case]
    expected = alone(case)
    moved = 0.0
    for name, values in expected.items():
        for i, value in enumerate(values):
            assert torch.equal(first[name][i], second[name][i]), name
            assert (first[name][i] - value).abs().max() < 1e-5 * (1 + i * 10), name
        moved = max(moved, float((values[1] - 10).abs().max()))
    assert moved > 1.0  # the Hessian, beside which the tolerance is nothing
