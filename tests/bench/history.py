"""The figures of former runs: a table in this repository, one row for each run, and its picture.

python -m bench.history          draws the picture anew
"""

from __future__ import annotations

import csv
import datetime
from pathlib import Path

FOLDER = Path(__file__).parent
TABLE = FOLDER / "history.csv"
PICTURE = FOLDER / "history.svg"

#: What a run is known by.
RUN = ["date", "kvm", "cores", "cpu", "commit"]
#: A column's name, the figure it is taken from, and which number of that.
COLUMNS = {
    "ping p50 ms": ("agent ping rust-echo", "p50"),
    "warm rust p50 ms": ("warm rust-echo", "p50"),
    "warm python p50 ms": ("warm python-hello", "p50"),
    "warm call python p50 ms": ("warm call python", "p50"),
    "warm call python p99 ms": ("warm call python", "p99"),
    "warm calls python 1/s": ("warm calls python", "rate"),
    "cold rust p50 ms": ("cold rust-echo", "p50"),
    "cold python p50 ms": ("cold python-hello", "p50"),
    "cold python p99 ms": ("cold python-hello", "p99"),
    "deploy python p50 ms": ("deploy python-hello", "p50"),
    "idle python private KiB": ("memory python-hello", "private_dirty"),
    "idle crowd": ("idle crowd", "count"),
    "idle crowd private KiB": ("memory crowd, each", "private_dirty"),
    "warm beside crowd, to alone": ("warm beside crowd, to alone", "p50"),
    "cold beside crowd, to alone": ("cold beside crowd, to alone", "p50"),
    "warm beside queue, to alone": ("warm beside functions and events, to alone", "p50"),
    "cold beside queue, to alone": ("cold beside functions and events, to alone", "p50"),
}


def row(results: dict, date: datetime.date, columns: dict = COLUMNS) -> dict[str, str]:
    """What is kept of a run."""
    host, figures = results["host"], results["figures"]
    kept = {"date": date.isoformat(), **{name: str(host[name]) for name in RUN[1:]}}
    for column, (figure, number) in columns.items():
        value = figures.get(figure, {}).get(number)
        kept[column] = "" if value is None else f"{value:.4g}"
    return kept


def read(table: Path = TABLE) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def append(
    results: dict,
    table: Path = TABLE,
    date: datetime.date | None = None,
    columns: dict = COLUMNS,
) -> str:
    """Adds a run, if it can be said of which commit it is. Returns what became of it."""
    commit = results["host"]["commit"]
    if commit == "unknown" or commit.endswith("-dirty"):
        return f"Not added to {table.name}: the tree is not as it was committed ({commit})."
    date = date or datetime.datetime.now(datetime.UTC).date()
    rows = [*read(table), row(results, date, columns)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*RUN, *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return (
        f"Added to {table}; commit it, and {table.with_suffix('.svg').name}, with what it measures."
    )


#: Of one panel, in the picture's units.
WIDTH, HEIGHT, MARGIN, GAP = 360, 110, 46, 34


def picture(rows: list[dict[str, str]], columns: dict = COLUMNS) -> str:
    """A panel for each column, a line in it for each kind of host, a point for each run. Every
    panel begins at zero: what looks like half is half."""
    height = GAP + (HEIGHT + GAP) * -(-len(columns) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * (WIDTH + GAP)}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, column in enumerate(columns):
        x = GAP / 2 + (number % 2) * (WIDTH + GAP)
        y = GAP + (number // 2) * (HEIGHT + GAP)
        parts += panel(rows, column, x, y)
    return "\n".join([*parts, "</svg>", ""])


def panel(rows: list[dict[str, str]], column: str, x: float, y: float) -> list[str]:
    points = [(at, r) for at, r in enumerate(rows) if r.get(column)]
    most = max((float(r[column]) for _, r in points), default=1.0) or 1.0
    left, bottom = x + MARGIN, y + HEIGHT
    step = (WIDTH - MARGIN) / max(len(rows) - 1, 1)
    parts = [
        f'<text x="{left:.0f}" y="{y - 6:.0f}" font-weight="bold">{column}</text>',
        f'<text x="{left - 4:.0f}" y="{y + 8:.0f}" text-anchor="end">{most:g}</text>',
        f'<text x="{left - 4:.0f}" y="{bottom:.0f}" text-anchor="end">0</text>',
        f'<path d="M{left:.0f} {y:.0f}V{bottom:.0f}H{x + WIDTH:.0f}" fill="none" stroke="gray"/>',
    ]
    for kind, colour in (("software", "firebrick"), ("hardware", "steelblue")):
        spots = [
            (left + at * step, bottom - float(r[column]) / most * HEIGHT, r)
            for at, r in points
            if r["kvm"] == kind
        ]
        if spots:
            line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in spots)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}">'
            f"<title>{r['date']} {r['commit']} ({kind} KVM): {r[column]}</title></circle>"
            for px, py, r in spots
        ]
    return parts


def main() -> None:
    PICTURE.write_text(picture(read()))


if __name__ == "__main__":
    main()
