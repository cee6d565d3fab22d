"""Models and checkpoints of many kinds, as people have them, each with its loss by its own library.

Every entry writes a checkpoint with random weights and its data into a folder, and returns the command's arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, SAMPLES, LENGTH, CLASSES = 40, 5, 9, 4


@dataclass
class Kind:
    """A written checkpoint, with an independent model and loss.

    Attributes:
        arguments: arguments of landscape-probe, with paths relative to the folder.
        model: model of the checkpoint's own library, with equal weights.
        objective: function that computes a model's loss over all data as this library does.
    """

    arguments: list[str]
    model: nn.Module
    objective: Callable[[nn.Module], Tensor]


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(3, VOCABULARY, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(seed))


def classes(*shape: int) -> Tensor:
    return torch.randint(0, CLASSES, (SAMPLES, *shape), generator=torch.Generator().manual_seed(2))


def numbers(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(6))


def some_labels() -> Tensor:
    """Targets with a token at every third position, and -100 (no target) elsewhere."""
    return torch.where(torch.arange(LENGTH) % 3 == 1, tokens(3), -100)


# ---------------------------------------------------------------------- folders of transformers

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
NO_MARKS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
IMAGE = {"num_channels": 3, "image_size": 8, "num_labels": CLASSES}


def folder(
    name: str, settings: dict[str, Any], arrays: dict[str, Tensor], dtype: torch.dtype = torch.float32, **saving: Any
) -> Callable[[Path], Kind]:
    """A folder of transformers with this architecture and configuration; the model's own forward gives the loss."""

    def make(path: Path) -> Kind:
        import transformers

        torch.manual_seed(0)
        architecture = getattr(transformers, name)
        model = architecture(architecture.config_class(**settings)).to(dtype)
        scramble(model)
        model.config._experts_implementation = "eager"  # the grouped product has no float64
        model.eval().save_pretrained(path / "model", **saving)
        save_file({key: value.contiguous() for key, value in arrays.items()}, path / "data.safetensors")
        return Kind(["model", *WITH_DATA], model.double(), own_loss(arrays))

    return make


WITH_DATA = ["--data", "data.safetensors", "--dtype", "float64"]


def own_loss(arrays: dict[str, Tensor]) -> Callable[[nn.Module], Tensor]:
    def objective(model: nn.Module) -> Tensor:
        wide = {name: value.double() if value.is_floating_point() else value for name, value in arrays.items()}
        loss: Tensor = model(**wide).loss
        return loss

    return objective


