//! Invalid archives: each is refused with its own error before anything is unpacked. And ordinary
//! archives, which must be accepted.

use super::super::craft::{Crafted, Entry, deflate};
use super::*;

fn parse(entries: impl IntoIterator<Item = Entry>) -> Result<(), FunctionError> {
    check(&Crafted::of(entries).bytes())
}

/// Parses and unpacks everything, as a build does.
fn check(zip: &[u8]) -> Result<(), FunctionError> {
    let package = Package::parse(zip)?;
    for (path, node) in package.tree().entries() {
        if matches!(node, Node::File { .. }) {
            package.content(path)?;
        }
    }
    Ok(())
}

fn node(entry: Entry, path: &str) -> Node {
    let zip = Crafted::of([entry]).bytes();
    let package = Package::parse(&zip).unwrap();
    package
        .tree()
        .entries()
        .find(|(name, _)| *name == path)
        .unwrap()
        .1
        .clone()
}

macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

#[test]
fn stored_and_deflated_files_come_out_as_they_went_in() {
    let text = b"text ".repeat(50_000);
    let zip = Crafted::of([
        Entry::file("deflated", &text),
        Entry::stored("stored", b"plain"),
        Entry::file("empty", b""),
    ])
    .bytes();
    let package = Package::parse(&zip).unwrap();
    assert_eq!(package.content("deflated").unwrap(), text);
    assert_eq!(package.content("stored").unwrap(), b"plain");
    assert_eq!(package.content("empty").unwrap(), b"");
}

#[test]
fn execute_permission_is_kept_and_the_rest_of_the_mode_is_not() {
    for (mode, executable) in [
        (0o100_755, true),
        (0o100_644, false),
        (0o104_711, true),
        (0o100_600, false),
        (0, false),
    ] {
        let entry = Entry::raw(b"f", mode, b"x");
        assert_eq!(
            node(entry, "f"),
            Node::File {
                size: 1,
                executable
            },
            "{mode:o}"
        );
    }
    let mut dos = Entry::raw(b"f", 0o100_755, b"x");
    dos.made_on = 0;
    assert_eq!(
        node(dos, "f"),
        Node::File {
            size: 1,
            executable: false
        }
    );
}

#[test]
fn folders_are_known_by_mode_or_by_name() {
    assert_eq!(node(Entry::raw(b"d/", 0o040_755, b""), "d"), Node::Folder);
    assert_eq!(node(Entry::raw(b"d/", 0, b""), "d"), Node::Folder);
    refused!(
        parse([Entry::raw(b"d/", 0o040_755, b"x")]),
        FunctionError::BadContent { .. }
    );
}

#[test]
fn a_comment_and_a_64_bit_directory_are_read() {
    let mut zip = Crafted::of([Entry::file("a", b"x")]);
    zip.comment = b"PK\x05\x06 looks like an end record".repeat(3);
    check(&zip.bytes()).unwrap();
    zip.zip64 = true;
    zip.entries[0].zip64 = true;
    check(&zip.bytes()).unwrap();
}

#[test]
fn sizes_after_the_data_are_accepted() {
    let mut entry = Entry::file("a", b"content");
    entry.flags = SIZES_FOLLOW;
    entry.local_unpacked_size = Some(0);
    parse([entry]).unwrap();
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [&b""[..], b"hello", &[0; 5000], b"PK\x03\x04", &[0x50; 22]] {
        refused!(check(bytes), FunctionError::NotAnArchive { .. });
    }
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let zip = Crafted::of([
        Entry::file("a", b"some content"),
        Entry::stored("b", b"more"),
    ])
    .bytes();
    for length in 0..zip.len() {
        refused!(check(&zip[..length]), _);
    }
}

#[test]
fn an_archive_with_any_byte_changed_never_panics() {
    let mut zip = Crafted::of([Entry::file("a/b", b"some content"), Entry::link("l", "a/b")]);
    zip.entries[0].zip64 = true;
    zip.zip64 = true;
    let zip = zip.bytes();
    for at in 0..zip.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = zip.clone();
            changed[at] = value;
            // Whether the changed bytes are still an archive does not matter.
            let _ = check(&changed);
        }
    }
}

#[test]
fn a_bomb_that_says_so_is_refused_by_its_sum() {
    let mut entries: Vec<Entry> = (0..3)
        .map(|i| Entry::file(&format!("f{i}"), b"x"))
        .collect();
    for entry in &mut entries {
        entry.unpacked_size = 100_000_000;
    }
    refused!(
        parse(entries),
        FunctionError::UnzippedTooLarge {
            size: 300_000_000,
            limit: 262_144_000
        }
    );
}

