"""The figures as a table for people, and the targets."""

from __future__ import annotations

from .neighbours import BURNERS

#: What a run is compared with: the figure, which number of it, and how much it is to be at least or at
#: most.
TARGETS = [
    *[
        (f"{kind}, {count} clients to 8", "goodput", "at least", 0.8)
        for kind in ("warm", "cold")
        for count in (64, 256)
    ],
    (f"beside {BURNERS}, to alone", "p99", "at most", 3.0),
    ("errors that no limit announces", "count", "at most", 0),
]


def table(results: dict) -> str:
    host, figures = results["host"], results["figures"]
    lines = [
        "",
        f"{host['kvm']} KVM, {host['cores']} cores, {host['cpu']}, {host['memory_mib']} MiB,"
        f" Linux {host['kernel']}, CPU isolation {host['cpu_isolation']}, commit {host['commit']}",
        "",
        f"{'load':<44}{'calls':>8}{'good/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'cold':>7}"
        "  errors",
    ]
    for name, figure in figures.items():
        if figure["unit"] == "load":
            times = "".join(number(figure[column]) for column in ("p50", "p99", "max"))
            cold = figure["cold"] / figure["answered"] if figure["answered"] else 0.0
            lines.append(
                f"{name:<44}{figure['sent']:>8}{figure['goodput']:>9.1f}{times}{cold:>7.0%}"
                f"  {errors(figure)}"
            )
    lines += ["", f"{'p99 of the neighbour':<44}{'times':>8}"]
    for name, figure in figures.items():
        if figure["unit"] == "times" and "p99" in figure:
            lines.append(f"{name:<44}{number(figure['p99'], 8)}")
    lines += ["", f"{'target':<44}{'is':>8}"]
    for name, column, relation, bound in TARGETS:
        value = figures[name][column]
        met = value is not None and (value >= bound if relation == "at least" else value <= bound)
        verdict = "met" if met else "MISSED"
        lines.append(f"{name:<44}{number(value, 8)}  {relation} {bound:g}: {verdict}")
    return "\n".join(lines)


def number(value: float | None, width: int = 9) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.2f}"


def errors(figure: dict) -> str:
    kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(figure["errors"].items()))
    return kinds + (f" ({figure['instances']} instances)" if "instances" in figure else "")
