//! Builds the guest kernel from Debian's kernel source with Hearth's configuration and patches.
//!
//! The cache key covers everything that determines the result: the source's version, the
//! configuration fragment, the patches, the compiler, the linker and this code. The build runs in a
//! temporary folder of the cache, and only `vmlinux` is kept.

mod configuration;
mod source;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::{fs, io};

use configuration::{Fragment, Mismatch};
use source::Source;

use crate::cache::{Artefact, Cache, CacheError, Kind, remove_tree};
use crate::command::{CommandError, Tool};
use crate::digest::Key;
use crate::error::Result;
use crate::progress::Progress;
use crate::space;

/// The artefact's file name.
pub(crate) const FILE: &str = "vmlinux";

const FRAGMENT: &str = include_str!("../kernel/hearth.config");
/// The patches, in the order in which they are applied.
const PATCHES: &[&str] = &[
    include_str!("../kernel/syscall-from-ring3.patch"),
    include_str!("../kernel/timer-hz-25.patch"),
    include_str!("../kernel/string-assist.patch"),
    include_str!("../kernel/restore-seed.patch"),
];
/// This file is part of the cache key, because a change to its code can change the kernel.
const RECIPE: &str = include_str!("kernel.rs");

/// MiB that must be free. A build takes 1.0 GiB of source and 0.1 GiB of objects; the rest is
/// margin.
const BUILD_MIB: u64 = 1536;
/// Debian's packages that a kernel build needs; named in the error of a build that fails.
const PACKAGES: &str = "build-essential flex bison bc libelf-dev";
/// Values that a build writes into the kernel. They are constant, so that two builds of the same
/// source give the same bytes.
const FIXED: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "1980-01-01"),
    ("KBUILD_BUILD_USER", "hearth"),
    ("KBUILD_BUILD_HOST", "hearth"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Why the kernel could not be built.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The source package isn't installed.
    #[error("no kernel source at {}; install it: apt-get install linux-source-6.12", path.display())]
    NoSource {
        /// Where the source was expected.
        path: PathBuf,
    },
    /// The archive is not the kernel's source.
    #[error("{} holds no kernel source: no folder with a Kconfig in it", path.display())]
    NotSource {
        /// The archive.
        path: PathBuf,
    },
    /// Kconfig left out or changed options of the fragment.
    #[error(
        "this kernel source ({version}) does not accept the configuration; \
         an option's dependency is missing, or the option was renamed:\n{}",
        mismatches.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n")
    )]
    Configuration {
        /// The source's version.
        version: String,
        /// Each such option, as the fragment has it and as Kconfig set it.
        mismatches: Vec<Mismatch>,
    },
    /// A file of the build can't be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A program of the build failed or is missing.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl KernelError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// What a kernel is built from.
#[derive(Debug, Clone)]
pub struct KernelOptions {
    /// The source's archive; `None` is the one that Debian's package installs.
    pub source: Option<PathBuf>,
    /// The patches in unified format, in the order in which they are applied.
    pub patches: Vec<String>,
    /// The configuration options that differ from `allnoconfig`.
    pub fragment: String,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            source: None,
            patches: PATCHES.iter().copied().map(str::to_owned).collect(),
            fragment: FRAGMENT.to_owned(),
        }
    }
}

/// Returns the guest kernel from the cache, or builds it.
///
/// # Errors
/// The source or a tool is missing, a patch does not apply, Kconfig refused an option, the compiler
/// failed, or the disk is full. A failed build leaves nothing in the cache.
pub fn build_kernel(cache: &Cache, progress: &dyn Progress) -> Result<Artefact> {
    build_kernel_from(cache, &KernelOptions::default(), progress)
}

