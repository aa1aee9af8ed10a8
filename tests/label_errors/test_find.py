"""A network judges a data set's labels: any posterior, any form of data, reproducibly, and no example is lost."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from cases import mlp, posterior_of
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vlls import EVON, IVON, GaussianPosterior, find_label_errors, predict, rank_examples
from vlls.label_errors import LabelCorrection, _table, label_errors_from_probabilities, sampled_probabilities

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(5))
Y = torch.arange(23) % 3


@pytest.fixture
def model():
    return mlp()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(one, two):
    assert list(one.columns) == list(two.columns)
    for name in one.columns:
        columns = [np.asarray(table[name]) for table in (one, two)]
        if columns[0].dtype.kind == "f":
            assert_allclose(*columns, atol=1e-6)  # rounding depends on how numbers lie in memory
        else:
            assert_array_equal(*columns)


# ------------------------------------------------------------------ posteriors
def gaussian(model):
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return GaussianPosterior(vector, 0.01)


POSTERIORS = {
    "diagonal": posterior_of,
    "gaussian": gaussian,
    "IVON": lambda model: IVON(model.parameters(), lr=0.1, ess=50),
    "EVON": lambda model: EVON(model.parameters(), lr=0.1, ess=50),
}


@pytest.mark.parametrize("kind", POSTERIORS)
@pytest.mark.filterwarnings("ignore:the noise is")
def test_every_posterior_is_averaged_as_predict_does(model, kind):
    q = POSTERIORS[kind](model)
    found = sampled_probabilities(model, q, X, num_samples=5, generator=seeded(3))
    named = q.posterior(model) if hasattr(q, "posterior") else q
    assert found.shape == (5, 23, 3)
    assert_allclose(found.mean(axis=0), predict(model, named, X, 5, generator=seeded(3)), atol=1e-6)
    table = find_label_errors(model, q, X, Y, num_samples=5, generator=seeded(3))
    same(table, label_errors_from_probabilities(found, Y))


def test_a_plain_network_is_asked_once(model):
    expected = model(X).softmax(1).detach().numpy()
    assert_allclose(sampled_probabilities(model, None, X), expected[None], atol=1e-7)
    assert_allclose(sampled_probabilities(model, posterior_of(model), X, num_samples=0), expected[None], atol=1e-7)
    same(find_label_errors(model, None, X, Y), label_errors_from_probabilities(expected, Y))


def test_every_batch_sees_the_same_draws(model):
    q = posterior_of(model)
    whole = sampled_probabilities(model, q, X, num_samples=3, batch_size=23)
    assert_allclose(sampled_probabilities(model, q, X, num_samples=3, batch_size=5), whole, atol=1e-6)
    assert_array_equal(sampled_probabilities(model, q, X, num_samples=3, batch_size=23), whole)
    other = sampled_probabilities(model, q, X, num_samples=3, generator=seeded(1))
    assert np.abs(other - whole).max() > 1e-3


def test_a_generator_goes_on_to_new_draws(model):
    q, generator = posterior_of(model), seeded()
    first, second = (sampled_probabilities(model, q, X, batch_size=7, generator=generator) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_the_model_stays_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_label_errors(model, posterior_of(model), X, Y, num_samples=2, noise=True)
    assert [module.training for module in model] == [False, True, True, True] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_inside_a_sample_of_the_optimizer_it_is_refused(model):
    optimizer = IVON(model.parameters(), lr=0.1, ess=1e6)
    with optimizer.sampled_params(), pytest.raises(RuntimeError, match="parameters hold a sample"):
        find_label_errors(model, optimizer, X, Y)


# ------------------------------------------------------------------ forms of data
class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return self.item(range(23)[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Named(nn.Module):
    """A model that takes keywords and returns an object with logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, a, b):
        output = type("Output", (), {})()
        output.logits = self.model(torch.cat([a, b], 1))
        return output


FORMS = {
    "tensor": X,
    "array": X.numpy().astype(np.float64),
    "table": pandas.DataFrame(X.numpy(), index=range(100, 123)),
    "tensors": TensorDataset(X, Y),
    "items": Items(lambda i: X[i]),
    "pairs": Items(lambda i: (X[i], int(Y[i]))),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=6),
    "shuffled loader": DataLoader(TensorDataset(X, Y), batch_size=6, shuffle=True, drop_last=True),
    "stream": DataLoader(Stream(), batch_size=6),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_table(model, form):
    q = posterior_of(model)
    expected = find_label_errors(model, q, X, Y, batch_size=6)
    same(find_label_errors(model, q, FORMS[form], Y, batch_size=6), expected)


