"""Samples that depend on other samples of their batch: found where the user's scalar loss changes with the split."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import InputError, Problem
from landscape.record import open_record, read_provenance

TOLD = "the objective depends on how the data are split, and is computed with the {} as given"
SAMPLES = 12


def contrastive(model, batch):
    """The InfoNCE loss, whose negatives are the other samples of the batch."""
    z = functional.normalize(model(batch[0]), dim=1)
    return functional.cross_entropy(z @ z.T / 0.1, torch.arange(len(z)), reduction="none")


def hardest(model, batch):
    """A loss by the distance to the nearest sample of another class, which copies of samples don't change."""
    z, y = model(batch[0]), batch[1]
    far = (z[:, None] - z[None]).square().sum(2).masked_fill(y[:, None] == y[None], 100.0)
    return far.min(1).values


def neighbour(model, batch):
    """A loss that compares each sample with the sample before it."""
    z = model(batch[0])
    return (z - z.roll(1, 0)).square().sum(1)


def by_size(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none") / len(batch[0])


def by_weight(model, batch):
    """A loss with weights that are normalised within the batch."""
    losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return losses, batch[0][:, 0].square() / batch[0][:, 0].square().sum()


def plain(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def sequences(model, batch):
    inputs = torch.stack([batch[0], batch[0].square(), batch[0].sin(), batch[0] - 1], dim=2)
    return model(inputs)[:, :, 0].square().mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


def net(*middle):
    return nn.Sequential(nn.Linear(3, 8), *middle, nn.Tanh(), nn.Linear(8, 3))


ATTENDING = {"nhead": 2, "dim_feedforward": 8, "dropout": 0.0}
DEPENDENT = {
    "BatchNorm without running statistics": (lambda: net(nn.BatchNorm1d(8, track_running_stats=False)), plain),
    "contrastive": (net, contrastive),
    "the hardest of the batch": (net, hardest),
    "a neighbour": (net, neighbour),
    "the size": (net, by_size),
    "attention over the batch": (lambda: nn.TransformerEncoderLayer(4, **ATTENDING), sequences),
    "weights by the batch": (net, by_weight),
}
INDEPENDENT = {
    "linear": (net, plain),
    "BatchNorm": (lambda: net(nn.BatchNorm1d(8)), plain),
    "LayerNorm": (lambda: net(nn.LayerNorm(8)), plain),
    "GroupNorm": (lambda: net(nn.GroupNorm(2, 8)), plain),
    "attention": (lambda: nn.TransformerEncoderLayer(4, batch_first=True, **ATTENDING), sequences),
    "recurrent": (Recurrent, sequences),
}


def made(kind):
    """A model in evaluation mode, its loss by sample, and the data."""
    torch.manual_seed(0)
    make, fn = (DEPENDENT | INDEPENDENT)[kind]
    return make().eval(), fn, (torch.randn(SAMPLES, 3), torch.arange(SAMPLES) % 3)


def split(batch, size):
    return [tuple(each) for each in zip(*(part.split(size) for part in batch), strict=True)]


def own_objective(model, fn, batches):
    """The weighted mean of the user's losses, in plain torch."""
    with torch.no_grad():
        results = [fn(model, batch) for batch in batches]
    pairs = [result if isinstance(result, tuple) else (result, torch.ones_like(result)) for result in results]
    losses, weights = (torch.cat(each) for each in zip(*pairs, strict=True))
    return float((weights * losses).sum() / weights.sum())


@pytest.mark.parametrize("kind", DEPENDENT | INDEPENDENT)
def test_a_note_says_so_where_another_split_is_another_objective_and_nowhere_else(kind):
    model, fn, batch = made(kind)
    found = {}
    for size in (SAMPLES, 5):
        batches = split(batch, size)
        problem = Problem.from_sample_losses(model, fn, batches)
        found[size] = own_objective(model, fn, batches)
        assert problem.loss() == pytest.approx(found[size], rel=1e-5), "the terms are those of the batches as given"
        told = [note for note in problem.notes if "split" in note]
        parts = "1 batch" if size == SAMPLES else "3 batches"
        assert [note.endswith(TOLD.format(parts)) for note in told] == [True] * (kind in DEPENDENT)
        if kind in DEPENDENT:
            with pytest.raises(InputError, match="can't be split"):
                problem.micro_batched(2)
    assert (abs(found[5] - found[SAMPLES]) > 1e-3 * abs(found[SAMPLES])) == (kind in DEPENDENT)


def test_batches_of_one_sample_have_no_company_and_are_told_nothing():
    model, fn, batch = made("linear")
    assert not Problem.from_sample_losses(model, fn, split(batch, 1)).notes


def test_a_graph_keeps_its_indices_and_a_model_of_one_batch_size_its_size():
    """With fewer samples an index would be out of range, which ends a CUDA context."""
    edges, seen = torch.tensor([[0, 3, 11], [11, 4, 7]]), []

    def over_edges(model, batch):
        x, ends = batch
        assert ends.max() < len(x)
        seen.append(len(x))
        return model(x.index_add(0, ends[0], x[ends[1]])).square().mean(1)

    def of_one_size(model, batch):
        assert len(batch) == SAMPLES
        return model(batch).square().mean(1)

    def of_one_batch(model, batch):
        assert torch.equal(batch, x)
        return model(batch).square().mean(1)

    model, x = net().eval(), torch.randn(SAMPLES, 3)
    (note,) = Problem.from_sample_losses(model, over_edges, [(x, edges)]).notes
    assert note.startswith("the loss of a sample depends on the other samples")
    assert min(seen) == SAMPLES
    assert not Problem.from_sample_losses(model, of_one_size, [x]).notes
    (note,) = Problem.from_sample_losses(model, of_one_batch, [x]).notes
    assert note.startswith("the samples of a batch can't be separated")


def test_one_pass_of_the_smallest_batch_finds_it_out():
    passes = []

    def counted(model, batch):
        passes.append(len(batch))
        return model(batch).square().mean(1)

    model = net().eval()
    Problem.from_sample_losses(model, counted, [torch.randn(size, 3) for size in (8, 1, 4)])
    assert (passes.count(4), passes.count(5)) == (1, 1)


def test_the_note_is_on_the_screen_and_in_the_record(command, tiny):
    (tiny.folder / "problem.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape import Problem\n\n"
        "def tiny(checkpoint):\n"
        "    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False, track_running_stats=False))\n"
        "    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))\n"
        "    y = x[:, :1].repeat(1, 3)\n"
        "    return Problem(model, nn.MSELoss(), [(x[:10], y[:10]), (x[10:], y[10:])])\n"
    )
    torch.save({"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)}, "m.pt")
    ran = command("m.pt", "--problem", "problem.py:tiny", "-o", "m.h5")
    note = f"BatchNorm takes the statistics of each batch (1): {TOLD.format('2 batches')}"
    assert ran.status == 0
    assert f"note: {note}" in ran.out
    with open_record("m.h5") as record:
        assert note in read_provenance(record, "loss", 0)["notes"]
