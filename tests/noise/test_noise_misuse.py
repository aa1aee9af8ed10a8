"""Label noise in unusual surroundings, and of unsuitable models: it works, or the error says why not."""

import warnings

import pytest
import torch
from cases import mlp as network
from cases import posterior_of, seeded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vlls import IVON
from vlls.noise import label_noise, label_noise_moments, logit_covariance, rank_examples, sam_label_noise
from vlls.noise._options import METHODS

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def mlp():
    torch.manual_seed(0)
    return network(hidden=8)


CALLS = {
    **{
        name: lambda model, q, x, name=name: label_noise(model, q, x, method=name, generator=seeded())
        for name in METHODS
    },
    "moments": lambda model, q, x: label_noise_moments(model, q, x).covariance,
    "covariance": logit_covariance,
    "ranking": lambda model, q, x: torch.from_numpy(rank_examples(model, q, x, LABELS).noise.copy()),
    "sam": lambda model, q, x: sam_label_noise(model, x, LABELS),
    "sam, linear": lambda model, q, x: sam_label_noise(model, x, LABELS, linear=True),
    "sam by example": lambda model, q, x: sam_label_noise(model, x, LABELS, per_example=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_changes_nothing(name):
    model = mlp()
    usual = CALLS[name](model, posterior_of(model), X)
    with torch.inference_mode():
        made_inside = posterior_of(model), X * 1
        inside = CALLS[name](model, *made_inside)
    assert torch.equal(inside, usual)
    assert name == "ranking" or not inside.is_inference()  # the columns of a ranking are arrays
    assert torch.equal(CALLS[name](model, *made_inside), usual)


class Returns(nn.Module):
    """A linear model whose logits are changed at last."""

    def __init__(self, change):
        super().__init__()
        self.linear, self.change = nn.Linear(4, 3), change

    def forward(self, x):
        return self.change(self.linear(x))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda logits: {"logits": logits}, "a dict .*: wrap it in a module"),
        (lambda logits: (logits, logits), "a tuple .*: wrap it in a module"),
        (lambda logits: None, "a NoneType"),
        (lambda logits: logits[:, None], r"shape \(\d, 1, 3\)"),
        (lambda logits: logits[:, 0], r"shape \(\d,\)"),
        (lambda logits: logits[:, :0], r"shape \(\d, 0\)"),
        (lambda logits: logits > 0, "torch.bool, torch.strided, .*, dense and of real floats"),
        (lambda logits: logits.long(), "torch.int64"),
        (lambda logits: logits + 0j, "torch.complex64"),
        (lambda logits: logits.to_sparse(), "torch.float32, torch.sparse_coo"),
    ],
    ids=["dict", "tuple", "None", "(B, T, K)", "(B,)", "(B, 0)", "bool", "int", "complex", "sparse"],
)
def test_what_is_no_matrix_of_logits_is_told(change, told):
    model = Returns(change)
    q = posterior_of(model)
    for call in CALLS.values():
        with pytest.raises(ValueError, match=f"the model returned {told}") as error:
            call(model, q, X)
        assert "has to return logits of shape" in str(error.value) and "\n" not in str(error.value)


class Two(Returns):
    def forward(self, x, y):
        return self.linear(x) + y


def test_a_model_of_two_inputs_is_told():
    model = Two(None)
    q = posterior_of(model)
    for call in CALLS.values():
        with pytest.raises(ValueError, match="the model fails on an example of x, .* 1 required positional argument"):
            call(model, q, X)


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_model_is_the_model(name):
    model = mlp()
    q, compiled = posterior_of(model), torch.compile(model, backend="eager")
    usual = CALLS[name](model, q, X)
    for either in (q, posterior_of(compiled)):
        assert torch.equal(CALLS[name](compiled, either, X), usual)


def test_the_posterior_of_a_compiled_model_has_the_names_of_the_model():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=100)
    assert list(optimizer.posterior(torch.compile(model)).mean) == list(optimizer.posterior(model).mean)