/// Like [`build_kernel`], from other inputs.
///
/// # Errors
/// The same as of [`build_kernel`].
pub fn build_kernel_from(
    cache: &Cache,
    options: &KernelOptions,
    progress: &dyn Progress,
) -> Result<Artefact> {
    let source = Source::find(options.source.as_deref())?;
    let key = options
        .patches
        .iter()
        .fold(Key::new("kernel"), |key, patch| {
            key.with("patch", patch.as_bytes())
        })
        .with_code("recipe", RECIPE)
        .with("source", source.version.as_bytes())
        .with("fragment", options.fragment.as_bytes())
        .with("compiler", version_of("gcc")?.as_bytes())
        .with("linker", version_of("ld")?.as_bytes())
        .finish();
    let lock = cache.lock(Kind::Kernel, &key)?;
    if let Some(artefact) = cache.artefact(Kind::Kernel, &key, FILE) {
        cache.set_current(Kind::Kernel, FILE, &key)?;
        return Ok(artefact);
    }
    space::require(cache.root(), BUILD_MIB)?;
    let stage = cache.stage(Kind::Kernel, &key, &lock)?;
    let work = stage.path().join("build");
    fs::create_dir(&work).map_err(CacheError::io("create", &work))?;
    let tree = source.unpack(&work, progress)?;
    for text in &options.patches {
        patch(&tree, &work, text, &source, progress)?;
    }
    configure(&tree, &work, &options.fragment, &source, progress)?;
    compile(&tree, progress)?;
    // The symbol table stays: it takes no guest memory, and a crash report needs it.
    Tool::new("strip", "binutils")
        .args(["--strip-debug", "-o"])
        .arg(stage.path().join(FILE))
        .arg(tree.join(FILE))
        .run("kernel: stripping", progress)
        .map_err(KernelError::from)?;
    remove_tree(&work).map_err(CacheError::io("remove", &work))?;
    stage.seal(FILE)?;
    stage.publish()?;
    cache.set_current(Kind::Kernel, FILE, &key)?;
    let made = cache.artefact(Kind::Kernel, &key, FILE);
    Ok(made.expect("this process published it and still holds its lock"))
}

/// Applies a patch after a dry run: a source to which half a patch was applied may still compile.
fn patch(
    tree: &Path,
    work: &Path,
    text: &str,
    source: &Source,
    progress: &dyn Progress,
) -> std::result::Result<(), KernelError> {
    let file = work.join("hearth.patch");
    fs::write(&file, text).map_err(KernelError::io("write", &file))?;
    let tool = || {
        Tool::new("patch", "patch")
            .args(["-p1", "--forward", "--fuzz=0", "--batch", "--input"])
            .arg(&file)
            .current_dir(tree)
            .advice(format!(
                "the patch does not apply to this kernel source ({}); it was made for 6.12:",
                source.version
            ))
    };
    tool().arg("--dry-run").output()?;
    Ok(tool().run("kernel: patching", progress)?)
}

fn configure(
    tree: &Path,
    work: &Path,
    fragment: &str,
    source: &Source,
    progress: &dyn Progress,
) -> std::result::Result<(), KernelError> {
    let file = work.join("hearth.config");
    fs::write(&file, fragment).map_err(KernelError::io("write", &file))?;
    make(tree)
        .env("KCONFIG_ALLCONFIG", &file)
        .arg("allnoconfig")
        .run("kernel: configuring", progress)?;
    let config = tree.join(".config");
    let taken = fs::read_to_string(&config).map_err(KernelError::io("read", &config))?;
    let mismatches = Fragment::parse(fragment).compare(&taken);
    if mismatches.is_empty() {
        return Ok(());
    }
    Err(KernelError::Configuration {
        version: source.version.clone(),
        mismatches,
    })
}

fn compile(tree: &Path, progress: &dyn Progress) -> std::result::Result<(), KernelError> {
    let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
    let tool = make(tree).arg(format!("-j{jobs}")).arg(FILE);
    Ok(tool.run("kernel: compiling", progress)?)
}

fn make(tree: &Path) -> Tool {
    let tool = Tool::new("make", "build-essential")
        .current_dir(tree)
        .args(["--no-print-directory", "--silent"])
        .advice(format!(
            "is everything installed that a kernel build needs? apt-get install {PACKAGES}; make's output:"
        ));
    FIXED
        .iter()
        .fold(tool, |tool, (name, value)| tool.env(name, value))
}

/// The first line that `program --version` prints.
fn version_of(program: &str) -> std::result::Result<String, KernelError> {
    let text = Tool::new(program, "build-essential")
        .arg("--version")
        .output()?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
