//! Random bytes and texts from the cryptographic provider

use zeroize::Zeroizing;

/// The operating system gave no random bytes
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// `N` fresh random bytes
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut out = [0_u8; N];
    aws_lc_rs::rand::fill(&mut out).map_err(|_| NoRandomness)?;
    Ok(out)
}

/// `len` characters, each drawn uniformly from `alphabet` (1 to 256 ASCII characters)
pub(crate) fn text(alphabet: &[u8], len: usize) -> Result<Zeroizing<String>, NoRandomness> {
    // Bytes at or above the largest multiple of the alphabet's size would favour its first characters: draw
    // again.
    let fair = 256 - 256 % alphabet.len().max(1);
    let mut out = Zeroizing::new(String::with_capacity(len));
    while out.len() < len {
        let drawn = Zeroizing::new(bytes::<64>()?);
        for byte in drawn.iter().map(|b| usize::from(*b)).filter(|b| *b < fair) {
            if out.len() == len {
                break;
            }
            if let Some(character) = alphabet.get(byte % alphabet.len()) {
                out.push(char::from(*character));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_length_and_the_alphabet_asked_for() {
        let drawn = text(b"abc", 1000).unwrap();
        assert_eq!(drawn.len(), 1000);
        for letter in ['a', 'b', 'c'] {
            let seen = drawn.chars().filter(|c| *c == letter).count();
            assert!((200..470).contains(&seen), "{letter} drawn {seen} times of 1000");
        }
        assert_ne!(
            *text(b"abcdefghij", 32).unwrap(),
            *text(b"abcdefghij", 32).unwrap()
        );
    }
}
