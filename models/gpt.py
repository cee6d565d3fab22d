"""A GPT-2-style transformer block applied several times: a small version of the paper's practical setting."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from landscape.errors import InputError
from models.recursion import apply_repeatedly

Positions = Literal["learned", "none"]


class Block(nn.Module):
    """A pre-norm transformer block: E <- E + Attn(LayerNorm(E)), then E <- E + MLP(LayerNorm(E)).

    The perceptron is four times as wide as the embedding.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Make the block; ``heads`` divides ``width``."""
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (batch, position, width) to the same shape."""
        embedding = embedding + self._attend(self.attention_norm(embedding))
        return embedding + self.mlp(self.mlp_norm(embedding))

    def _attend(self, embedding: Tensor) -> Tensor:
        # (batch, position, 3 * width) -> three of (batch, head, position, width / heads)
        parts = self.query_key_value(embedding).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.attention_output(mixed.transpose(1, 2).flatten(2))


class LoopedGPT(nn.Module):
    """A GPT-2-style language model of one block applied ``loops`` times.

    By default positions are learned, and the head shares the embedding's weights; a normalisation precedes the head. At
    the defaults the model has 66,024 parameters with 6 symbols and 72,504 with 96. With several ``layers`` each block
    has weights of its own, and each pass applies the whole stack of blocks. ``loops`` and ``gain`` may be set at any
    time.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 72,
        heads: int = 4,
        loops: int = 3,
        layers: int = 1,
        injection: bool = False,
        gain: float = 1.0,
        positions: Positions = "learned",
        context: int = 32,
        tied: bool = True,
    ) -> None:
        """Make the model with GPT-2's initial weights: normal with deviation 0.02, biases 0.

        Args:
            vocabulary: Number of symbols.
            width: Width of the embedding.
            heads: Number of attention heads; divides the width.
            loops: How often the block is applied.
            layers: Number of blocks with weights of their own.
            injection: Whether each pass after the first sees the embedding again; see `apply_repeatedly`.
            gain: How far each pass after the first goes; see `apply_repeatedly`.
            positions: ``learned``, or ``none``: only the causal mask distinguishes positions, and sequences may have
                any length.
            context: Longest sequence of inputs, with learned positions.
            tied: Whether the head shares the embedding's weights.

        Raises:
            InputError: If a size is not positive, the heads do not divide the width, or positions are of no known kind.
        """
        super().__init__()
        if positions not in ("learned", "none"):
            raise InputError(f"there are no positions {positions!r}; choose learned or none")
        if min(vocabulary, width, heads, loops, layers, context) < 1:
            raise InputError("LoopedGPT has a size below 1; give positive sizes")
        if width % heads:
            raise InputError(
                f"{heads} heads do not divide a width of {width}; choose a width that is a multiple of them"
            )
        self.loops, self.injection, self.gain, self.context = loops, injection, gain, context
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width) if positions == "learned" else None
        stack = [Block(width, heads) for _ in range(layers)]
        self.block = stack[0] if layers == 1 else nn.Sequential(*stack)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, position) tokens to (batch, vocabulary, position) logits.

        Raises:
            InputError: If there are more positions than the context holds.
        """
        state = apply_repeatedly(
            self.block, self._embedded(tokens), self.loops, injection=self.injection, gain=self.gain
        )
        # Classes come second because torch.nn.CrossEntropyLoss wants them there when targets have positions.
        return self.head(self.norm(state)).transpose(1, 2)

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.position is None:
            return self.embedding(tokens)
        length = tokens.shape[1]
        if length > self.context:
            raise InputError(
                f"{length} positions exceed the model's context of {self.context}: give a longer one, or no positions"
            )
        return self.embedding(tokens) + self.position(torch.arange(length, device=tokens.device))


def _initialise(module: nn.Module) -> None:
    """Set one module's weights as GPT-2 does; layer normalisations keep torch's ones and zeros."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
