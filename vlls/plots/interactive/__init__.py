"""Figures to be moved by the reader: HTML with its data, style and script in it, which needs no network and no library.

Each function returns an :class:`.InteractiveFigure`. As the last line of a cell it is shown by Jupyter and by the book;
where scripts do not run, a sentence says what would be seen.
"""

from vlls.plots.interactive.examples import explore_examples
from vlls.plots.interactive.html import InteractiveFigure
from vlls.plots.interactive.label_noise import explore_label_noise
from vlls.plots.interactive.von import explore_von_steps

__all__ = ["InteractiveFigure", "explore_examples", "explore_label_noise", "explore_von_steps"]