#[test]
fn a_bomb_with_64_bit_sizes_is_refused_by_its_sum() {
    let mut entry = Entry::file("f", b"x");
    entry.zip64 = true;
    entry.unpacked_size = u64::MAX;
    let second = Entry {
        name: b"g".to_vec(),
        local_name: b"g".to_vec(),
        ..entry.clone()
    };
    refused!(
        parse([entry, second]),
        FunctionError::UnzippedTooLarge { .. }
    );
}

#[test]
fn a_bomb_that_lies_about_its_size_stops_at_what_it_declared() {
    let mut entry = Entry::file("f", &vec![0; 10_000_000]);
    entry.unpacked_size = 10;
    refused!(parse([entry]), FunctionError::BadContent { what, .. } if what.starts_with("more"));
}

#[test]
fn a_file_smaller_than_declared_is_refused_without_taking_the_memory() {
    let mut entry = Entry::file("f", b"tiny");
    entry.unpacked_size = 262_000_000;
    refused!(parse([entry]), FunctionError::BadContent { what, .. } if what.starts_with("less"));
}

#[test]
fn overlapping_entries_are_refused() {
    let first = Entry::file("a", b"kernel of the bomb");
    let mut second = first.clone();
    second.shared = true;
    // The same header for two directory entries; their names have to differ too.
    second.name = b"a".to_vec();
    refused!(
        parse([first, second]),
        FunctionError::Duplicate { .. } | FunctionError::Overlap { .. }
    );
}

#[test]
fn an_entry_inside_another_s_data_is_refused() {
    // The first entry's stored data is itself a complete entry.
    let inner = Crafted::of([Entry::stored("inner", b"payload")]).bytes();
    let inner_entry = inner[..30 + 5 + 7].to_vec();
    let outer = Entry::stored("outer", &inner_entry);
    let mut zip = Crafted::of([outer, Entry::stored("inner", b"payload")]).bytes();
    // Point the second directory entry at the bytes inside the first.
    let directory = zip
        .windows(4)
        .rposition(|w| w == 0x0201_4b50_u32.to_le_bytes())
        .unwrap();
    let inside = u32::try_from(30 + "outer".len()).unwrap();
    zip[directory + 42..directory + 46].copy_from_slice(&inside.to_le_bytes());
    refused!(check(&zip), FunctionError::Overlap { name } if name == "inner");
}

#[test]
fn encrypted_entries_are_refused() {
    for flags in [1, 1 << 6, 1 << 13] {
        let mut entry = Entry::file("secret", b"x");
        entry.flags = flags;
        refused!(parse([entry]), FunctionError::Encrypted { name } if name == "secret");
    }
    let mut entry = Entry::file("secret", b"x");
    entry.method = AES_ENCRYPTED;
    refused!(parse([entry]), FunctionError::Encrypted { .. });
}

#[test]
fn other_compression_methods_are_refused() {
    let mut entry = Entry::file("f", b"x");
    entry.method = 12;
    refused!(
        parse([entry]),
        FunctionError::UnknownMethod { method: 12, .. }
    );
}

#[test]
fn names_that_leave_the_package_are_refused() {
    for name in ["../x", "/x", "a/../../x", "a\\b", "C:/x", "a\0b"] {
        refused!(
            parse([Entry::file(name, b"x")]),
            FunctionError::BadName { .. }
        );
    }
    refused!(
        parse([Entry::raw(b"\xff", 0o100_644, b"x")]),
        FunctionError::BadName { .. }
    );
}

#[test]
fn a_name_that_differs_between_directory_and_header_is_refused() {
    let mut entry = Entry::file("harmless", b"x");
    entry.local_name = b"../../x".to_vec();
    refused!(parse([entry]), FunctionError::Damaged { .. });
}

#[test]
fn a_size_that_differs_between_directory_and_header_is_refused() {
    let mut entry = Entry::file("f", b"content");
    entry.local_unpacked_size = Some(6);
    refused!(parse([entry]), FunctionError::Damaged { .. });
}

