//! Checks the tables of `HOSTILE-INPUTS.md` and `SNAPSHOTS.md`: each number has tests, and each
//! test that is named exists.

use std::collections::BTreeMap;
use std::path::Path;

/// The text between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The rows of a document's tables that name tests: their first cell, and how many tests there are.
/// A table of its own maps the first part of a test's name to a file.
fn rows(document: &str) -> Vec<(String, usize)> {
    let sandbox = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(sandbox.join(document)).unwrap();
    let mut files = BTreeMap::new();
    let mut rows = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (first, last) = (cells[0], quoted(cells[cells.len() - 1]));
        if let ([name], [path]) = (&quoted(first)[..], &last[..])
            && path.contains('/')
        {
            let file = sandbox.parent().unwrap().join(path);
            files.insert(*name, std::fs::read_to_string(&file).unwrap());
            continue;
        }
        let tests: Vec<_> = last
            .iter()
            .filter_map(|test| test.split_once("::"))
            .collect();
        for (file, name) in &tests {
            let text = files
                .get(file)
                .unwrap_or_else(|| panic!("{file} is no file"));
            let there = ["fn", "def"]
                .iter()
                .any(|keyword| text.contains(&format!("{keyword} {name}(")));
            assert!(there, "{first}: there is no {file}::{name}");
        }
        rows.push((first.to_owned(), tests.len()));
    }
    rows
}

#[test]
fn every_hostile_input_has_tests_that_are_there() {
    let numbered: Vec<_> = rows("HOSTILE-INPUTS.md")
        .into_iter()
        .filter_map(|(first, tests)| Some((first.parse::<u32>().ok()?, tests)))
        .collect();
    let numbers: Vec<u32> = numbered.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=54).collect::<Vec<_>>());
    for (number, tests) in numbered {
        assert!(tests > 0, "{number} has no test");
    }
}

#[test]
fn every_rule_of_snapshots_has_tests_that_are_there() {
    let with_tests = rows("SNAPSHOTS.md")
        .iter()
        .filter(|(_, tests)| *tests > 0)
        .count();
    assert!(with_tests >= 28, "only {with_tests} rows name tests");
}
