//! Which kind of host this is, and its memory: from `/proc`.

use super::Check;
use crate::output::size;

/// Free memory below which a few functions of ordinary size would not fit.
const LOW_MEMORY: u64 = 1 << 30;

/// With or without virtualization extensions.
pub(super) fn kind() -> Check {
    const NAME: &str = "host kind";
    match std::fs::read_to_string("/proc/cpuinfo") {
        Ok(cpuinfo) => match extension(&cpuinfo) {
            Some(name) => Check::ok(NAME, format!("hardware virtualization ({name})")),
            None => Check::warn(
                NAME,
                "software KVM: the CPU shows neither vmx nor svm, guest kernels are interpreted",
                "everything works, but deploys take tens of seconds and invocations milliseconds \
                 more; use a host with virtualization extensions where that matters",
            ),
        },
        Err(error) => Check::warn(
            NAME,
            format!("/proc/cpuinfo: {error}"),
            "mount /proc, or allow it to be read",
        ),
    }
}

/// The virtualization extension among the CPU's flags.
fn extension(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "flags").then_some(value)
    })?;
    let has = |wanted: &str| flags.split_ascii_whitespace().any(|flag| flag == wanted);
    if has("vmx") {
        Some("VT-x")
    } else if has("svm") {
        Some("AMD-V")
    } else {
        None
    }
}

/// How much memory there is for microVMs.
pub(super) fn memory() -> Check {
    const NAME: &str = "memory";
    let meminfo = match std::fs::read_to_string("/proc/meminfo") {
        Ok(meminfo) => meminfo,
        Err(error) => {
            return Check::warn(
                NAME,
                format!("/proc/meminfo: {error}"),
                "mount /proc, or allow it to be read",
            );
        }
    };
    let (Some(total), Some(available)) =
        (bytes(&meminfo, "MemTotal"), bytes(&meminfo, "MemAvailable"))
    else {
        return Check::warn(
            NAME,
            "/proc/meminfo does not tell",
            "expected MemTotal and MemAvailable",
        );
    };
    let swap = match bytes(&meminfo, "SwapTotal") {
        Some(0) | None => "no swap".to_owned(),
        Some(swap) => format!("swap {}", size(swap)),
    };
    let found = format!("{} of {} available, {swap}", size(available), size(total));
    if available < LOW_MEMORY {
        let advice = "end other programs, or expect few microVMs at once (each takes what its \
                      function uses, at most its memory setting)";
        Check::warn(NAME, found, advice)
    } else {
        Check::ok(NAME, found)
    }
}

/// How many files a controller could have open: each microVM takes about ten.
pub(super) fn open_files() -> Check {
    const NAME: &str = "open files";
    const FEW: u64 = 4096;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match most_open_files(&limits) {
        Some(most) if most < FEW => Check::warn(
            NAME,
            format!("at most {most}"),
            "a microVM takes about ten: raise it with ulimit -n, or with LimitNOFILE= of the service",
        ),
        Some(u64::MAX) => Check::ok(NAME, "no limit"),
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::warn(NAME, "/proc/self/limits does not tell", "mount /proc"),
    }
}

/// The hard limit, to which a controller raises its soft one.
fn most_open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn bytes(meminfo: &str, wanted: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kib = value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?;
        (name == wanted).then_some(kib.saturating_mul(1024))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_whole_words_among_the_flags() {
        let cpuinfo = |flags: &str| format!("model name\t: x svm\nflags\t\t: {flags}\n");
        assert_eq!(extension(&cpuinfo("fpu vmx sse")), Some("VT-x"));
        assert_eq!(extension(&cpuinfo("fpu svm")), Some("AMD-V"));
        assert_eq!(extension(&cpuinfo("fpu svm_lock vmx_x")), None);
        assert_eq!(extension(""), None);
    }

    #[test]
    fn the_hard_limit_of_open_files_counts() {
        let line = "Max open files            1024                 524288               files \n";
        assert_eq!(most_open_files(line), Some(524_288));
        let line = "Max open files            unlimited            unlimited            files \n";
        assert_eq!(most_open_files(line), Some(u64::MAX));
        assert_eq!(most_open_files(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let meminfo = "MemTotal:       2048 kB\nMemAvailable:    512 kB\nHugePages_Total:   0\n";
        assert_eq!(bytes(meminfo, "MemTotal"), Some(2 << 20));
        assert_eq!(bytes(meminfo, "MemAvailable"), Some(512 << 10));
        assert_eq!(bytes(meminfo, "SwapTotal"), None);
    }
}
