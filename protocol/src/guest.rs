//! What host and guest must agree on besides messages: device order, ports, paths.

/// The vsock context id of every guest. Clones of one snapshot share it: each guest has its own
/// device and its own host socket, so the id never has to tell two guests apart.
pub const GUEST_CID: u64 = 3;

/// The well-known vsock context id of the host (`VMADDR_CID_HOST`).
pub const HOST_CID: u64 = 2;

/// The vsock port on the host that the agent connects to. It is the only port that answers.
pub const AGENT_PORT: u32 = 1024;

/// The first block device: the runtime image, mounted as the root.
pub const RUNTIME_DEVICE: &str = "/dev/vda";

/// The second block device: the function's code, mounted at `/var/task`. Its capacity is zero in a
/// runtime snapshot; a restore that attaches an image announces the new capacity.
pub const CODE_DEVICE: &str = "/dev/vdb";

/// The third block device: the function's layers, mounted at `/opt`. Empty unless used.
pub const LAYERS_DEVICE: &str = "/dev/vdc";

/// Number of block devices that every microVM has, in the order above.
pub const DISK_COUNT: usize = 3;

/// I/O port that ends the microVM when the guest writes [`SHUTDOWN_VALUE`] to it. There is no ACPI
/// to ask for power-off, and `reboot` has to stay distinguishable from it.
pub const SHUTDOWN_PORT: u16 = 0x600;

/// The byte to write to [`SHUTDOWN_PORT`]: ACPI's sleep-enable bit with sleep type 5 (soft off).
pub const SHUTDOWN_VALUE: u8 = 0x34;

/// I/O port by which a kernel that is interpreted has memory copied: `rep movsb` in one exit.
pub const STRING_COPY_PORT: u16 = 0xe4;

/// I/O port by which it has memory cleared: `rep stosb` of zeros.
pub const STRING_CLEAR_PORT: u16 = 0xe5;

/// I/O port where the host's wall clock is read, as nanoseconds since the epoch in two double words:
/// the low one here, the high one four ports on. Reading the low one takes the time.
pub const CLOCK_PORT: u16 = 0x608;

/// Ports from there on that the time takes up.
pub const CLOCK_PORTS: u64 = 8;

/// Where the agent serves the Lambda Runtime API, as `AWS_LAMBDA_RUNTIME_API` says it.
pub const RUNTIME_API_ADDRESS: &str = "127.0.0.1:9001";

/// Name of the abstract Unix socket where the agent serves the same API: for the runtimes of Hearth's
/// own images, which need half the kernel's work for it.
pub const RUNTIME_API_SOCKET: &str = "hearth-runtime-api";

/// Variable that tells a runtime which descriptor its mailbox is at; the next one reads what the
/// function writes.
pub const MAILBOX_VARIABLE: &str = "_HEARTH_MAILBOX_FD";

/// The descriptor itself.
pub const MAILBOX_FD: i32 = 4;

/// User and group id of `sbx_user1051`, which functions run as.
pub const FUNCTION_UID: u32 = 993;

/// Largest request or response payload of a synchronous invocation, in bytes: 6 MiB and 100 bytes,
/// the figure in Lambda's own error text.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024 + 100;

/// Largest result that a function may stream, in bytes: 200 MiB, as on Lambda.
pub const MAX_STREAMED: u64 = 200 * 1024 * 1024;

/// Largest piece of a streamed result that one frame carries, in bytes.
pub const MAX_CHUNK: usize = 128 * 1024;

/// Lambda keeps an error type of the form `Runtime.Name` or `Function.Name` and calls every other
/// one unknown.
pub fn error_type(value: &[u8]) -> Option<String> {
    const MAX_NAME: usize = 128;
    let value = std::str::from_utf8(value.trim_ascii()).unwrap_or("?");
    if value.is_empty() {
        return None;
    }
    let (category, name) = match value.split_once('.') {
        Some(("Runtime", name)) => ("Runtime", name),
        Some(("Function", name)) => ("Function", name),
        _ => ("Function", ""),
    };
    let named = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.len() > 1
        && name.bytes().all(|b| b.is_ascii_alphanumeric());
    Some(if named {
        value.to_owned()
    } else {
        format!("{category}.Unknown")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_types_out_of_pattern_become_unknown() {
        for (sent, kept) in [
            (
                "Runtime.ImportModuleError",
                Some("Runtime.ImportModuleError"),
            ),
            ("Function.Own", Some("Function.Own")),
            ("Runtime.bad name", Some("Runtime.Unknown")),
            ("ValueError", Some("Function.Unknown")),
            ("", None),
        ] {
            assert_eq!(error_type(sent.as_bytes()).as_deref(), kept);
        }
    }
}
