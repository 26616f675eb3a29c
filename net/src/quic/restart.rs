//! What lets a restarted node tell its clients at once that their connections are gone.
//!
//! A node that died without a word comes back knowing none of its connections. It may answer their packets with a
//! stateless reset, but only one that bears the token which the connection was promised. The key to these tokens is
//! therefore derived from the node's private key and not drawn anew at each start. Without it a client would notice
//! only after the idle timeout.

use std::{sync::Arc, time::Duration};

use quinn::{
    ConnectionId, ConnectionIdGenerator,
    crypto::{CryptoError, HmacKey},
};

/// Bytes of a connection id.
const ID_BYTES: usize = 8;

/// The secret from which reset tokens and connection ids are made.
#[derive(Clone)]
pub(crate) struct RestartKey([u8; 32]);

impl RestartKey {
    pub(crate) fn derive(private_key: &[u8]) -> Self {
        Self(blake3::derive_key(
            "meshlog 2025 quic stateless reset",
            private_key,
        ))
    }

    pub(super) fn reset_key(&self) -> Arc<dyn HmacKey> {
        Arc::new(self.clone())
    }

    fn mac(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, data).as_bytes()
    }
}

impl HmacKey for RestartKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.mac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Comparing hashes takes the same time wherever they differ.
        let signature: [u8; 32] = signature.try_into().map_err(|_| CryptoError)?;
        if blake3::Hash::from(self.mac(data)) == blake3::Hash::from(signature) {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// Makes random connection ids, and takes any id for one of its own, as one from before a restart may be. Quinn's own
/// generator recognizes only those of the same run.
pub(super) struct ConnectionIds;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        // Ids that repeat would be drawn anew without end.
        #[expect(
            clippy::expect_used,
            reason = "a system without randomness cannot do TLS either"
        )]
        getrandom::fill(&mut id).expect("the system gives random bytes");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_outlive_the_process() {
        let (before, after) = (RestartKey::derive(b"key"), RestartKey::derive(b"key"));
        let mut token = [0; 32];
        before.sign(b"connection", &mut token);
        assert!(after.verify(b"connection", &token).is_ok());
        assert!(after.verify(b"connectioN", &token).is_err());
        assert!(
            RestartKey::derive(b"other")
                .verify(b"connection", &token)
                .is_err()
        );
    }
}
