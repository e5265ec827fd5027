//! The end of one invocation's log, for `X-Amz-Log-Type: Tail`.

/// Lambda's maximum, in bytes before base64.
const MAX_TAIL: usize = 4096;

/// Collects log text and keeps the last 4 KB of it.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, text: &[u8]) {
        let text = &text[text.len().saturating_sub(MAX_TAIL)..];
        let over = (self.0.len() + text.len()).saturating_sub(MAX_TAIL);
        self.0.drain(..over);
        self.0.extend_from_slice(text);
    }

    pub(crate) fn push_line(&mut self, line: &str) {
        self.push(line.as_bytes());
        self.push(b"\n");
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_4_kib_are_kept() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; 5000]);
        assert_eq!(tail.0.len(), MAX_TAIL);
        tail.push_line("end");
        assert_eq!(tail.0.len(), MAX_TAIL);
        assert!(tail.into_bytes().ends_with(b"aend\n"));
    }
}
