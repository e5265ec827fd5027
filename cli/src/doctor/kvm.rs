//! Is `/dev/kvm` there, may this user open it, and does it make a VM?

use std::path::Path;

use kvm_ioctls::Kvm;

use super::Check;

const DEVICE: &str = "/dev/kvm";
/// `KVM_API_VERSION`: the only one there has been since Linux 2.6.22. The KVM API's documentation
/// tells programs to refuse any other.
const API_VERSION: i32 = 12;
const NAME: &str = "kvm";

/// Opens the device, asks its version, makes a VM and drops it.
pub(super) fn check() -> Check {
    if !Path::new(DEVICE).exists() {
        return Check::fail(
            NAME,
            format!("{DEVICE} is not there"),
            "load the module (modprobe kvm_intel or kvm_amd); in a VM, let its host pass \
             virtualization on; in a container, pass the device in (--device /dev/kvm)",
        );
    }
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return Check::fail(
                NAME,
                format!("{DEVICE} can't be opened: {error}"),
                "run as root, or join the group that owns it: usermod -aG kvm $USER, then log in \
                 again",
            );
        }
    };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Check::fail(
            NAME,
            format!("{DEVICE} answers API version {version}, expected {API_VERSION}"),
            "this is no KVM that Hearth knows; update the kernel",
        );
    }
    match kvm.create_vm() {
        Ok(_) => Check::ok(NAME, format!("{DEVICE} is usable (API version {version})")),
        Err(error) => Check::fail(
            NAME,
            format!("{DEVICE} makes no VM: {error}"),
            "another hypervisor may hold the CPU's extensions; the kernel's log (dmesg) says more",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_answer_agrees_with_the_device() {
        let usable = Kvm::new().is_ok_and(|kvm| kvm.create_vm().is_ok());
        assert_eq!(check().verdict == Verdict::Ok, usable);
    }
}
