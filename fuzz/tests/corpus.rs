//! Every input of the corpus goes through its target again. No fuzzer is needed for that: what one
//! has found stays found.

use std::fs;
use std::path::{Path, PathBuf};

use hearth_fuzz::TARGETS;

/// The corpus lies in the repository, so it stays small.
const MOST_BYTES: u64 = 1_000_000;

fn inputs(target: &str) -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folder = fs::read_dir(corpus.join(target)).expect("every target has a corpus");
    let mut inputs: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

#[test]
fn nothing_in_the_corpus_breaks_a_target() {
    for (name, run) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has an empty corpus");
        for input in inputs {
            // Seen when it fails: the input at fault is the last one named.
            println!("{}", input.display());
            run(&fs::read(&input).unwrap());
        }
    }
}

/// Each input with a byte changed, cut off and doubled: for those who have no fuzzer at hand.
#[test]
fn nor_does_anything_close_to_it() {
    for (name, run) in TARGETS {
        for (number, input) in inputs(name).iter().enumerate() {
            let bytes = fs::read(input).unwrap();
            let at = number.wrapping_mul(7919) % bytes.len().max(1);
            println!("{} with byte {at} changed", input.display());
            let mut changed = bytes.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte = byte.wrapping_add(1);
            }
            run(&changed);
            run(&bytes[..at]);
            run(&bytes.repeat(2));
        }
    }
}

#[test]
fn the_corpus_stays_small() {
    let bytes: u64 = TARGETS
        .iter()
        .flat_map(|(name, _)| inputs(name))
        .map(|input| fs::metadata(input).unwrap().len())
        .sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}
