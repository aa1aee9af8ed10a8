"""Configs, their keys and presets, and schedules."""

import copy
import dataclasses
import json
import math
import pickle

import pytest
import torch
from training import tiny

from vlls.data import DATASETS
from vlls.train import METHODS, ResolvedConfig, RunConfig, hyperparameters, run
from vlls.train._presets import ESS_TO_LEARN, STEP_TO_LEARN, TO_LEARN
from vlls.train._trainer import learning_rate
from vlls.train.methods import make_optimizer

# ------------------------------------------------------------------ the paper's numbers
PAPER = [  # App. C.2 and Table 1, copied from the paper: data set, errors, rate, method, lr, weight decay, h_0
    ("cifar10", "symmetric", 0.4, "ls", 0.05, 1e-3, None),
    ("cifar10", "pair_flip", 0.2, "sam", 0.05, 1e-3, None),
    ("cifar10", "class_dependent", 0.4, "ivon", 0.2, 1e-3, 0.9),
    ("cifar100", "symmetric", 0.2, "ls", 0.1, 2e-4, None),
    ("cifar100", "symmetric", 0.4, "ls", 0.1, 2e-4, None),
    ("cifar100", "pair_flip", 0.2, "ls", 0.1, 5e-4, None),
    ("cifar100", "symmetric", 0.2, "sam", 0.05, 2e-4, None),
    ("cifar100", "symmetric", 0.4, "sam", 0.1, 2e-4, None),
    ("cifar100", "pair_flip", 0.2, "sam", 0.1, 5e-4, None),
    ("cifar100", "symmetric", 0.2, "ivon", 0.8, 2e-4, 0.2),
    ("cifar100", "symmetric", 0.4, "ivon", 0.8, 2e-4, 0.2),
    ("cifar100", "pair_flip", 0.2, "ivon", 0.5, 5e-4, 0.5),
    ("cifar100", "pair_flip", 0.2, "ivon_fixed", 0.5, 5e-4, 0.5),
]


@pytest.mark.parametrize("dataset, corruption, rate, method, lr, weight_decay, hess_init", PAPER)
def test_papers_hyperparameters(dataset, corruption, rate, method, lr, weight_decay, hess_init):
    config = RunConfig(dataset=dataset, corruption=corruption, rate=rate, method=method).resolved()
    assert (config.lr, config.weight_decay, config.hess_init) == (lr, weight_decay, hess_init)
    assert (config.model, config.epochs, config.batch_size, config.momentum) == ("resnet34", 200, 50, 0.9)
    if method.startswith("ivon"):
        assert (config.schedule, config.warmup_epochs) == ("cosine", 5.0)
        assert config.beta2 == (1 - 1e-5 if method == "ivon" else None)
        assert config.ess is None  # the number of training images
    else:
        assert (config.schedule, config.milestones, config.warmup_epochs) == ("step", (0.5, 0.75), 0.0)


def test_other_settings_take_the_nearest_column_of_table_1():
    assert hyperparameters("cifar100", "sam", "symmetric", 0.6)["lr"] == 0.1
    assert hyperparameters("cifar100", "sam", "none", 0.0)["lr"] == 0.05
    assert hyperparameters("cifar100", "ivon", "pair_flip", 0.4)["hess_init"] == 0.5


@pytest.mark.parametrize(
    "fields, images, steps",
    [
        ({"dataset": "digits"}, 1437, 28 * 40),
        ({"dataset": "digits", "validation_size": 437, "epochs": 10, "batch_size": 20}, 1000, 50 * 10),
        ({"dataset": "mnist", "train_size": 5000, "epochs": 12}, 5000, 1200),
        ({"dataset": "cifar10", "epochs": 30}, 50_000, 30_000),
        ({"dataset": "cifar10"}, 50_000, 200_000),
        ({"dataset": "cifar100", "corruption": "symmetric", "rate": 0.4, "train_size": 20_000}, 20_000, 80_000),
    ],
)
@pytest.mark.parametrize("method", ["ivon", "ivon_fixed"])
def test_small_runs_keep_the_papers_first_std_and_what_is_left_of_h0(fields, images, steps, method):
    config = RunConfig(method=method, **fields).resolved()
    h0 = 0.2 if fields["dataset"] == "cifar100" else 0.9
    sigma = (50_000 * (h0 + config.weight_decay)) ** -0.5
    assert math.isclose((images * (config.hess_init + config.weight_decay)) ** -0.5, sigma, rel_tol=1e-12)
    assert math.isclose(RunConfig(method=method, **fields).std_start, sigma, rel_tol=1e-12)
    assert RunConfig(method="sgd", **fields).std_start is None
    if method == "ivon":
        assert math.isclose(config.beta2**steps, math.exp(-2), rel_tol=1e-2)


