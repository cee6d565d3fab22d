"""Labels of samples reach the right samples with every loader, or the loader is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from landscape import InputError, Problem

N = 12
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(N, dtype=torch.float64)[:, None]
DATA = TensorDataset(X, Y)
ORDER = [7, 2, 9, 0, 11, 4, 1, 10, 3, 8, 5, 6]
NAMES = [f"sample {index}" for index in range(N)]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1, dtype=torch.float64)


def by_hand() -> dict[str, float]:
    """The loss (w x + b - y)^2 of every sample of the data set, by name, computed one after the other."""
    weight, bias = (each.detach().numpy() for each in model().parameters())
    return {
        name: float((weight[0] @ x + bias[0] - y[0]) ** 2)
        for name, x, y in zip(NAMES, X.numpy(), Y.numpy(), strict=True)
    }


def posed(batches: object, names: list[str] | None = None) -> Problem:
    about = None if names is None else {"name": names}
    return Problem(model(), nn.MSELoss(), batches, about=about)


class Turned(SequentialSampler):
    """A subclass of a sampler that doesn't run from the first index to the last."""

    def __iter__(self) -> Iterator[int]:
        return iter(ORDER)


class Shuffled(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(N).tolist())


class Batches:
    """A user's batch sampler, no subclass of torch's."""

    def __init__(self, order: Callable[[], list[int]]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[int]]:
        indices = self.order()
        return iter([indices[:5], indices[5:]])

    def __len__(self) -> int:
        return 2


class Stream(IterableDataset):
    def __init__(self, order: Callable[[], list[int]] = lambda: list(range(N))) -> None:
        self.order = order

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([(X[index], Y[index]) for index in self.order()])


class Again:
    """An iterable that is no loader of torch, and counts its readings."""

    def __init__(self, order: Callable[[], list[int]], size: int = 5, noise: float = 0.0) -> None:
        self.order, self.size, self.noise, self.reads = order, size, noise, 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.reads += 1
        for chosen in torch.tensor(self.order()).split(self.size):
            yield X[chosen] + self.noise * torch.randn(len(chosen), 3), Y[chosen]


class Lower(DataLoader):
    """A subclass of a loader that reads its data set in another way."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(N)
        return iter([(X[order], Y[order])])


class Noisy(Dataset):
    """A data set with random transforms: two readings have different values in equal order."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[index] + 1e-6 * torch.randn(3, dtype=torch.float64), Y[index]


def backwards(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    return default_collate(samples[::-1])


def mixed() -> list[int]:
    return torch.randperm(N).tolist()


def mixed_by_numpy() -> list[int]:
    return np.random.permutation(N).tolist()


def mixed_by_python() -> list[int]:
    return random.sample(range(N), N)


REVERSED = [4, 3, 2, 1, 0, 9, 8, 7, 6, 5, 11, 10]
OTHERWISE = ORDER[::2] + ORDER[1::2]
BY_EPOCH = list(DistributedSampler(DATA, num_replicas=1, rank=0, shuffle=True, seed=3))

# Loaders that keep an order, and this order.
KEEPING = {
    "list": (lambda: list(DataLoader(DATA, 5)), range(N)),
    "plain loader": (lambda: DataLoader(DATA, 5), range(N)),
    "sequential sampler": (lambda: DataLoader(DATA, 5, sampler=SequentialSampler(DATA)), range(N)),
    "batches in turn": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 5, drop_last=False)), range(N)),
    "without batches": (lambda: DataLoader(list(zip(X.split(4), Y.split(4), strict=True)), batch_size=None), range(N)),
    "drop_last": (lambda: DataLoader(DATA, 5, drop_last=True), range(10)),
    "sampler of one's own": (lambda: DataLoader(DATA, 5, sampler=Turned(DATA)), ORDER),
    "batch sampler of one's own": (lambda: DataLoader(DATA, batch_sampler=Batches(lambda: OTHERWISE)), OTHERWISE),
    "some samples": (lambda: DataLoader(DATA, 2, sampler=[8, 3, 5]), [8, 3, 5]),
    "distributed": (
        lambda: DataLoader(DATA, 5, sampler=DistributedSampler(DATA, num_replicas=1, rank=0, shuffle=False)), range(N)),
    "distributed by epoch": (
        lambda: DataLoader(DATA, 5, sampler=DistributedSampler(DATA, num_replicas=1, rank=0, seed=3)), BY_EPOCH),
    "collated": (lambda: DataLoader(DATA, 5, collate_fn=backwards), REVERSED),
    "stream": (lambda: DataLoader(Stream(), 5), range(N)),
    "stream in another order": (lambda: DataLoader(Stream(lambda: ORDER), 5), ORDER),
    "own iterable": (lambda: Again(lambda: ORDER), ORDER),
    "one batch": (lambda: Again(lambda: ORDER, size=N), ORDER),
    "workers": (lambda: DataLoader(DATA, 5, num_workers=2), range(N)),
}  # fmt: skip

