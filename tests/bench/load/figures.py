"""What is kept of a load, and what is said of it beside the targets."""

from __future__ import annotations

from .clients import THROTTLED, Tally


def load(tally: Tally) -> dict:
    """Calls, good answers a second, milliseconds, errors by kind."""
    ordered = sorted(tally.times)

    def percentile(p: float) -> float | None:
        return ordered[min(len(ordered) - 1, int(p * len(ordered)))] if ordered else None

    return {
        "unit": "load",
        "sent": tally.sent,
        "answered": len(ordered),
        "goodput": tally.good / tally.seconds if tally.seconds > 0 else 0.0,
        "seconds": tally.seconds,
        "p50": percentile(0.50),
        "p99": percentile(0.99),
        "max": ordered[-1] if ordered else None,
        "cold": tally.cold,
        "errors": dict(tally.errors),
    }


def ratio(of: str, value: float | None, base: float | None) -> dict:
    return {"unit": "times", of: value / base if value is not None and base else None}


def unannounced(figures: dict[str, dict]) -> dict:
    """Errors of all loads that docs/limits.md does not announce."""
    errors = [figure["errors"] for figure in figures.values() if figure["unit"] == "load"]
    count = sum(n for kinds in errors for kind, n in kinds.items() if kind != THROTTLED)
    return {"unit": "calls", "count": count}
