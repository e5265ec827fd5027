//! Machine code for attackers: sequences of stores and checks of memory and device registers. Each
//! is one to three instructions of 64-bit code at ring 0, and a check has an expected value.
//!
//! A guest reports its result on its serial line: `done` at the end, or `stuck` with the number of
//! the check that failed and the value that it found. Then it halts. Registers: rax and rcx are for
//! work, r15 for [`Assembler::repeat`], the others for waiting.

/// How long a guest waits for a value, in cycles of its TSC: tens of seconds.
const PATIENCE: u64 = 1 << 36;

/// Offset of the routine that ends a guest whose check has failed: after the first jump.
const STUCK: usize = 5;

/// The width of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Byte,
    Word,
    Double,
    Quad,
}

/// Code that is being built.
#[derive(Debug)]
pub(crate) struct Assembler {
    code: Vec<u8>,
    /// What each check is for.
    looks: Vec<String>,
}

impl Assembler {
    pub(crate) fn new() -> Self {
        let mut this = Self {
            code: Vec::new(),
            looks: Vec::new(),
        };
        this.code.push(0xe9); // jmp over the routine; its target is filled in below
        this.put(&[0; 4]);
        this.stuck_routine();
        let over = this.relative_to(this.code.len(), STUCK);
        this.code[1..STUCK].copy_from_slice(&over);
        this
    }

