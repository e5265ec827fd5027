//! Recognises code whose random generator can't be reseeded from outside the process.
//!
//! By name: interpreters, and libraries that bring their name along. By content, for all that is not
//! part of the runtime's image: a library may be linked statically into anything, and then only the
//! texts that it carries tell. A file that can't be read counts as one that has such a generator.
//!
//! What is *not* listed here either asks the kernel for each number (libsodium, ring, pycryptodome,
//! bcrypt), or reseeds itself when a `MADV_WIPEONFORK` page is zero (BoringSSL, AWS-LC, s2n), or is
//! OpenSSL from 1.1.1 on, whose generators the sandbox finds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use memchr::memmem::Finder;

use super::processes::CodeFile;

/// Beginnings of file names, and what such a file brings.
const NAMES: [(&str, &str); 27] = [
    ("libgnutls.so", GNUTLS),
    ("libgcrypt.so", LIBGCRYPT),
    ("libfreebl", NSS),
    ("libmbedcrypto.so", MBEDTLS),
    ("libwolfssl.so", WOLFSSL),
    ("libbotan-", BOTAN),
    ("libcryptopp.so", CRYPTOPP),
    ("libcrypto++.so", CRYPTOPP),
    ("libjvm.so", "Java's random generators"),
    ("libruby", "Ruby's random generator"),
    ("ruby", "Ruby's random generator"),
    ("libperl.so", "Perl's rand"),
    ("perl", "Perl's rand"),
    ("libphp", "PHP's random generators"),
    ("php", "PHP's random generators"),
    ("libcoreclr.so", DOTNET),
    ("libpypy", "PyPy's random"),
    ("pypy", "PyPy's random"),
    ("deno", DENO),
    ("bun", BUN),
    ("beam.smp", "Erlang's random generators"),
    ("liblua", "Lua's math.random"),
    ("lua", "Lua's math.random"),
    ("libjulia", "Julia's random generators"),
    ("libR.so", "R's random generators"),
    ("libtcl", "Tcl's rand"),
    ("libguile-", "Guile's random"),
];

/// Interpreters whose generator a managed runtime registers.
const INTERPRETERS: [(&str, &str); 4] = [
    ("python", "Python's random"),
    ("libpython", "Python's random"),
    ("node", "Node.js's random generators"),
    ("libnode", "Node.js's random generators"),
];

/// Bytes that only the code with the generator has.
const TEXTS: [(&[u8], &str); 18] = [
    (b"GNUTLS_SYSTEM_PRIORITY_FILE", GNUTLS),
    (b"/etc/gcrypt/random.conf", LIBGCRYPT),
    (b"FREEBL_NO_DEPEND", NSS),
    (b"CTR_DRBG - The entropy source failed", MBEDTLS),
    (b"HMAC_DRBG - The entropy source failed", MBEDTLS),
    (b"wolfCrypt Initialize Failure", WOLFSSL),
    (b"AutoSeeded_RNG", BOTAN),
    (b"AutoSeededRandomPool", CRYPTOPP),
    (b"could not initialize thread_rng", RUST_RAND),
    (b"could not initialize ThreadRng", RUST_RAND),
    (b"/fastrand-", FASTRAND),
    // A program that panics nowhere in fastrand has no text of it, but the numbers that its generator
    // adds: since version 2.1, and before.
    (&0x2d35_8dcc_aa6c_78a5_u64.to_le_bytes(), FASTRAND),
    (&0xa076_1d64_78bd_642f_u64.to_le_bytes(), FASTRAND),
    (b"\xff Go buildinf:", "Go's math/rand"),
    // The section that .NET's ahead-of-time compiler puts code into.
    (b"\0__managedcode\0", DOTNET),
    (b"ext:deno_", DENO),
    (b"BUN_CONFIG_", BUN),
    (
        b"This file is packed with the UPX",
        "a program packed by UPX",
    ),
];

const GNUTLS: &str = "GnuTLS";
const LIBGCRYPT: &str = "libgcrypt";
const NSS: &str = "NSS";
const MBEDTLS: &str = "Mbed TLS";
const WOLFSSL: &str = "wolfSSL";
const BOTAN: &str = "Botan";
const CRYPTOPP: &str = "Crypto++";
const RUST_RAND: &str = "Rust's rand";
const FASTRAND: &str = "Rust's fastrand";
const DOTNET: &str = ".NET's System.Random";
const DENO: &str = "Deno's random generators";
const BUN: &str = "Bun's random generators";
const OLD_OPENSSL: &str = "OpenSSL before 1.1.1";
const UNKNOWN_OPENSSL: &str = "OpenSSL of an unknown version";
const LIBRESSL: &str = "LibreSSL";
const UNREADABLE: &str = "code that can't be read";

