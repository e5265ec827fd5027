//! `ring`: bytes, keys, and signatures by a key that is kept from the beginning.

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};

fn main() -> std::io::Result<()> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let kept = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a new key");
    let kept = EcdsaKeyPair::from_pkcs8(algorithm, kept.as_ref(), &random).expect("its own key");
    unique::run("ring", |drawn| {
        let mut bytes = [0; 16];
        random.fill(&mut bytes).expect("the kernel has bytes");
        drawn.bytes(bytes);
        drawn.bytes(Ed25519KeyPair::generate_pkcs8(&random).expect("a new key"));
        drawn.bytes(kept.sign(&random, b"one text").expect("a signature"));
    })
}