def scramble(model: nn.Module) -> None:
    """Add noise to all parameters and to the statistics of BatchNorm, so that none has its special initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor), alpha=0.1)
        for name, tensor in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensor.add_(torch.rand(tensor.shape, generator=generator))


def adapter(name: str, settings: dict[str, Any], arrays: dict[str, Tensor], **lora: Any) -> Callable[[Path], Kind]:
    """A LoRA adapter on a folder of transformers."""

    def make(path: Path) -> Kind:
        import peft

        under = folder(name, settings, arrays)(path)
        torch.manual_seed(1)
        with torch.no_grad():
            model = peft.get_peft_model(under.model.float(), peft.LoraConfig(r=2, **lora))
            for parameter in model.parameters():
                if parameter.requires_grad:  # an untrained adapter has weights of zero
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(path / "adapter")
        config = path / "adapter" / "adapter_config.json"
        config.write_text(
            config.read_text().replace('"base_model_name_or_path": null', '"base_model_name_or_path": "../model"')
        )
        return Kind(["adapter", *WITH_DATA], model.double().eval(), under.objective)

    return make


LM = {"input_ids": tokens(), "labels": tokens()}
MASKED = {"input_ids": tokens(), "labels": some_labels()}
PADDED = {
    "input_ids": tokens(),
    "attention_mask": (torch.arange(LENGTH) < torch.arange(5, 5 + SAMPLES)[:, None]).long(),
    "labels": classes(),
}
PIXELS = {
    "pixel_values": torch.randn(SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(4)),
    "labels": classes(),
}
LLAMA = SMALL | NO_MARKS | {"num_key_value_heads": 1}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16} | NO_MARKS
BERT = SMALL | {"num_labels": CLASSES}
T5 = {
    **{"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2},
    **{"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
}
BART = {
    **{"vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 16},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
}
VIT = SMALL | IMAGE | {"patch_size": 4}
VIT.pop("vocab_size")
VIT.pop("max_position_embeddings")

MAMBA = NO_MARKS | {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 4}
RESNET = {"embedding_size": 6, "hidden_sizes": [6, 8], "depths": [1, 1], "num_labels": CLASSES}
CONVNEXT = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "num_labels": CLASSES}
SEVERAL = {"max_position_embeddings": 40, "problem_type": "multi_label_classification"}
ANSWERS = (torch.arange(SAMPLES * CLASSES) % 3 == 0).view(SAMPLES, CLASSES).float()
TAGS = torch.where(some_labels() < 0, -100, some_labels() % CLASSES)
ON_ATTENTION = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
ON_GPT2 = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}

FOLDERS = {
    "gpt2, in two files": folder("GPT2LMHeadModel", GPT2, LM, max_shard_size="5KB"),
    "gpt2, in bfloat16": folder("GPT2LMHeadModel", GPT2, LM, torch.bfloat16),
    "llama": folder("LlamaForCausalLM", LLAMA, LM),
    "llama, tied, in float16": folder("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}, LM, torch.float16),
    "qwen3": folder("Qwen3ForCausalLM", LLAMA | {"head_dim": 4}, LM),
    "gemma": folder("GemmaForCausalLM", LLAMA | {"head_dim": 4}, LM),
    "pythia (gpt_neox)": folder("GPTNeoXForCausalLM", SMALL | NO_MARKS, LM),
    "phi": folder("PhiForCausalLM", LLAMA, LM),
    "mixture of experts (mixtral)": folder("MixtralForCausalLM", LLAMA | {"num_local_experts": 4}, LM),
    "state space (mamba)": folder("MambaForCausalLM", MAMBA, LM),
    "bert, masked": folder("BertForMaskedLM", BERT, MASKED),
    "bert, classes of padded sequences": folder("BertForSequenceClassification", BERT, PADDED),
    "bert, a number": folder("BertForSequenceClassification", BERT | {"num_labels": 1}, PADDED | {"labels": numbers()}),
    "roberta, several answers": folder(
        "RobertaForSequenceClassification", BERT | SEVERAL, PADDED | {"labels": ANSWERS}
    ),
    "electra, classes of tokens": folder(
        "ElectraForTokenClassification", BERT | {"embedding_size": 8}, MASKED | {"labels": TAGS}
    ),
    "t5": folder("T5ForConditionalGeneration", T5, MASKED | {"labels": tokens(5)}),
    "bart": folder("BartForConditionalGeneration", BART, MASKED | {"labels": tokens(5)}),
    "vit": folder("ViTForImageClassification", VIT, PIXELS),
    "resnet": folder("ResNetForImageClassification", RESNET, PIXELS),
    "convnext": folder("ConvNextForImageClassification", CONVNEXT, PIXELS),
    "lora on gpt2": adapter("GPT2LMHeadModel", GPT2, LM, **ON_GPT2),
    "lora and a head on bert": adapter("BertForSequenceClassification", BERT, PADDED, **ON_ATTENTION),
}


# ---------------------------------------------------------------------- programs of torch.export


class Recurrent(nn.Module):
    """An LSTM that predicts tokens; the logits have the classes as their second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.lstm = nn.LSTM(6, 7, batch_first=True)
        self.head = nn.Linear(7, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0]).transpose(1, 2)


class Convolutional(nn.Module):
    """A small convolutional network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.GELU(), nn.Conv2d(5, 6, 3))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.silu(self.features(x)).mean((2, 3)))


class TwoInputs(nn.Module):
    """A model of two inputs, which are keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 6), nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(left)) * self.second(right))


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)