    /// The code, with an end that reports `done`; and what its checks are for.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        self.put(&[0x66, 0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        self.say(b"done\n");
        self.halt();
        (self.code, self.looks)
    }

    /// Bytes as they are.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// Stores a value.
    pub(crate) fn store(&mut self, width: Width, address: u64, value: u64) {
        let bytes = value.to_le_bytes();
        if width == Width::Quad {
            self.load_rcx(value);
        }
        self.load_rax(address);
        match width {
            Width::Byte => self.put(&[0xc6, 0x00, bytes[0]]),
            Width::Word => self.put(&[0x66, 0xc7, 0x00, bytes[0], bytes[1]]),
            Width::Double => {
                self.put(&[0xc7, 0x00]);
                self.put(&bytes[..4]);
            }
            Width::Quad => self.put(&[0x48, 0x89, 0x08]), // mov [rax], rcx
        }
    }

    /// Adds to the 16-bit word at an address.
    pub(crate) fn add_word(&mut self, address: u64, value: u16) {
        self.load_rax(address);
        self.put(&[0x66, 0x81, 0x00]); // add word [rax], value
        self.put(&value.to_le_bytes());
    }

    /// Checks once: the value there, masked, must be `value`.
    pub(crate) fn expect(&mut self, width: Width, address: u64, mask: u64, value: u64, what: &str) {
        self.look(width, address, mask, value);
        self.put(&[0x74, 10]); // je over the next two
        self.end_stuck(what);
    }

    /// Waits until the value there, masked, is `value`.
    pub(crate) fn wait(&mut self, width: Width, address: u64, mask: u64, value: u64, what: &str) {
        self.wait_until(what, |this| this.look(width, address, mask, value));
    }

    /// Waits until the 16-bit words at two addresses are equal.
    pub(crate) fn wait_same(&mut self, one: u64, other: u64, what: &str) {
        self.wait_until(what, |this| {
            this.load_rcx(other);
            this.put(&[0x0f, 0xb7, 0x09]); // movzx ecx, word [rcx]
            this.load(Width::Word, one);
            this.put(&[0x48, 0x39, 0xc8]); // cmp rax, rcx
        });
    }

    /// Repeats something a number of times.
    pub(crate) fn repeat(&mut self, times: u32, body: impl FnOnce(&mut Self)) {
        self.put(&[0x41, 0xbf]); // mov r15d, times
        self.put(&times.to_le_bytes());
        let start = self.code.len();
        body(self);
        self.put(&[0x41, 0xff, 0xcf]); // dec r15d
        self.jump(&[0x0f, 0x85], start); // jnz
    }

    /// Writes to a port with the given width (at most 32 bits).
    pub(crate) fn out(&mut self, width: Width, port: u16, value: u32) {
        self.load_port(port);
        self.code.push(0xb8); // mov eax, value
        self.put(&value.to_le_bytes());
        self.put(match width {
            Width::Byte => &[0xee],
            Width::Word => &[0x66, 0xef],
            _ => &[0xef],
        });
    }

    /// Reads from a port, without a check.
    pub(crate) fn input(&mut self, width: Width, port: u16) {
        self.load_port(port);
        self.put(match width {
            Width::Byte => &[0xec],
            Width::Word => &[0x66, 0xed],
            _ => &[0xed],
        });
    }

    /// `rep outsb` of `count` bytes at `from`.
    pub(crate) fn out_string(&mut self, port: u16, from: u64, count: u64) {
        self.load_port(port);
        self.put(&[0x48, 0xbe]); // mov rsi, from
        self.put(&from.to_le_bytes());
        self.load_rcx(count);
        self.put(&[0xf3, 0x6e]);
    }

    /// Waits for about a second.
    pub(crate) fn pass_time(&mut self) {
        self.read_clock();
        self.put(&[0x49, 0x89, 0xc1]); // mov r9, rax
        let start = self.code.len();
        self.read_clock();
        self.put(&[0x4c, 0x29, 0xc8]); // sub rax, r9
        self.load_rcx(1 << 31);
        self.put(&[0x48, 0x39, 0xc8]); // cmp rax, rcx
        self.jump(&[0x0f, 0x82], start); // jb
    }

    fn wait_until(&mut self, what: &str, compare: impl FnOnce(&mut Self)) {
        self.read_clock();
        self.put(&[0x49, 0x89, 0xc1]); // mov r9, rax
        let start = self.code.len();
        compare(self);
        self.put(&[0x0f, 0x84]); // je out; its target is filled in below
        let hole = self.code.len();
        self.put(&[0; 4]);
        self.put(&[0x49, 0x89, 0xc2]); // mov r10, rax
        self.read_clock();
        self.put(&[0x4c, 0x29, 0xc8]); // sub rax, r9
        self.load_rcx(PATIENCE);
        self.put(&[0x48, 0x39, 0xc8]); // cmp rax, rcx
        self.jump(&[0x0f, 0x82], start); // jb
        self.put(&[0x4c, 0x89, 0xd0]); // mov rax, r10
        self.end_stuck(what);
        let out = self.relative_to(self.code.len(), hole + 4);
        self.code[hole..hole + 4].copy_from_slice(&out);
    }

    /// Compares, for a jump that follows; the value is in rax.
    fn look(&mut self, width: Width, address: u64, mask: u64, value: u64) {
        self.load(width, address);
        self.load_rcx(mask);
        self.put(&[0x48, 0x21, 0xc8]); // and rax, rcx
        self.load_rcx(value);
        self.put(&[0x48, 0x39, 0xc8]); // cmp rax, rcx
    }

    pub(crate) fn load(&mut self, width: Width, address: u64) {
        self.load_rax(address);
        self.put(match width {
            Width::Byte => &[0x0f, 0xb6, 0x00], // movzx eax, byte [rax]
            Width::Word => &[0x0f, 0xb7, 0x00],
            Width::Double => &[0x8b, 0x00],
            Width::Quad => &[0x48, 0x8b, 0x00],
        });
    }

    fn load_rax(&mut self, value: u64) {
        self.put(&[0x48, 0xb8]);
        self.put(&value.to_le_bytes());
    }

    fn load_rcx(&mut self, value: u64) {
        self.put(&[0x48, 0xb9]);
        self.put(&value.to_le_bytes());
    }

    fn load_port(&mut self, port: u16) {
        self.put(&[0x66, 0xba]); // mov dx, port
        self.put(&port.to_le_bytes());
    }

    /// The time stamp counter, in rax.
    fn read_clock(&mut self) {
        self.put(&[0x0f, 0x31]); // rdtsc
        self.put(&[0x48, 0xc1, 0xe2, 0x20]); // shl rdx, 32
        self.put(&[0x48, 0x09, 0xd0]); // or rax, rdx
    }

    /// Ten bytes: the check's number, and a jump to the routine.
    fn end_stuck(&mut self, what: &str) {
        let number = u32::try_from(self.looks.len()).unwrap();
        self.looks.push(what.to_owned());
        self.code.push(0xbb); // mov ebx, number
        self.put(&number.to_le_bytes());
        self.jump(&[0xe9], STUCK);
    }

    fn jump(&mut self, instruction: &[u8], to: usize) {
        self.put(instruction);
        let relative = self.relative_to(to, self.code.len() + 4);
        self.put(&relative);
    }

    fn relative_to(&self, to: usize, from: usize) -> [u8; 4] {
        let distance = i64::try_from(to).unwrap() - i64::try_from(from).unwrap();
        i32::try_from(distance).unwrap().to_le_bytes()
    }

    fn stuck_routine(&mut self) {
        self.put(&[0x49, 0x89, 0xc0]); // mov r8, rax
        self.put(&[0x66, 0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        self.say(b"stuck ");
        self.say_hex(4, &[0x66, 0xc1, 0xc3, 0x04, 0x88, 0xd8]); // rol bx, 4; mov al, bl
        self.say(b" ");
        self.say_hex(16, &[0x49, 0xc1, 0xc0, 0x04, 0x44, 0x89, 0xc0]); // rol r8, 4; mov eax, r8d
        self.say(b"\n");
        self.halt();
    }

    fn say(&mut self, text: &[u8]) {
        for &byte in text {
            self.put(&[0xb0, byte, 0xee]); // mov al, byte; out dx, al
        }
    }

    /// Writes digits; `next` puts each into the low half of al.
    fn say_hex(&mut self, digits: u8, next: &[u8]) {
        self.put(&[0xb9, digits, 0, 0, 0]); // mov ecx, digits
        let start = self.code.len();
        self.put(next);
        // and al, 15; cmp al, 10; jb +2; add al, 'a' - '0' - 10; add al, '0'; out dx, al
        self.put(&[0x24, 15, 0x3c, 10, 0x72, 2, 0x04, 39, 0x04, 48, 0xee]);
        self.put(&[0xff, 0xc9]); // dec ecx
        self.jump(&[0x0f, 0x85], start); // jnz
    }

    fn halt(&mut self) {
        self.put(&[0xfa, 0xf4, 0xeb, 0xfd]); // cli; hlt; jmp to the hlt
    }
}
