"""What a sandbox process is locked up in, looked at from outside: real processes of a real
controller, a shell that waits, an instance that served, and one that serves right now."""

import ctypes
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import host, layout
from harness.deadline import until
from harness.invocation import invoke

#: Kinds of namespaces that a sandbox shares with nobody.
OWN = ("mnt", "pid", "net", "ipc", "uts", "cgroup")

#: What a sandbox may have open: no directory, no socket but its two, no file that is not its own.
HARMLESS = re.compile(
    r"/dev/null|/dev/kvm|/proc/\d+/pagemap|(pipe|socket):\[\d+\]"
    r"|anon_inode:(kvm-vm|kvm-vcpu(-stats)?:\d+|\[(eventfd|eventpoll)\])"
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the whole jail takes root")


@pytest.fixture
def sandboxes(controller, client):
    """Process ids: shells and an idle instance."""
    invoke(client, "guest", {"op": "who"}).ok()
    instance = controller.idle("guest")["pid"]
    controller.shells_ready()
    found = controller.sandboxes()
    assert instance in found and len(found) > 1
    return found


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def test_the_controller_says_that_nothing_is_missing(controller):
    assert controller.status()["jail"] == {"missing": []}
    metrics = controller.metrics()
    parts = {name: value for name, value in metrics.items() if name.startswith("hearth_jail{")}
    assert len(parts) == 9 and set(parts.values()) == {1.0}, parts
    assert "jail of sandboxes is incomplete" not in controller.log_text()


def test_no_two_sandboxes_share_a_user_and_none_is_anybody_elses(sandboxes):
    users, groups = [], []
    for pid in sandboxes:
        fields = status(pid)
        assert len(set(fields["Uid"].split())) == 1 and len(set(fields["Gid"].split())) == 1
        assert fields["Groups"] == ""
        users.append(int(fields["Uid"].split()[0]))
        groups.append(int(fields["Gid"].split()[0]))
    assert len(set(users)) == len(users) and len(set(groups)) == len(groups)
    assert min(users + groups) >= 0x70000000


def test_a_sandbox_has_no_privilege_and_can_gain_none(sandboxes):
    for pid in sandboxes:
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = status(f"{pid}/task/{task.name}")
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(fields[kind], 16) == 0, (kind, fields[kind])
            assert fields["NoNewPrivs"] == "1"
            # KVM's own helper thread never leaves the kernel, and inherits what started it.
            assert fields["Seccomp"] == "2"
            assert int(fields["Seccomp_filters"]) == 1


def test_a_sandbox_is_the_only_process_of_its_namespaces(sandboxes):
    def namespaces(pid):
        return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in OWN}

    ours = namespaces("self")
    seen = [namespaces(pid) for pid in sandboxes]
    for kind in OWN:
        own = [one[kind] for one in seen]
        assert ours[kind] not in own and len(set(own)) == len(own), kind
    for pid in sandboxes:
        assert status(pid)["NSpid"].split() == [str(pid), "1"]


def test_a_sandboxs_root_is_empty_and_nothing_else_is_mounted(sandboxes):
    for pid in sandboxes:
        root = Path(f"/proc/{pid}/root/")
        assert list(root.iterdir()) == []
        with pytest.raises(OSError, match="Read-only"):
            (root / "file").touch()
        mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        assert len(mounts) == 1 and mounts[0].startswith("jail / tmpfs ro,nosuid,nodev,noexec")
        assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_a_sandbox_has_nothing_open_but_its_own(controller, sandboxes):
    instance = controller.idle("guest")["pid"]
    for pid in sandboxes:
        files = {name for name in host.open_files(pid).values() if not HARMLESS.fullmatch(name)}
        if pid != instance:
            assert not files, "a shell belongs to no function yet"
            continue
        data = str(controller.data)
        assert len(files) == 3, files
        assert {Path(name).name for name in files if name.startswith(data)} >= {"memory"}
        for number, name in host.open_files(pid).items():
            if name in files:
                info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
                flags = int(re.search(r"flags:\s+(\d+)", info)[1], 8)
                assert flags & os.O_ACCMODE == os.O_RDONLY, name


def test_a_sandbox_has_no_environment_and_no_core(sandboxes):
    for pid in sandboxes:
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits)
        assert re.search(r"Max open files\s+256\s+256", limits)
        assert re.search(r"Max processes\s+64\s+64", limits)
        # Not dumpable: not even its own user may look into it.
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0


def test_a_sandbox_is_in_a_control_group_of_its_own(controller, sandboxes):
    groups = [host.cgroups_of([pid]) for pid in sandboxes]
    # Where the host gives it none, it says so.
    isolated = controller.status()["cpu_isolation"] != "none"
    assert all(bool(group) == isolated for group in groups)
    assert len(set.union(*groups)) == sum(len(group) for group in groups)


def test_all_clones_of_one_function_are_locked_up_alike_while_they_serve(controller, client):
    controller.end_instances("guest")
    with ThreadPoolExecutor(3) as pool:
        for answer in pool.map(lambda _: invoke(client, "guest", {"op": "who"}), range(3)):
            answer.ok()
    users = {status(i["pid"])["Uid"].split()[0] for i in controller.instances("guest")}
    assert len(users) == len(controller.instances("guest"))
    assert "0" not in users


def test_a_killed_controllers_sandboxes_end_with_it(own_controller):
    controller = own_controller()
    controller.shells_ready()
    found = controller.sandboxes()
    controller.kill()
    until("the sandboxes are gone", lambda: all(host.state(pid) == "X" for pid in found))
    # The next one takes away the control groups.
    controller.start()


def test_a_controller_that_must_have_the_whole_jail_refuses_to_start_without_a_part(
    template, tmp_path
):
    """Root without CAP_SYS_ADMIN: users can be given away, namespaces can't be made."""

    def drop_sys_admin():
        pr_capbset_drop, cap_sys_admin = 24, 21
        assert ctypes.CDLL(None).prctl(pr_capbset_drop, cap_sys_admin, 0, 0, 0) == 0

    data = tmp_path / "data"
    data.mkdir()
    host.watch(data)
    done = subprocess.run(
        [layout.HEARTHD, "--listen", "127.0.0.1:0", "--data-dir", data, "--require-jail"],
        preexec_fn=drop_sys_admin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "the jail is not complete: without processes" in done.stderr + done.stdout


def test_the_whole_jail_can_be_required(own_controller):
    assert own_controller("--require-jail").status()["jail"] == {"missing": []}
