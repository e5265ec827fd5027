//! `rand`: the thread's generator, which is seeded once and then for each 64 KiB of numbers, and one
//! that was made of it in the beginning.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() -> std::io::Result<()> {
    let mut kept = StdRng::from_rng(&mut rand::rng());
    unique::run("rand", |drawn| {
        drawn.bytes(rand::rng().random::<[u8; 16]>());
        drawn.bytes(rand::random::<u128>().to_be_bytes());
        drawn.bytes(kept.random::<[u8; 16]>());
    })
}
