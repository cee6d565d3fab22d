"""Single-Attn and Looped-Attn of arXiv:2510.10089: one attention layer, applied once or several times.

Attention is written with plain products and softmax: fused kernels have no second derivative, and curvature needs one.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from models.recursion import apply_repeatedly

AttentionKind = Literal["softmax", "linear"]


class CausalAttention(nn.Module):
    """Causal multi-head attention with a learned bias for each relative position, and no bias elsewhere.

    The score of position j for position i >= j is q_i . k_j / sqrt(head_width) + b[min(i - j, offsets - 1)]. The
    weights are its softmax over j <= i, or, for linear attention, the score divided by the number i + 1 of positions
    seen.
    """

    def __init__(self, width: int, heads: int, head_width: int, kind: AttentionKind, offsets: int) -> None:
        """Make the four projections, (width, heads * head_width) or its transpose, and the (heads, offsets) bias."""
        super().__init__()
        if kind not in ("softmax", "linear"):
            raise InputError(f"there is no attention {kind!r}; choose softmax or linear")
        self.heads, self.head_width, self.kind, self.offsets = heads, head_width, kind, offsets
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, heads * head_width, bias=False)
        self.value = nn.Linear(width, heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        self.relative_bias = nn.Parameter(torch.zeros(heads, offsets))

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (batch, position, width) to the same shape."""
        query, key, value = (self._split(part(embedding)) for part in (self.query, self.key, self.value))
        position = torch.arange(embedding.shape[1], device=embedding.device)
        offset = position[:, None] - position[None, :]  # (position i, position j)
        bias = self.relative_bias[:, offset.clamp(0, self.offsets - 1)]  # (head, i, j)
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.head_width) + bias  # (batch, head, i, j)
        mixed = self._weights(scores, future=offset < 0) @ value
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, projected: Tensor) -> Tensor:
        """(batch, position, heads * head_width) -> (batch, head, position, head_width)."""
        return projected.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)

    def _weights(self, scores: Tensor, future: Tensor) -> Tensor:
        """Turn (batch, head, i, j) scores into weights that leave out the future."""
        if self.kind == "softmax":
            return scores.masked_fill(future, -math.inf).softmax(dim=-1)
        seen = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
        return scores.masked_fill(future, 0.0) / seen[:, None]


class AttentionLayer(nn.Module):
    """The residual update E <- E + Attn(E), followed by E <- E + MLP(E) if the layer has a perceptron.

    With layer normalisation both updates are of pre-norm form: Attn(LayerNorm(E)), MLP(LayerNorm(E)).
    """

    def __init__(self, attention: CausalAttention, width: int, layer_norm: bool, mlp: int) -> None:
        """Wrap the attention; ``mlp`` is the hidden width, 0 for none."""
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.mlp = (
            nn.Sequential(
                nn.LayerNorm(width) if layer_norm else nn.Identity(),
                nn.Linear(width, mlp),
                nn.GELU(),
                nn.Linear(mlp, width),
            )
            if mlp
            else None
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (batch, position, width) to the same shape."""
        embedding = embedding + self.attention(self.attention_norm(embedding))
        return embedding if self.mlp is None else embedding + self.mlp(embedding)


class AttentionModel(nn.Module):
    """A next-token model of one attention layer applied ``loops`` times: 1 is Single-Attn, 3 is Looped-Attn.

    All passes call one module, so they share its weights. With several ``layers`` each layer has weights of its own,
    and each pass applies the whole stack of layers. So 3 layers and 1 loop have the depth of Looped-Attn without its
    recursion. ``loops`` and ``gain`` may be set at any time. At the defaults and a vocabulary of 6 the model has 1,224
    parameters: 96 for the embedding, 4 * 256 for the projections, 8 for the relative bias and 96 for the head.

    Source: arXiv:2510.10089, the models of the toy study. The paper doesn't give the exact sizes.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 16,
        heads: int = 2,
        head_width: int = 8,
        loops: int = 1,
        layers: int = 1,
        injection: bool = False,
        gain: float = 1.0,
        attention: AttentionKind = "softmax",
        layer_norm: bool = False,
        mlp: int = 0,
        offsets: int = 4,
    ) -> None:
        """Make the model with weights from torch's default initialisers and its global random state.

        Args:
            vocabulary: Number of symbols.
            width: Width of the embedding.
            heads: Number of attention heads.
            head_width: Width of a head's queries, keys and values.
            loops: How often the layer is applied.
            layers: Number of layers with weights of their own.
            injection: Whether each pass after the first sees the embedding again; see `apply_repeatedly`.
            gain: How far each pass after the first goes; see `apply_repeatedly`.
            attention: ``softmax``, or ``linear``: scores divided by the number of positions instead.
            layer_norm: Whether a layer normalises its input.
            mlp: Hidden width of the perceptron after the attention, 0 for none.
            offsets: Number of relative positions with a bias of their own; farther ones share the last.

        Raises:
            InputError: If a size is not positive or the kind of attention is unknown.
        """
        super().__init__()
        if min(vocabulary, width, heads, head_width, loops, layers, offsets) < 1 or mlp < 0:
            raise InputError("AttentionModel has a size below 1 (mlp: below 0); give positive sizes")
        self.loops, self.injection, self.gain = loops, injection, gain
        self.embedding = nn.Embedding(vocabulary, width)
        stack = [
            AttentionLayer(CausalAttention(width, heads, head_width, attention, offsets), width, layer_norm, mlp)
            for _ in range(layers)
        ]
        self.layer = stack[0] if layers == 1 else nn.Sequential(*stack)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, position) tokens to (batch, vocabulary, position) logits."""
        state = apply_repeatedly(
            self.layer, self.embedding(tokens), self.loops, injection=self.injection, gain=self.gain
        )
        # Classes come second because torch.nn.CrossEntropyLoss wants them there when targets have positions.
        return self.head(state).transpose(1, 2)
