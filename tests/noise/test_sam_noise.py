"""Label noise of SAM."""

import math

import pytest
import torch
from cases import D
from cases import mlp as network
from torch import nn
from torch.func import functional_call, jacrev

from vlls import SAM, Bernoulli, Categorical
from vlls.noise import sam_label_noise
from vlls.noise._push import curvature

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def mlp(outputs=3):
    return network(outputs=outputs, dtype=D)


def inputs(num=7):
    return torch.randn(num, 4, dtype=D)


LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])


def loss_of(model, x, labels):
    z = model(x)
    if z.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels.to(z))
    return nn.functional.cross_entropy(z, labels)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("adapt", [torch.optim.SGD, torch.optim.Adam])
def test_sam_noise_is_what_the_optimizer_evaluates(adapt, outputs):
    model, x = mlp(outputs), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    push = torch.sigmoid if outputs == 1 else lambda z: torch.softmax(z, -1)
    noise = sam_label_noise(model, x, labels, rho=0.3)
    before = model(x).detach()
    optimizer = SAM(model.parameters(), adapt, rho=0.3, lr=0.1)
    loss_of(model, x, labels).backward()
    optimizer.first_step()
    after = model(x).detach()
    assert float((noise - (push(before) - push(after))).abs().max()) < 1e-12
    assert noise.shape == (7, outputs) and not noise.requires_grad
    residual = push(before) - (labels[:, None].to(D) if outputs == 1 else nn.functional.one_hot(labels, 3))
    assert float((noise * residual).sum()) < 0  # up the loss: on average away from the labels


