"""The directory: faults of the disk, damage, what other programs and later versions left."""

import contextlib
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import engine, fill
from safetensors import safe_open

import atheria_lab as al
from atheria_lab.snapshots import files, index


@contextlib.contextmanager
def every_nth_fails(monkeypatch, name, n, code):
    """Each n-th call fails, after half of what it was to write."""
    calls = 0
    original = getattr(files, name)

    def failing(descriptor, *data):
        nonlocal calls
        calls += 1
        if calls % n == 0:
            if data:
                os.write(descriptor, memoryview(data[0])[: len(data[0]) // 2])
            raise OSError(code, os.strerror(code))
        original(descriptor, *data)

    with monkeypatch.context() as patch:
        patch.setattr(files, name, failing)
        yield


def persist(call):
    """Try again until it works, as a user does who makes room; how often it failed."""
    for failures in range(1000):
        try:
            call()
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EIO)
        else:
            return failures
    raise AssertionError("it never works again")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["write_bytes", "sync_descriptor"])
@pytest.mark.parametrize("n", [3, 4, 7])  # a snapshot takes two writes and two syncs
def test_every_nth_write_fails(tmp_path, monkeypatch, name, code, n):
    failures, added = 0, {}
    with (
        engine() as running,
        al.SnapshotStore(limit=6, directory=tmp_path) as store,
        every_nth_fails(monkeypatch, name, n, code),
    ):
        for _ in range(12):
            running.step()
            failures += persist(lambda: store.add(running))
            added[running.steps_done] = running.psi.clone()
            with al.SnapshotStore(directory=tmp_path, readonly=True) as reader:
                assert reader.verify() == []
        failures += persist(store.flush)
        steps = store.steps
        assert steps == list(added)[-6:]
        assert len(list(tmp_path.glob("*.safetensors"))) == 6
    assert failures
    with al.SnapshotStore(directory=tmp_path) as store:
        assert store.steps == steps and store.verify() == []
        for snapshot in store:
            assert torch.equal(snapshot.psi, added[snapshot.step])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["write_bytes", "sync_descriptor"])
@pytest.mark.parametrize("n", [1, 2])
def test_no_write_works_until_one_does(tmp_path, monkeypatch, name, code, n):
    added = {}
    with engine() as running, al.SnapshotStore(directory=tmp_path) as store:
        with every_nth_fails(monkeypatch, name, n, code):
            for _ in range(4):
                running.step()
                with contextlib.suppress(OSError):
                    store.add(running)
                    added[running.steps_done] = running.psi.clone()
            for _ in range(2):
                with pytest.raises(OSError, match=os.strerror(code)):
                    store.flush()
            assert not list(tmp_path.glob("*.safetensors"))
            assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))
            assert store.steps == list(added)
            for snapshot in store:  # still in memory, and usable
                assert torch.equal(snapshot.psi, added[snapshot.step])
        store.flush()
    with al.SnapshotStore(directory=tmp_path) as store:
        assert store.steps == list(added) and store.verify() == []


def test_the_index_finds_the_disk_full(tmp_path):
    with engine() as running, al.SnapshotStore(directory=tmp_path) as store:
        database = store._disk._index._database
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="SQLite: database or disk is full") as raised:
            for _ in range(200):
                fill(store, running, 1)
                store.flush()
        assert raised.value.errno == errno.ENOSPC
        files_there = len(list(tmp_path.glob("*.safetensors")))
        assert files_there == len(store) - 1  # no file without a row, the state still in memory
        database.execute("PRAGMA max_page_count = 100000")
        store.flush()
        assert store.verify() == [] and len(list(tmp_path.glob("*.safetensors"))) == len(store)