def program(
    build: Callable[[], nn.Module], inputs: dict[str, Tensor], target: Tensor, loss: str, any_batch: bool = True
) -> Callable[[Path], Kind]:
    """A program of torch.export; several inputs are keyword arguments."""
    functions: dict[str, Any] = {"cross-entropy": functional.cross_entropy, "mse": functional.mse_loss}

    def make(path: Path) -> Kind:
        torch.manual_seed(0)
        model = build().eval()
        scramble(model)
        by_name = len(inputs) > 1
        sizes = {name: {0: torch.export.Dim.AUTO} if any_batch else None for name in inputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own LSTM
            exported = torch.export.export(
                model,
                () if by_name else tuple(inputs.values()),
                inputs if by_name else {},
                dynamic_shapes=sizes if by_name else tuple(sizes.values()),
            )
        torch.export.save(exported, path / "model.pt2")
        np.savez(path / "data.npz", target=target.numpy(), **{name: value.numpy() for name, value in inputs.items()})

        def objective(model: nn.Module) -> Tensor:
            wide = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
            output = model(**wide) if by_name else model(*wide.values())
            return functions[loss](output, target.double() if loss == "mse" else target)

        # The program of the LSTM holds the first state as a constant in float32.
        precise = [] if build is Recurrent else ["--dtype", "float64"]
        return Kind(["model.pt2", "--data", "data.npz", "--loss", loss, *precise], model.double(), objective)

    return make


PROGRAMS = {
    "program: lstm": program(Recurrent, {"x": tokens()}, tokens(2), "cross-entropy"),
    "program: convolutions, of one batch size": program(
        Convolutional, {"x": PIXELS["pixel_values"]}, classes(), "cross-entropy", any_batch=False
    ),
    "program: two inputs": program(TwoInputs, {"left": numbers(3), "right": numbers(2)}, numbers(2), "mse"),
    "program: transformer layer": program(
        lambda: nn.Sequential(encoder_layer(), nn.Flatten(), nn.Linear(48, CLASSES)),
        {"x": numbers(6, 8)},
        classes(),
        "cross-entropy",
    ),
}


# ---------------------------------------------------------------------- problem factories, for all other models

HEADER = """
import torch
from torch import nn
from landscape import Problem
from tests.support.kinds import *

"""


Objective = Callable[[nn.Module], Tensor]


def factory(
    source: str, build: Callable[[], nn.Module], objective: Objective, save: Callable[[nn.Module, Path], str]
) -> Callable[[Path], Kind]:
    """A problem factory in a file, beside a checkpoint; ``save`` writes the checkpoint and returns its name."""

    def make(path: Path) -> Kind:
        torch.manual_seed(0)
        model = build().eval()
        scramble(model)
        (path / "problem.py").write_text(f"{HEADER}\ndef problem(checkpoint):\n    {source}\n")
        return Kind(
            [save(model, path), "--problem", "problem.py:problem", "--dtype", "float64"], model.double(), objective
        )

    return make


def state_dict(prefix: str = "", key: str | None = None, **more: Any) -> Callable[[nn.Module, Path], str]:
    """A function that saves weights by torch.save, each name with a prefix, and under ``key`` if one is given."""

    def save(model: nn.Module, path: Path) -> str:
        state = {f"{prefix}{name}": value.clone() for name, value in model.state_dict().items()}
        torch.save({key: state, **more} if key else state, path / "checkpoint.pt")
        return "checkpoint.pt"

    return save


def sharded(model: nn.Module, path: Path) -> str:
    """Save weights in two safetensors files with an index."""
    import json

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    names = list(state)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    (path / "weights").mkdir()
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, path / "weights" / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (path / "weights" / "model.safetensors.index.json").write_text(json.dumps(index))
    return "weights"


class Graph(nn.Module):
    """Two layers of graph convolution (Kipf and Welling, 2017) on a ring with a chord."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, CLASSES)
        edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
        self.register_buffer("source", torch.cat([edges[0], edges[1], torch.arange(SAMPLES)]))
        self.register_buffer("sink", torch.cat([edges[1], edges[0], torch.arange(SAMPLES)]))

    def spread(self, x: Tensor) -> Tensor:
        degree = torch.bincount(self.sink, minlength=SAMPLES).to(x) ** -0.5
        messages = (degree[:, None] * x)[self.source]
        return degree[:, None] * torch.zeros_like(x).index_add(0, self.sink, messages)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.spread(torch.tanh(self.first(self.spread(x)))))


class Frozen(nn.Module):
    """A model of a frozen body, a buffer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 6).requires_grad_(False), nn.Linear(6, CLASSES)
        self.register_buffer("scale", torch.full((6,), 1.5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": x, "logits": self.head(torch.tanh(self.body(x)) * self.scale)}


class Checkpointed(nn.Module):
    """A model with a block whose activations are recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)
        return self.head(x + made), made


class Tied(nn.Module):
    """A model whose embedding and last layer share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 6), nn.Linear(6, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x))).transpose(1, 2)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def entropy(x: Tensor, target: Tensor, read: Callable[[Any], Tensor] = lambda output: output) -> Objective:
    wide = x.double() if x.is_floating_point() else x
    return lambda model: functional.cross_entropy(read(model(wide)), target)