@pytest.mark.parametrize("outputs", [1, 3])
def test_linear_sam_noise_is_its_formula_and_the_limit_of_the_noise(outputs):
    model, x = mlp(outputs), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    gradient = torch.autograd.grad(loss_of(model, x, labels), list(model.parameters()))
    length = torch.cat([g.flatten() for g in gradient]).norm()
    own = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(own)
    step = zip(own, gradient, strict=True)
    slope = sum((jacobian[name] * g / length).flatten(2).sum(2) for name, g in step)
    family = Bernoulli() if outputs == 1 else Categorical(3)
    formula = -(curvature(family, model(x)) @ slope[..., None])[..., 0].detach()  # of a step of length 1
    assert torch.allclose(sam_label_noise(model, x, labels, rho=0.7, linear=True), 0.7 * formula, rtol=1e-10)
    errors = [
        float((sam_label_noise(model, x, labels, rho=rho) / rho - formula).abs().max()) for rho in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[0] > 9 * errors[1] > 81 * errors[2] > 0


class Recorder(nn.Linear):
    """Record the weights with which it is called."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def forward(self, x):
        self.seen.append(torch.cat([self.weight.detach().flatten(), self.bias.detach()]))
        return super().forward(x)


@pytest.mark.parametrize("rho", [0.01, 1.0])
def test_the_perturbation_has_length_rho(rho):
    model = nn.Sequential(Recorder(4, 3).double())
    sam_label_noise(model, inputs(), LABELS, rho=rho)
    start, end = model[0].seen[-2:]
    assert float((end - start).norm()) == pytest.approx(rho, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("linear", [False, True])
def test_sam_by_example_is_exact_in_a_linear_network(linear, outputs):
    model, x = nn.Linear(4, outputs).double(), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    family = Bernoulli() if outputs == 1 else Categorical(3)
    found = sam_label_noise(model, x, labels, rho=0.4, per_example=True, linear=linear)
    for i in range(len(x)):
        one, label = x[i : i + 1], labels[i : i + 1]
        gradient = torch.autograd.grad(loss_of(model, one, label), list(model.parameters()))
        length = torch.cat([g.flatten() for g in gradient]).norm()
        moved = {name: p + 0.4 * g / length for (name, p), g in zip(model.named_parameters(), gradient, strict=True)}
        start, end = model(one), functional_call(model, moved, (one,))
        noise = family.mean(start) - family.mean(end)
        if linear:
            noise = -(curvature(family, start) @ (end - start)[..., None])[..., 0]
        assert torch.allclose(found[i], noise[0], rtol=1e-10, atol=1e-14)
        if not linear:  # a batch of one is an example
            assert torch.allclose(found[i], sam_label_noise(model, one, label, rho=0.4)[0], rtol=1e-10, atol=1e-14)


def test_sam_by_example_in_a_network_is_that_of_batches_of_one_for_small_steps():
    model, x = mlp(), inputs()
    found = sam_label_noise(model, x, LABELS, rho=1e-5, per_example=True)
    ones = torch.cat([sam_label_noise(model, x[i : i + 1], LABELS[i : i + 1], rho=1e-5) for i in range(7)])
    assert float((found - ones).abs().max()) < 1e-4 * float(ones.abs().max())
    assert torch.allclose(found, sam_label_noise(model, x, LABELS, rho=1e-5, per_example=True, memory_limit=0.02))


def test_sam_takes_labels_as_families_do():
    model, x = mlp(), inputs()
    hard = sam_label_noise(model, x, LABELS)
    assert torch.equal(hard, sam_label_noise(model, x, LABELS.tolist()))
    assert torch.allclose(hard, sam_label_noise(model, x, nn.functional.one_hot(LABELS, 3).to(D)))
    several = sam_label_noise(model, x, nn.functional.one_hot(LABELS, 3), family=Bernoulli())
    assert several.shape == (7, 3) and not torch.allclose(several, hard)


SAM_ERRORS = {
    "rho": ({"rho": 0.0}, r"rho=0.0; pass a positive, finite radius, such as 0.05"),
    "NaN rho": ({"rho": math.nan}, "rho=nan; pass a positive"),
    "infinite rho": ({"rho": math.inf}, "rho=inf; pass a positive, finite"),
    "label out of range": (
        {"labels": LABELS + 1},
        r"labels\[1\] is 3 and the model has 3 classes; labels go from 0 to 2",
    ),
    "float labels": ({"labels": LABELS.float()}, "labels are torch.float32; pass whole numbers from 0 to 2"),
    "too few labels": ({"labels": LABELS[1:]}, r"labels have shape \(6,\); 7 examples need \(7,\)"),
    "no examples": ({"x": torch.zeros(0, 4, dtype=D)}, r"x has shape \(0, 4\); pass a batch of at least one example"),
    "family": ({"family": Categorical(4)}, r"returns 3 logits and Categorical\(4\) needs 4"),
}


@pytest.mark.parametrize("name", SAM_ERRORS)
@pytest.mark.parametrize("per_example", [False, True])
def test_sam_errors(name, per_example):
    changes, message = SAM_ERRORS[name]
    with pytest.raises(ValueError, match=message):
        sam_label_noise(mlp(), **{"x": inputs(), "labels": LABELS, "per_example": per_example, **changes})


def test_sam_without_a_direction_and_in_training_mode():
    model, x = nn.Linear(4, 2, bias=False).double(), inputs(2)
    x[1] = x[0]
    model.weight.data.zero_()
    with pytest.raises(ValueError, match="gradient is zero, so SAM has no direction to go; pass other examples"):
        sam_label_noise(model, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"Dropout '1' is in training mode.*call model.eval\(\)"):
        sam_label_noise(nn.Sequential(mlp(), nn.Dropout(0.5)), inputs(), LABELS)


@pytest.mark.parametrize("linear", [False, True])
def test_sam_goes_through_a_transformer_layer(linear):
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().eval(), torch.randn(3, 3, 4, dtype=D)
    noise = sam_label_noise(model, x, torch.tensor([0, 1, 2]), rho=1e-5, linear=linear)
    other = sam_label_noise(model, x, torch.tensor([0, 1, 2]), rho=1e-5, linear=not linear)
    assert float((noise - other).abs().max()) < 1e-3 * float(other.abs().max()) > 0


def test_sam_does_not_perturb_frozen_parameters():
    torch.manual_seed(0)
    model, x, labels = mlp(), torch.randn(3, 4, dtype=D), torch.tensor([0, 1, 2])
    model[0].requires_grad_(False)
    head, hidden = model[2], model[1](model[0](x))
    expected = sam_label_noise(head, hidden, labels, rho=0.1)
    assert torch.allclose(sam_label_noise(model, x, labels, rho=0.1), expected, atol=1e-14)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        sam_label_noise(model, x, labels)