# Loaders that keep no order, and words of the error.
NOT_KEEPING = {
    "shuffle": (lambda: DataLoader(DATA, 5, shuffle=True), "the loader shuffles"),
    "random sampler with a generator": (
        lambda: DataLoader(DATA, 5, sampler=RandomSampler(DATA, generator=torch.Generator().manual_seed(1))),
        "the loader shuffles"),
    "random subset": (lambda: DataLoader(DATA, 5, sampler=SubsetRandomSampler(range(N))), "the loader shuffles"),
    "weighted": (lambda: DataLoader(DATA, 5, sampler=WeightedRandomSampler(torch.ones(N), N)), "the loader shuffles"),
    "shuffling batches": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 5, drop_last=False)),
        "the loader shuffles"),
    "as workers come": (lambda: DataLoader(DATA, 5, num_workers=2, in_order=False), "the loader shuffles"),
    "sampler of one's own": (lambda: DataLoader(DATA, 5, sampler=Shuffled(DATA)), "gives another batch 0"),
    "batch sampler of one's own": (lambda: DataLoader(DATA, batch_sampler=Batches(mixed)), "gives another batch"),
    "by NumPy": (lambda: DataLoader(DATA, batch_sampler=Batches(mixed_by_numpy)), "gives another batch"),
    "by Python": (lambda: DataLoader(DATA, batch_sampler=Batches(mixed_by_python)), "gives another batch"),
    "stream": (lambda: DataLoader(Stream(mixed), 5), "gives another batch"),
    "own iterable": (lambda: Again(mixed), "gives another batch"),
    "own iterable that transforms at random": (lambda: Again(lambda: ORDER, noise=1e-6), "gives another batch"),
    "subclass of a loader": (lambda: Lower(DATA), "gives another batch"),
    "iterator": (lambda: iter([(X, Y)]), "gives no batch 0 when it is read again"),
    "generator": (lambda: (batch for batch in DataLoader(DATA, 5)), "gives no batch 0 when it is read again"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEEPING)
def test_every_label_is_with_its_sample(kind):
    """The loss by hand of a sample in the user's data set is the problem's loss beside the sample's label."""
    make, order = KEEPING[kind]
    names = [NAMES[index] for index in order]
    problem = posed(make(), names)
    assert problem.about["name"].tolist() == names
    expected = by_hand()
    found = problem.by_sample().losses.tolist()
    # Differences and squares of numbers up to twelve, summed in another order.
    np.testing.assert_allclose(found, [expected[name] for name in names], rtol=1e-13, atol=1e-13)
    of_its_own = any("follow its batches, not its data set" in note for note in problem.notes)
    assert of_its_own == (kind in ("sampler of one's own", "batch sampler of one's own", "some samples",
                                   "distributed by epoch"))  # fmt: skip


