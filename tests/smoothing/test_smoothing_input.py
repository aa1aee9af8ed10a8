"""State, modes and number formats of the smoothing losses, and bad input."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from smoothing_references import STRATEGIES, K, batch, every_strategy, trained

from vlls.smoothing import (
    ACLS,
    EntropySmoothing,
    LabelSmoothingLoss,
    MeanPredictionSmoothing,
    OnlineLabelSmoothing,
    smooth_labels,
)


# ------------------------------------------------------------------ state, modes and number formats
@pytest.mark.parametrize("make", [lambda: OnlineLabelSmoothing(0.4, K), lambda: MeanPredictionSmoothing(0.4, K)])
def test_state_dict_resumes_in_the_middle_of_an_epoch(make, tmp_path):
    whole, first = make(), make()
    for criterion in (whole, first):
        trained(criterion)
        criterion(*batch(20))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for criterion in (whole, second):
        criterion(*batch(21))
        criterion.next_epoch()
    assert torch.equal(whole(*batch(22)), second(*batch(22)))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))
    first.next_epoch()  # without batch 21 the epoch ends elsewhere
    assert not torch.equal(first(*batch(22)), second(*batch(22)))


@pytest.mark.parametrize("name", ["ols", "mean prediction"])
def test_statistics_are_taken_in_training_mode_and_by_forward_only(name):
    criterion = STRATEGIES[name]()
    before = copy.deepcopy(criterion.state_dict())
    in_eval = criterion.eval()(*batch(23))
    criterion.train().label_noise(*batch(23))
    assert all(torch.equal(before[key], value) for key, value in criterion.state_dict().items())
    in_train = criterion(*batch(23))
    assert torch.equal(in_eval, in_train)
    changed = [key for key, value in criterion.state_dict().items() if not torch.equal(before[key], value)]
    assert changed == ["_prob_sum", "_count"]


@every_strategy
def test_autocast_gives_a_float32_loss_of_the_rounded_logits(name):
    torch.manual_seed(0)
    model, inputs, labels = torch.nn.Linear(8, K), torch.randn(64, 8), batch(24, n=64)[1]
    narrow, wide = STRATEGIES[name](), STRATEGIES[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
        loss = narrow(logits, labels)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wide(logits.double(), labels), rtol=1e-6, atol=0)
    loss.backward()
    assert model.weight.grad.abs().sum() > 0
    for ours, reference in zip(narrow.buffers(), wide.buffers(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)


def test_statistics_of_many_bfloat16_batches_do_not_saturate():
    criterion = OnlineLabelSmoothing(0.5, 2)
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16).expand(512, 2)
    for _ in range(4):
        criterion(logits, torch.zeros(512, dtype=torch.long))
    criterion.next_epoch()
    # a bfloat16 sum would have stopped growing at 256
    assert float(criterion.soft_labels[0, 0]) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


@every_strategy
def test_every_strategy_can_be_traced(name):
    criterion = STRATEGIES[name]()
    logits, labels = batch(25)
    expected = copy.deepcopy(criterion)(logits, labels)
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, labels), expected)


def test_validation_can_be_switched_off():
    logits, labels = batch(26)
    logits[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"logits hold NaN or infinity in 1 of 40 rows \(the first is row 0\)"):
        LabelSmoothingLoss(0.1)(logits, labels)
    assert LabelSmoothingLoss(0.1, validate=False)(logits, labels).isnan()


@pytest.mark.parametrize("label", [0, 1], ids=["another class", "the masked class"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_masked_class_has_torch_s_loss_and_gradient(smoothing, label):
    logits = torch.tensor([[0.5, -math.inf, 2.0], [0.1, 0.2, 0.3]], requires_grad=True)
    labels = torch.tensor([label, 2])
    ours = LabelSmoothingLoss(smoothing, validate=False)(logits, labels)
    theirs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_an_empty_batch_takes_part_in_a_sum():
    for name, make in STRATEGIES.items():
        logits = torch.zeros(0, K, requires_grad=True)
        loss = make(reduction="sum")(logits, torch.zeros(0, dtype=torch.long))
        loss.backward()
        assert loss == 0 and logits.grad.shape == (0, K), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_strategy
def test_on_a_gpu_inside_a_cuda_graph(name):
    on_cpu = STRATEGIES[name]()
    on_gpu = copy.deepcopy(on_cpu).to("cuda")
    logits, labels = (t.cuda() for t in batch(28))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        copy.deepcopy(on_gpu)(logits, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = on_gpu(logits, labels)
    for seed in (29, 30):
        for static, fresh in zip((logits, labels), batch(seed), strict=True):
            static.copy_(fresh)
        graph.replay()
        torch.testing.assert_close(loss.cpu(), on_cpu(*batch(seed)), rtol=1e-12, atol=1e-12)
    for criterion in (on_cpu, on_gpu):
        if hasattr(criterion, "next_epoch"):
            criterion.next_epoch()
    for ours, reference in zip(on_gpu.buffers(), on_cpu.buffers(), strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ bad input
LOGITS = torch.zeros(3, 4)
CLASSES = torch.tensor([0, 1, 3])
ROWS = torch.full((3, 4), 0.25)
nan = math.nan


BAD_INPUT = {
    "rate above 1": (lambda: LabelSmoothingLoss(1.5), r"smoothing=1\.5 is not allowed; .* at most 1, above which the"),
    "rate NaN": (lambda: LabelSmoothingLoss(nan), r"smoothing=nan is not allowed; choose a finite number"),
    "rate -inf": (lambda: LabelSmoothingLoss(-math.inf), r"smoothing=-inf is not allowed; choose a finite number"),
    "negative rate": (lambda: smooth_labels(CLASSES, -0.1, 4), r"smoothing=-0\.1 is outside \[0, 1\]"),
    "alpha": (lambda: OnlineLabelSmoothing(2, 4), r"alpha=2 is outside \[0, 1\]"),
    "first epoch's rate": (lambda: OnlineLabelSmoothing(0.5, 4, smoothing=-1), r"smoothing=-1 is outside"),
    "mean prediction's rate": (lambda: MeanPredictionSmoothing(3, 4), r"smoothing=3 is outside \[0, 1\]"),
    "one class": (lambda: OnlineLabelSmoothing(0.5, 1), r"n_classes is 1; pass the number of classes"),
    "half a class": (lambda: MeanPredictionSmoothing(0.5, 2.5), r"n_classes is 2\.5; pass .* integer"),
    "negative margin": (lambda: ACLS(margin=-1.0), r"margin=-1\.0 is not allowed; choose a finite number"),
    "margin a string": (lambda: ACLS(margin="1"), r"margin='1' is not allowed; choose a finite number"),
    "two margins": (lambda: ACLS(margin=torch.ones(2)), r"margin=tensor\(\[1\., 1\.\]\) is not allowed"),
    "infinite weight": (lambda: ACLS(pos_weight=math.inf), r"pos_weight=inf is not allowed"),
    "reduction": (lambda: LabelSmoothingLoss(0.1, reduction="avg"), r"reduction='avg' .* 'mean', 'sum' or 'none'"),
    "validate": (lambda: ACLS(validate="no"), r"validate='no' is not allowed; choose True or False"),
    **{
        f"{make.__name__} in {dtype}": (
            lambda make=make, dtype=dtype: make(0.5, 4, dtype=dtype),
            r"dtype=.* is not allowed; choose torch.float64, or torch.float32",
        )
        for make in (OnlineLabelSmoothing, MeanPredictionSmoothing)
        for dtype in (torch.int64, torch.float16, torch.complex64, "float32", None)
    },
    "K unknown": (lambda: smooth_labels(CLASSES, 0.1), r"num_classes is not given.*pass num_classes=K"),
    "K disagrees": (lambda: smooth_labels(ROWS, 0.1, 7), r"shape \(3, 4\).*shape \(N, 7\)"),
    "label too large": (lambda: smooth_labels(CLASSES, 0.1, 3), r"labels lie in 0\.\.3, outside 0\.\.2; number"),
    "label negative": (
        lambda: EntropySmoothing()(LOGITS, CLASSES - 100),
        r"labels lie in -100\.\.-97, outside 0\.\.3",
    ),
    "labels a list": (lambda: EntropySmoothing()(LOGITS, [0, 1, 3]), r"labels are a list; pass a tensor"),
    "labels 2-D integers": (lambda: ACLS()(LOGITS, CLASSES[:, None]), r"int64 and shape \(3, 1\); pass classes"),
    "labels bool": (lambda: ACLS()(LOGITS, ROWS > 0), r"labels of dtype bool and shape \(3, 4\) cannot be used"),
    "labels 1-D floats": (
        lambda: ACLS()(LOGITS, CLASSES.float()),
        r"float32 and shape \(3,\).*or classes as integers",
    ),
    "too few labels": (lambda: ACLS()(LOGITS, CLASSES[:2]), r"3 rows of logits meet 2 labels"),
    "negative rows": (lambda: smooth_labels(ROWS - 0.5, 0.1), r"labels hold -0\.25, not a probability"),
    "NaN rows": (lambda: smooth_labels(ROWS * nan, 0.1), r"labels hold nan, not a probability; pass softmax"),
    "rates that do not sum": (
        lambda: LabelSmoothingLoss(0.1)(LOGITS, ROWS * torch.tensor([[1.0], [1.2], [0.5]])),
        r"labels do not sum to 1 in 2 of 3 rows \(row 1 sums to 1\.2\); divide each row by its sum",
    ),
    "infinite row": (lambda: smooth_labels(ROWS / 0, 0.1), r"do not sum to 1 in 3 of 3 rows \(row 0 sums to inf\)"),
    "logits integers": (lambda: ACLS()(LOGITS.long(), CLASSES), r"logits are of dtype int64 and shape \(3, 4\)"),
    "logits 3-D": (lambda: ACLS()(LOGITS[None], CLASSES), r"logits are .*shape \(1, 3, 4\); pass floats of shape"),
    "logits sparse": (lambda: ACLS()(LOGITS.to_sparse(), CLASSES), r"logits are torch.sparse_coo; pass dense ones"),
    "logits one column": (lambda: ACLS()(LOGITS[:, :1], CLASSES), r"number of columns of logits is 1"),
    "logits NaN": (lambda: ACLS().label_noise(LOGITS * nan, CLASSES), r"logits hold NaN or infinity in 3 of 3 rows"),
    "OLS soft labels": (
        lambda: OnlineLabelSmoothing(0.5, 4)(LOGITS, ROWS),
        r"needs classes.*labels\.argmax\(dim=1\)",
    ),
    "OLS columns": (
        lambda: OnlineLabelSmoothing(0.5, 9)(LOGITS, CLASSES),
        r"logits have 4 columns, but n_classes=9",
    ),
    "device": (lambda: OnlineLabelSmoothing(0.5, 4).to("meta")(LOGITS, CLASSES), r"on cpu.*criterion\.to\('cpu'\)"),
    "prior a list": (lambda: EntropySmoothing()(LOGITS, CLASSES, [1, 0]), r"prior is a list; pass softmax"),
    "prior length": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS[:2]), r"3 labels meet 2 rows of prior"),
    "prior width": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS[0, :3]), r"prior of .*shape \(3, 3\) cannot"),
    "prior sums": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS * 2), r"prior do not sum to 1 in 3 of 3 rows"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case):
    call, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rate_may_be_a_tensor_of_one_number(dtype):
    made = [OnlineLabelSmoothing(0.5, 4, smoothing=rate, dtype=dtype) for rate in (0.25, torch.tensor([[0.25]]))]
    assert torch.equal(made[0](LOGITS, CLASSES), made[1](LOGITS, CLASSES))
    assert made[0].soft_labels.dtype == dtype and repr(made[0]) == repr(made[1])


def test_a_failed_call_leaves_no_trace_in_the_statistics():
    criterion = OnlineLabelSmoothing(0.5, 4)
    before = copy.deepcopy(criterion.state_dict())
    for logits, labels in [(LOGITS * nan, CLASSES), (LOGITS, CLASSES + 9)]:
        with pytest.raises(ValueError, match=r"NaN|outside"):
            criterion(logits, labels)
    assert all(torch.equal(before[key], value) for key, value in criterion.state_dict().items())


def test_rows_that_sum_to_one_but_for_rounding_are_accepted():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = torch.randn(20, 100, generator=torch.Generator().manual_seed(0)).softmax(dim=1).to(dtype)
        assert not torch.equal(rows.double().sum(dim=1), torch.ones(20, dtype=torch.float64))
        assert smooth_labels(rows, 0.1).dtype == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("classes", [128, 256, 300])
def test_classes_in_narrow_types_are_those_in_int64(dtype, classes):
    """256 classes do not fit into uint8 nor 128 into int8, though each label may."""
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 60, 100, 126, 127])
    narrow = labels.to(getattr(torch, dtype))
    for loss in (OnlineLabelSmoothing(0.5, classes).eval(), ACLS(), LabelSmoothingLoss(0.1), EntropySmoothing()):
        assert torch.equal(loss(logits, narrow), loss(logits, labels))
        assert torch.equal(loss.label_noise(logits, narrow), loss.label_noise(logits, labels))
    assert torch.equal(smooth_labels(narrow, 0.1, classes), smooth_labels(labels, 0.1, classes))
    with pytest.raises(ValueError, match=r"^labels lie in 0\.\.127, outside 0\.\.99; number the 100 classes"):
        smooth_labels(narrow, 0.1, 100)
