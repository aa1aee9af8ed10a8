"""The page of questions and answers on IVON: its code runs from top to bottom, its numbers are the package's."""

import re

import pytest
from chapters import ROOT

PAGE = (ROOT / "book" / "gotchas.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_code_of_the_page_runs_with_torch_and_numpy_alone(run_bare):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    done = run_bare("\n".join(blocks))
    assert done.returncode == 0, done.stderr


def test_every_question_users_ask_has_an_answer():
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)).lower()
    for word in ("hessian", "parameters", "accumulate", "mixed precision", "several gpus", "set"):
        assert word in headings
