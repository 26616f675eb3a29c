//! What tells one certificate from every other.

use std::{fmt, path::Path, str::FromStr};

use rustls::{
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, pki_types::CertificateDer,
};
use thiserror::Error;

/// SHA-256 of a certificate's DER encoding: what `openssl x509 -noout -fingerprint -sha256` shows.
///
/// Its text is 64 hexadecimal digits; colons between them are understood.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint(pub [u8; 32]);

/// A text is no fingerprint.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[error("{text:?} is no fingerprint: it has 64 hexadecimal digits")]
pub struct FingerprintError {
    text: String,
}

impl Fingerprint {
    /// The certificate's.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "a TLS 1.3 suite, whatever rustls was built with"
        )]
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .expect("the suite is one of TLS 1.3");
        let mut digest = [0; 32];
        digest.copy_from_slice(suite.common.hash_provider.hash(certificate).as_ref());
        Self(digest)
    }

    /// That of the first certificate in a PEM file.
    ///
    /// # Errors
    /// [`IdentityError::File`](super::IdentityError::File) or [`IdentityError::Contents`](super::IdentityError::Contents),
    /// naming the file.
    pub fn of_file(path: &Path) -> Result<Self, super::IdentityError> {
        Ok(Self::of(&super::files::certificates(path)?.swap_remove(0)))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let refused = || FingerprintError { text: text.into() };
        let mut digits = text.chars().filter(|c| *c != ':');
        let mut digest = [0; 32];
        for byte in &mut digest {
            let mut digit = || digits.next().and_then(|c| c.to_digit(16));
            let (high, low) = (digit().ok_or_else(refused)?, digit().ok_or_else(refused)?);
            *byte = (high * 16 + low) as u8;
        }
        match digits.next() {
            None => Ok(Self(digest)),
            Some(_) => Err(refused()),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_sha_256_of_the_encoding() {
        // FIPS 180-4's example for "abc".
        let of = Fingerprint::of(&CertificateDer::from(&b"abc"[..]));
        assert_eq!(
            of.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn colons_and_capitals_are_understood_and_nothing_else() {
        let plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let openssl: Vec<String> = (0..32)
            .map(|at| plain[at * 2..at * 2 + 2].to_uppercase())
            .collect();
        assert_eq!(
            openssl.join(":").parse::<Fingerprint>(),
            plain.parse::<Fingerprint>()
        );
        for text in ["", "ba", &plain[1..], &format!("{plain}0"), "é"] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_carries_any(digest: [u8; 32]) {
            let fingerprint = Fingerprint(digest);
            prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
        }

        #[test]
        fn parsing_survives_anything(text in any::<String>()) {
            let _ = text.parse::<Fingerprint>();
        }
    }
}
