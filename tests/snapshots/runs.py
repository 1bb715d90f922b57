"""What the tests of snapshots share: small engines, and a process to kill."""

from __future__ import annotations

import os
import signal
import zlib
from pathlib import Path

import torch

import atheria_lab as al
from atheria_lab.snapshots import disk, files, index


def engine(law="MLP", size=6, d_state=2, seed=0, **options):
    """An engine with a small law, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = {
            "MLP": lambda: al.laws.MLP(d_state, hidden=3),
            "ConvLSTMUNet": lambda: al.laws.ConvLSTMUNet(d_state, hidden=2, levels=1),
            "Brickwork": lambda: al.laws.Brickwork(d_state),
        }[law]()
    return al.Engine(made, al.lattice.random(size, d_state, seed=3), seed=seed, **options)


def fill(store, running, count, stride=2):
    """Add so many states; what was added, by step."""
    added = {}
    for _ in range(count):
        running.step(stride)
        store.add(running)
        added[running.steps_done] = running.psi.clone()
    return added


def crc(psi):
    """A number for the bits of psi."""
    return zlib.crc32(torch.view_as_real(psi).numpy().tobytes())


def write_until_killed(folder, log, limit, kill_at=0, sync="process"):
    """Add and flush, and tell the log what was added and what was acknowledged.

    With ``kill_at``, the process kills itself right before or after its so-manieth touch of the
    disk; else somebody else does.
    """
    torch.set_num_threads(1)
    if kill_at:
        _count_touches(kill_at)
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    running = engine(size=16)
    with al.SnapshotStore(limit=limit, directory=folder, sync=sync, host_budget=10**6) as store:
        if len(store):
            store[-1].restore(running)
        for i in range(10**6):
            running.step()
            os.write(told, f"added {running.steps_done} {crc(running.psi)}\n".encode())
            store.add(running)
            if i % 3 == 0:
                store.flush()
                os.write(told, f"flushed {running.steps_done}\n".encode())


def _count_touches(kill_at):
    touches = 0

    def killing(function):
        def touch(*args, **kwargs):
            nonlocal touches
            for before in (True, False):
                touches += 1
                if touches == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if before:
                    result = function(*args, **kwargs)
            return result

        return touch

    files.write_bytes = killing(files.write_bytes)
    files.sync_descriptor = killing(files.sync_descriptor)
    index.Index.change = killing(index.Index.change)
    disk.Disk._unlink = killing(disk.Disk._unlink)
    Path.rename = killing(Path.rename)


def check_after_kill(folder, log, limit):
    """Nothing acknowledged is lost, nothing is damaged; how many were checked."""
    added, flushed = {}, 0
    for line in Path(log).read_text().splitlines():
        word, step, *rest = line.split()
        if word == "added":
            added[int(step)] = int(rest[0])
        else:
            flushed = int(step)
    newest = sorted(added)[-limit:]
    with al.SnapshotStore(limit=limit, directory=folder) as store:
        assert store.verify() == []
        there = {snapshot.step: crc(snapshot.psi) for snapshot in store}
        assert not [name for name in os.listdir(folder) if name.startswith(files.TEMPORARY)]
    for step, value in there.items():
        assert added[step] == value
    promised = [step for step in newest if step <= flushed]
    assert set(promised) <= set(there), (promised, sorted(there))
    return len(promised)
