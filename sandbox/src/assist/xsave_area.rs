//! `xsave` and `xrstor` in standard format, through `KVM_GET_XSAVE` and `KVM_SET_XSAVE`, whose
//! buffer has the same format (Intel SDM, volume 1, chapter 13).

use std::ops::Range;
use std::sync::LazyLock;

use kvm_bindings::kvm_xsave;
use kvm_ioctls::VcpuFd;

use super::page_walk::{Access, AddressSpace};
use super::{AssistError, Executed, general_protection, page_fault};

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;

const LEGACY_X87: [Range<usize>; 2] = [0..24, 32..160];
const MXCSR: Range<usize> = 24..32;
const XMM: Range<usize> = 160..416;
const XSTATE_BV: Range<usize> = 512..520;
const XCOMP_BV: Range<usize> = 520..528;
const HEADER: Range<usize> = 512..576;
const AREA_MIN: usize = 576;
const AREA: usize = 4096;

/// The x87 control word's initial value.
const INITIAL_FCW: [u8; 2] = 0x37fu16.to_le_bytes();
/// The MXCSR bits that may be set; any other raises #GP.
const MXCSR_VALID: u32 = 0xffff;
/// Offsets and bits of the x87 status word's exception flags that `fnclex` clears.
const FSW: Range<usize> = 2..4;
const FSW_EXCEPTIONS: u16 = 0x80ff;

/// The XSAVE buffer as bytes.
struct Area([u8; AREA]);

impl Area {
    fn get(vcpu: &VcpuFd) -> Result<Self, AssistError> {
        let xsave = vcpu
            .get_xsave()
            .map_err(|e| AssistError::Kvm("KVM_GET_XSAVE", e))?;
        let mut bytes = [0; AREA];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(xsave.region) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Ok(Self(bytes))
    }

    fn set(&self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        let mut xsave = kvm_xsave::default();
        for (word, chunk) in xsave.region.iter_mut().zip(self.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        // SAFETY: the buffer is a whole kvm_xsave, and the sandbox never asks for the dynamic
        // features that would make KVM read more than that.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(|e| AssistError::Kvm("KVM_SET_XSAVE", e))
    }

    fn word(&self, at: &Range<usize>) -> u64 {
        word(&self.0, at)
    }
}

fn word(bytes: &[u8], at: &Range<usize>) -> u64 {
    u64::from_le_bytes(
        bytes[at.clone()]
            .try_into()
            .expect("the range has eight bytes"),
    )
}

/// One extended state component: its bit in XCR0, and its range in the area.
#[derive(Debug, Clone)]
struct Component {
    bit: u64,
    range: Range<usize>,
}

/// This CPU's components from AVX on. Read once, because each CPUID is an exit on a host that is
/// itself a guest.
static EXTENDED: LazyLock<Vec<Component>> = LazyLock::new(|| {
    let component = |i| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, i);
        let start = leaf.ebx as usize;
        let range = start..start + leaf.eax as usize;
        (!range.is_empty() && range.end <= AREA).then_some(Component { bit: 1 << i, range })
    };
    (2..63).filter_map(component).collect()
});

/// The components that an instruction saves or restores.
struct Request {
    /// The components that the guest has enabled in XCR0.
    enabled: u64,
    /// Those of them that the instruction requests.
    mask: u64,
    extended: Vec<Component>,
    /// Bytes of guest memory, from the area's start.
    len: usize,
}

impl Request {
    fn new(vcpu: &VcpuFd, requested: u64) -> Result<Self, AssistError> {
        let xcrs = vcpu
            .get_xcrs()
            .map_err(|e| AssistError::Kvm("KVM_GET_XCRS", e))?;
        let enabled = xcrs.xcrs.first().map_or(X87 | SSE, |xcr0| xcr0.value);
        let mask = requested & enabled;
        let named = |component: &&Component| mask & component.bit != 0;
        let extended: Vec<Component> = EXTENDED.iter().filter(named).cloned().collect();
        let ends = extended.iter().map(|component| component.range.end);
        Ok(Self {
            enabled,
            mask,
            len: ends.max().unwrap_or(AREA_MIN),
            extended,
        })
    }
}

