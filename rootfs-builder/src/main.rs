//! `hearth-rootfs`: builds guest kernels and images from the command line.
//!
//! Progress goes to standard error. Standard output gets one line: the path of what was built.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use hearth_rootfs::cache::Cache;
use hearth_rootfs::progress::Terminal;
use hearth_rootfs::{
    KernelOptions, MailboxFiles, Runtime, build_kernel_from, build_runtime, build_tree, function,
};

/// Builds Hearth's guest kernel, runtime images and function images.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder for finished artefacts [default: ~/.cache/hearth].
    #[arg(long, env = "HEARTH_CACHE", global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the guest kernel: about three minutes on two cores, once.
    Kernel {
        /// Archive of the kernel's source [default: that of the package linux-source-6.12].
        #[arg(long, value_name = "TAR")]
        source: Option<PathBuf>,
    },
    /// Build a runtime image's tree: its files without the agent. Prints the tree's folder.
    Tree {
        /// python3.11, nodejs20.x, nodejs22.x or provided.
        runtime: Runtime,
    },
    /// Build a runtime image.
    Runtime {
        /// python3.11, nodejs20.x, nodejs22.x or provided.
        runtime: Runtime,
        /// The statically linked hearth-agent.
        #[arg(long, value_name = "FILE")]
        agent: PathBuf,
        /// libhearth_mailbox.so.
        #[arg(long, value_name = "FILE")]
        mailbox: PathBuf,
        /// libhearth_mailbox_node.so.
        #[arg(long, value_name = "FILE")]
        mailbox_node: PathBuf,
    },
    /// Build a function image for /var/task.
    Function {
        /// A ZIP archive or a folder.
        package: PathBuf,
        /// Path of the image to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hearth-rootfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<PathBuf> {
    let progress = Terminal::stderr();
    let cache = || -> Result<Cache> {
        let root = match &arguments.cache {
            Some(root) => root.clone(),
            None => Cache::default_root()?,
        };
        Ok(Cache::open(&root)?)
    };
    let path = match arguments.action {
        Action::Kernel { source } => {
            let options = KernelOptions {
                source,
                ..KernelOptions::default()
            };
            build_kernel_from(&cache()?, &options, &progress)?.path
        }
        Action::Tree { runtime } => build_tree(&cache()?, runtime, &progress)?,
        Action::Runtime {
            runtime,
            agent,
            mailbox,
            mailbox_node,
        } => {
            let mailbox = MailboxFiles {
                library: mailbox,
                node_module: mailbox_node,
            };
            build_runtime(&cache()?, runtime, &agent, &mailbox, &progress)?.path
        }
        Action::Function { package, output } => {
            let built = if package.is_dir() {
                function::build_from_dir(&package, &output)
            } else {
                function::build_from_zip_file(&package, &output)
            };
            built.with_context(|| package.display().to_string())?.path
        }
    };
    Ok(path)
}
