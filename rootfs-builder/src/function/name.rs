//! The names of entries, and which of them are paths inside of the package.

use super::FunctionError;

/// Maximum length of a path, well below `PATH_MAX` with `/var/task/` before it.
const MAX_PATH_BYTES: usize = 2048;
/// Maximum length of a path component on Linux file systems.
const MAX_PART_BYTES: usize = 255;
/// Maximum depth of a path.
const MAX_DEPTH: usize = 100;

/// Turns an entry's raw name into its path: components separated by single slashes, without `.` and
/// `..`. The path of the package's root is empty.
pub(super) fn parse(raw: &[u8]) -> Result<String, FunctionError> {
    let bad = |why| FunctionError::BadName {
        name: String::from_utf8_lossy(&raw[..raw.len().min(MAX_PART_BYTES)]).into_owned(),
        why,
    };
    let name = std::str::from_utf8(raw).map_err(|_| bad("is not UTF-8"))?;
    if name.is_empty() {
        return Err(bad("is empty"));
    }
    if name.len() > MAX_PATH_BYTES {
        return Err(bad("is longer than 2048 bytes"));
    }
    if name.contains('\0') {
        return Err(bad("contains NUL"));
    }
    if name.contains('\\') {
        return Err(bad("contains a backslash; archives use / between folders"));
    }
    if name.starts_with('/') {
        return Err(bad("is absolute"));
    }
    if matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err(bad("starts with a drive letter"));
    }
    let mut parts = Vec::new();
    for part in name.strip_suffix('/').unwrap_or(name).split('/') {
        match part {
            "" => return Err(bad("has an empty part")),
            "." => {}
            ".." => return Err(bad("contains ..")),
            part if part.len() > MAX_PART_BYTES => {
                return Err(bad("has a part longer than 255 bytes"));
            }
            part => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(bad("is more than 100 folders deep"));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(raw: &[u8]) -> &'static str {
        match parse(raw).unwrap_err() {
            FunctionError::BadName { why, .. } => why,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn ordinary_names_are_taken() {
        for (raw, path) in [
            ("app.py", "app.py"),
            ("lib/", "lib"),
            ("./lib/a b", "lib/a b"),
            ("./", ""),
            ("größe/ファイル", "größe/ファイル"),
            ("..data/x..y", "..data/x..y"),
            ("lib/a:b", "lib/a:b"),
        ] {
            assert_eq!(parse(raw.as_bytes()).unwrap(), path);
        }
    }

    #[test]
    fn names_that_leave_the_package_are_refused() {
        assert_eq!(why(b"../x"), "contains ..");
        assert_eq!(why(b"a/../../x"), "contains ..");
        assert_eq!(why(b"a/.."), "contains ..");
        assert_eq!(why(b"/etc/passwd"), "is absolute");
        assert_eq!(why(b"//x"), "is absolute");
        assert_eq!(why(b"C:/x"), "starts with a drive letter");
        assert_eq!(why(b"c:x"), "starts with a drive letter");
        assert!(why(b"..\\x").contains("backslash"));
    }

    #[test]
    fn names_that_are_no_paths_are_refused() {
        assert_eq!(why(b""), "is empty");
        assert_eq!(why(b"a\0b"), "contains NUL");
        assert_eq!(why(b"\xff\xfe"), "is not UTF-8");
        assert_eq!(why(b"a//b"), "has an empty part");
        assert_eq!(
            why("x".repeat(256).as_bytes()),
            "has a part longer than 255 bytes"
        );
        assert_eq!(
            why("x/".repeat(1500).as_bytes()),
            "is longer than 2048 bytes"
        );
        assert_eq!(
            why("x/".repeat(101).as_bytes()),
            "is more than 100 folders deep"
        );
    }
}