/// `xsave`: writes the requested components to guest memory.
pub(super) fn save(
    vcpu: &VcpuFd,
    space: &AddressSpace<'_>,
    address: u64,
    requested: u64,
) -> Result<Executed, AssistError> {
    let Request {
        mask,
        extended,
        len,
        ..
    } = Request::new(vcpu, requested)?;
    let state = Area::get(vcpu)?;
    // The instruction leaves the bytes of other components unchanged, so the area is read first.
    // This also finds a missing page before anything is written.
    let mut image = [0; AREA];
    if let Err(e) = space.read(address, &mut image[..len]) {
        return page_fault(e, Access::Write);
    }
    merge_save(&mut image, &state, mask, &extended);
    match space.write(address, &image[..len]) {
        Ok(()) => Ok(Executed::Done),
        Err(e) => page_fault(e, Access::Write),
    }
}

fn merge_save(image: &mut [u8; AREA], state: &Area, mask: u64, extended: &[Component]) {
    let mut copy = |range: Range<usize>| image[range.clone()].copy_from_slice(&state.0[range]);
    if mask & X87 != 0 {
        LEGACY_X87.into_iter().for_each(&mut copy);
    }
    if mask & SSE != 0 {
        copy(XMM);
    }
    if mask & (SSE | AVX) != 0 {
        copy(MXCSR);
    }
    for component in extended {
        copy(component.range.clone());
    }
    let in_use = state.word(&XSTATE_BV);
    let present = (word(image, &XSTATE_BV) & !mask) | (in_use & mask);
    image[XSTATE_BV].copy_from_slice(&present.to_le_bytes());
}

/// `xrstor`: loads the requested components from guest memory.
pub(super) fn restore(
    vcpu: &VcpuFd,
    space: &AddressSpace<'_>,
    address: u64,
    requested: u64,
) -> Result<Executed, AssistError> {
    let Request {
        enabled,
        mask,
        extended,
        len,
    } = Request::new(vcpu, requested)?;
    let mut image = [0; AREA];
    if let Err(e) = space.read(address, &mut image[..len]) {
        return page_fault(e, Access::Read);
    }
    if !header_is_valid(&image, enabled, mask) {
        return Ok(general_protection());
    }
    let mut state = Area::get(vcpu)?;
    merge_restore(&mut state, &image, mask, &extended);
    state.set(vcpu)?;
    Ok(Executed::Done)
}

/// Checks for #GP: components that are not enabled, a compacted image, reserved header bytes,
/// reserved MXCSR bits. The check is needed because a user's signal frame gets here unchecked.
fn header_is_valid(image: &[u8; AREA], enabled: u64, mask: u64) -> bool {
    let mxcsr = u32::from_le_bytes(
        image[MXCSR.start..MXCSR.start + 4]
            .try_into()
            .expect("the range has four bytes"),
    );
    word(image, &XSTATE_BV) & !enabled == 0
        && word(image, &XCOMP_BV) == 0
        && image[XCOMP_BV.end..HEADER.end]
            .iter()
            .take(8)
            .all(|b| *b == 0)
        && (mask & (SSE | AVX) == 0 || mxcsr & !MXCSR_VALID == 0)
}

