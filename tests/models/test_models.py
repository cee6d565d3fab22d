"""The models against parameter counts, loops in NumPy, and the properties that define them."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from landscape.errors import InputError
from models.attention import AttentionKind, AttentionModel, CausalAttention
from models.gpt import LoopedGPT
from models.recursion import apply_repeatedly
from models.registry import MODELS, build_model, complete_sizes

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(6, size=(3, 12)))
VARIANTS = {
    "single": lambda: AttentionModel(6, loops=1),
    "looped": lambda: AttentionModel(6, loops=3),
    "linear": lambda: AttentionModel(6, loops=2, attention="linear"),
    "whole block": lambda: AttentionModel(6, loops=2, layer_norm=True, mlp=8),
    "untied": lambda: AttentionModel(6, layers=3, injection=True, loops=2),
    "gpt": lambda: LoopedGPT(6, width=16, heads=2, loops=2),
    "gpt without positions": lambda: LoopedGPT(6, width=16, heads=2, loops=2, layers=2, positions="none"),
}


@pytest.fixture(autouse=True)
def _fixed_weights() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return VARIANTS[request.param]()


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def attention_by_loops(layer: CausalAttention, embedding: Tensor) -> NDArray[np.float64]:
    """Attention of one (position, width) sequence, entry by entry."""
    E = embedding.numpy()
    Q, K, V = (E @ part.weight.detach().numpy().T for part in (layer.query, layer.key, layer.value))
    bias = layer.relative_bias.detach().numpy()
    mixed = np.zeros_like(Q)
    for i in range(len(E)):
        for head in range(layer.heads):
            own = slice(head * layer.head_width, (head + 1) * layer.head_width)
            scores = [
                Q[i, own] @ K[j, own] / math.sqrt(layer.head_width) + bias[head, min(i - j, layer.offsets - 1)]
                for j in range(i + 1)
            ]
            if layer.kind == "softmax":
                total = sum(math.exp(score) for score in scores)
                weights = [math.exp(score) / total for score in scores]
            else:
                weights = [score / (i + 1) for score in scores]
            mixed[i, own] = sum(weight * V[j, own] for j, weight in enumerate(weights))
    return mixed @ layer.output.weight.detach().numpy().T


class TestAttentionModel:
    def test_has_1224_parameters_whatever_the_loops(self) -> None:
        assert [parameter_count(AttentionModel(6, loops=loops)) for loops in (1, 3)] == [1224, 1224]

    @pytest.mark.parametrize("kind", ["softmax", "linear"])
    @pytest.mark.parametrize("sizes", [(16, 2, 8, 4), (5, 3, 2, 1), (4, 1, 3, 20)])
    def test_attention_equals_explicit_loops(self, kind: AttentionKind, sizes: tuple[int, int, int, int]) -> None:
        width, heads, head_width, offsets = sizes
        layer = CausalAttention(width, heads, head_width, kind, offsets).double()
        nn.init.normal_(layer.relative_bias)
        embedding = torch.randn(2, 9, width, dtype=torch.float64)
        found = layer(embedding).detach().numpy()
        expected = np.stack([attention_by_loops(layer, each) for each in embedding])
        # Sums of at most 20 products of numbers of order 1, in float64.
        assert found == pytest.approx(expected, abs=1e-13)

    def test_three_loops_are_three_calls_of_the_layer(self) -> None:
        model = AttentionModel(6, loops=3)
        by_hand = model.head(model.layer(model.layer(model.layer(model.embedding(TOKENS))))).transpose(1, 2)
        assert torch.equal(model(TOKENS), by_hand)

    def test_layer_is_the_residual_update(self) -> None:
        layer = AttentionModel(6, layer_norm=True, mlp=8).layer
        embedding = torch.randn(2, 5, 16)
        attended = embedding + layer.attention(nn.functional.layer_norm(embedding, (16,)))
        into, activation, back = layer.mlp[1:]
        expected = attended + back(activation(into(nn.functional.layer_norm(attended, (16,)))))
        assert torch.allclose(layer(embedding), expected, atol=1e-6)  # a few float32 roundings of numbers of order 1

    def test_looped_once_is_single_at_the_same_weights(self) -> None:
        single, looped = build_model("single", 6), build_model("looped", 6, loops=1)
        looped.load_state_dict(single.state_dict())
        assert torch.equal(single(TOKENS), looped(TOKENS))

    def test_linear_attention_has_no_softmax(self) -> None:
        """The output is linear in the scores: doubled queries and biases double the attention's addition."""
        layer = CausalAttention(16, 2, 8, "linear", 4).double()
        embedding = torch.randn(2, 5, 16, dtype=torch.float64)
        before = layer(embedding)
        with torch.no_grad():
            layer.query.weight *= 2
            layer.relative_bias *= 2
        assert torch.allclose(layer(embedding), 2 * before, atol=1e-13)

    @pytest.mark.parametrize("wrong", [{"loops": 0}, {"mlp": -1}, {"width": 0}, {"attention": "sparse"}])
    def test_impossible_sizes_are_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(InputError):
            AttentionModel(6, **wrong)


