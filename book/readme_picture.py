"""Draw the picture of the README, book/readme.png: the digits of MNIST whose labels one training run doubts most.

Run it from the project's root: ``python book/readme_picture.py``. The digits are those of
``book/results/mnist_pictures.json``, which ``benchmarks/mnist_pictures.py`` makes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from figures.label_errors import plot_class_images
from figures.openings import of_mnist, pixels


def main() -> None:
    """Draw the digits of the record."""
    first = of_mnist()["doubted"]["first"]
    titles = [f"{digit['given']}, or {digit['suggested']}?" for digit in first]
    figure = plot_class_images(pixels(first).numpy(), titles, columns=6)
    figure.savefig(Path(__file__).parent / "readme.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