/// Carried by every copy of OpenSSL with the generators of SP 800-90A, which 1.1.1 brought.
const OPENSSL_DRBG: &[u8] = b"OpenSSL NIST SP 800-90A DRBG";
/// Versions whose generators the sandbox is known to find.
const KNOWN_OPENSSL: [(u32, u32); 9] = [
    (1, 1),
    (3, 0),
    (3, 1),
    (3, 2),
    (3, 3),
    (3, 4),
    (3, 5),
    (3, 6),
    (4, 0),
];

/// What a version begins with that stands for itself, as each provider of OpenSSL 3 and later has it. A
/// program that was linked with a part of the library may have no other trace of its version.
const BARE_VERSIONS: [&[u8]; 7] = [
    b"\x003.", b"\x004.", b"\x005.", b"\x006.", b"\x007.", b"\x008.", b"\x009.",
];

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Alignment that direct I/O wants, and room for the end of the chunk before.
const ALIGNMENT: usize = 4096;
/// Of the chunk before, so that nothing is missed at the border: longer than any text and version.
const OVERLAP: usize = 128;

/// Looks at files, each once.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The runtime image's device, as `/proc/PID/maps` writes it.
    image: String,
    texts: Vec<(Finder<'static>, &'static str)>,
    openssl: Finder<'static>,
    openssl_drbg: Finder<'static>,
    libressl: Finder<'static>,
    bare_versions: Vec<Finder<'static>>,
    buffer: Vec<u8>,
    seen: HashMap<(String, u64), Vec<&'static str>>,
}

impl Scanner {
    pub(super) fn new() -> io::Result<Self> {
        let device = fs::metadata("/")?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        Ok(Self {
            image: format!("{major:02x}:{minor:02x}"),
            texts: TEXTS
                .iter()
                .map(|(text, library)| (Finder::new(*text), *library))
                .collect(),
            openssl: Finder::new("OpenSSL "),
            openssl_drbg: Finder::new(OPENSSL_DRBG),
            libressl: Finder::new("LibreSSL "),
            bare_versions: BARE_VERSIONS
                .iter()
                .map(|text| Finder::new(*text))
                .collect(),
            buffer: Vec::new(),
            seen: HashMap::new(),
        })
    }

    /// The runtime image's device.
    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// What a mapped file brings of generators that can't be reseeded. An interpreter whose process has
    /// registered its generators brings none.
    pub(super) fn look_at(&mut self, file: &CodeFile, registered: bool) -> Vec<&'static str> {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let mut found = named(name, registered);
        // All that the image has besides is known: its OpenSSL, and libraries without a generator.
        if file.identity.0 != self.image {
            found.extend(self.content(file));
        }
        found
    }

    fn content(&mut self, file: &CodeFile) -> Vec<&'static str> {
        if let Some(known) = self.seen.get(&file.identity) {
            return known.clone();
        }
        let found = match open(file) {
            Ok(opened) => self.search(&opened).unwrap_or_else(|_| vec![UNREADABLE]),
            Err(_) => vec![UNREADABLE],
        };
        self.seen.insert(file.identity.clone(), found.clone());
        found
    }

    fn search(&mut self, file: &File) -> io::Result<Vec<&'static str>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK + 2 * ALIGNMENT, 0);
        // Data begins at an aligned address with room for the overlap before it.
        let data = buffer.as_ptr().align_offset(ALIGNMENT) + ALIGNMENT;
        let mut findings = Findings::default();
        let mut offset = 0;
        let mut overlap = 0;
        let result = loop {
            let read = match file.read_at(&mut buffer[data..data + CHUNK], offset) {
                Ok(0) => break Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            self.search_window(&buffer[data - overlap..data + read], &mut findings);
            offset += read as u64;
            overlap = OVERLAP.min(read);
            buffer.copy_within(data + read - overlap..data + read, data - overlap);
            // Direct I/O reads on at a multiple of a block only.
            if read % ALIGNMENT != 0 {
                break Ok(());
            }
        };
        self.buffer = buffer;
        result.map(|()| findings.libraries())
    }

    fn search_window(&self, window: &[u8], findings: &mut Findings) {
        for (finder, library) in &self.texts {
            if !findings.texts.contains(library) && finder.find(window).is_some() {
                findings.texts.push(library);
            }
        }
        findings.openssl_drbg |= self.openssl_drbg.find(window).is_some();
        for at in self.openssl.find_iter(window) {
            match version(&window[at + "OpenSSL ".len()..]) {
                Some(version) if KNOWN_OPENSSL.contains(&version.number()) => {
                    findings.known_openssl = true;
                }
                Some(version) if version.dated && version.number() < (1, 1) => {
                    findings.old_openssl = true;
                }
                _ => {}
            }
        }
        for finder in &self.bare_versions {
            for at in finder.find_iter(window) {
                match bare_version(&window[at + 1..]) {
                    Some(version) if KNOWN_OPENSSL.contains(&version.number()) => {
                        findings.known_bare_version = true;
                    }
                    Some(_) => findings.unknown_bare_version = true,
                    None => {}
                }
            }
        }
        findings.libressl |= self
            .libressl
            .find_iter(window)
            .any(|at| version(&window[at + "LibreSSL ".len()..]).is_some());
    }
}

