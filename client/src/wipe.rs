//! Buffers that leave no copies in memory, for requests with passphrases and replies with plaintexts.

use std::io;

use zeroize::{Zeroize, Zeroizing};

/// A buffer that grows. The memory it leaves is wiped.
#[derive(Default)]
pub(crate) struct WipedBytes(Zeroizing<Vec<u8>>);

impl WipedBytes {
    /// An empty buffer with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    /// Appends `bytes`.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.max(2 * self.0.capacity()));
            larger.extend_from_slice(&self.0);
            // The assignment drops the old `Zeroizing`, which wipes it.
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
    }

    /// The bytes so far.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, which are wiped when they are dropped.
    pub(crate) fn into_inner(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl io::Write for WipedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The input and output buffers of a connection. What was sent or consumed is wiped at once, so that neither a
/// passphrase nor a plaintext stays in memory after its request. (rustls has buffers of its own, which this does not
/// reach.)
pub(crate) struct WipedBuffers {
    input: Vec<u8>,
    start: usize,
    filled: usize,
    output: Vec<u8>,
    progress: bool,
}

/// Size of each buffer: a TLS record has at most 16 KiB (RFC 8446 §5.1).
const BUFFER_BYTES: usize = 16 << 10;
/// Room for reading the body of a request.
const SCRATCH_BYTES: usize = 10 << 10;

impl WipedBuffers {
    pub(crate) fn new() -> Self {
        Self { input: Vec::new(), start: 0, filled: 0, output: Vec::new(), progress: false }
    }

    /// The first `amount` bytes of the output.
    pub(crate) fn to_send(&self, amount: usize) -> &[u8] {
        self.output.get(..amount).unwrap_or(&self.output)
    }

    /// Wipes the first `amount` bytes of the output.
    pub(crate) fn sent(&mut self, amount: usize) {
        if let Some(sent) = self.output.get_mut(..amount) {
            sent.zeroize();
        }
    }

    fn allocate(&mut self) {
        if self.output.is_empty() {
            self.output = vec![0; BUFFER_BYTES];
            self.input = vec![0; BUFFER_BYTES];
        }
    }

    /// Makes room for at least `room` more bytes of input.
    fn make_room(&mut self, room: usize) {
        self.allocate();
        if self.input.len() - self.filled >= room {
            return;
        }
        let kept = self.filled - self.start;
        let mut fresh = vec![0; self.input.len().max((kept + room).next_power_of_two())];
        for (to, from) in fresh.iter_mut().zip(self.input.iter().skip(self.start).take(kept)) {
            *to = *from;
        }
        self.input.zeroize();
        self.input = fresh;
        self.start = 0;
        self.filled = kept;
    }
}

impl Drop for WipedBuffers {
    fn drop(&mut self) {
        self.input.zeroize();
        self.output.zeroize();
    }
}

impl ureq::unversioned::transport::Buffers for WipedBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.allocate();
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        self.input.get(self.start..self.filled).unwrap_or_default()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room(1 << 10);
        self.input.get_mut(self.filled..).unwrap_or_default()
    }

    fn input_appended(&mut self, amount: usize) {
        self.filled = self.filled.saturating_add(amount).min(self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        let end = self.start.saturating_add(amount).min(self.filled);
        if let Some(consumed) = self.input.get_mut(self.start..end) {
            consumed.zeroize();
        }
        self.start = end;
        if self.start == self.filled {
            self.start = 0;
            self.filled = 0;
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.make_room(SCRATCH_BYTES);
        (self.input.get_mut(self.filled..).unwrap_or_default(), &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.progress && self.start < self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ureq::unversioned::transport::Buffers;

    #[test]
    fn what_was_sent_is_wiped() {
        let mut buffers = WipedBuffers::new();
        buffers.output()[..6].copy_from_slice(b"secret");
        assert_eq!(buffers.to_send(6), b"secret");
        buffers.sent(6);
        assert_eq!(&buffers.output()[..8], [0; 8]);
    }

    #[test]
    fn what_was_consumed_is_wiped() {
        let mut buffers = WipedBuffers::new();
        buffers.input_append_buf()[..6].copy_from_slice(b"secret");
        buffers.input_appended(6);
        buffers.input_consume(4);
        assert_eq!(buffers.input(), b"et");
        assert_eq!(&buffers.input[..6], b"\0\0\0\0et");
    }

    proptest! {
        #[test]
        fn input_comes_out_as_it_went_in(pieces in proptest::collection::vec((1_usize..5_000, 0_usize..6_000), 1..60)) {
            let mut buffers = WipedBuffers::new();
            let (mut put, mut taken) = (0_usize, 0_usize);
            for (give, take) in pieces {
                let room = buffers.input_append_buf();
                let give = give.min(room.len());
                for byte in room.iter_mut().take(give) {
                    *byte = (put % 251) as u8;
                    put += 1;
                }
                buffers.input_appended(give);
                let take = take.min(buffers.input().len());
                for byte in &buffers.input()[..take] {
                    prop_assert_eq!(*byte, (taken % 251) as u8);
                    taken += 1;
                }
                buffers.input_consume(take);
                prop_assert_eq!(buffers.input().len(), put - taken);
            }
        }

        #[test]
        fn what_is_written_is_what_is_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..50)) {
            let mut bytes = WipedBytes::default();
            for piece in &pieces {
                bytes.push(piece);
            }
            prop_assert_eq!(bytes.as_slice(), pieces.concat());
        }
    }
}
