"""Likelihoods: the distributions of labels whose negative logarithms are losses. Fisher matrices are made of them.

A batch's share of the objective is sum_n 1/(K W) sum_k w_nk (-log p(y_nk | output_n)), with labels y_nk that are
independent given the outputs. W is the weight of the whole data (`Problem.total_weight`), and K the number of labels
that a term of the loss averages over. The weights w_nk come from the data's labels, also where other labels are drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.errors import InputError
from landscape.problem.losses import FunctionAsModule, Loss

Apply = Callable[[Tensor], Tensor]


class Likelihood(ABC):
    """The distribution of one label for each place of an output (sample, ...), and the loss that it belongs to.

    Labels of a batch of N samples have shape (N, *places). Several draws of labels have shape (N, draws, *places).
    """

    @abstractmethod
    def weights(self, output: Tensor, target: Tensor) -> Tensor:
        """The weights (N, *places) of the data's labels."""

    @abstractmethod
    def averaged(self, output: Tensor) -> int:
        """K, the number of labels that one term of the loss is the mean over."""

    @abstractmethod
    def information(self, output: Tensor, weights: Tensor) -> tuple[Apply, tuple[Tensor, ...]]:
        """The Fisher matrix with respect to the output, with each label's part times its weight (N, *places).

        Returns:
            A map from directions of the output's shape to this shape, and the tensors that the map holds.
        """

    @abstractmethod
    def draw(self, output: Tensor, generator: np.random.Generator) -> Tensor:
        """Labels (N, *places) from the model's own distribution; each takes one number or more of the generator."""

    @abstractmethod
    def losses(self, output: Tensor, labels: Tensor) -> Tensor:
        """The negative log-likelihoods (N, draws, *places) of these labels, up to a constant; differentiable."""


@final
@dataclass(frozen=True)
class Categorical(Likelihood):
    """One class of C for each place of an output (N, C, *places): CrossEntropyLoss and NLLLoss.

    A target q that is a distribution over classes (class probabilities, label smoothing) has the weight of all its
    classes together, sum_c w_c q_c. The loss is then that many cross-entropies, and has that many times the curvature.

    Attributes:
        logits: whether the output holds logits; otherwise it holds log-probabilities.
        class_weights: weights of the classes, (C,), or None for ones.
        ignore_index: target value of places that don't count.
        smoothing: fraction of a target that label smoothing spreads over all classes.
    """

    logits: bool
    class_weights: Tensor | None
    ignore_index: int
    smoothing: float

    def weights(self, output: Tensor, target: Tensor) -> Tensor:
        by_class = output.new_ones(output.shape[1]) if self.class_weights is None else self.class_weights
        # Smoothing moves the mass of each target, 1 or not, towards the mean over classes.
        if target.is_floating_point():
            mass = torch.tensordot(target.movedim(1, -1), by_class, dims=1)
            return (1 - self.smoothing) * mass + self.smoothing * by_class.mean()
        kept = target != self.ignore_index
        # Class 0 stands in for ignore_index, which is no index into the weights.
        chosen = by_class[torch.where(kept, target, 0)]
        return ((1 - self.smoothing) * chosen + self.smoothing * by_class.mean()) * kept

    def averaged(self, output: Tensor) -> int:
        return 1

    def information(self, output: Tensor, weights: Tensor) -> tuple[Apply, tuple[Tensor, ...]]:
        probabilities = self._log_probabilities(output).exp()
        weighted = weights.unsqueeze(1) * probabilities

        def apply(directions: Tensor) -> Tensor:  # w (diag(p) - p p^T) u; for log-probabilities p^T u is zero anyway
            return weighted * (directions - (probabilities * directions).sum(1, keepdim=True))

        return apply, (probabilities, weighted)

    def draw(self, output: Tensor, generator: np.random.Generator) -> Tensor:
        probabilities = self._log_probabilities(output).to(torch.float64).exp()
        cumulative = probabilities.movedim(1, -1).contiguous().cumsum(-1)  # (N, *places, C)
        uniform = torch.from_numpy(generator.random(cumulative.shape[:-1])).to(output.device)
        # The first class whose cumulative probability exceeds the number: never one of probability 0.
        threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)

    def losses(self, output: Tensor, labels: Tensor) -> Tensor:
        return -self._log_probabilities(output).gather(1, labels)

    def _log_probabilities(self, output: Tensor) -> Tensor:
        if self.logits:
            return output.log_softmax(1)
        excess = float(output.detach().logsumexp(1).abs().max())
        if not excess < 1e-3:  # log(p + 1e-8) passes; outputs that aren't normalised miss by far more
            raise InputError(
                "the outputs aren't the log-probabilities that NLLLoss takes: their log-sum-exp is "
                f"{excess:.3g}, not 0; end the model in log_softmax, or use CrossEntropyLoss on logits"
            )
        return output