class TestLoopedGPT:
    @pytest.mark.parametrize(("vocabulary", "parameters"), [(6, 66_024), (96, 72_504)])
    def test_size(self, vocabulary: int, parameters: int) -> None:
        """At width w = 72 the parameters are V w + 32 w (positions) + 12 w^2 + 13 w (block) + 2 w (final norm)."""
        assert parameter_count(LoopedGPT(vocabulary)) == parameters
        assert parameters == vocabulary * 72 + 32 * 72 + 12 * 72**2 + 13 * 72 + 2 * 72

    def test_untied_head_has_weights_of_its_own(self) -> None:
        assert parameter_count(LoopedGPT(6, tied=False)) == 66_024 + 6 * 72

    def test_loops_are_calls_of_the_block(self) -> None:
        model = LoopedGPT(6, loops=3)
        embedding = model.embedding(TOKENS) + model.position.weight[:12]
        by_hand = model.head(model.norm(model.block(model.block(model.block(embedding))))).transpose(1, 2)
        assert torch.equal(model(TOKENS), by_hand)

    def test_block_equals_torch_s_own(self) -> None:
        """torch.nn.TransformerEncoderLayer is the same pre-norm block with another order of its parts."""
        model = LoopedGPT(6, width=16, heads=2)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        ours = model.block
        theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        theirs.load_state_dict(
            {
                "self_attn.in_proj_weight": ours.query_key_value.weight,
                "self_attn.in_proj_bias": ours.query_key_value.bias,
                **prefixed("self_attn.out_proj", ours.attention_output),
                **prefixed("linear1", ours.mlp[0]),
                **prefixed("linear2", ours.mlp[2]),
                **prefixed("norm1", ours.attention_norm),
                **prefixed("norm2", ours.mlp_norm),
            }
        )
        embedding = torch.randn(2, 7, 16)
        mask = nn.Transformer.generate_square_subsequent_mask(7)
        # Sums of 64 products of numbers of order 1 in float32, in another order.
        assert torch.allclose(ours(embedding), theirs(embedding, src_mask=mask, is_causal=True), atol=64 * 1e-6)

    @pytest.mark.parametrize("wrong", [{"loops": 0}, {"heads": 5}, {"context": 0}])
    def test_impossible_sizes_are_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(InputError):
            LoopedGPT(6, **wrong)

    def test_too_long_a_sequence_is_refused(self) -> None:
        with pytest.raises(InputError, match="12 positions exceed the model's context of 8"):
            LoopedGPT(6, context=8)(TOKENS)


def prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


class TestEveryModel:
    def test_classes_come_second(self, model: nn.Module) -> None:
        logits = model(TOKENS)
        assert logits.shape == (3, 6, 12)
        by_position = torch.stack(
            [nn.functional.cross_entropy(logits[:, :, t], TOKENS[:, t]) for t in range(12)]
        ).mean()
        assert nn.CrossEntropyLoss()(logits, TOKENS).item() == pytest.approx(by_position.item(), rel=1e-6)

    @pytest.mark.parametrize("position", [1, 6, 11])
    def test_a_later_token_never_changes_earlier_logits(self, model: nn.Module, position: int) -> None:
        changed = TOKENS.clone()
        changed[:, position] = (changed[:, position] + 1) % 6
        before, after = model(TOKENS), model(changed)
        assert torch.equal(before[:, :, :position], after[:, :, :position])
        assert not torch.equal(before[:, :, position], after[:, :, position])

    @pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("gpt")])
    def test_has_second_derivatives(self, name: str) -> None:
        """Reverse over reverse agrees with differences of the gradient, at torch's tolerances for float64."""
        model = VARIANTS[name]().double()
        names = dict(model.named_parameters())

        def loss(*values: Tensor) -> Tensor:
            logits = functional_call(model, dict(zip(names, values, strict=True)), (TOKENS,))
            return nn.functional.cross_entropy(logits, TOKENS)

        assert torch.autograd.gradgradcheck(loss, tuple(names.values()), fast_mode=True)


