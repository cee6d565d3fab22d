"""The Hessian of a Problem's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.curvature.products.batched import BatchedOperator, Linearised


class Hessian(BatchedOperator):
    """The Hessian H of sum w_i l_i / sum w_i with respect to the flat parameter vector.

    Products are exact up to rounding. A product differentiates the gradient once more in reverse (Pearlmutter 1994, in
    its reverse-over-reverse form, which nearly every torch layer supports). It costs at least 2.0 gradients where the
    gradient's graph is kept, and at least 3.0 where the graph is rebuilt. Batches are summed in float64.
    """

    traceable = True

    def _linearise(self, index: int) -> Linearised:
        vector = self._vector
        share = self._one * self._problem.share(vector, self._problem.batches[index])
        (gradient,) = torch.autograd.grad(share, vector, create_graph=True, materialize_grads=True)

        def differentiate(along: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, vector, along, retain_graph=True, materialize_grads=True)[0]

        return Linearised(differentiate, (gradient,))