@pytest.mark.parametrize("form", ["tensors", "pairs", "loader", "shuffled loader", "stream"])
def test_labels_of_the_data_set_are_used(model, form):
    same(find_label_errors(model, None, FORMS[form], batch_size=6), find_label_errors(model, None, X, Y, batch_size=6))


def test_keywords_of_a_model_come_from_dicts(model):
    expected = find_label_errors(model, None, X, Y, batch_size=6)
    named, parts = Named(model), {"a": X[:, :1], "b": X[:, 1:].numpy()}
    same(find_label_errors(named, None, parts, Y, batch_size=6), expected)
    same(find_label_errors(named, None, {**parts, "labels": Y}, batch_size=6), expected)
    items = Items(lambda i: {"a": X[i, :1], "b": X[i, 1:], "label": Y[i]})
    same(find_label_errors(named, None, items, batch_size=6), expected)


def test_the_size_of_the_noise_needs_one_tensor(model):
    words = "a model that takes one tensor; leave it out"
    with pytest.raises(ValueError, match=words):
        find_label_errors(Named(model), posterior_of(Named(model)), {"a": X[:, :1], "b": X[:, 1:]}, Y, noise=True)
    with pytest.raises(ValueError, match=words):
        find_label_errors(model, posterior_of(model), X, Y, noise=True, forward=lambda model, x: model(x))


def test_a_function_of_the_batch_serves_any_other_form(model):
    items = Items(lambda i: {"left": {"x": X[i, :1]}, "right": [X[i, 1:]], "labels": Y[i]})
    expected = find_label_errors(model, None, X, Y, batch_size=6)

    def forward(model, batch):
        return model(torch.cat([batch["left"]["x"], *batch["right"]], 1))

    same(find_label_errors(model, None, items, batch_size=6, forward=forward), expected)


def test_texts_are_tokenized_by_the_function(model):
    texts = [" ".join(f"{number:.9f}" for number in x) for x in X.tolist()]

    def forward(model, batch):
        texts = batch[0] if len(batch) == 2 and not isinstance(batch[0], str) else batch
        return model(torch.tensor([[float(word) for word in text.split()] for text in texts]))

    expected = find_label_errors(model, None, X, Y, batch_size=6)
    for item in (lambda i: texts[i], lambda i: (texts[i], Y[i])):
        table = find_label_errors(model, None, Items(item), Y, batch_size=6, forward=forward)
        assert_allclose(table["score"], expected["score"], atol=1e-6)
    items = Items(lambda i: texts[0] if i == 4 else texts[i])
    with pytest.warns(UserWarning, match="2 examples have the same input"):
        find_label_errors(model, None, items, Y, forward=forward)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_logit_is_of_two_classes(shape):
    linear = nn.Linear(4, 1)
    model = nn.Sequential(linear, nn.Flatten(0)) if shape == () else linear
    p = linear(X).sigmoid().detach()[:, 0]
    table = find_label_errors(model, None, X, Y % 2)
    same(table, label_errors_from_probabilities(torch.stack([1 - p, p], 1), Y % 2))
    assert_array_equal(table["suggested"], (p > 0.5).numpy()[table["index"]])


def test_progress_is_told(model):
    told = []
    find_label_errors(model, None, X, Y, batch_size=10, progress=lambda *numbers: told.append(numbers))
    assert told == [(10, 23), (20, 23), (23, 23)]


# ------------------------------------------------------------------ labels
def test_missing_labels_stay_in_the_table(model):
    whole = find_label_errors(model, None, X, Y)
    given = Y.double()
    given[[2, 9]] = np.nan
    labels = {
        "float": given,
        "list": [None if y != y else int(y) for y in given.tolist()],
        "pandas": pandas.Series(given.numpy()).astype("Int64"),
        "numbers": torch.where(given.isnan(), -1, Y),
        "names": ["" if y != y else "abc"[int(y)] for y in given.tolist()],
    }
    for form, of in labels.items():
        table = find_label_errors(model, None, X, of, classes="abc" if form == "names" else None)
        gone = table["index"].isin([2, 9])
        assert len(table) == 23 and gone[-2:].all() and not table["flag"][gone].any()
        assert table["score"].isna().sum() == 2
        if form == "names":
            assert table["given"][gone].tolist() == ["", ""] and set(table["suggested"]) <= set("abc")
        else:
            assert table["given"][gone].tolist() == [-1, -1]
            by_place = [t.set_index("index")["suggested"].sort_index() for t in (whole, table)]
            assert_array_equal(*by_place)


