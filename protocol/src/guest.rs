//! What host and guest must agree on besides messages: the order of devices, ports, paths.

/// The vsock context id of every guest. Each guest has its own device and its own host socket, so
/// the id need not tell guests apart, and clones of one snapshot share it.
pub const GUEST_CID: u64 = 3;

/// The well-known vsock context id of the host (`VMADDR_CID_HOST`).
pub const HOST_CID: u64 = 2;

/// The vsock port on the host that the agent connects to. The host answers on no other port.
pub const AGENT_PORT: u32 = 1024;

/// The first block device: the runtime image, mounted as the root.
pub const RUNTIME_DEVICE: &str = "/dev/vda";

/// The second block device: the function's code, mounted at `/var/task`. Its capacity is zero in a
/// runtime snapshot. A restore that attaches an image notifies the guest of the new capacity.
pub const CODE_DEVICE: &str = "/dev/vdb";

/// The third block device: the function's layers, mounted at `/opt`. Empty unless used.
pub const LAYERS_DEVICE: &str = "/dev/vdc";

/// Number of block devices that every microVM has, in the order above.
pub const DISK_COUNT: usize = 3;

/// I/O port that ends the microVM when the guest writes [`SHUTDOWN_VALUE`] to it. The guest has no
/// ACPI for a power-off, and a power-off has to differ from a reboot.
pub const SHUTDOWN_PORT: u16 = 0x600;

/// The byte to write to [`SHUTDOWN_PORT`]: ACPI's sleep-enable bit with sleep type 5 (soft off).
pub const SHUTDOWN_VALUE: u8 = 0x34;

/// I/O port at which a guest kernel that KVM interprets has memory copied: `rep movsb` in one exit.
pub const STRING_COPY_PORT: u16 = 0xe4;

/// I/O port at which such a kernel has memory cleared: `rep stosb` of zeros in one exit.
pub const STRING_CLEAR_PORT: u16 = 0xe5;

/// I/O port of the host's wall clock, in nanoseconds since the epoch, as two double words: the low
/// one here, the high one four ports above. Reading the low one takes the time for both.
pub const CLOCK_PORT: u16 = 0x608;

/// Number of ports of the clock, from [`CLOCK_PORT`] on.
pub const CLOCK_PORTS: u64 = 8;

/// Address at which the agent serves the Lambda Runtime API; the value of `AWS_LAMBDA_RUNTIME_API`.
pub const RUNTIME_API_ADDRESS: &str = "127.0.0.1:9001";

/// Name of the abstract Unix socket at which the agent serves the same API. The runtimes of
/// Hearth's own images use it, because it costs the guest's kernel half the work.
pub const RUNTIME_API_SOCKET: &str = "hearth-runtime-api";

/// Environment variable with the number of the mailbox's descriptor in the runtime's process. The
/// descriptor after it reads the function's output.
pub const MAILBOX_VARIABLE: &str = "_HEARTH_MAILBOX_FD";

/// The number of that descriptor.
pub const MAILBOX_FD: i32 = 4;

/// User and group id of `sbx_user1051`, which functions run as.
pub const FUNCTION_UID: u32 = 993;

/// Maximum size of a synchronous invocation's request or response payload, in bytes: 6 MiB and 100
/// bytes, the figure in Lambda's own error text.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024 + 100;

/// Maximum size of a streamed result, in bytes: 200 MiB, as on Lambda.
pub const MAX_STREAMED: u64 = 200 * 1024 * 1024;

/// Maximum number of bytes of a streamed result in one frame.
pub const MAX_CHUNK: usize = 128 * 1024;

/// An error type as Lambda reports it: types of the form `Runtime.Name` or `Function.Name` are
/// kept, others become unknown. `None` for an empty type.
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
