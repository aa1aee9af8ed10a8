"""The paper's networks: sizes, shapes, initialisation, errors."""

import pytest
import torch
import torchvision

from vlls import models
from vlls.models._networks import build


@pytest.mark.parametrize(
    "name, classes, channels, size, parameters",
    [
        ("cnn3", 10, 1, 28, 82_858),
        ("cnn3", 10, 1, 8, 75_178),
        ("resnet18", 10, 3, 32, 11_173_962),
        ("resnet34", 10, 3, 32, 21_282_122),
        ("resnet34", 100, 3, 32, 21_328_292),
        ("resnet50", 14, 3, 64, 23_536_718),
    ],
)
def test_sizes_and_shapes(name, classes, channels, size, parameters):
    model = build(name, classes, in_channels=channels, image_size=size).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        assert model(torch.randn(2, channels, size, size)).shape == (2, classes)


def test_small_image_resnets_see_full_resolution():
    """A 3x3 stem of stride 1 and no pooling: the first block gets 32x32 pixels, and the rest is torchvision's."""
    model, theirs = models.resnet18(), torchvision.models.resnet18(num_classes=10)
    seen = []
    model.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(torch.randn(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)]
    ours = {name: tuple(p.shape) for name, p in model.named_parameters() if not name.startswith("conv1")}
    assert ours == {name: tuple(p.shape) for name, p in theirs.named_parameters() if not name.startswith("conv1")}


def test_new_stem_is_initialised_as_the_other_convolutions():
    torch.manual_seed(0)
    weights = torch.cat([models.resnet18().conv1.weight.detach().flatten() for _ in range(10)])
    expected = (2 / (64 * 9)) ** 0.5  # Kaiming, fan out
    standard_error = expected / (2 * weights.numel()) ** 0.5
    assert abs(float(weights.std()) - expected) < 4 * standard_error


def test_grey_photographs():
    with torch.no_grad():
        assert models.resnet50(3, in_channels=1).eval()(torch.randn(1, 1, 64, 64)).shape == (1, 3)


def test_pretrained_weights_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match="could not be loaded .no network.; pass pretrained=False"):
        models.resnet50(pretrained=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet43"}, "model='resnet43' is unknown .did you mean 'resnet34'.*cnn3, resnet18"),
        ({"name": "cnn3", "image_size": 4}, "image_size=4 is too small"),
        ({"name": "resnet18", "pretrained": True}, "'resnet18' has no pretrained weights"),
        ({"name": "resnet50", "pretrained": True, "in_channels": 1}, "take 3 channels, not 1"),
    ],
)
def test_errors(arguments, message):
    name = arguments.pop("name")
    with pytest.raises(ValueError, match=message):
        build(name, 10, **arguments)
