"""Data sets by name, folders of images, and label errors to put into them.

:func:`load` returns arrays for data sets that fit into memory (:class:`ImageArrays`) and files that are decoded
when asked for, for those that do not (:class:`ImageStream` of :class:`ImageFiles`). Nothing but torch and numpy
is needed until a data set is loaded with scikit-learn, torchvision or Pillow. :mod:`vlls.data.corruption` holds
the label errors of Section 4.3.

>>> from vlls.data import corruption, load
>>> data = load("digits")
>>> data.train_x.shape, data.num_classes
((1437, 8, 8, 1), 10)
>>> noisy = corruption.corrupt(data.train_y, "pair_flip", rate=0.2, num_classes=10, seed=0)
>>> round(float((noisy != data.clean_train_y).mean()), 3)
0.209
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy
from vlls.data._known import DATASETS, Dataset, register

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageArrays",
    "ImageFiles",
    "ImageStream",
    "load",
    "plan_miniature",
    "register",
]

if TYPE_CHECKING:
    from vlls.data import corruption as corruption
    from vlls.data._arrays import ImageArrays
    from vlls.data._load import load
    from vlls.data._miniature import plan_miniature
    from vlls.data._streams import ImageFiles, ImageStream
else:
    __getattr__, __dir__ = lazy(__name__, ("_arrays", "_load", "_streams", "_miniature"))