ON_NUMBERS = "return Problem({}, nn.CrossEntropyLoss(), [(numbers(3), classes())])"
FACTORIES = {
    "state dict of a wrapped model (DDP)": factory(
        ON_NUMBERS.format("mlp()"), mlp, entropy(numbers(3), classes()), state_dict("module.")
    ),
    "state dict of a compiled model": factory(
        ON_NUMBERS.format("mlp()"), mlp, entropy(numbers(3), classes()), state_dict("_orig_mod.")
    ),
    "Lightning": factory(
        ON_NUMBERS.format("mlp()"),
        mlp,
        entropy(numbers(3), classes()),
        state_dict(
            "model.",
            "state_dict",
            **{"pytorch-lightning_version": "2.6.0", "global_step": 7, "epoch": 1, "hyper_parameters": {"lr": 0.1}},
            **{"callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "loops": {"fit_loop": {"state_dict": {}}}},
        ),
    ),
    "safetensors in two files": factory(ON_NUMBERS.format("mlp()"), mlp, entropy(numbers(3), classes()), sharded),
    "graph network": factory(
        "return Problem.from_sample_losses(Graph(), lambda model, x: nn.functional.cross_entropy(model(x), classes(), "
        "reduction='none'), [numbers(3)])",
        Graph,
        entropy(numbers(3), classes()),
        state_dict(),
    ),
    "frozen parameters, a dictionary as output": factory(
        ON_NUMBERS.format("Frozen()"), Frozen, entropy(numbers(3), classes(), lambda o: o["logits"]), state_dict()
    ),
    "checkpointed block, a tuple as output": factory(
        ON_NUMBERS.format("Checkpointed()"), Checkpointed, entropy(numbers(3), classes(), lambda o: o[0]), state_dict()
    ),
    "tied embedding": factory(
        "return Problem(Tied(), nn.CrossEntropyLoss(), [(tokens(), tokens(2))])",
        Tied,
        entropy(tokens(), tokens(2)),
        state_dict(),
    ),
    "BatchNorm in training mode, one whole batch": factory(
        "return Problem(Convolutional(), nn.CrossEntropyLoss(), [(PIXELS['pixel_values'], classes())], training=True)",
        Convolutional,
        lambda model: functional.cross_entropy(model.train()(PIXELS["pixel_values"].double()), classes()),
        state_dict(),
    ),
}

KINDS = FOLDERS | PROGRAMS | FACTORIES
QUICK = [
    "gpt2, in two files",
    "llama, tied, in float16",
    "state space (mamba)",
    "bert, classes of padded sequences",
    "lora on gpt2",
    "program: lstm",
    "program: convolutions, of one batch size",
    *FACTORIES,
]
"""The kinds of the default suite; the others take another minute or two."""
