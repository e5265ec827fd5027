//! Random text for ids and secrets of keys.

/// `length` random characters of `alphabet`, uniformly distributed.
pub(super) fn text(alphabet: &[u8], length: usize) -> Result<String, getrandom::Error> {
    let choices = u8::try_from(alphabet.len()).expect("alphabets have less than 256 characters");
    // Bytes above this one are discarded: they would make the first characters likelier.
    let end = u8::MAX - (u8::MAX % choices + 1) % choices;
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes)?;
        let fair = bytes.into_iter().filter(|byte| *byte <= end);
        let missing = length - text.len();
        text.extend(
            fair.take(missing)
                .map(|byte| char::from(alphabet[usize::from(byte % choices)])),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_the_alphabet_comes_up_and_no_text_twice() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let one = text(alphabet, 4000).unwrap();
        assert_eq!(one.len(), 4000);
        assert!(alphabet.iter().all(|c| one.contains(char::from(*c))));
        assert_ne!(text(alphabet, 20).unwrap(), text(alphabet, 20).unwrap());
    }

    #[test]
    fn no_character_is_likelier_than_another_even_when_256_does_not_divide() {
        let mut counts = [0_u32; 3];
        for c in text(b"abc", 30_000).unwrap().bytes() {
            counts[usize::from(c - b'a')] += 1;
        }
        // Seven standard deviations.
        assert!(
            counts.iter().all(|n| n.abs_diff(10_000) < 600),
            "{counts:?}"
        );
    }
}
