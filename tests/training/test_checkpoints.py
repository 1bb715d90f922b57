"""A trainer's file: any damage is refused by name, and nothing in it is ever run."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab.training import checkpoints

TENSORS = {
    "law.weight": torch.arange(6.0).reshape(2, 3),
    "law.transposed": torch.arange(6.0).reshape(2, 3).T,
    "optimizer.0.step": torch.tensor(3.0),
    "law.double": torch.tensor([1 / 3], dtype=torch.float64),
    "law.complex": torch.tensor([1 + 2j]),
    "law.half": torch.tensor([0.1]).bfloat16(),
    "law.empty": torch.empty(0, 3),
    "law.flags": torch.tensor([True, False]),
}
FACTS = {"lr": 0.1, "text": 'ψ → \n"', "groups": [{"betas": [0.9, 0.999]}], "none": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "trainer.safetensors"
    checkpoints.write(path, TENSORS, FACTS)
    return path


@pytest.fixture(scope="module")
def damaged(file):
    return file.with_name("damaged.safetensors")


def read_or_refuse(path):
    """What a file holds; ``None`` if it was refused as it should be."""
    try:
        return checkpoints.read(path)
    except ValueError as error:
        assert str(error).startswith(f"path: {path}")
        return None


def test_what_was_written_is_read(file):
    tensors, facts = checkpoints.read(file)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert {name: facts[name] for name in FACTS} == FACTS


def test_numpys_whole_numbers_are_numbers(tmp_path):
    path = tmp_path / "numpy.safetensors"
    checkpoints.write(path, {}, {"size": np.int64(8), "float": np.float64(0.1)})
    facts = checkpoints.read(path)[1]
    assert (facts["size"], facts["float"]) == (8, 0.1)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_no_flipped_bit_goes_unnoticed(file, damaged, flip):
    """Each byte of the file in turn: it is refused, or it was padding and nothing is changed."""
    whole = file.read_bytes()
    unchanged = 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= flip
        damaged.write_bytes(data)
        if (found := read_or_refuse(damaged)) is not None:
            assert found[1] == checkpoints.read(file)[1]
            assert all(torch.equal(found[0][name], tensor) for name, tensor in TENSORS.items())
            unchanged += 1
    assert unchanged < 8


def test_no_cut_goes_unnoticed(file, damaged):
    whole = file.read_bytes()
    for size in range(len(whole)):
        damaged.write_bytes(whole[:size])
        assert read_or_refuse(damaged) is None
    damaged.write_bytes(whole + b"\0")
    assert read_or_refuse(damaged) is None


@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_any_other_bytes_are_refused(damaged, data):
    damaged.write_bytes(data)
    assert read_or_refuse(damaged) is None


def with_header(metadata):
    """A safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"atheria_lab": "{}"},
        {"atheria_lab": "[]", "sha256": ""},
        {"atheria_lab": "3"},
        {"atheria_lab": "null"},
        {"atheria_lab": '{"format": "new"}'},
        {"atheria_lab": "not JSON"},
        {"another": "program"},
    ],
)
def test_files_of_other_programs_are_refused(damaged, metadata):
    damaged.write_bytes(with_header(metadata))
    assert read_or_refuse(damaged) is None


def test_a_newer_format_is_told_from_damage(damaged):
    text = json.dumps({"format": checkpoints.FORMAT + 1})
    damaged.write_bytes(with_header({"atheria_lab": text}))
    with pytest.raises(ValueError, match=r"saved by a newer version .*Update atheria-lab"):
        checkpoints.read(damaged)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("somebody unpickled a file",)


@pytest.mark.parametrize("dump", [pickle.dumps, lambda evil: None])
def test_nothing_is_unpickled(damaged, dump):
    data = dump(Evil())
    if data is None:  # torch's own file format, a pickle in a zip
        torch.save({"law": Evil()}, damaged)
    else:
        damaged.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged or no safetensors"):
        al.Trainer.load(damaged)


def test_a_trainer_is_loaded_without_pickle(tmp_path, monkeypatch):
    trainer = al.Trainer(al.laws.MLP(2, 4), 4, 5)
    trainer.train_episode()
    trainer.save(tmp_path / "trainer.safetensors")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load"))
    assert al.Trainer.load(tmp_path / "trainer.safetensors").episode == 1


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "trainer.safetensors"
    checkpoints.write(path, TENSORS, FACTS)
    whole = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoints.write(path, TENSORS, {"function": print})
    with pytest.raises(FileNotFoundError, match="its folder is not there"):
        checkpoints.write(tmp_path / "nowhere" / "x.safetensors", TENSORS, FACTS)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