class TestRecursion:
    @staticmethod
    def layer(state: Tensor) -> Tensor:
        return state @ torch.tensor([[0.5, 1.0], [-1.0, 0.25]]) + 1

    def test_passes_are_calls(self) -> None:
        start = torch.randn(3, 2)
        assert torch.equal(apply_repeatedly(self.layer, start, 1), self.layer(start))
        assert torch.equal(apply_repeatedly(self.layer, start, 3), self.layer(self.layer(self.layer(start))))

    def test_the_embedding_is_seen_again_by_later_passes(self) -> None:
        start = torch.randn(3, 2)
        by_hand = self.layer(self.layer(self.layer(start) + start) + start)
        assert torch.equal(apply_repeatedly(self.layer, start, 3, injection=True), by_hand)
        assert torch.equal(apply_repeatedly(self.layer, start, 1, injection=True), self.layer(start))

    @pytest.mark.parametrize("injection", [False, True])
    def test_a_gain_leads_from_one_pass_to_all(self, injection: bool) -> None:
        start = torch.randn(3, 2)
        none, half, all_ = (
            apply_repeatedly(self.layer, start, 2, injection=injection, gain=g) for g in (0.0, 0.5, 1.0)
        )
        assert torch.equal(none, self.layer(start))
        assert torch.allclose(half, (none + all_) / 2, atol=1e-6)  # a rounding of numbers of order 1

    def test_loops_and_gain_are_set_at_run_time(self) -> None:
        for model in (AttentionModel(6, loops=3), LoopedGPT(6, width=16, heads=2, loops=3)):
            before = model(TOKENS)
            model.gain = 0.0
            single = model(TOKENS)
            model.loops = 1
            assert torch.equal(model(TOKENS), single)
            model.loops, model.gain = 3, 1.0
            assert torch.equal(model(TOKENS), before)

    def test_layers_have_weights_of_their_own(self) -> None:
        assert parameter_count(AttentionModel(6, layers=3)) == 192 + 3 * 1032
        model = AttentionModel(6, layers=2)
        by_hand = model.head(model.layer[1](model.layer[0](model.embedding(TOKENS)))).transpose(1, 2)
        assert torch.equal(model(TOKENS), by_hand)

    def test_without_positions_any_length_is_taken_and_none_is_told(self) -> None:
        """All positions of a constant sequence have equal logits."""
        model = LoopedGPT(6, width=16, heads=2, context=4, positions="none")
        logits = model(torch.full((1, 50), 3))
        assert torch.allclose(logits, logits[..., :1], atol=1e-5)
        assert "position.weight" not in model.state_dict()
        with pytest.raises(InputError, match="rotary"):
            LoopedGPT(6, positions="rotary")


class TestRegistry:
    def test_names(self) -> None:
        assert list(MODELS) == ["single", "looped", "untied", "gpt-single", "gpt", "gpt-untied"]
        assert [build_model(name, 6).loops for name in MODELS] == [1, 3, 1, 1, 3, 1]

    def test_single_and_looped_start_equal_at_equal_random_state(self) -> None:
        states = []
        for name in ("single", "looped"):
            torch.manual_seed(5)
            states.append(build_model(name, 6).state_dict())
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_complete_sizes_rebuild_the_model(self) -> None:
        sizes = complete_sizes("looped", width=8, mlp=4)
        assert sizes == {
            "width": 8,
            "heads": 2,
            "head_width": 8,
            "loops": 3,
            "layers": 1,
            "injection": False,
            "gain": 1.0,
            "attention": "softmax",
            "layer_norm": False,
            "mlp": 4,
            "offsets": 4,
        }
        assert parameter_count(build_model("looped", 6, **sizes)) == parameter_count(AttentionModel(6, width=8, mlp=4))

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(InputError, match="single, looped, untied, gpt"):
            build_model("double", 6)
        with pytest.raises(InputError, match="gpt has no mlp"):
            build_model("gpt", 6, mlp=3)