/// What was found in one file.
#[derive(Debug, Default)]
struct Findings {
    texts: Vec<&'static str>,
    openssl_drbg: bool,
    known_openssl: bool,
    known_bare_version: bool,
    unknown_bare_version: bool,
    old_openssl: bool,
    libressl: bool,
}

impl Findings {
    fn libraries(self) -> Vec<&'static str> {
        let mut libraries = self.texts;
        // Which of several bare versions is OpenSSL's can't be told.
        let known = self.known_openssl || self.known_bare_version && !self.unknown_bare_version;
        if self.openssl_drbg && !known {
            libraries.push(UNKNOWN_OPENSSL);
        }
        if self.old_openssl {
            libraries.push(OLD_OPENSSL);
        }
        if self.libressl {
            libraries.push(LIBRESSL);
        }
        libraries
    }
}

fn named(name: &str, registered: bool) -> Vec<&'static str> {
    let begins = |(prefix, library): &(&str, &'static str)| -> Option<&'static str> {
        let rest = name.strip_prefix(prefix)?;
        // A program's name ends there or is followed by a version: `lua5.4`, not `luamake`.
        let whole = prefix.starts_with("lib") || !rest.starts_with(|c: char| c.is_alphabetic());
        whole.then_some(*library)
    };
    let mut found: Vec<_> = NAMES.iter().find_map(begins).into_iter().collect();
    if !registered {
        found.extend(INTERPRETERS.iter().find_map(begins));
    }
    found
}

/// Past the page cache where that can be: what is read once must not become part of the snapshot.
fn open(file: &CodeFile) -> io::Result<File> {
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&file.link);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(&file.link),
        other => other,
    }
}

/// A version as OpenSSL writes it: `3.0.17 1 Jul 2025`, `1.0.2k-fips  26 Jan 2017`.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// A date follows: it is the library's own version, and not one that somebody requires.
    dated: bool,
}

impl Version {
    /// What decides: 1.1.0 has other generators than 1.1.1.
    fn number(&self) -> (u32, u32) {
        if (self.major, self.minor, self.patch) == (1, 1, 0) {
            return (1, 0);
        }
        (self.major, self.minor)
    }
}

fn version(text: &[u8]) -> Option<Version> {
    let (major, rest) = number(text)?;
    let (minor, rest) = number(rest.strip_prefix(b".")?)?;
    let (patch, rest) = number(rest.strip_prefix(b".")?)?;
    let end = rest.iter().position(|byte| *byte == b' ');
    let suffix_is_short = end.is_some_and(|end| end <= 16);
    let dated = suffix_is_short
        && end.is_some_and(|end| {
            let date = rest[end..].trim_ascii_start();
            let month = |rest: &[u8]| {
                rest.first() == Some(&b' ')
                    && rest[1..]
                        .first_chunk::<3>()
                        .is_some_and(|m| m.iter().all(u8::is_ascii_alphabetic))
            };
            number(date).is_some_and(|(day, rest)| (1..=31).contains(&day) && month(rest))
        });
    Some(Version {
        major,
        minor,
        patch,
        dated,
    })
}