def test_many_images_unknown_ones_and_an_ess_of_ones_own_leave_h0_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    assert RunConfig(dataset="mnist").resolved().hess_init == 0.9  # 60,000 images
    assert RunConfig(dataset=str(tmp_path / "photos")).resolved().hess_init == 0.9
    assert RunConfig(dataset=str(tmp_path / "photos"), train_size=500).resolved().hess_init > 80
    assert RunConfig(ess=3e4).resolved().hess_init == 0.9
    assert RunConfig(hess_init=0.5).resolved().hess_init == 0.5
    assert hyperparameters("digits", "ivon")["hess_init"] == RunConfig().resolved().hess_init
    fewer = hyperparameters("cifar10", "ivon", train_size=10_000, epochs=60)
    asked = RunConfig(dataset="cifar10", train_size=10_000, epochs=60).resolved()
    assert (fewer["hess_init"], fewer["beta2"]) == (asked.hess_init, asked.beta2)


def test_clothing1m_is_a_resnet50_and_variational_gd_has_no_momentum():
    assert RunConfig(dataset="clothing1m").resolved().model == "resnet50"
    assert RunConfig(dataset="clothing1m").resolved().pretrained is True
    assert RunConfig(dataset="clothing1m", model="cnn3").resolved().pretrained is False  # it has no pretrained weights
    miniature = RunConfig(dataset="clothing1m_miniature").resolved()
    assert (miniature.model, miniature.pretrained, miniature.epochs) == ("cnn3", False, 20)
    assert miniature.hess_init == hyperparameters("digits", "ivon", train_size=1_400)["hess_init"]
    assert miniature.beta2 == 1 - 2 / (20 * 1_400 / 25)
    assert RunConfig(method="vgd").resolved().momentum == 0.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("ivon", "digits"), "^method='digits' is unknown; choose one of ivon, sgd, ls"),
        (("digits", "ivom"), r"^method='ivom' is unknown \(did you mean 'ivon'\?\)"),
        (("cifer10", "ivon"), r"^dataset='cifer10' is unknown \(did you mean 'cifar10'\?\)"),
        (("digits", "ivon", "symetric", 0.4), "^corruption='symetric' is unknown"),
    ],
)
def test_hyperparameters_of_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        hyperparameters(*arguments)


def test_hyperparameters_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    values = hyperparameters("photos", "ivon")
    assert values == hyperparameters("./elsewhere", "ivon") and values["model"] == "resnet50"
    key = RunConfig(dataset="photos").key
    (tmp_path / "photos").rmdir()
    assert RunConfig(dataset="photos").key == key


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_method_is_complete_on_every_data_set(dataset, method):
    config = RunConfig(dataset=dataset, method=method).resolved()
    without_a_default = {"labels", "train_size", "image_size", "ess", "clip_radius", "hess_clip", "augment", "ema"}
    unread = {name for used in METHODS.values() for name in used.reads} - set(METHODS[method].reads)
    if method in ("ivon_fixed", "vgd"):
        unread |= {"beta2", "hess_approx"}
    fields = {f.name for f in dataclasses.fields(config)}
    missing = {name for name in fields if getattr(config, name) is None}
    assert missing - without_a_default == (unread & fields) - without_a_default


# ------------------------------------------------------------------ posteriors that are learned
@pytest.mark.parametrize("method", [name for name in METHODS if "hess_init" in METHODS[name].reads])
def test_a_learned_posterior_has_other_defaults_and_the_paper_s_none(method):
    base = {"dataset": "mnist", "method": method, "train_size": 5_000, "epochs": 12}
    paper, learned = (RunConfig(**base, posterior=name) for name in ("paper", "learned"))
    assert paper.key == RunConfig(**base).key != learned.key  # the default leaves keys unchanged
    before, now = paper.resolved(), learned.resolved()
    assert (now.ess, now.hess_init) == (5_000 * ESS_TO_LEARN, TO_LEARN["hess_init"])
    assert now.hess_clip == (TO_LEARN["hess_clip"] if "hess_clip" in METHODS[method].reads else None)
    assert math.isclose(now.lr, before.lr * STEP_TO_LEARN.get(method, 1.0))
    values = {"ess": None, "hess_init": before.hess_init, "hess_clip": None, "posterior": "paper", "lr": before.lr}
    assert dataclasses.replace(now, **values) == before and before.ess is None
    assert now.key == now.resolved().key == learned.key
    assert math.isclose(learned.std_start, (now.ess * (now.hess_init + now.weight_decay)) ** -0.5)
    given = {"ess": 7.0, "hess_init": 0.7} | ({"hess_clip": 0.7} if now.hess_clip else {})
    asked = RunConfig(**base, posterior="learned", **given).resolved()
    assert {name: getattr(asked, name) for name in given} == given
    found = hyperparameters("mnist", method, epochs=12, train_size=5_000, posterior="learned")
    assert {name: now[name] for name in found} == found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ivon", "evon"])
