//! `HOSTILE-INPUTS.md` says what is tried by number, and it says the truth: each number has tests,
//! and each test that is named is there.

use std::collections::BTreeMap;
use std::path::Path;

/// The numbers that there are.
const NUMBERS: std::ops::RangeInclusive<u32> = 1..=47;

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_number_has_tests_that_are_there() {
    let sandbox = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(sandbox.join("HOSTILE-INPUTS.md")).unwrap();
    let mut files = BTreeMap::new();
    let mut number = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        if let ([name], Some([path])) = (
            &quoted(cells[0])[..],
            cells.get(1).map(|c| quoted(c)).as_deref(),
        ) {
            let path = sandbox.parent().unwrap().join(path);
            files.insert(*name, std::fs::read_to_string(&path).unwrap());
        } else if let Ok(found) = cells[0].parse::<u32>() {
            number += 1;
            assert_eq!(found, number, "the numbers are in order");
            let tests = quoted(cells[2]);
            assert!(!tests.is_empty(), "{number} has no test");
            for test in tests {
                let (file, name) = test.split_once("::").unwrap();
                let text = files
                    .get(file)
                    .unwrap_or_else(|| panic!("{file} is no file"));
                let there = ["fn", "def"]
                    .iter()
                    .any(|keyword| text.contains(&format!("{keyword} {name}(")));
                assert!(there, "{number}: there is no {test}");
            }
        }
    }
    assert_eq!(number, *NUMBERS.end());
}
