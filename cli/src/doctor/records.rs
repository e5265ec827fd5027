//! The records of the controller's functions.

use hearth_controller::{Settings, find_damage};

use super::Check;

/// Whether each record in the registry can be read; `None` if there is no data directory to look at.
pub(super) fn check(settings: &Settings) -> Option<Check> {
    const NAME: &str = "records";
    let data = settings.data_dir().ok()?;
    let registry = data.join("registry.db");
    if !registry.exists() {
        return None;
    }
    let key = settings.key_file.clone();
    let key = key.unwrap_or_else(|| data.join("secrets.key"));
    Some(match find_damage(&registry, &key) {
        Ok(damaged) if damaged.is_empty() => Check::ok(NAME, "the registry's records can be read"),
        Ok(damaged) => Check::fail(
            NAME,
            format!("damaged in the registry: {}", damaged.join("; ")),
            "restore a backup (hearth restore), or delete these functions and create them again",
        ),
        Err(error) => Check::warn(
            NAME,
            error.to_string(),
            "run hearth doctor as the controller's user",
        ),
    })
}
