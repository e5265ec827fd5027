//! `fastrand`: the thread's generator, and one that was made of it in the beginning.

fn main() -> std::io::Result<()> {
    let mut kept = fastrand::Rng::new();
    unique::run("fastrand", |drawn| {
        drawn.bytes(fastrand::u128(..).to_be_bytes());
        drawn.bytes(kept.u128(..).to_be_bytes());
    })
}
