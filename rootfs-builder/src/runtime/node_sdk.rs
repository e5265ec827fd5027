//! Installs the AWS SDK for JavaScript in a Node.js image, in the folder where Lambda has it, so
//! that functions load its clients without packaging them. Of several hundred clients the image has
//! those that are used most.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

use super::RuntimeError;
use super::accounts::link;
use crate::cache::remove_tree;
use crate::command::Tool;
use crate::progress::Progress;

/// The clients, with their versions.
pub(super) const PACKAGE: &str = include_str!("../../node/sdk/package.json");
/// The clients and their dependencies, with the integrity string of each.
pub(super) const LOCK: &str = include_str!("../../node/sdk/package-lock.json");

const MODULES: &str = "var/runtime/node_modules";
/// Links that make `import` find what `require` finds by `NODE_PATH`: layers first, then the SDK.
/// `import` ignores `NODE_PATH` and looks into the `node_modules` of every folder above the
/// function's `/var/task`.
const ABOVE_THE_FUNCTION: &[(&str, &str)] = &[
    ("var/node_modules", "/opt/nodejs/node_modules"),
    ("node_modules", "/var/runtime/node_modules"),
];

/// Installs the SDK below `root`; `work` is for intermediate files. npm runs no script of a
/// package.
pub(super) fn install(
    root: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    let project = work.join("sdk");
    fs::create_dir(&project).map_err(RuntimeError::io("create", &project))?;
    for (name, text) in [("package.json", PACKAGE), ("package-lock.json", LOCK)] {
        let path = project.join(name);
        fs::write(&path, text).map_err(RuntimeError::io("write", &path))?;
    }
    Tool::new("npm", "npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--loglevel=error"])
        .current_dir(&project)
        .advice("is the npm registry reachable? Its output:")
        .run("npm: fetching the AWS SDK for JavaScript", progress)?;
    let fetched = project.join("node_modules");
    remove_unused(&fetched)?;
    let modules = root.join(MODULES);
    fs::rename(&fetched, &modules).map_err(RuntimeError::io("write", &modules))?;
    remove_tree(&project).map_err(RuntimeError::io("remove", &project))?;
    for (name, target) in ABOVE_THE_FUNCTION {
        link(root, name, target)?;
    }
    Ok(())
}

/// Removes what no function loads: npm's records, programs, type declarations and source maps.
fn remove_unused(modules: &Path) -> Result<(), RuntimeError> {
    let record = modules.join(".package-lock.json");
    fs::remove_file(&record).map_err(RuntimeError::io("remove", &record))?;
    let programs = modules.join(".bin");
    if programs.is_dir() {
        remove_tree(&programs).map_err(RuntimeError::io("remove", &programs))?;
    }
    for entry in WalkDir::new(modules) {
        let entry = entry.map_err(|error| RuntimeError::io("read", modules)(error.into()))?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_file() && (name.ends_with(".d.ts") || name.ends_with(".map")) {
            fs::remove_file(entry.path()).map_err(RuntimeError::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_sdk_is_pinned_by_its_content() {
        let lock: serde_json::Value = serde_json::from_str(LOCK).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.len() > 60);
        for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
            let integrity = package["integrity"].as_str().unwrap_or_default();
            assert!(integrity.starts_with("sha512-"), "{path}: {integrity}");
        }
    }
}