def test_a_disk_that_is_really_full(tmp_path):
    """A file size limit of the system: the writes fail for real, in the middle of a file."""
    pytest.importorskip("resource")
    code = f"""
import sys, resource; sys.path.insert(0, {os.path.dirname(__file__)!r})
from runs import *
with al.SnapshotStore(directory={str(tmp_path)!r}) as store:
    small, large = engine(), engine(size=128)
    fill(store, small, 3)
    store.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    store.add(large)
    for _ in range(2):
        try:
            store.flush()
        except OSError as error:
            print(error.strerror)
    assert len(store) == 4 and store.verify() == [] and store[3].tier == "host"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [os.strerror(errno.EFBIG)] * 2
    with al.SnapshotStore(directory=tmp_path) as store:
        assert len(store) == 4 and store.verify() == []


def test_what_the_limit_released_makes_room_on_a_full_disk(tmp_path, monkeypatch):
    """Room for three: a fourth only fits once the first is gone."""
    original = files.write_bytes

    def full(descriptor, data):
        if len(list(tmp_path.glob("*.safetensors"))) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor, data)

    monkeypatch.setattr(files, "write_bytes", full)
    with engine() as running, al.SnapshotStore(limit=3, directory=tmp_path) as store:
        fill(store, running, 9)
        store.flush()
        assert store.steps == [14, 16, 18] and store.verify() == []


def damage(path, chance):
    """Flip, truncate or delete; what was done."""
    size = path.stat().st_size
    kind = chance.choice(["flip", "truncate", "delete"]) if size else "delete"
    if kind == "flip":
        with path.open("r+b") as file:
            place = chance.randrange(size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))
    elif kind == "truncate":
        os.truncate(path, chance.randrange(size))
    else:
        path.unlink()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_random_corruption_is_named_and_the_rest_is_right(tmp_path, closed):
    chance = random.Random(0)
    source = tmp_path / "source"
    with engine(size=3) as running:
        added = {}
        for compression in (None, "zstd", "pcodec"):
            written = al.SnapshotStore(directory=source, compression=compression, sync="process")
            added |= fill(written, running, 2)
            written.flush()
            if closed or compression != "pcodec":
                written.close()
    names = [name for name in os.listdir(source) if name != "writer.lock"]
    assert ("snapshots.sqlite-wal" in names) != closed
    refused = 0
    for i in range(500):
        copy = tmp_path / "copy"
        shutil.copytree(source, copy)
        name = chance.choice(names)
        damage(copy / name, chance)
        with al.SnapshotStore(directory=copy, sync="process", readonly=i % 2 == 0) as store:
            right = set()
            for snapshot in store:
                try:
                    psi = snapshot.psi
                except al.snapshots.DamagedSnapshotError as error:
                    assert error.path.name == name and name in str(error)
                else:
                    assert torch.equal(psi, added[snapshot.step])
                    right.add(snapshot.step)
            faults = [fault.path.name for fault in store.verify()]
        if name.endswith(".safetensors"):
            refused += 1
            assert faults == [name] and len(right) == len(added) - 1
        else:  # the index can be made anew from the files
            assert faults == [] and right == set(added)
        shutil.rmtree(copy)
    assert refused > 100
    written.close()


def test_files_that_the_index_lost_are_found_again(tmp_path):
    with engine() as running:
        with al.SnapshotStore(directory=tmp_path) as store:
            added = fill(store, running, 4)
        (tmp_path / index.NAME).unlink()
        (tmp_path / f"{files.TEMPORARY}0000000009").write_bytes(b"half")
        with al.SnapshotStore(directory=tmp_path) as store:
            assert store.steps == list(added)
            fill(store, running, 1)
        assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))
        with al.SnapshotStore(directory=tmp_path) as store:
            assert len(store) == 5 and store.verify() == []


def test_a_file_under_a_false_name_is_not_taken_for_a_snapshot(tmp_path):
    with engine() as running:
        with al.SnapshotStore(directory=tmp_path) as store:
            fill(store, running, 1)
        (good,) = tmp_path.glob("*.safetensors")
        bad = tmp_path / "0000000007-step000000000100-00000000.safetensors"
        shutil.copy(good, bad)
        (tmp_path / "notes.txt").write_text("mine")
        with al.SnapshotStore(directory=tmp_path) as store:
            assert store.steps == [2] and [fault.path for fault in store.verify()] == [bad]
            fill(store, running, 1)
            store.flush()
            assert store.steps == [2, 4]
        assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_newer_version_is_refused(tmp_path):
    with engine() as running, al.SnapshotStore(directory=tmp_path) as store:
        fill(store, running, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / index.NAME)) as database:
        database.execute("UPDATE totals SET format = 2")
        database.execute("PRAGMA user_version = 2")
        database.commit()
    for readonly in (True, False):
        with pytest.raises(ValueError, match=r"written by a newer version \(format 2; this one"):
            al.SnapshotStore(directory=tmp_path, readonly=readonly)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_other_tools_open_the_files(tmp_path):
    """safetensors reads them: psi as real numbers, and what they are in the header."""
    with engine("ConvLSTMUNet", size=4) as running:
        with al.SnapshotStore(directory=tmp_path) as store:
            fill(store, running, 1)
        (path,) = tmp_path.glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == {"psi", "hidden.0", "hidden.1"}
            assert torch.equal(torch.view_as_complex(file.get_tensor("psi")), running.psi)
            assert torch.equal(file.get_tensor("hidden.1"), running.hidden[1])
            assert file.metadata()["format"] == "1"


def test_other_tools_open_the_export(tmp_path):
    zarr = pytest.importorskip("zarr")
    with engine("ConvLSTMUNet", size=(4, 8)) as running, al.SnapshotStore() as store:
        with pytest.raises(ValueError, match="holds no snapshot"):
            store.export(tmp_path / "none")
        added = fill(store, running, 3)
        store.export(tmp_path / "run.zarr")
        group = zarr.open_group(tmp_path / "run.zarr", mode="r")
        assert group.metadata.zarr_format == 3
        assert group["psi"].metadata.dimension_names == (
            "step",
            "batch",
            "row",
            "column",
            "channel",
        )
        assert group["psi"].chunks == (1, 1, 4, 8, 2)
        assert list(group["step"][:]) == list(added)
        for i, psi in enumerate(added.values()):
            assert np.array_equal(group["psi"][i], psi.numpy())
        assert np.array_equal(group["hidden_0"][2], running.hidden[0].numpy())
        with pytest.raises(FileExistsError, match="is there already"):
            store.export(tmp_path / "run.zarr")
        with engine(size=3) as other:
            store.add(other)
        with pytest.raises(ValueError, match="has another law, shape or dtype"):
            store.export(tmp_path / "mixed")
        store.export(tmp_path / "part", snapshots=store[:2])
        assert {path.name for path in tmp_path.iterdir()} == {"run.zarr", "part"}


def test_a_row_that_went_astray_is_noticed(tmp_path):
    with engine() as running, al.SnapshotStore(directory=tmp_path) as store:
        fill(store, running, 2)
    with contextlib.closing(sqlite3.connect(tmp_path / index.NAME)) as database:
        database.execute("DELETE FROM snapshots WHERE id = 1")
        database.commit()
    catalogue = index.Index(tmp_path, readonly=True, durable=False)
    with contextlib.closing(catalogue), pytest.raises(index.DamagedIndex, match="do not add up"):
        catalogue.rows()