def test_a_stream_that_is_too_short_is_told(model):
    with pytest.raises(ValueError, match=r"labels have shape \(24,\); 23 examples need \(23,\)"):
        find_label_errors(model, None, FORMS["stream"], [*Y.tolist(), 0])


def test_a_category_is_names(model):
    labels = pandas.Series([None, *("abc"[int(y)] for y in Y[1:])], dtype="category")
    table = find_label_errors(model, None, X, labels, classes=list("abc")).set_index("index").sort_index()
    assert table["given"].tolist() == ["", *("abc"[int(y)] for y in Y[1:])]


def test_names_that_are_no_class_are_counted(model):
    names = ["abc"[int(y)] for y in Y]
    names[3] = names[8] = "d"
    with pytest.warns(UserWarning, match=r"2 label\(s\), such as 'd', are no class and count as missing.* a, b, c"):
        table = find_label_errors(model, None, X, names, classes=list("abc"))
    assert set(table["index"][-2:]) == {3, 8}


def test_duplicates_with_different_labels_are_counted(model):
    x = torch.cat([X, X[[4, 5]]])
    with pytest.warns(UserWarning, match="2 examples have the same input.* such as 4 and 23; at least one label"):
        table = find_label_errors(model, None, x, [*Y.tolist(), (int(Y[4]) + 1) % 3, int(Y[5])])
    assert len(table) == 25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_label_errors(model, None, x, [*Y.tolist(), int(Y[4]), int(Y[5])])
        find_label_errors(model, None, x, [*Y.tolist(), -1, int(Y[5])])


def test_examples_that_cannot_be_read_are_counted(model):
    items = Items(lambda i: X[i])
    items.unreadable = {6}
    with pytest.warns(UserWarning, match=r"1 example\(s\) could not be read, such as 6"):
        table = find_label_errors(model, None, items, Y)
    last = table[-1:]
    assert last["index"].item() == 6 and last["suggested"].item() == -1 and np.isnan(last["p_suggested"].item())


def test_one_class_is_told(model):
    with pytest.warns(UserWarning, match="all 23 labels are of class 1.* flags none; flag by a number or a rate"):
        table = find_label_errors(model, None, X, [1] * 23)
    assert not table["flag"].any()


# ------------------------------------------------------------------ the size of the noise
def test_the_size_of_the_noise_is_that_of_rank_examples(model):
    q = posterior_of(model)
    expected = rank_examples(model, q, X, Y)
    for form in ("tensor", "array", "table", "loader"):
        table = find_label_errors(model, q, FORMS[form], Y, noise=True)
        assert_allclose(table["noise"].to_numpy()[np.argsort(table["index"])][expected.index], expected.noise)
    assert list(table.columns)[-2:] == ["noise", "flag"]


