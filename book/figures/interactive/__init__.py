"""Figures to be moved by the reader: HTML with its data, style and script in it, which needs no network and no library.

Each function returns an :class:`.InteractiveFigure`. As the last line of a cell it is shown by Jupyter and by the book;
where scripts do not run, a sentence says what would be seen.
"""

from figures.interactive.examples import explore_examples
from figures.interactive.html import InteractiveFigure
from figures.interactive.label_noise import explore_label_noise
from figures.interactive.von import explore_von_steps

__all__ = ["InteractiveFigure", "explore_examples", "explore_label_noise", "explore_von_steps"]