@pytest.mark.parametrize("kind", NOT_KEEPING)
def test_where_no_label_can_be_with_its_sample_it_is_refused(kind):
    make, line = NOT_KEEPING[kind]
    with pytest.raises(InputError, match=line):
        posed(make(), NAMES)
    problem = posed(make())
    shuffles = "shuffles" if line == "the loader shuffles" else "may shuffle"
    assert f"the loader {shuffles}: its batches were read once and kept" in problem.notes


def test_random_transforms_of_an_indexed_data_set_keep_the_labels():
    problem = posed(DataLoader(Noisy(), 5), NAMES)
    expected = by_hand()
    # |d loss| = 2 |residual| |w| 1e-6, residuals up to 13 and norms of the noise up to 5e-6.
    np.testing.assert_allclose(problem.by_sample().losses.tolist(), [expected[name] for name in NAMES], atol=2e-4)


def test_objects_that_print_their_address_are_no_other_batch():
    class Graph:
        """An object that prints its address, which differs between any two objects."""

    def own_losses(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, Graph]) -> torch.Tensor:
        return (module(batch[0]) - batch[1]).square().sum(1)

    class Graphs:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Graph]]:
            self.kept = [*getattr(self, "kept", []), Graph()]  # no address is used twice
            yield X, Y, self.kept[-1]

    problem = Problem.from_sample_losses(model(), own_losses, Graphs(), about={"name": NAMES})
    np.testing.assert_allclose(problem.by_sample().losses.tolist(), list(by_hand().values()), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [1, 6])
def test_a_shuffle_of_two_is_seen_though_it_gives_the_same_order_half_of_the_time(size):
    refused = 0
    for seed in range(30):
        torch.manual_seed(seed)
        pair = Again(lambda: [[0, 1], [1, 0]][int(torch.randint(2, ()))], size=size)
        with pytest.raises(InputError, match="gives another batch"):
            posed(pair, NAMES[:2])
        refused += 1
    assert refused == 30  # fails with the stated chance of one in a million


def test_batches_are_read_again_only_where_labels_are_given_and_the_order_is_unknown():
    loader = Again(lambda: ORDER)
    posed(loader)
    assert loader.reads == 1
    posed(loader, NAMES)
    assert loader.reads == 1 + 1 + 8  # 3 batches: 8 further readings, (1 / 3!)^8 < 1e-6 < (1 / 3!)^7
    many = Again(lambda: ORDER, size=1)
    posed(many, NAMES)
    assert many.reads == 2

    class Counted(TensorDataset):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    posed(DataLoader(Counted(X, Y), 5), NAMES)
    assert Counted.reads == N


def random_states(loader: DataLoader) -> tuple[object, ...]:
    numpy = np.random.get_state()
    return (torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2],
            loader.generator.get_state().tolist())  # fmt: skip


@pytest.mark.parametrize("draws", [list, mixed, mixed_by_numpy, mixed_by_python])
def test_reading_again_changes_no_generator_and_nothing_that_was_read(draws):
    """A loader that draws but keeps its order leaves all generators as one reading leaves them, even if refused."""

    def drawing() -> list[int]:
        draws()
        return ORDER

    states, digests = [], []
    for names in (None, NAMES):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        own = torch.Generator().manual_seed(5)
        loader = DataLoader(DATA, batch_sampler=Batches(drawing), generator=own)
        problem = posed(loader, names)
        states.append(random_states(loader))
        digests.append(posed(problem.batches).data_sha256)
    assert states[0] == states[1]
    assert digests[0] == digests[1]


def test_what_drop_last_leaves_out_is_said():
    loader = DataLoader(DATA, 5, drop_last=True)
    assert "the loader leaves out 2 samples that fill no batch (drop_last)" in posed(loader).notes
    assert not posed(DataLoader(DATA, 4, drop_last=True)).notes
    assert not posed(DataLoader(DATA, 5)).notes
    with pytest.raises(InputError, match=r"have 10 samples: one value for each.*drop_last leaves out the last"):
        posed(loader, NAMES)
