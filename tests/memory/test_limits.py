"""The limit that really holds, read from a tree of files like the kernel's."""

import pytest

from atheria_lab.memory import limits, memory_limits, room_bytes

MIB = 2**20


@pytest.fixture
def write(tmp_path):
    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/meminfo", "MemTotal:  1024 kB\nMemFree: 1 kB\nMemAvailable:  256 kB\n")
    return write


def cpu(root):
    return {
        limit.name: (limit.bytes, limit.used)
        for limit in memory_limits(root)
        if not limit.name.startswith("cuda")
    }


def test_the_machine(tmp_path, write):
    assert cpu(tmp_path) == {"machine": (MIB, MIB * 3 // 4)}


def test_every_ancestor_of_a_cgroup_v2_counts(tmp_path, write):
    write("proc/self/cgroup", "0::/a/b/c\n")
    write("sys/fs/cgroup/a/memory.max", "5000\n")
    write("sys/fs/cgroup/a/memory.current", "3000\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    write("sys/fs/cgroup/a/b/c/memory.max", "9000\n")
    found = cpu(tmp_path)
    assert found["cgroup /a"] == (5000, 3000)
    assert found["cgroup /a/b/c"] == (9000, None)
    assert "cgroup /a/b" not in found


def test_cgroup_v1_and_its_number_for_no_limit(tmp_path, write):
    write("proc/self/cgroup", "4:cpu,cpuacct:/x\n7:memory:/x\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "7000\n")
    write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "10\n")
    assert cpu(tmp_path) == {"machine": (MIB, MIB * 3 // 4), "cgroup /x": (7000, 10)}


def test_inside_a_container_the_mounts_root_answers(tmp_path, write):
    write("proc/self/cgroup", "0::/../../docker/1234\n")
    write("sys/fs/cgroup/memory.max", "4000\n")
    assert cpu(tmp_path)["cgroup /"] == (4000, None)


def test_a_system_without_proc_has_no_known_limit(tmp_path):
    assert cpu(tmp_path) == {}


def test_the_room_is_what_the_tightest_limit_leaves(monkeypatch):
    found = [limits.Limit("machine", 100, 20), limits.Limit("cgroup /", 50, 30),
             limits.Limit("cgroup /x", 10), limits.Limit("cuda:0", 5, 5)]  # fmt: skip
    monkeypatch.setattr(limits, "memory_limits", lambda: found)
    assert room_bytes() == 20


def test_this_machine_has_room():
    assert room_bytes() > 0