/// A version with nothing behind it.
fn bare_version(text: &[u8]) -> Option<Version> {
    let end = text.iter().take(12).position(|byte| *byte == 0)?;
    let only = text[..end]
        .iter()
        .all(|byte| byte.is_ascii_digit() || *byte == b'.');
    if only { version(&text[..end]) } else { None }
}

fn number(text: &[u8]) -> Option<(u32, &[u8])> {
    let digits = text
        .iter()
        .take(4)
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    Some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn look(content: &[u8]) -> Vec<&'static str> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file.flush().unwrap();
        let code = CodeFile {
            identity: ("99:99".into(), 1),
            path: "/var/task/lib.so".into(),
            link: file.path().into(),
        };
        Scanner::new().unwrap().look_at(&code, false)
    }

    #[test]
    fn each_text_is_found_wherever_it_lies_in_a_file() {
        for (text, library) in TEXTS {
            for before in [0, 1, CHUNK - text.len() / 2, CHUNK, 2 * CHUNK - 1] {
                let mut content = vec![b'.'; before];
                content.extend_from_slice(text);
                content.extend_from_slice(&[b'.'; 5000]);
                assert_eq!(look(&content), [library], "{library} at {before}");
            }
        }
        assert!(look(&vec![b'.'; 3 * CHUNK + 17]).is_empty());
        assert!(look(b"").is_empty());
    }

    #[test]
    fn openssl_is_known_by_its_version_and_old_or_unknown_ones_are_told() {
        let with = |version: &str| [OPENSSL_DRBG, b"\0", version.as_bytes(), b"\0"].concat();
        for known in [
            "OpenSSL 1.1.1w  11 Sep 2023",
            "OpenSSL 3.0.17 1 Jul 2025",
            "OpenSSL 3.5.8 25 Aug 2026",
            "OpenSSL 4.0.3 29 Sep 2026",
        ] {
            assert!(look(&with(known)).is_empty(), "{known}");
        }
        assert!(look(&with("3.0.19")).is_empty());
        assert!(look(&with("3.0.19 is not it\x003.0.19")).is_empty());
        for unknown in [
            "",
            "OpenSSL 4.1.0 1 Apr 2027",
            "OpenSSL 9.9.9 1 Apr 2030",
            "4.1.0",
            "3.0.19\x004.1.0",
            "3.0.19-fork",
        ] {
            assert_eq!(look(&with(unknown)), [UNKNOWN_OPENSSL], "{unknown}");
        }
        for old in [
            "OpenSSL 1.0.2k-fips  26 Jan 2017",
            "OpenSSL 1.1.0l  10 Sep 2019",
            "OpenSSL 0.9.8zh 3 Dec 2015",
        ] {
            assert_eq!(look(old.as_bytes()), [OLD_OPENSSL], "{old}");
        }
        for mention in [
            "needs OpenSSL 1.0.2 or newer",
            "OpenSSL 1.1.1 (compatible; AWS-LC 1.50.0)",
            "OpenSSL 1.0.1+",
            "OpenSSL and LibreSSL",
        ] {
            assert!(look(mention.as_bytes()).is_empty(), "{mention}");
        }
        assert_eq!(look(b"LibreSSL 3.8.2\0"), [LIBRESSL]);
    }

    #[test]
    fn libraries_and_interpreters_are_known_by_their_names() {
        assert_eq!(named("libgnutls.so.30.34.3", true), [GNUTLS]);
        assert_eq!(named("python3.11", false), ["Python's random"]);
        assert!(named("python3.11", true).is_empty());
        assert_eq!(named("node", false), ["Node.js's random generators"]);
        assert_eq!(named("lua5.4", true), ["Lua's math.random"]);
        assert!(named("bundle.so", true).is_empty() && named("nodes", false).is_empty());
        assert!(named("libcrypto.so.3", false).is_empty());
        assert!(named("libc.so.6", false).is_empty());
    }

    #[test]
    fn a_file_that_can_not_be_read_counts_as_one_with_a_generator() {
        let code = CodeFile {
            identity: ("99:99".into(), 2),
            path: "/var/task/gone.so".into(),
            link: "/proc/self/map_files/0-1".into(),
        };
        let found = Scanner::new().unwrap().look_at(&code, true);
        assert_eq!(found, [UNREADABLE]);
    }
}
