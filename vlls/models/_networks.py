"""The networks, built on torch and torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vlls._errors import needs
from vlls._names import check_known

if TYPE_CHECKING:
    from torchvision.models import ResNet

__all__ = ["cnn3", "resnet18", "resnet34", "resnet50"]


def build(
    name: str, num_classes: int, *, in_channels: int = 3, image_size: int = 32, pretrained: bool = False
) -> nn.Module:
    """Make a network by name for images of (``in_channels``, ``image_size``, ``image_size``).

    Args:
        name: of one of the functions below.
        num_classes: K, the number of logits.
        in_channels: 1 for grey images, 3 for colours.
        image_size: height and width in pixels; only ``cnn3`` depends on it.
        pretrained: whether to start from ImageNet's weights (``resnet50`` only).

    Raises:
        ValueError: for an unknown name, or a request that the network cannot meet.

    Example:
        >>> model = build("cnn3", 10, in_channels=1, image_size=28)
        >>> sum(parameter.numel() for parameter in model.parameters())
        82858
    """
    check_known(name, __all__, "model")
    if pretrained and name != "resnet50":
        raise ValueError(f"model={name!r} has no pretrained weights here; pass pretrained=False, or model='resnet50'")
    if name == "cnn3":
        return cnn3(num_classes, in_channels=in_channels, image_size=image_size)
    if name == "resnet50":
        return resnet50(num_classes, in_channels=in_channels, pretrained=pretrained)
    return {"resnet18": resnet18, "resnet34": resnet34}[name](num_classes, in_channels=in_channels)


def cnn3(num_classes: int = 10, *, in_channels: int = 1, image_size: int = 28) -> nn.Sequential:
    """Three 3×3 convolutions of 32, 64 and 96 channels, each with 2×2 max pooling and ReLU, and a linear layer.

    The paper names "a 3-layers convolutional neural network" for MNIST (App. C.1) and not its widths; these give
    82,858 parameters for 28×28 grey images and 10 classes. It has no BatchNorm, so a sample of its weights is the
    whole story.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        image_size: height and width in pixels, at least 8.

    Raises:
        ValueError: if the images are smaller than 8×8.

    Example:
        >>> import torch
        >>> cnn3()(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if image_size < 8:
        raise ValueError(f"image_size={image_size} is too small for three poolings by 2; pass images of at least 8×8")
    layers: list[nn.Module] = []
    channels = in_channels
    for width in (32, 64, 96):
        # the largest of four first and ReLU then is the same function, and a quarter of ReLU's work
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (image_size // 8) ** 2, num_classes))


def resnet18(num_classes: int = 10, *, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet-18 with a 3×3 stem of stride 1 and no first pooling, for 32×32 images.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.

    Example:
        >>> sum(parameter.numel() for parameter in resnet18().parameters())
        11173962
    """
    return _for_small_images("resnet18", num_classes, in_channels)


def resnet34(num_classes: int = 10, *, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet-34 with a 3×3 stem of stride 1 and no first pooling: the paper's network for CIFAR.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.

    Example:
        >>> sum(parameter.numel() for parameter in resnet34().parameters())
        21282122
    """
    return _for_small_images("resnet34", num_classes, in_channels)


def resnet50(num_classes: int = 14, *, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
    """torchvision's ResNet-50 for 224×224 images, the paper's network for Clothing1M (Section 4.3.3).

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        pretrained: whether to start from ImageNet's weights, which torchvision downloads once; the last layer is
            new. The paper does not say whether it did.

    Raises:
        ValueError: if the weights cannot be had, or ``pretrained`` meets images without three channels.
    """
    tv = needs("torchvision.models", "a ResNet")
    model: ResNet
    if not pretrained:
        model = tv.resnet50(num_classes=num_classes)
        if in_channels != 3:
            model.conv1 = _convolution(nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False))
        return model
    if in_channels != 3:
        raise ValueError(f"ImageNet's weights take 3 channels, not {in_channels}; pass pretrained=False")
    try:
        model = tv.resnet50(weights=tv.ResNet50_Weights.IMAGENET1K_V2)
    except (OSError, RuntimeError) as error:  # no network, or a broken file in the cache
        raise ValueError(
            f"ImageNet's weights for ResNet-50 could not be loaded ({error}); pass pretrained=False, or put "
            "torchvision's file into the folder checkpoints of $TORCH_HOME/hub"
        ) from error
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def _for_small_images(name: str, num_classes: int, in_channels: int) -> nn.Module:
    model: ResNet = getattr(needs("torchvision.models", "a ResNet"), name)(num_classes=num_classes)
    model.conv1 = _convolution(nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False))
    model.maxpool = nn.Identity()
    return model


def _convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise a new first layer as torchvision does the others."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