@final
@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """A label of 0 or 1 for each element of an output (N, *places) of logits: BCEWithLogitsLoss.

    Attributes:
        element_weights: the loss's ``weight``, or None for ones.
        pos_weight: weight of a target of 1, or None for 1.
    """

    element_weights: Tensor | None
    pos_weight: Tensor | None

    def weights(self, output: Tensor, target: Tensor) -> Tensor:
        weights = torch.ones_like(target) if self.pos_weight is None else self.pos_weight * target + (1 - target)
        return weights if self.element_weights is None else (weights * self.element_weights).expand(output.shape)

    def averaged(self, output: Tensor) -> int:
        return output[0].numel()

    def information(self, output: Tensor, weights: Tensor) -> tuple[Apply, tuple[Tensor, ...]]:
        variance = weights * output.sigmoid() * (-output).sigmoid()
        return variance.mul, (variance,)

    def draw(self, output: Tensor, generator: np.random.Generator) -> Tensor:
        uniform = torch.from_numpy(generator.random(output.shape)).to(output.device)
        return (uniform < output.to(torch.float64).sigmoid()).to(output.dtype)

    def losses(self, output: Tensor, labels: Tensor) -> Tensor:
        logits = output.unsqueeze(1).expand(labels.shape)
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


@final
@dataclass(frozen=True)
class Gaussian(Likelihood):
    """One normal vector for each sample of an output (N, ...) of K elements, of variance K/2 in each: MSELoss.

    This variance makes |y - output|^2 / K, the mean of squares without 1/2, the negative log-likelihood.
    """

    def weights(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            raise InputError(
                f"MSELoss broadcasts the output {tuple(output.shape)} against the target {tuple(target.shape)}, which "
                "no distribution of the target does; give them one shape"
            )
        return output.new_ones(len(output))

    def averaged(self, output: Tensor) -> int:
        return 1

    def information(self, output: Tensor, weights: Tensor) -> tuple[Apply, tuple[Tensor, ...]]:
        precision = (weights * (2 / output[0].numel())).reshape(-1, *[1] * (output.ndim - 1))
        return precision.mul, (precision,)

    def draw(self, output: Tensor, generator: np.random.Generator) -> Tensor:
        normal = torch.from_numpy(generator.standard_normal(output.shape)).to(output.device)
        return (output + normal * (output[0].numel() / 2) ** 0.5).to(output.dtype)

    def losses(self, output: Tensor, labels: Tensor) -> Tensor:
        return (output.unsqueeze(1) - labels).square().reshape(*labels.shape[:2], -1).mean(2)


def likelihood_of(loss: Loss) -> Likelihood:
    """The distribution whose negative logarithm is ``loss``, a loss in the form of `LossTerms.reduced`.

    Raises:
        InputError: no such distribution is known.
    """
    # Subclasses may compute anything. A function of torch.nn.functional keeps its tensors under the module's names.
    kind: Any = loss.function if isinstance(loss, FunctionAsModule) else type(loss)
    tensors = dict(loss.named_buffers()) if isinstance(loss, nn.Module) else {}
    if kind is nn.CrossEntropyLoss or kind is nn.NLLLoss:
        assert isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss), "by its type"
        smoothing = loss.label_smoothing if isinstance(loss, nn.CrossEntropyLoss) else 0.0
        return Categorical(kind is nn.CrossEntropyLoss, tensors.get("weight"), loss.ignore_index, smoothing)
    if kind in (nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits):
        return Bernoulli(tensors.get("weight"), tensors.get("pos_weight"))
    if kind in (nn.MSELoss, functional.mse_loss) and "weight" not in tensors:
        return Gaussian()
    name = getattr(kind, "__name__", type(loss).__name__)
    raise InputError(
        f"{name} isn't known as the logarithm of a likelihood, so it has no Fisher matrix; use "
        "--matrix ggn (GaussNewton) or fisher-empirical (EmpiricalFisher)"
    )
