"""Sweeps over real workers: processes of this machine, that are killed, too."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster
from telling import Telling

import atheria_lab as al
from atheria_lab.scale.cluster import local_cluster, usable_bytes

LAW = {"law": "MLP", "d_state": 2, "hidden": 3}
SPACE = {"law": LAW, "size": 8, "steps": 6, "budget": "1 MiB", "episodes": 2}


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(tasks=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as client:
        yield client


def sweep(space, client, directory, **options):
    return al.sweep({**SPACE, **space}, client, directory=directory, progress=False, **options)


def telling(log, *how):
    return [Telling(2, str(log), each) for each in how]


def lines(log):
    return log.read_text().split("\n")[:-1] if log.exists() else []


def test_each_point_is_trained_as_a_trainer_trains_it(client, tmp_path):
    results = sweep({"gamma": [0.0, 0.5], "seed": [3, 4]}, client, tmp_path)
    assert [(each.point["gamma"], each.point["seed"]) for each in results] == [
        (0.0, 3), (0.0, 4), (0.5, 3), (0.5, 4),
    ]  # fmt: skip
    for point, result in zip(results.points, results, strict=True):
        reports = point.trainer().train(2, progress=False)
        assert result.losses == tuple(report.loss for report in reports)
        assert result.metrics["survival"] == tuple(r.metrics["survival"] for r in reports)
        assert result.peak_bytes == reports[0].peak_bytes <= result.declared_bytes
        assert result.attempts == 1 and result.error is None and result.seconds > 0


def test_a_second_call_trains_nothing_again(client, tmp_path):
    log = tmp_path / "log"
    space = {"law": telling(log, "train"), "seed": [0, 1]}
    first = sweep(space, client, tmp_path / "results")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(files) == len(lines(log)) == 2
    more = sweep({**space, "seed": [0, 1, 2]}, client, tmp_path / "results")
    assert len(lines(log)) == 3
    assert [each.attempts for each in more] == [0, 0, 1]
    assert [each.losses for each in more[:2]] == [each.losses for each in first]
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(now) == 3 and files.items() <= now.items()


def test_a_damaged_result_is_named_and_trained_again(client, tmp_path):
    (before,) = sweep({}, client, tmp_path)
    path = tmp_path / f"{before.fingerprint}.json"
    path.write_text(path.read_text()[:-10])
    with pytest.warns(RuntimeWarning, match=path.name):
        (after,) = sweep({}, client, tmp_path)
    assert after.losses == before.losses and after.attempts == 1
    assert sweep({}, client, tmp_path)[0].attempts == 0


def test_a_killed_worker_costs_one_more_try_and_two_an_error_the_rest_goes_on(client, tmp_path):
    log = tmp_path / "log"
    laws = telling(log, "die once", "train", "die always", "fail", "wait")
    results = sweep({"law": laws}, client, tmp_path / "results")
    once, plain, always, fail, wait = results
    assert once.error is None and once.attempts == 2 and len(once.losses) == 2
    assert "its worker died" in always.error and always.attempts == 2 and always.loss is None
    assert fail.error == "RuntimeError: as it was told to"
    assert plain.error is None and wait.error is None
    told = lines(log)
    assert [told.count(how) for how in ("die once", "die always", "fail")] == [2, 2, 1]
    assert len(list((tmp_path / "results").iterdir())) == 3
    # What failed is tried again by the next sweep, and nothing else is.
    again = sweep({"law": [laws[0], laws[3]]}, client, tmp_path / "results")
    assert [each.attempts for each in again] == [0, 1]
    assert lines(log)[len(told) :] == ["fail"]


def test_trainers_are_kept_where_they_are_asked_for(client, tmp_path):
    (bare,) = sweep({}, client, tmp_path)
    assert bare.trainer is None
    (kept,) = sweep({}, client, tmp_path, keep="trainers")
    assert kept.attempts == 1
    trainer = al.Trainer.load(kept.trainer)
    assert trainer.episode == 2
    assert [report.loss for report in trainer.train(1, progress=False)] != list(kept.losses)
    assert sweep({}, client, tmp_path, keep="trainers")[0].attempts == 0


def test_a_law_of_ones_own_is_not_changed(client):
    law = al.laws.MLP(2, hidden=3)
    before = law.fingerprint()
    (result,) = sweep({"law": law, "lr": 0.1}, client, None)
    assert result.loss is not None
    assert law.fingerprint() == before


def test_a_training_over_every_workers_memory_is_refused_before_any_starts(client, tmp_path):
    log = tmp_path / "log"
    space = {"law": telling(log, "train"), "budget": None, "size": [8, 2**13], "steps": 400}
    with pytest.raises(ValueError, match=r"size=8192.* needs .* and the largest of \d workers has"):
        sweep(space, client, tmp_path / "results")
    with pytest.raises(ValueError, match="this machine has"):
        sweep({**space, "size": [8, 2**17]}, None, tmp_path / "results")
    assert lines(log) == [] and list((tmp_path / "results").iterdir()) == []


def test_a_worker_takes_no_more_tasks_than_its_memory_holds(tmp_path):
    """Two threads, memory for one task: never two at once."""
    log = tmp_path / "log"
    with cluster_of(memory_limit="2GiB", nthreads=2) as client:
        start = time.perf_counter()
        results = sweep({"law": telling(log, "wait"), "seed": [0, 1]}, client, None)
        assert time.perf_counter() - start > 1.4
        (worker,) = workers(client)
    assert worker["resources"] == {"memory": usable_bytes(2**31)}
    assert all(result.error is None for result in results)


def test_a_worker_that_says_nothing_of_its_memory_is_refused():
    with (
        cluster_of(memory_limit=0) as client,
        pytest.raises(ValueError, match='--resources "memory='),
    ):
        sweep({}, client, None)


def test_workers_with_other_versions_are_refused(tmp_path):
    folder = tmp_path / "atheria_lab-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: atheria-lab\nVersion: 0.0.1\n")
    with cluster_of(memory_limit="2GiB") as client:
        client.run(lambda: sys.path.insert(0, str(tmp_path)))
        with pytest.raises(RuntimeError, match=r"atheria_lab 0.0.1 \(here"):
            sweep({}, client, None)


def test_a_scheduler_without_workers_is_refused(tmp_path):
    with (
        cluster_of(n_workers=0) as client,
        pytest.raises(RuntimeError, match="has no worker yet.*\n.*dask worker"),
    ):
        sweep({}, client, None)


def test_an_address_where_nobody_answers_is_told_in_time():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(ConnectionError, match=f"no scheduler answers at {address}"):
            sweep({}, address, None)
        assert time.perf_counter() - start < 5  # a promise of the interface, not a timing


def test_an_address_where_somebody_else_answers_is_told():
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4

    def serve():
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = taken.accept()
                with visitor:
                    visitor.sendall(answer)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        threading.Thread(target=serve, daemon=True).start()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no scheduler answers at {address}"):
            sweep({}, address, None)
        taken.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("client", [3, "nowhere"])
def test_what_is_no_client_is_refused(client):
    with pytest.raises((TypeError, ConnectionError), match="client: "):
        sweep({}, client, None)


def test_an_address_serves_as_a_client_does(cluster):
    (result,) = sweep({}, cluster.scheduler_address, None)
    assert result.error is None


@pytest.mark.parametrize(
    ("options", "words"),
    [({"keep": "all"}, "keep: got 'all'"), ({"keep": "trainers"}, "directory: got None")],
)
def test_bad_options_are_refused(client, options, words):
    with pytest.raises(ValueError, match=words):
        sweep({}, client, None, **options)


def test_a_script_without_its_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import atheria_lab as al\nal.sweep({SPACE!r}, directory=None)\n")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith('under  if __name__ == "__main__":')


def test_a_bar_says_how_far_it_is(client, capsys):
    al.sweep({**SPACE, "seed": [0, 1]}, client, directory=None)
    assert "2/2" in (told := capsys.readouterr().err) and "best loss" in told


def test_nothing_listens_beyond_the_loopback(cluster, client):
    pids = [os.getpid(), *client.run(os.getpid).values()]
    hosts = {
        connection.laddr.ip
        for pid in pids
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert hosts == {"127.0.0.1"}


def test_an_interrupted_sweep_goes_on_where_it_was(client, tmp_path):
    """The command line, Ctrl-C, and the same space from Python."""
    log, results = tmp_path / "log", tmp_path / "results"
    code = (
        "import sys, telling\n"
        "from atheria_lab.cli import main\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    law = {"law": "Telling", "d_state": 2, "log": str(log), "how": "wait"}
    space = tmp_path / "space.json"
    space.write_text(json.dumps({**SPACE, "law": law, "seed": list(range(4))}))
    command = [sys.executable, script, "sweep", space, "--directory", results]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as child:
        while not list(results.glob("*.json")):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
    assert child.returncode == 130, err
    assert err.endswith(b"atheria-lab: interrupted\n")
    done = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 0 < len(done) < 4
    begun = len(lines(log))
    again = sweep({"law": law, "seed": range(4)}, client, results)
    assert [each.error for each in again] == [None] * 4
    assert len(lines(log)) == begun + 4 - len(done)
    now = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert len(now) == 4 and done.items() <= now.items()


def workers(client):
    return list(client.scheduler_info()["workers"].values())


@contextlib.contextmanager
def cluster_of(n_workers=1, nthreads=1, **options):
    """Workers that were started as somebody else starts them."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=nthreads,
            dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL",
            **options,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
