"""A loss and an optimizer that are not the paper's, and an experiment with them, as a user would write them."""

import torch

from vlls.experiments import Candidates, Experiment, Panel
from vlls.train import Method


class FocalLoss(torch.nn.Module):
    """Cross-entropy that counts less for examples that the network predicts well; gamma = 0 is the cross-entropy."""

    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, labels):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


class SignDescent(torch.optim.Optimizer):
    """Steps of one size in every coordinate."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(group["lr"] * parameter.grad.sign())
        return loss


def focal_loss(config, num_classes):
    return FocalLoss(config["gamma"])


ERRORS = {
    "memory": MemoryError,
    "gpu": torch.cuda.OutOfMemoryError,
    "defect": ZeroDivisionError,
    "exit": SystemExit("no licence"),
}


class Dying(torch.nn.CrossEntropyLoss):
    """End the run at the third step, as a lack of memory or a defect would."""

    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def forward(self, logits, labels):
        self.calls += 1
        if self.calls == 3:
            raise ERRORS[self.error]
        return super().forward(logits, labels)


def dying(config, num_classes):
    return Dying(config["error"])


def sign_descent(training):
    return SignDescent(training.params, training.lr)


FOCAL = Method(
    name="focal",
    label="focal loss",
    colour="#444444",
    reads={"gamma": 2.0},
    criterion=focal_loss,
    tuned="gamma",
    symbol="γ",
    sgd_value=0.0,
)
SIGN = Method(name="sign", optimizer=sign_descent, presets={"lr": 0.001})
DYING = Method(name="dying", reads={"error": "memory"}, criterion=dying)
EXPERIMENT = Experiment(
    "focal_digits",
    "a focal loss on digits with label errors",
    panels=(Panel("{dataset}", {"dataset": "digits", "corruption": "symmetric", "rate": 0.2, "train_size": 200}),),
    candidates=(Candidates("ivon"), Candidates("sgd"), Candidates("focal", "gamma", (2.0, 0.5)), Candidates("sign")),
)
