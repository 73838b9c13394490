//! A first look at a PKCS#12 file, before any key is derived from it
//!
//! ```text
//! PFX     ::= SEQUENCE { version INTEGER, authSafe SEQUENCE, macData MacData }
//! MacData ::= SEQUENCE { mac SEQUENCE, salt OCTET STRING, iterations INTEGER }
//! ```

use super::{KeystoreError, MAX_KEYSTORE_LEN};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Most rounds of key derivation for the MAC; Java and OpenSSL write 2048 to 100 000
const MAX_ITERATIONS: u64 = 600_000;

/// Refuses what is too large, incomplete, followed by more, without a MAC, or too expensive to check
///
/// Everything behind the MAC is decrypted only if the MAC fits the password, so a file that someone else made
/// up costs one derivation.
pub(super) fn check(bytes: &[u8]) -> Result<(), KeystoreError> {
    if bytes.is_empty() {
        return Err(KeystoreError::Empty);
    }
    if bytes.len() > MAX_KEYSTORE_LEN {
        return Err(KeystoreError::TooLarge { len: bytes.len() });
    }
    let (pfx, rest) = element(bytes, SEQUENCE)?;
    if !rest.is_empty() {
        return Err(KeystoreError::Malformed);
    }
    let (_version, rest) = element(pfx, INTEGER)?;
    let (_contents, rest) = element(rest, SEQUENCE)?;
    if rest.is_empty() {
        return Err(KeystoreError::Unprotected);
    }
    let (mac, rest) = element(rest, SEQUENCE)?;
    if !rest.is_empty() {
        return Err(KeystoreError::Malformed);
    }
    let (_digest, rest) = element(mac, SEQUENCE)?;
    let (_salt, rest) = element(rest, OCTET_STRING)?;
    if rest.is_empty() {
        return Ok(());
    }
    let (iterations, rest) = element(rest, INTEGER)?;
    if !rest.is_empty()
        || iterations.is_empty()
        || iterations.len() > 8
        || iterations.first().is_some_and(|b| b & 0x80 != 0)
    {
        return Err(KeystoreError::Malformed);
    }
    let iterations = iterations
        .iter()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if iterations == 0 {
        return Err(KeystoreError::Malformed);
    }
    if iterations > MAX_ITERATIONS {
        return Err(KeystoreError::TooManyIterations {
            iterations,
            limit: MAX_ITERATIONS,
        });
    }
    Ok(())
}

/// Splits off one DER element of the given tag: its contents, and what follows it
fn element(bytes: &[u8], tag: u8) -> Result<(&[u8], &[u8]), KeystoreError> {
    let [first, length, rest @ ..] = bytes else {
        return Err(KeystoreError::Malformed);
    };
    if *first != tag {
        return Err(KeystoreError::Malformed);
    }
    let (length, rest) = match usize::from(*length) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x83 => {
            let (octets, rest) = rest
                .split_at_checked(long - 0x80)
                .ok_or(KeystoreError::Malformed)?;
            (
                octets
                    .iter()
                    .fold(0, |value, byte| value << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return Err(KeystoreError::Malformed),
    };
    rest.split_at_checked(length).ok_or(KeystoreError::Malformed)
}
