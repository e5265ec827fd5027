//! `uuid`: version 4.

fn main() -> std::io::Result<()> {
    unique::run("uuid", |drawn| drawn.bytes(uuid::Uuid::new_v4()))
}
