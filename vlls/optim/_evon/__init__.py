r"""EVON: IVON in an eigenbasis of the gradients (arXiv 2606.23357), on IVON's seams.

For each axis of a parameter a running average of the gradients' products, :math:`L_k`, is kept, and every ``interval``
steps the basis :math:`Q_k` moves towards its eigenvectors. Momentum and Hessian are in these coordinates; the mean
stays where it is. With bases that are the identity it is IVON, bit for bit on the same noise.

Where a basis changes by a rotation :math:`R = Q_\text{new}^\top Q_\text{old}`, the momentum is rotated, and the Hessian
becomes the diagonal of the rotated one, :math:`h \leftarrow (R \circ R)\,h`: of all Gaussians q that are diagonal in
the new basis, it belongs to the one that minimises :math:`\mathrm{KL}(q \,\|\, q_\text{old})`. Vectors that only change
places take their Hessian along.
"""

from vlls.optim._evon._optimizer import EVON

__all__ = ["EVON"]