# ------------------------------------------------------------------ without pandas
def test_without_pandas_there_is_a_table_of_the_same_columns(model, monkeypatch, tmp_path):
    frame = find_label_errors(model, None, X, [-1, *Y[1:].tolist()])

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(_table, "import_module", absent)
    table = find_label_errors(model, None, X, [-1, *Y[1:].tolist()])
    same(table, frame)
    assert len(table) == 23 and len(table[:5]) == 5 and len(table[table["flag"]]) == frame["flag"].sum()
    assert repr(table).startswith("Table(23 rows: index, given, suggested, score")
    table.to_csv(tmp_path / "table.csv")
    read = pandas.read_csv(tmp_path / "table.csv")
    pandas.testing.assert_frame_equal(read, frame)
    table.to_csv(tmp_path / "numbered.csv", index=True)
    assert_array_equal(pandas.read_csv(tmp_path / "numbered.csv", index_col=0).index, range(23))


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": Y[:5]}, r"labels have shape \(5,\); 23 examples need \(23,\)"),
        ({"labels": Y + 1}, r"labels hold 7 value\(s\) outside 0 to 2, the first 3 at 2; number the classes from 0"),
        ({"labels": Y - 2}, r"labels hold 8 value\(s\) outside 0 to 2, the first -2 at 0"),
        ({"labels": [-1] * 23}, "all labels are missing; pass at least one"),
        ({"labels": None}, "labels are not given, and the items of the data set have none; pass labels="),
        ({"labels": Y + 0.5}, r"labels\[0\] is 0.5, a float; pass whole numbers"),
        ({"labels": ["a"] * 23}, r"labels are strings; pass classes=\[...\]"),
        ({"labels": ["d"] * 23, "classes": list("abc")}, "no label is one of the classes a, b, c; the first is 'd'"),
        ({"labels": "abc"}, "labels are a str; pass one for each example"),
        ({"dataset": TensorDataset(X, Y), "labels": None, "classes": list("ab")}, "classes has 2 names"),
        ({"classes": list("ab")}, "classes has 2 names and the probabilities have 3 columns"),
        ({"score": "margins"}, r"score='margins' is unknown \(did you mean 'margin'\?\)"),
        ({"score": "error_times_variance"}, "needs a posterior and num_samples of 2 or more"),
        ({"flag": "all"}, "flag='all' is unknown; choose one of confident_joint, bayes, or pass"),
        ({"flag": 24}, "flag=24 and 23 examples have a label; flag fewer"),
        ({"flag": 1.5}, "flag=1.5 is outside"),
        ({"flag": -1}, "flag=-1 is not allowed; choose a whole number >= 0"),
        ({"flag": True}, "flag=True is not allowed"),
        ({"noise": True}, "noise=True needs a posterior"),
        ({"score": "bayes", "adjust": True}, "adjust=True does not go with score='bayes'; choose self_confidence or"),
        ({"correction": np.eye(3), "score": "bayes"}, "correction is a.* ndarray; pass what fit_correction returns"),
        ({"correction": LabelCorrection(np.eye(3))}, "correction is read by score='bayes' and flag='bayes'"),
        ({"correction": LabelCorrection(np.eye(2)), "flag": "bayes"}, "3 classes and transition has 2"),
        ({"num_samples": 1.5}, "num_samples=1.5 is not allowed; choose a whole number >= 0"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"generator": 0}, "generator=0 is no torch.Generator"),
        ({"dataset": X[:0]}, "the data set is empty"),
        ({"dataset": X[:, :3]}, r"the model fails on an example of x, which has shape \(5, 3\)"),
        ({"dataset": X * np.nan}, "the model returned logits that are NaN or infinite"),
        ({"dataset": Items(lambda i: "text")}, "an item of the data set has .* pass forward=..."),
        ({"dataset": (X, Y)}, "dataset is a tuple; pass the tensor of its inputs"),
        ({"dataset": [X[0, :3], *X[1:]]}, "the items of the data set differ in size .*; make them alike"),
        (
            {"labels": list("ab") * 11 + ["a"], "classes": list("aba")},
            "two of the classes a, b, a have one name",
        ),
        ({"forward": lambda model, batch: model(batch)[:, :0]}, r"the model returned shape \(5, 0\) for 5 examples"),
        ({"dataset": {"a": X, "b": X[:3]}}, r"different numbers of rows \('a' 23, 'b' 3\)"),
        ({"dataset": pandas.DataFrame({"a": ["x"] * 23})}, "the table holds more than numbers"),
        ({"forward": lambda model, batch: model(batch)[:3]}, r"the model returned shape \(3, 3\) for 5 examples"),
    ],
)
def test_bad_input_is_told_in_one_line_before_the_second_batch(model, change, words):
    done = []
    arguments = {
        "dataset": X,
        "labels": Y,
        "batch_size": 5,
        "progress": lambda *numbers: done.append(numbers),
        **change,
    }
    with pytest.raises(ValueError, match=words) as error:
        find_label_errors(model, None, **arguments)
    assert "\n" not in str(error.value)
    assert not done


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_saved_in_half_precision_are_scaled_to_sum_to_1(dtype):
    half = torch.randn(500, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1).to(dtype)
    labels, exact = torch.arange(500) % 10, half.double() / half.double().sum(1, keepdim=True)
    assert (half.double().sum(1) - 1).abs().max() > 1e-4  # more than float32 may be off
    table = label_errors_from_probabilities(half, labels).sort_values("index")
    assert_allclose(table["p_given"], exact[torch.arange(500), labels], rtol=1e-6)
    with pytest.raises(ValueError, match="do not sum to 1 in 500 of 500 rows"):
        label_errors_from_probabilities(1.1 * half, labels)


@pytest.mark.parametrize(
    "p, words",
    [
        ([[0.5, 0.6], [0.5, 0.5]], r"probabilities do not sum to 1 in 1 of 2 rows \(row 0 sums to 1.1\)"),
        ([[-0.5, 1.5], [0.5, 0.5]], "probabilities hold -0.5, not a probability"),
        ([[np.nan, 0.5], [0.5, 0.5]], "probabilities hold nan, not a probability"),
        ([[1, 0], [0, 1]], "pass floats of shape"),
        ([[[[0.5, 0.5]]]], "pass floats of shape"),
        ([[np.nan, np.nan]] * 2, "no example has both a label and a prediction"),
    ],
)
def test_what_is_no_probability_is_refused(p, words):
    with pytest.raises(ValueError, match=words):
        label_errors_from_probabilities(p, [0, 1])