def test_with_the_defaults_of_a_learned_posterior_wrong_labels_are_not_learned_by_heart(method, tmp_path):
    config = RunConfig(dataset="digits", method=method, corruption="symmetric", rate=0.4, posterior="learned")
    final = run(config, tmp_path).final
    assert final["learned_share"] > 0.5 and final["test_accuracy"] > 0.9 and final["memorised"] < 0.2


def test_a_learned_posterior_where_the_number_of_images_is_not_known(tmp_path):
    (tmp_path / "photos").mkdir()
    config = RunConfig(dataset=str(tmp_path / "photos"), posterior="learned").resolved()
    assert config.ess is None and config.std_start is None and config.ess_for(80) == 80 * ESS_TO_LEARN
    model = torch.nn.Linear(3, 2)
    group = make_optimizer(config, model, num_train=80).param_groups[0]
    assert (group["ess"], group["hess_init"]) == (80 * ESS_TO_LEARN, TO_LEARN["hess_init"])
    assert group["hess_clip"] == TO_LEARN["hess_clip"]
    assert RunConfig().resolved().ess_for(80) == 80


def test_most_of_a_learned_posterior_is_learned():
    paper, learned = (run(tiny(posterior=name, epochs=2)).final for name in ("paper", "learned"))
    assert paper["learned_share"] < 0.2 and paper["std_95"] < 1.1 * paper["std_5"]
    assert learned["learned_share"] > 0.5 and learned["std_95"] > 5 * learned["std_5"]


def test_options_of_the_hessian_reach_the_optimizer():
    config = RunConfig(hess_clip=3, hess_every=2).resolved()
    group = make_optimizer(config, torch.nn.Linear(3, 2), num_train=80).param_groups[0]
    assert (group["hess_clip"], group["hess_every"]) == (3.0, 2)
    assert math.isclose(config.beta2 ** (28 * 40 // 2), math.exp(-2), rel_tol=1e-2)  # the remaining share of h0
    plain = make_optimizer(RunConfig().resolved(), torch.nn.Linear(3, 2), num_train=80).param_groups[0]
    assert (plain["hess_clip"], plain["hess_every"]) == (math.inf, 1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"posterior": "lerned"}, r"posterior='lerned' is unknown \(did you mean 'learned'\?\)"),
        ({"posterior": "learned", "method": "sgd"}, "posterior='learned' is not read by method='sgd', only by ivon"),
        ({"hess_clip": 0.0}, "hess_clip=0.0 is not allowed; choose a finite number > 0"),
        ({"hess_clip": math.inf}, "hess_clip=inf is not allowed"),
        ({"hess_every": 0}, "hess_every=0 is not allowed; choose a whole number >= 1"),
        ({"hess_every": 1.5}, "hess_every=1.5 is not allowed"),
        ({"hess_clip": 2.0, "method": "vgd"}, "hess_clip=2.0 is not read by method='vgd', only by ivon"),
        ({"hess_every": 2, "method": "ls"}, "hess_every=2 is not read by method='ls', only by ivon"),
    ],
)
def test_bad_options_of_a_posterior_are_one_line(fields, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        RunConfig(**fields)
    assert "\n" not in str(error.value)


def test_the_presets_of_a_learned_posterior_are_ivon_s():
    with pytest.raises(ValueError, match="^posterior='learned' is not read by method='sgd'"):
        hyperparameters("digits", "sgd", posterior="learned")
    with pytest.raises(ValueError, match="^posterior='bayes' is unknown"):
        hyperparameters("digits", "ivon", posterior="bayes")


# ------------------------------------------------------------------ identity
def test_survives_json():
    config = RunConfig(dataset="mnist", method="ls", smoothing=0.3, milestones=(0.3, 0.6)).resolved()
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="field='smothing' is unknown .did you mean 'smoothing'"):
        RunConfig.from_dict({"smothing": 0.1})


