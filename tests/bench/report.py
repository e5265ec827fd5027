"""The figures as a table for people."""


def table(results: dict) -> str:
    host, figures = results["host"], results["figures"]
    ping = figures["agent ping rust-echo"]["p50"]
    lines = [
        "",
        f"{host['kvm']} KVM, {host['cores']} cores, {host['cpu']}, {host['memory_mib']} MiB,"
        f" Linux {host['kernel']}, CPU isolation {host['cpu_isolation']}, commit {host['commit']}",
        "",
        f"{'milliseconds':<48}{'count':>7}{'min':>10}{'p50':>10}{'p99':>10}{'pings':>8}",
    ]
    for name, figure in figures.items():
        if figure["unit"] == "ms":
            row = "".join(f"{figure[column]:>10.2f}" for column in ("min", "p50", "p99"))
            lines.append(f"{name:<48}{figure['count']:>7}{row}{figure['p50'] / ping:>8.1f}")
    lines += [
        "",
        "pings: p50 in agent pings of rust-echo, p50 (one frame to the guest's agent and back).",
        "",
        f"{'idle instance, KiB':<32}{'PSS':>10}{'private':>10}{'RSS':>10}",
    ]
    for name, figure in figures.items():
        if figure["unit"] == "KiB":
            row = "".join(f"{figure[column]:>10}" for column in ("pss", "private_dirty", "rss"))
            lines.append(f"{name.removeprefix('memory '):<32}{row}")
    if crowd := figures.get("idle crowd"):
        figure = figures["host's memory for each of the crowd"]
        lines += [
            "",
            f"crowd: {crowd['count']} idle instances of one function, each of which answered;"
            f" the host has {figure['kib']} KiB less for each.",
        ]
    if crowd := figures.get("crowded"):
        lines += [
            "",
            f"beside: {crowd['functions']} functions and {crowd['events']} events that wait.",
        ]
    if any(figure["unit"] == "times" for figure in figures.values()):
        lines += ["", f"{'what they make of a latency, p50':<50}{'times':>10}"]
    for name, figure in figures.items():
        if figure["unit"] == "times":
            lines.append(f"{name:<50}{figure['p50']:>10.3f}")
    lines += ["", f"{'per second':<32}{'count':>7}{'rate':>10}"]
    for name, figure in figures.items():
        if figure["unit"] == "1/s":
            lines.append(f"{name:<32}{figure['count']:>7}{figure['rate']:>10.0f}")
    lines += ["", f"{'what a checked signature makes of it':<50}{'times':>10}"]
    for name, figure in figures.items():
        if figure["unit"] == "ratio":
            lines.append(f"{name.removeprefix('signature, '):<50}{figure['p50']:>10.3f}")
    return "\n".join(lines)
