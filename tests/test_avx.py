"""User code keeps its vector registers: the guest's kernel saves and restores all of them."""

from pathlib import Path

import pytest
from harness.invocation import invoke


@pytest.mark.alone
def test_avx_state_survives_context_switches(controller, client):
    report = invoke(client, "guest", {"op": "avx", "n": 8}).ok()
    assert report["avx"] == ("avx2" in Path("/proc/cpuinfo").read_text())
    assert report["processes"] == 3
    # Enough rounds that a kernel which loses 7 % of them is found out.
    assert report["rounds"] > 200
    assert report["corrupted"] == 0, report


def test_avx_state_survives_context_switches_right_after_a_restore(controller, client):
    controller.end_instances("guest")
    answer = invoke(client, "guest", {"op": "avx", "n": 4})
    assert answer.start == "cold"
    assert answer.ok()["corrupted"] == 0, answer.value
