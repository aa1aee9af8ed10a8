"""Interactive figures: HTML that holds its data, style and script, and needs neither a network nor a library.

Each function returns an :class:`.InteractiveFigure`. Jupyter and the book show it if it is the last line of a cell;
without JavaScript, a sentence describes it.
"""

from figures.interactive.examples import explore_examples
from figures.interactive.html import InteractiveFigure
from figures.interactive.label_noise import explore_label_noise
from figures.interactive.theorem_1 import explore_theorem_1
from figures.interactive.two_noises import explore_two_noises
from figures.interactive.von import explore_von_steps

__all__ = [
    "InteractiveFigure",
    "explore_examples",
    "explore_label_noise",
    "explore_theorem_1",
    "explore_two_noises",
    "explore_von_steps",
]