def test_a_resolved_config_is_the_same_run():
    config = RunConfig(dataset="mnist", method="ls", smoothing=0.3)
    resolved = config.resolved()
    assert isinstance(resolved, ResolvedConfig) and resolved.lr == 0.05 and config.lr is None
    assert resolved == resolved.resolved() == RunConfig(**{n: resolved[n] for n in resolved.to_dict()}) != config
    for same in (pickle.loads(pickle.dumps(resolved)), copy.deepcopy(resolved), dataclasses.replace(resolved)):
        assert type(same) is ResolvedConfig and same == resolved and hash(same) == hash(resolved)
    with pytest.raises(ValueError, match="lr=None is not allowed in a resolved config"):
        dataclasses.replace(resolved, lr=None)


# ------------------------------------------------------------------ bad values
@pytest.mark.parametrize(
    "values, message",
    [
        ({"method": "ivn"}, "method='ivn' is unknown .did you mean 'ivon'.*choose one of ivon, sgd, ls"),
        ({"corruption": "symetric"}, "corruption='symetric' is unknown .did you mean 'symmetric'"),
        ({"model": "resnet43"}, "did you mean 'resnet34'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bf16"}, "precision='bf16' is unknown.*auto, float32, bfloat16"),
        ({"corruption": "symmetric", "rate": 1.0}, r"rate=1.0 is outside \[0, 1\)"),  # others: test_corruption
        ({"corruption": "class_dependent", "rate": 0.5, "rate_step": 0.06}, "rate_step of at most 0.05"),
        ({"corruption": "symmetric"}, "corruption='symmetric' needs rate > 0; pass the share"),
        ({"corruption": "pair_flip", "rate": 0}, "corruption='pair_flip' needs rate > 0; pass the share"),
        ({"corruption": "class_dependent"}, "corruption='class_dependent' needs rate > 0 or rate_step > 0; pass"),
        ({"labels": "cifar10n:worse_label", "corruption": "symmetric", "rate": 0.2}, "no clean reference"),
        ({"method": "sgd", "rho": 0.1}, "rho=0.1 is not read by method='sgd', only by sam"),
        ({"method": "ivon_fixed", "beta2": 0.9}, "beta2=0.9 is not read by method='ivon_fixed', only by ivon"),
        ({"epochs": 0}, "epochs=0 is not allowed; choose a whole number >= 1"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"seed": 2**32}, "below 2..32"),
        ({"lr": -1.0}, "lr=-1.0 is not allowed"),
        ({"lr": math.inf}, "lr=inf"),
        ({"hess_init": 0.0}, "hess_init=0.0 is not allowed; choose a finite number > 0"),
        ({"method": "ls", "smoothing": 1.5}, r"smoothing=1.5 is not allowed; choose a finite number of at most 1"),
        ({"momentum": "0.9"}, r"momentum='0.9' is outside \[0, 1\]"),
        ({"milestones": (0.5, 1.0)}, r"choose numbers in \(0, 1\)"),
        ({"epochs": 4, "warmup_epochs": 4.0}, "leaves nothing of epochs=4"),
    ],
)
def test_errors_say_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message) as error:
        RunConfig(**values)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ schedules
def test_steps_at_epochs_100_and_150_of_200():
    rates = {
        epoch: learning_rate(epoch * 1000, lr=0.05, total_steps=200_000, schedule="step", milestones=(0.5, 0.75))
        for epoch in (0, 99, 100, 149, 150, 199)
    }
    assert rates == pytest.approx({0: 0.05, 99: 0.05, 100: 0.005, 149: 0.005, 150: 0.0005, 199: 0.0005}, rel=1e-12)


def test_warm_up_is_linear_and_cosine_ends_at_zero():
    def rate(step):
        return learning_rate(step, lr=0.2, total_steps=2000, schedule="cosine", warmup_steps=50)

    rises = [rate(s + 1) - rate(s) for s in range(50)]
    assert rises == pytest.approx([0.2 / 51] * 50) and rate(50) == 0.2
    assert rate(1025) == pytest.approx(0.1) and 0 < rate(1999) < 1e-6
    assert all(rate(s) > rate(s + 1) for s in range(50, 1999))
