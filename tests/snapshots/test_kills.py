"""Processes killed while they write: nothing that was acknowledged is lost."""

import multiprocessing
import os
import random
import signal
import time

from runs import check_after_kill, write_until_killed

# One warm process with everything imported; each victim is a fork of it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["atheria_lab", "google_crc32c", "numpy", "sqlite3"])


def kill_once(folder, log, limit, delay):
    """Let a process write in the folder, and kill it."""
    victim = context.Process(target=write_until_killed, args=(folder, log, limit))
    before = os.path.getsize(log)
    victim.start()
    while os.path.getsize(log) == before:
        assert victim.is_alive(), "it died by itself"
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert victim.exitcode == -signal.SIGKILL


def random_kills(folder, log, count, seed):
    """So many kills at random times, in one directory, each checked; states that were promised."""
    chance = random.Random(seed)
    log.touch()
    promised = 0
    for _ in range(count):
        kill_once(str(folder), str(log), 10, chance.expovariate(1 / 0.02))
        promised += check_after_kill(folder, log, 10)
    return promised


def test_random_kills(tmp_path):
    count = int(os.environ.get("ATHERIA_KILLS", "20"))
    assert random_kills(tmp_path / "run", tmp_path / "log", count, seed=0) > count


def test_a_kill_at_every_touch_of_the_disk(tmp_path):
    """Before and after each write, sync, rename, transaction and removal of the first adds."""
    promised = 0
    for kill_at in range(1, 61):
        folder, log = tmp_path / str(kill_at), tmp_path / f"log{kill_at}"
        victim = context.Process(target=write_until_killed, args=(folder, log, 4, kill_at, "full"))
        victim.start()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
        promised += check_after_kill(folder, log, 4)
    assert promised > 40
