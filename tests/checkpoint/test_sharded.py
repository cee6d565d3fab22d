"""Folders of torch.distributed.checkpoint: they are read as torch reads them, and no code in them is run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import checkpoint as dcp

from landscape.checkpoint import read_checkpoint
from landscape.errors import InputError

SHARDED = """
import sys
import torch
from torch import nn
from torch.distributed import checkpoint, init_process_group, destroy_process_group
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard

init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
whole = {name: value.clone() for name, value in model.state_dict().items()}
fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
checkpoint.save({"model": get_model_state_dict(model), "step": 7}, checkpoint_id="folder")
if torch.distributed.get_rank() == 0:
    torch.save(whole, "whole.pt")
torch.distributed.barrier()
destroy_process_group()
"""


class Extra:
    """A class that the safe loader doesn't make."""


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), nn.BatchNorm1d(2))


def saved(folder: Path, content: dict[str, object]) -> Path:
    dcp.save(content, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_scripts_dictionary_is_what_was_saved(tmp_path, model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "extra": Extra()}
    read = read_checkpoint(saved(tmp_path / "folder", content))
    assert read.step == 7
    assert read.state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(read.state[name], value), name
    assert any("extra" in note for note in read.notes)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bare_state_dict_is_read_and_known_by_its_content(tmp_path, model):
    first = read_checkpoint(saved(tmp_path / "a", model.state_dict()))
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    second = read_checkpoint(saved(tmp_path / "b", model.state_dict()))
    assert first.sha256 != second.sha256
    assert not torch.equal(first.state["0.weight"], second.state["0.weight"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_of_safetensors_stays_one_whatever_lies_beside_them(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / ".metadata").write_bytes(b"of another program")
    assert read_checkpoint(tmp_path).format == "safetensors"


@pytest.mark.slow
def test_the_pieces_of_two_processes_are_put_together(tmp_path):
    (tmp_path / "train.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(list((tmp_path / "folder").glob("*.distcp"))) == 2
    read, whole = read_checkpoint(tmp_path / "folder"), torch.load(tmp_path / "whole.pt")
    assert read.step == 7
    assert read.state.keys() == whole.keys()
    assert all(torch.equal(read.state[name], value) for name, value in whole.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestRefusals:
    """Each refusal is one line, and no code is run."""

    @pytest.fixture
    def folder(self, tmp_path, model):
        return saved(tmp_path / "folder", model.state_dict())

    def refusal(self, folder):
        with pytest.raises(InputError) as refused:
            read_checkpoint(folder)
        assert str(folder) in str(refused.value)
        return str(refused.value)

    def test_code_in_the_description_is_not_run(self, folder):
        (folder / ".metadata").write_bytes(pickle.dumps(_Runs(folder / "ran")))
        assert "damaged" in self.refusal(folder)
        assert not (folder / "ran").exists()

    def test_a_file_that_is_cut_or_missing(self, folder):
        (file,) = folder.glob("*.distcp")
        file.write_bytes(file.read_bytes()[:-200])
        assert "cut short" in self.refusal(folder)
        file.unlink()
        assert "not in" in self.refusal(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda m: m.state_dict_metadata["0.weight"].__dict__.update(size=torch.Size([10**6, 10**6])),
                "bytes, its",
            ),
            (lambda m: m.state_dict_metadata["0.weight"].__dict__.update(chunks=[]), "have 0 of its 15 numbers"),
            (lambda m: m.storage_data.clear(), "damaged"),
            (lambda m: [vars(p).update(relative_path="../x") for p in m.storage_data.values()], "not in"),
            (lambda m: [vars(p).update(relative_path=5) for p in m.storage_data.values()], "not in"),
            (lambda m: [vars(p).update(offset=-1) for p in m.storage_data.values()], "damaged"),
            (lambda m: [vars(p).update(transform_descriptors=["zstd"]) for p in m.storage_data.values()], "packed"),
        ],
        ids=["a size beyond the files", "no pieces", "no places", "a path outside", "no path", "no place", "packed"],
    )
    def test_a_description_that_lies(self, folder, change, said):
        described = pickle.loads((folder / ".metadata").read_bytes())
        change(described)
        (folder / ".metadata").write_bytes(pickle.dumps(described))
        assert said in self.refusal(folder)

    @pytest.mark.parametrize("seed", range(40))
    def test_damaged_bytes(self, folder, seed):
        generator = torch.Generator().manual_seed(seed)
        file = folder / ".metadata" if seed % 2 else next(folder.glob("*.distcp"))
        content = bytearray(file.read_bytes())
        for place in torch.randint(len(content), (3,), generator=generator).tolist():
            content[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        file.write_bytes(content)
        with suppress(InputError):
            read_checkpoint(folder)


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_gives_the_numbers_of_the_whole_file(command, tiny):
    saved(Path("folder"), {"model": read_checkpoint("a.pt").state, "step": 3})
    told = [command(name, "--hessian", "-k", 2, "-o", f"{name}.h5").out for name in ("folder", "a.pt")]
    tables = [text[text.index("┏") : text.index("└")] for text in told]
    assert tables[0] == tables[1]
    assert "folder, step 3" in told[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_in_pieces_is_whole_or_refused(tmp_path):
    """The pieces of one tensor, which processes wrote, and the same with a piece missing."""
    first, second = torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 18.0).reshape(4, 3)
    folder = saved(tmp_path / "folder", {"first": first, "second": second})
    described = pickle.loads((folder / ".metadata").read_bytes())
    places = {index.fqn: place for index, place in described.storage_data.items()}
    kept = described.state_dict_metadata["first"]
    kept.size = torch.Size([6, 3])
    described.state_dict_metadata, described.planner_data = {"weight": kept}, {"weight": ("weight",)}

    def write(pieces):
        kept.chunks = [dcp.metadata.ChunkStorageMetadata(torch.Size(at), torch.Size(size)) for at, size, _ in pieces]
        described.storage_data = {
            dcp.metadata.MetadataIndex("weight", torch.Size(at)): places[name] for at, _, name in pieces
        }
        (folder / ".metadata").write_bytes(pickle.dumps(described))

    write([((0, 0), (2, 3), "first"), ((2, 0), (4, 3), "second")])
    assert torch.equal(read_checkpoint(folder).state["weight"], torch.arange(18.0).reshape(6, 3))
    write([((2, 0), (4, 3), "second")])
    with pytest.raises(InputError, match="have 12 of its 18 numbers"):
        read_checkpoint(folder)
