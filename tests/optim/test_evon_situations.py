"""EVON in the situations of IVON's tests: the same tests, with EVON in place of IVON."""

import inspect
from itertools import product

import pytest
import test_autocast as autocast
import test_ivon_behaviour as behaviour
import test_ivon_tools as tools
import test_threads as threads
from ivon_problems import FUSED

from vlls import EVON

MODULES = [behaviour, tools, threads, autocast]
OTHERS = {  # tests of features that EVON does not have
    "test_an_executor_is_a_class_and_an_entry_of_the_table",
    "test_the_executor_is_named",
    "test_what_does_not_match_is_named_and_nothing_changes",  # test_evon.py tests this for EVON
    "test_the_pure_update_compiles_into_one_graph",
    "test_sam",
    "test_sam_keeps_others_waiting_until_its_second_step",
}


def values_of(test):
    """Return every choice of a test's parametrized arguments; EVON has no executor of lists."""
    choices = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name != "parametrize":
            continue
        names = [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
        executors = ["single", *(["fused"] if FUSED else [])]
        values = executors if names == ["executor"] else [getattr(v, "values", v) for v in mark.args[1]]
        choices.append([dict(zip(names, v if len(names) > 1 else [v], strict=True)) for v in values])
    return [{name: v for choice in chosen for name, v in choice.items()} for chosen in product(*choices)]


def unwrap(values):
    return {name: v[0] if isinstance(v, tuple) and len(v) == 1 else v for name, v in values.items()}


CASES = [
    pytest.param(module, name, unwrap(values), id="-".join([name.removeprefix("test_"), *map(str, values.values())]))
    for module in MODULES
    for name, test in vars(module).items()
    if name.startswith("test_") and name not in OTHERS
    for values in values_of(test)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*for the posterior is wide")
@pytest.mark.parametrize("module, name, values", CASES)
def test_situation(module, name, values, monkeypatch, request):
    # two computations that must agree to the last digits need short axes, which a single gradient determines
    longest = {"max_axis": 10} if "equal" in name else {}
    made = []

    def evon(*args, **options):
        made.append(EVON(*args, interval=1, basis_decay=0.5, **longest, **options))
        return made[-1]

    monkeypatch.setattr(module, "IVON", evon)
    test = getattr(module, name)
    fixtures = [p for p in inspect.signature(test).parameters if p not in values]
    test(**values, **{p: request.getfixturevalue(p) for p in fixtures})
    assert made  # else the test looks at something else than its module's IVON, and belongs to OTHERS
