//! Bytes in hexadecimal.

/// Encodes bytes, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Decodes exactly `2 * N` digits. Accepts only lower case, as AWS does.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks_exact(2);
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_decoded_to_the_bytes_they_came_from_and_all_else_is_refused() {
        let bytes: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 8 + 7).unwrap());
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for bad in ["", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            assert_eq!(unhex::<32>(bad), None, "{bad:?}");
        }
        assert_eq!(unhex::<32>(&"A".repeat(64)), None);
        assert_eq!(unhex::<32>(&"é".repeat(32)), None);
    }
}