#[test]
fn names_given_twice_are_refused() {
    refused!(
        parse([Entry::file("a", b"1"), Entry::file("a", b"2")]),
        FunctionError::Duplicate { .. }
    );
    refused!(
        parse([Entry::file("a", b"1"), Entry::file("a/b", b"2")]),
        FunctionError::Duplicate { .. }
    );
    refused!(
        parse([Entry::file("./a", b"1"), Entry::file("a", b"2")]),
        FunctionError::Duplicate { .. }
    );
}

#[test]
fn nothing_is_written_through_a_link() {
    refused!(
        parse([Entry::link("d", "elsewhere"), Entry::file("d/f", b"x")]),
        FunctionError::Duplicate { .. }
    );
}

#[test]
fn links_out_of_the_package_are_refused_and_others_kept() {
    for target in ["/etc/passwd", "../x", "a/../../x", ""] {
        refused!(
            parse([Entry::link("l", target)]),
            FunctionError::BadLink { .. }
        );
    }
    refused!(
        parse([Entry::link("l", &"x".repeat(4096))]),
        FunctionError::BadLink { .. }
    );
    refused!(
        parse([Entry::raw(b"l", 0o120_777, b"\xff")]),
        FunctionError::BadLink { .. }
    );
    assert_eq!(
        node(Entry::link("l", "lib/x"), "l"),
        Node::Link {
            target: "lib/x".to_owned()
        }
    );
}

#[test]
fn devices_pipes_and_sockets_are_refused() {
    for mode in [0o020_644, 0o060_644, 0o010_644, 0o140_644, 0o170_000] {
        refused!(
            parse([Entry::raw(b"f", mode, b"")]),
            FunctionError::SpecialFile { .. }
        );
    }
}

#[test]
fn damaged_content_is_refused() {
    refused!(
        parse([Entry::file("f", b"content").with_crc(7)]),
        FunctionError::BadContent {
            what: "its checksum is wrong",
            ..
        }
    );
    let mut garbage = Entry::file("f", b"content");
    garbage.packed = vec![0xff; 9];
    garbage.packed_size = 9;
    refused!(parse([garbage]), FunctionError::BadContent { .. });
    let mut cut = Entry::file("f", &b"content ".repeat(100));
    cut.packed.truncate(5);
    cut.packed_size = 5;
    refused!(parse([cut]), FunctionError::BadContent { .. });
    let mut trailing = Entry::file("f", b"content");
    trailing.packed = [deflate(b"content"), b"more".to_vec()].concat();
    trailing.packed_size = trailing.packed.len() as u64;
    refused!(parse([trailing]), FunctionError::BadContent { .. });
}

#[test]
fn a_stored_file_with_two_sizes_is_refused() {
    let mut entry = Entry::stored("f", b"content");
    entry.unpacked_size = 3;
    refused!(parse([entry]), FunctionError::BadContent { .. });
}

#[test]
fn data_past_the_directory_is_refused() {
    let mut entry = Entry::stored("f", b"content");
    entry.packed_size = 1_000_000;
    entry.unpacked_size = 1_000_000;
    refused!(parse([entry]), FunctionError::Damaged { .. });
}

#[test]
fn an_end_record_that_lies_is_refused() {
    for (offset, size, count) in [
        (1, 0, 0),
        (-1, 0, 0),
        (1_000_000, 0, 0),
        (0, 1, 0),
        (0, -1, 0),
        (0, 0, 1),
        (0, 0, -1),
    ] {
        for zip64 in [false, true] {
            let mut zip = Crafted::of([Entry::file("a", b"x"), Entry::file("b", b"y")]);
            (zip.lie_offset, zip.lie_size, zip.lie_count) = (offset, size, count);
            zip.zip64 = zip64;
            refused!(check(&zip.bytes()), _);
        }
    }
}

#[test]
fn a_directory_of_more_entries_than_the_limit_is_refused_unread() {
    let mut zip = Crafted::of([Entry::file("a", b"x")]);
    zip.zip64 = true;
    zip.lie_count = 1 << 40;
    refused!(check(&zip.bytes()), FunctionError::TooManyEntries { .. });
}

#[test]
fn lambda_s_own_words_are_known_for_each_fault() {
    let unzip = "Could not unzip uploaded file. Please check your file, then try to upload again.";
    let error = check(b"no archive").unwrap_err();
    assert_eq!(error.lambda_message(), Some(unzip));
    let mut entry = Entry::file("f", b"x");
    entry.unpacked_size = 262_144_001;
    let error = parse([entry]).unwrap_err();
    assert_eq!(
        error.lambda_message(),
        Some("Unzipped size must be smaller than 262144000 bytes")
    );
}
