//! `aws-lc-rs`: bytes, keys, and signatures by a key that is kept from the beginning.

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

fn main() -> std::io::Result<()> {
    let new_key = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a new key");
    let kept = new_key();
    let random = SystemRandom::new();
    unique::run("aws_lc", |drawn| {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).expect("a generator");
        drawn.bytes(bytes);
        drawn.bytes(
            new_key()
                .private_key()
                .as_be_bytes()
                .expect("its private key")
                .as_ref(),
        );
        drawn.bytes(kept.sign(&random, b"one text").expect("a signature"));
    })
}
