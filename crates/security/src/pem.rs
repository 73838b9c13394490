//! The text form of certificates and keys

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use crate::files::without_mark;

/// Largest PEM text that is read, in bytes
pub(crate) const MAX_PEM_LEN: usize = 256 * 1024;

/// The text is not PEM, or larger than [`MAX_PEM_LEN`]
pub(crate) struct BadPem;

/// Every certificate block of `text`, decoded but not parsed; other blocks are skipped
pub(crate) fn certificates(text: &str) -> impl Iterator<Item = Result<Vec<u8>, BadPem>> {
    sections(text).filter_map(|section| match section {
        Ok((SectionKind::Certificate, der)) => Some(Ok(der)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The single PKCS#8 private key of `text`
pub(crate) fn private_key(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyPemError> {
    let mut found = None;
    for section in sections(text) {
        let (kind, der) = section.map_err(|_| KeyPemError::NotPem)?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey if found.is_none() => found = Some(der),
            SectionKind::PrivateKey => return Err(KeyPemError::SeveralKeys),
            SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => return Err(KeyPemError::NotPkcs8),
            _ => {}
        }
    }
    found.ok_or(KeyPemError::NoKey)
}

/// Why a text holds no private key that can be used
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyPemError {
    /// Not PEM, or far too large
    #[error("the private key file is not PEM")]
    NotPem,
    /// No private key block
    #[error("no private key found: expected a PEM block \"BEGIN PRIVATE KEY\"")]
    NoKey,
    /// More than one private key block
    #[error("the file holds several private keys, expected one")]
    SeveralKeys,
    /// An older key format
    #[error("the private key is not PKCS#8; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    NotPkcs8,
}

/// Every block of `text`, decoded; at most [`MAX_PEM_LEN`] of it is read
pub(crate) fn sections(text: &str) -> impl Iterator<Item = Result<(SectionKind, Vec<u8>), BadPem>> {
    let found: Vec<_> = if text.len() > MAX_PEM_LEN {
        Vec::from([Err(BadPem)])
    } else {
        let plain = plain(text);
        Sections::pem_slice_iter(plain.as_bytes())
            .map(|section| match section {
                Ok(Sections(kind, der)) => Ok((kind, der)),
                Err(_) => Err(BadPem),
            })
            .collect()
    };
    found.into_iter()
}

/// The text without what editors, mail programs and other systems add: a byte order mark, blanks around lines, line ends
/// of another kind
fn plain(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len() + 1));
    for line in without_mark(text).split(['\n', '\r']) {
        plain.push_str(line.trim());
        plain.push('\n');
    }
    plain
}

/// Any PEM block, with its label
struct Sections(SectionKind, Vec<u8>);

impl rustls::pki_types::pem::PemObject for Sections {
    fn from_pem(kind: SectionKind, der: Vec<u8>) -> Option<Self> {
        Some(Self(kind, der))
    }
}

/// `der` as one PEM block with lines of 64 characters; wiped when dropped, since it may hold a key
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(
        encoded.len() + encoded.len() / 64 + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while let Some((line, tail)) = rest.split_at_checked(64) {
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_64_characters_and_read_back() {
        for len in [0, 1, 47, 48, 49, 96, 500] {
            let der = vec![7_u8; len];
            let text = encode("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= 64), "{len}");
            let back: Vec<_> = certificates(&text).map(|d| d.ok().unwrap()).collect();
            assert_eq!(back, [der], "{len}");
        }
    }

    #[test]
    fn what_was_pasted_is_still_pem() {
        let text = encode("CERTIFICATE", &[7; 100]);
        for pasted in [
            format!("\u{feff}{}", *text),
            text.replace('\n', "\r\n"),
            text.replace('\n', "\r"),
            text.replace('\n', " \t\n"),
            text.replace('\n', "\n    "),
            format!("\u{feff}subject=/CN=x\r\n{}\r\n \r\n", text.replace('\n', "\r\n")),
        ] {
            let back: Vec<_> = certificates(&pasted).map(|d| d.ok().unwrap()).collect();
            assert_eq!(back, [vec![7; 100]], "{pasted:?}");
        }
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let text = encode("CERTIFICATE", &[7; 100]);
        let half = text.split_at(text.len() / 2).0;
        assert!(certificates(half).any(|found| found.is_err()));
    }

    #[test]
    fn keys_are_told_apart() {
        let key = encode("PRIVATE KEY", b"key");
        assert_eq!(
            private_key(&key).as_deref().map(Vec::as_slice),
            Ok(b"key".as_slice())
        );
        let twice = format!("{}{}", key.as_str(), key.as_str());
        assert_eq!(private_key(&twice), Err(KeyPemError::SeveralKeys));
        assert_eq!(
            private_key(&encode("EC PRIVATE KEY", b"key")),
            Err(KeyPemError::NotPkcs8)
        );
        assert_eq!(private_key(&encode("CERTIFICATE", b"x")), Err(KeyPemError::NoKey));
        assert_eq!(private_key(""), Err(KeyPemError::NoKey));
    }

    #[test]
    fn an_oversized_text_is_refused_before_parsing() {
        let text = " ".repeat(MAX_PEM_LEN + 1);
        assert!(certificates(&text).next().is_some_and(|found| found.is_err()));
    }
}