@pytest.mark.parametrize(
    "x, said",
    [(X.double(), "float64"), (X.long(), "int64"), (torch.randn(3, 5), r"shape \(3, 5\)")],
    ids=["float64", "integers", "another size"],
)
@pytest.mark.parametrize("name", ["exact", "monte_carlo", "sam"])
def test_inputs_that_the_model_cannot_take(name, x, said):
    model = mlp()
    with pytest.raises(ValueError, match=rf"the model fails on an example of x, which has .*{said}.*pass inputs as"):
        CALLS[name](model, posterior_of(model), x)


@pytest.mark.parametrize("name", ["exact", "rank"])
def test_a_covariance_beyond_its_dtype_is_refused(name):
    model = mlp().double()
    q, large = posterior_of(model), 1e30 * X.double()
    assert bool(torch.isfinite(CALLS[name](model, q, large)).all())
    with pytest.raises(ValueError, match="covariance of the logits is NaN or infinite in torch.float32"):
        CALLS[name](model.float(), q, large.float())


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(10, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.bag((10 * x.sigmoid()).long()))


@pytest.mark.parametrize(
    "make", [lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), Bag], ids=["weight_norm", "bag"]
)
def test_an_operation_without_a_forward_derivative(make):
    model = make().eval()
    q = posterior_of(model)
    with pytest.raises(ValueError, match="cannot be differentiated forward .*; use method='rank' or 'monte_carlo'"):
        label_noise(model, q, X, method="direction")
    with pytest.raises(ValueError, match="cannot be differentiated forward .*; use linear=False"):
        sam_label_noise(model, X, LABELS, linear=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert label_noise(model, q, X, method="rank").shape == (6, 3)
    assert sam_label_noise(model, X, LABELS).shape == (6, 3)


def test_memory_is_told_in_the_size_it_has():
    model = mlp()
    with pytest.raises(
        ValueError, match=r"1 gradient\(s\) need 0\.\d+ MiB and 1e-06 are allowed; raise memory_limit, or"
    ):
        label_noise(model, posterior_of(model), X, method="rank", rank=1, memory_limit=1e-6)


# ---------------------------------------------------------------------- ranking
class Items(torch.utils.data.Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.make(X[i])


@pytest.mark.parametrize(
    "dataset, message",
    [
        (DataLoader(TensorDataset(X, LABELS)), "dataset is a DataLoader; pass its dataset"),
        (Items(lambda x: {"image": x}), "has a dict where its input should be; wrap the data set"),
        (Items(lambda x: ((x, x), 0)), "has a list where its input should be"),
        (Items(lambda x: "text"), "has a str where its input should be"),
        ((X, LABELS), "dataset is a tuple; pass the tensor of its inputs, a list of items or a data set"),
        ({"x": X}, "dataset is a dict; pass the tensor of its inputs"),
        ([*X[:5], X[5, :3]], r"items of the data set differ in size .*; make them alike, or pass"),
    ],
    ids=["loader", "dict", "nested", "text", "tuple", "dict of tensors", "sizes"],
)
def test_data_sets_of_other_items(dataset, message):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        rank_examples(model, posterior_of(model), dataset, LABELS)


@pytest.mark.parametrize("value", [2.5, "3", True, 0])
def test_the_batch_size_is_a_whole_number(value):
    model = mlp()
    with pytest.raises(ValueError, match=f"batch_size={value!r} is not allowed; choose a whole number >= 1"):
        rank_examples(model, posterior_of(model), X, LABELS, batch_size=value)


def test_a_misspelt_option_is_named_with_the_right_one():
    model = mlp()
    with pytest.raises(ValueError, match=r"'curvture_pairs' is unknown \(did you mean 'curvature_pairs'\?\)"):
        rank_examples(model, posterior_of(model), X, LABELS, curvture_pairs=2)


def test_a_wide_posterior_is_warned_of_and_a_narrow_one_is_not():
    model = mlp()
    with pytest.warns(
        UserWarning, match="of 6 examples has a standard error above 0.05.*curvature_pairs=64 or method="
    ) as caught:
        rank_examples(model, posterior_of(model, 1.0), X, LABELS)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_examples(model, posterior_of(model, 0.1), X, LABELS)
