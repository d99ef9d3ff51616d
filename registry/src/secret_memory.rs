//! Where secrets are stored: memory that the embedding program provides, or a box of this crate.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

/// The size of one piece of secret memory, in bytes: that of a secret key.
pub(crate) const SIZE: usize = 64;

/// Memory for one secret, for example in locked pages. By default secrets are in ordinary memory.
///
/// The registry writes the secret into it once and only moves the box that refers to it. An
/// implementation overwrites the bytes with zeros when it is dropped, and never copies them. It may be
/// dropped under a lock of the registry, so the drop must be quick and must not call the registry.
pub trait SecretMemory: Send + Sync {
    /// Returns the bytes.
    fn bytes(&self) -> &[u8; SIZE];

    /// Returns the bytes, to write the secret.
    fn bytes_mut(&mut self) -> &mut [u8; SIZE];

    /// Returns a number by which this memory can be found again after a restart. `None`: it does not
    /// outlive the process.
    fn slot(&self) -> Option<u32> {
        None
    }
}

impl SecretMemory for Zeroizing<[u8; SIZE]> {
    fn bytes(&self) -> &[u8; SIZE] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8; SIZE] {
        self
    }
}

/// A secret in some memory. Does not print it.
pub(crate) struct Secret(Box<dyn SecretMemory>);

impl Secret {
    /// Returns the secret that `write` has written into `memory`. Without success the memory is wiped.
    pub(crate) fn written<E>(
        mut memory: Box<dyn SecretMemory>,
        write: impl FnOnce(&mut [u8; SIZE]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let written = write(memory.bytes_mut());
        if let Err(error) = written {
            memory.bytes_mut().zeroize();
            return Err(error);
        }
        Ok(Self(memory))
    }

    /// Returns the secret that this memory has already.
    pub(crate) fn found_in(memory: Box<dyn SecretMemory>) -> Self {
        Self(memory)
    }

    pub(crate) fn bytes(&self) -> &[u8; SIZE] {
        self.0.bytes()
    }

    pub(crate) fn slot(&self) -> Option<u32> {
        self.0.slot()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// Returns ordinary memory that is overwritten with zeros when dropped.
pub(crate) fn ordinary() -> Box<dyn SecretMemory> {
    Box::new(Zeroizing::new([0; SIZE]))
}
