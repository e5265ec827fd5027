"""The benchmarks' history: rows are kept as they were, and the picture shows each of them."""

import datetime
import xml.etree.ElementTree as ElementTree

from bench import history

DAY = datetime.date(2026, 11, 25)


def results(commit, cold):
    times = {"unit": "ms", "p50": 4.0, "p99": 9.0}
    return {
        "host": {"kvm": "software", "cores": 2, "cpu": "A, B", "commit": commit},
        "figures": {
            "agent ping rust-echo": times,
            "cold python-hello": {**times, "p50": cold},
            "memory python-hello": {"unit": "KiB", "private_dirty": 6000},
        },
    }


def test_runs_are_added_one_below_the_other(tmp_path):
    table = tmp_path / "history.csv"
    for number, cold in enumerate([30.123456, 20.0]):
        assert "Added" in history.append(results(f"abc{number}", cold), table, DAY)
    first, second = history.read(table)
    assert (first["commit"], first["cold python p50 ms"]) == ("abc0", "30.12")
    assert (second["date"], second["cpu"], second["warm rust p50 ms"]) == ("2026-11-25", "A, B", "")


def test_a_run_of_no_commit_is_not_added(tmp_path):
    table = tmp_path / "history.csv"
    for commit in ("unknown", "abc-dirty"):
        assert "Not added" in history.append(results(commit, 1.0), table, DAY)
    assert not table.exists()


def test_the_picture_shows_every_run_and_is_a_picture_without_any():
    rows = [history.row(results(f"abc{n}", n + 1.0), DAY) for n in range(3)]
    for shown in (rows, []):
        drawn = ElementTree.fromstring(history.picture(shown))
        titles = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}title")]
        for each in shown:
            assert any(each["commit"] in title for title in titles)
