"""The paper's networks: a 3-layer CNN for MNIST, ResNet-18/34 for 32×32 images, ResNet-50 for Clothing1M.

All return logits of shape (B, K).
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy

__all__ = ["cnn3", "resnet18", "resnet34", "resnet50"]

if TYPE_CHECKING:
    from vlls.models._networks import cnn3, resnet18, resnet34, resnet50
else:
    __getattr__, __dir__ = lazy(__name__, ("_networks",))
