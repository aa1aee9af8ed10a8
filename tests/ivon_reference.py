"""Algorithm 1 in plain float64, line by line and without regard to speed: the reference of the optimizer's tests.

The samples are arguments, so that it can follow any optimizer in lockstep.
"""

import math

import numpy as np


class ReferenceIVON:
    """One parameter vector; `samples` of a step are pairs (theta, gradient of the mean loss at theta).

    The operations are in the order of :mod:`vlls.optim.alg1`: in float64, from the same noise, the numbers are the
    optimizer's bit for bit.
    """

    def __init__(
        self,
        mean,
        lr,
        ess,
        hess_init=1.0,
        beta1=0.9,
        beta2=0.99999,
        weight_decay=1e-4,
        hess_approx="price",
        clip_radius=math.inf,
        hess_clip=math.inf,
        hess_every=1,
        debias=True,
        rescale_lr=True,
    ):
        self.m = np.array(mean, dtype=np.float64)
        self.g = np.zeros_like(self.m)
        self.h = np.full_like(self.m, hess_init)
        self.t = 0
        self.ess, self.beta1, self.beta2, self.delta = ess, beta1, beta2, weight_decay
        self.lr = lr * (hess_init + weight_decay) if rescale_lr else lr
        self.hess_approx, self.clip_radius, self.debias = hess_approx, clip_radius, debias
        self.hess_clip, self.hess_every = hess_clip, hess_every

    def error(self, mean, momentum, hess):
        """Return the largest difference of the three from the reference's, relative to 1 + its magnitude."""
        pairs = ((mean, self.m), (momentum, self.g), (hess, self.h))
        return max((np.abs(np.asarray(ours) - theirs) / (1 + np.abs(theirs))).max() for ours, theirs in pairs)

    def sampled(self):
        """Return the Hessian whose Gaussian the samples come from; controls override it."""
        return self.h

    def noise(self, normal):
        return normal / np.sqrt(self.ess * (self.sampled() + self.delta))

    def step(self, samples, noises=None):
        """Take a step; `noises` are theta - m of each sample before theta was rounded, if they are known."""
        self.t += 1
        noises = [theta - self.m for theta, _ in samples] if noises is None else noises
        g_hat = np.mean([g for _, g in samples], axis=0)
        if self.hess_approx == "price":
            seen = [g * noise * (self.sampled() + self.delta) for (_, g), noise in zip(samples, noises, strict=True)]
        else:
            seen = [g**2 for _, g in samples]
        h_hat = np.mean([each * self.ess for each in seen], axis=0)
        bound = self.hess_clip * (self.h + self.delta)
        self.clipped = np.abs(h_hat) > bound
        h_hat = np.clip(h_hat, -bound, bound)
        beta2 = self.beta2 if self.t % self.hess_every == 0 else 1.0
        self.g = self.beta1 * self.g + (1 - self.beta1) * g_hat
        correction = 0.5 * (1 - beta2) ** 2 * (self.h - h_hat) ** 2 / (self.h + self.delta)
        self.h = beta2 * self.h + (1 - beta2) * h_hat + correction
        g_bar = self.g / (1 - self.beta1**self.t) if self.debias else self.g
        direction = (g_bar + self.delta * self.m) / (self.h + self.delta)
        self.m = self.m - self.lr * np.clip(direction, -self.clip_radius, self.clip_radius)