fn merge_restore(state: &mut Area, image: &[u8; AREA], mask: u64, extended: &[Component]) {
    let present = word(image, &XSTATE_BV);
    let mut copy = |range: Range<usize>, loaded: bool| {
        if loaded {
            state.0[range.clone()].copy_from_slice(&image[range]);
        } else {
            state.0[range].fill(0);
        }
    };
    if mask & X87 != 0 {
        for range in LEGACY_X87 {
            copy(range, present & X87 != 0);
        }
    }
    if mask & SSE != 0 {
        copy(XMM, present & SSE != 0);
    }
    // In standard format MXCSR is loaded even if SSE is in its initial state.
    if mask & (SSE | AVX) != 0 {
        copy(MXCSR.start..MXCSR.start + 4, true);
    }
    for component in extended {
        copy(component.range.clone(), present & component.bit != 0);
    }
    if mask & X87 != 0 && present & X87 == 0 {
        state.0[..2].copy_from_slice(&INITIAL_FCW);
    }
    // KVM takes a component's bytes only if its bit is set, and MXCSR only if SSE's or AVX's is.
    let keep_mxcsr = if mask & (SSE | AVX) != 0 { SSE } else { 0 };
    let in_use = (state.word(&XSTATE_BV) & !mask) | (present & mask) | keep_mxcsr;
    state.0[XSTATE_BV].copy_from_slice(&in_use.to_le_bytes());
}

/// `fnclex`: clears the x87 exception flags.
pub(super) fn clear_x87_exceptions(vcpu: &VcpuFd) -> Result<(), AssistError> {
    let mut state = Area::get(vcpu)?;
    let status = u16::from_le_bytes([state.0[FSW.start], state.0[FSW.start + 1]]);
    state.0[FSW].copy_from_slice(&(status & !FSW_EXCEPTIONS).to_le_bytes());
    state.set(vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn avx() -> Vec<Component> {
        vec![Component {
            bit: AVX,
            range: 576..832,
        }]
    }

    #[test]
    fn a_save_touches_only_what_was_requested() {
        let mut state = Area([7; AREA]);
        state.0[XSTATE_BV].copy_from_slice(&(X87 | SSE | AVX).to_le_bytes());
        let mut image = [1; AREA];
        image[XSTATE_BV].copy_from_slice(&X87.to_le_bytes());
        merge_save(&mut image, &state, SSE, &[]);
        assert!(image[XMM].iter().all(|b| *b == 7));
        assert!(image[MXCSR].iter().all(|b| *b == 7));
        assert!(image[0..24].iter().chain(&image[576..832]).all(|b| *b == 1));
        assert_eq!(word(&image, &XSTATE_BV), X87 | SSE);
        assert_eq!(image[XCOMP_BV], [1; 8]);
    }

    #[test]
    fn a_component_that_the_image_marks_absent_is_reset() {
        let mut state = Area([7; AREA]);
        state.0[XSTATE_BV].copy_from_slice(&(X87 | SSE | AVX).to_le_bytes());
        let mut image = [9; AREA];
        image[XSTATE_BV].copy_from_slice(&SSE.to_le_bytes());
        merge_restore(&mut state, &image, X87 | SSE | AVX, &avx());
        assert!(state.0[576..832].iter().all(|b| *b == 0));
        assert!(state.0[XMM].iter().all(|b| *b == 9));
        assert_eq!(state.0[..2], INITIAL_FCW);
        assert_eq!(state.word(&XSTATE_BV), SSE);
    }

    #[test]
    fn state_that_was_not_requested_stays() {
        let mut state = Area([7; AREA]);
        state.0[XSTATE_BV].copy_from_slice(&(SSE | AVX).to_le_bytes());
        let image = [0; AREA];
        merge_restore(&mut state, &image, X87, &[]);
        assert!(
            state.0[XMM]
                .iter()
                .chain(&state.0[576..832])
                .all(|b| *b == 7)
        );
        assert_eq!(state.word(&XSTATE_BV), SSE | AVX);
    }

    #[test]
    fn forged_headers_raise_a_fault() {
        let enabled = X87 | SSE | AVX;
        let good = [0; AREA];
        assert!(header_is_valid(&good, enabled, enabled));
        for (at, value) in [(512 + 1, 1u8), (520 + 7, 0x80), (528, 1), (26, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert!(!header_is_valid(&bad, enabled, enabled), "byte {at}");
        }
    }
}
