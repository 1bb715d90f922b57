"""The limit that really holds, read from a tree of files like the kernel's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab.memory import Limit, limits, memory_limits, room_bytes

MIB = 2**20
MACHINE = Limit("machine", 1024 * 1024, 768 * 1024)
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.fixture
def read(tmp_path):
    """The limits of the CPU that such files tell, over those of a machine of 1 MiB."""

    def read(files):
        meminfo = "MemTotal:  1024 kB\nMemFree:  1 kB\nMemAvailable:  256 kB\nHugePages_Total: 0\n"
        for path, text in {"proc/meminfo": meminfo, **files}.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return [limit for limit in memory_limits(tmp_path) if not limit.name.startswith("cuda:")]

    return read


def test_the_machine(read):
    assert read({}) == [MACHINE]


def test_a_machine_that_does_not_say_what_is_available(read):
    assert read({"proc/meminfo": "MemTotal: 1024 kB\nMemFree: 1 kB\n"}) == [Limit("machine", MIB)]


def test_every_ancestor_of_a_cgroup_v2_counts_but_no_sibling(read):
    found = read({
        "proc/self/cgroup": "0::/a/b/c\n",
        f"{V2}/a/b/c/memory.max": "9000\n",
        f"{V2}/a/b/memory.max": "max\n",
        f"{V2}/a/b/memory.current": "7\n",
        f"{V2}/a/memory.max": "5000\n",
        f"{V2}/a/memory.current": "3000\n",
        f"{V2}/a/sibling/memory.max": "1\n",
    })  # fmt: skip
    assert found == [MACHINE, Limit("cgroup /a/b/c", 9000), Limit("cgroup /a", 5000, 3000)]


def test_cgroup_v1_among_other_controllers(read):
    found = read({
        "proc/self/cgroup": "4:cpu,cpuacct:/x\n7:memory,hugetlb:/x/y\n2:name=systemd:/x\n",
        f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",  # no limit
        f"{V1}/memory.usage_in_bytes": "12\n",
        f"{V1}/x/memory.limit_in_bytes": "7000\n",
        f"{V1}/x/memory.usage_in_bytes": "10\n",
        "sys/fs/cgroup/cpu,cpuacct/x/memory.limit_in_bytes": "1\n",
    })  # fmt: skip
    assert found == [MACHINE, Limit("cgroup /x", 7000, 10)]


def test_v1_and_v2_side_by_side(read):
    found = read({
        "proc/self/cgroup": "7:memory:/x\n0::/x\n",
        f"{V1}/x/memory.limit_in_bytes": "7000\n",
        f"{V2}/x/memory.max": "6000\n",
    })  # fmt: skip
    assert found == [MACHINE, Limit("cgroup /x", 7000), Limit("cgroup /x", 6000)]


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/", V2, "memory.max", "memory.current"),
        ("0::/docker/1234", V2, "memory.max", "memory.current"),
        ("0::/../../docker/1234", V2, "memory.max", "memory.current"),
        ("9:memory:/docker/1234", V1, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_inside_a_container_the_root_of_the_mount_answers(read, line, folder, limit, used):
    found = read({
        "proc/self/cgroup": f"{line}\n",
        f"{folder}/{limit}": "4000\n",
        f"{folder}/{used}": "1000\n",
    })  # fmt: skip
    assert found == [MACHINE, Limit("cgroup /", 4000, 1000)]


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used", "field"),
    [
        ("0::/", V2, "memory.max", "memory.current", "inactive_file"),
        ("9:memory:/", V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
@pytest.mark.parametrize(("cache", "left"), [(600, 300), (5000, 0)])
def test_file_cache_that_is_given_up_on_demand_is_not_used(
    read, line, folder, limit, used, field, cache, left
):
    found = read({
        "proc/self/cgroup": f"{line}\n",
        f"{folder}/{limit}": "4000\n",
        f"{folder}/{used}": "900\n",
        f"{folder}/memory.stat": f"anon 300\nactive_file 0\n{field} {cache}\n",
    })  # fmt: skip
    assert found == [MACHINE, Limit("cgroup /", 4000, left)]


def test_a_cgroup_that_leads_nowhere_limits_nothing(read):
    assert read({"proc/self/cgroup": "0::/gone\n3:memory:/gone\n"}) == [MACHINE]


def test_without_proc_nothing_is_known(tmp_path):
    assert [limit for limit in memory_limits(tmp_path) if limit.name[:5] != "cuda:"] == []


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.none() | st.integers(0, 1000)), max_size=4),
    st.integers(0, 5),
)
def test_the_room_is_what_the_tightest_limit_leaves(found, free_on_the_gpu):
    tree = [Limit(f"cgroup /{i}", most, used) for i, (most, used) in enumerate(found)]
    tree.append(Limit("cuda:0 a card", 5, 5 - free_on_the_gpu))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "memory_limits", lambda: tree)
        free = [most - used for most, used in found if used is not None]
        assert room_bytes() == (max(0, min(free)) if free else 0)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux tells its limits in /proc")
def test_this_machine_has_room():
    tightest = min(limit.bytes for limit in memory_limits() if not limit.name.startswith("cuda:"))
    assert 0 < room_bytes() < tightest
