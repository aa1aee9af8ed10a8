"""EVON in plain float64, from the algorithm of arXiv 2606.23357: a parameter at a time, dense Kronecker products.

A parameter is a vector; W is the (P, P) Kronecker product of the bases of its axes, so that ``W.T @ x`` are the
coordinates of x. Nothing is shared with the package but the definition.
"""

import math
from functools import partial

import numpy as np
import torch
from ivon_problems import backward
from ivon_reference import ReferenceIVON


def axes_of(shape):
    return tuple(shape) if len(shape) < 3 else (shape[0], shape[1], math.prod(shape[2:]))


class OneParameter(ReferenceIVON):
    """IVON's twin on coordinates; only the mean's step goes back to the weights."""

    def __init__(self, mean, interval, basis_decay, max_axis=2048, **options):
        self.axes = axes_of(np.shape(mean))
        longest = max_axis if np.ndim(mean) > 1 else 0
        self.turning = [k for k, size in enumerate(self.axes) if 1 < size <= longest]
        super().__init__(np.ravel(mean), **options)
        self.interval, self.decay = interval, basis_decay
        self.every = max(1, interval // 10)
        self.bases = [np.eye(size) for size in self.axes]
        self.factors = {}
        self.found = {k: False for k in self.turning}
        self.adopt = None  # takes the twin, an axis and its new basis, and returns another with the same vectors

    @property
    def turn(self):
        whole = np.eye(1)
        for basis in self.bases:
            whole = np.kron(whole, basis)
        return whole

    def step(self, samples, noises=None):
        w, mean, before = self.turn, self.m, self.h
        grads = [grad for _, grad in samples]
        self.m = w.T @ mean
        super().step([(w.T @ theta, w.T @ grad) for theta, grad in samples])
        self.m = mean + w @ (self.m - w.T @ mean)
        assert before.shape == self.h.shape
        self.follow(np.mean(grads, axis=0).reshape(self.axes))

    def follow(self, grad):
        if self.t % self.every == 0:
            for k in self.turning:
                rows = np.moveaxis(grad, k, 0).reshape(self.axes[k], -1)
                old = self.factors.get(k, np.zeros((self.axes[k],) * 2))
                keep = self.decay**self.every
                self.factors[k] = keep * old + (1 - keep) * rows @ rows.T
        if self.t % self.interval == 0:
            for k in self.turning:
                new = self.next_basis(k)
                self.change(k, new if self.adopt is None else self.adopt(self, k, new))

    def next_basis(self, k):
        factor = self.factors[k]
        if not self.found[k]:
            self.found[k] = True
            return np.linalg.eigh(factor)[1][:, ::-1]
        old = self.bases[k]
        order = np.argsort(-np.diag(old.T @ factor @ old), kind="stable")
        q, r = np.linalg.qr((factor + 1e-6 * np.trace(factor) * np.eye(len(factor))) @ old[:, order])
        return q * np.sign(np.diag(r))  # as Cholesky has it

    def agreeing(self, k, new, other):
        """Return the other's basis, after checking that it differs only in signs and in the factor's null space."""
        told = np.einsum("ij,ik,kj->j", new, self.factors[k], new) > 1e-9 * np.trace(self.factors[k])
        assert np.allclose(np.abs((new * other).sum(0))[told], 1, atol=1e-7)
        assert np.allclose(other.T @ other, np.eye(len(other)), atol=1e-12)
        return other

    def change(self, k, new):
        rotation = new.T @ self.bases[k]
        for name, matrix in (("g", rotation), ("h", rotation**2)):
            tensor = np.moveaxis(getattr(self, name).reshape(self.axes), k, 0)
            turned = np.tensordot(matrix, tensor, (1, 0))
            setattr(self, name, np.moveaxis(turned, 0, k).ravel())
        self.bases[k] = new


def numbers(tensor):
    return tensor.detach().double().cpu().numpy()


def follow(model, data, optimizer, twins, how, steps, samples=1):
    """Yield the largest relative difference from the twins after each step, at the samples that the optimizer drew."""
    params = list(model.parameters())

    def adopt(twin, k, new, state):
        basis = state[f"basis_{k}"]
        found = numbers(basis).copy()
        return twin.agreeing(k, new, found) if basis.dtype == torch.float64 else found

    for p, twin in zip(params, twins, strict=True):
        twin.adopt = partial(adopt, state=optimizer.state[p])
    for _ in range(steps):
        seen = []
        with optimizer.keep_sampled() if how == "kept" else torch.enable_grad():
            for _ in range(samples):
                with optimizer.sampled_params(train=True) if how == "context" else torch.enable_grad():
                    backward(model, optimizer, data)
                    seen.append([(numbers(p).copy(), numbers(p.grad).copy()) for p in params])
            optimizer.step()
        for number, (p, twin) in enumerate(zip(params, twins, strict=True)):
            twin.step([(theta.ravel(), grad.ravel()) for theta, grad in (each[number] for each in seen)])
            state = optimizer.state[p]
            turn = twin.turn
            pairs = [(numbers(p).ravel(), twin.m), (turn @ numbers(state["momentum"]).ravel(), turn @ twin.g)]
            pairs.append((numbers(state["hess"]).ravel(), twin.h))
            yield max((np.abs(a - b) / (1 + np.abs(b))).max() for a, b in pairs)
