r"""EVON: IVON in an eigenbasis of the gradients (arXiv 2606.23357), built from IVON's parts.

For each axis of a parameter a running average of the gradients' products, :math:`L_k`, is kept, and every ``interval``
steps the basis :math:`Q_k` moves towards its eigenvectors. Momentum and Hessian are in these coordinates; the mean is
in the original ones. With the identity as every basis it is IVON, bit for bit on the same noise.

Where a basis changes by a rotation :math:`R = Q_\text{new}^\top Q_\text{old}`, the momentum is rotated, and the Hessian
becomes the diagonal of the rotated one, :math:`h \leftarrow (R \circ R)\,h`: of all Gaussians q that are diagonal in
the new basis, it belongs to the one that minimises :math:`\mathrm{KL}(q \,\|\, q_\text{old})`. If vectors only change
places, their entries of the Hessian do the same.
"""

from vlls.optim._evon._optimizer import EVON

__all__ = ["EVON"]
