//! The bytes of a socket, up to the header of a frame that is too big.
//!
//! The parser compares a frame's length with the limit when all of the frame has come, and holds it until then: a client
//! could fill the memory with one that never ends. Here only headers are looked at (RFC 6455, 5.2).
//! Absent on purpose: what else may be wrong with a frame. The parser says that.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::Stream;

/// Bytes of a header up to its length, at most; the key of the mask comes behind it.
const HEADER: usize = 10;
/// Bytes of that key.
const MASK: u64 = 4;

/// A payload that ends with [`PayloadError::Overflow`] where a frame above a limit begins.
pub(super) struct Bounded {
    payload: Payload,
    /// Bytes that a frame may carry.
    max: u64,
    /// Those of the current frame that are to come.
    left: u64,
    /// What has come of the next one's header.
    header: [u8; HEADER],
    has: usize,
}

/// A frame is above the limit.
#[derive(Debug, PartialEq, Eq)]
struct TooBig;

impl Bounded {
    pub fn new(payload: Payload, max: u64) -> Self {
        Self { payload, max, left: 0, header: [0; HEADER], has: 0 }
    }

    fn look(&mut self, mut bytes: &[u8]) -> Result<(), TooBig> {
        while let Some((next, behind)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.has] = *next;
            self.has += 1;
            bytes = behind;
            if let Some(length) = self.length() {
                if length > self.max {
                    return Err(TooBig);
                }
                let is_masked = self.header[1] & 0x80 != 0;
                self.left = length + if is_masked { MASK } else { 0 };
                self.has = 0;
            }
        }
        Ok(())
    }

    /// What the frame carries, when its header says so.
    fn length(&self) -> Option<u64> {
        let [_, short, a, b, c, d, e, f, g, h] = self.header;
        match (self.has, short & 0x7f) {
            (0 | 1, _) => None,
            (2.., short @ 0..=125) => Some(short.into()),
            (4.., 126) => Some(u16::from_be_bytes([a, b]).into()),
            (HEADER.., 127) => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => None,
        }
    }
}

impl Stream for Bounded {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled
            && self.look(bytes) == Err(TooBig)
        {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame that carries so many bytes.
    fn frame(length: u64) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match length {
            0..=125 => bytes.push(0x80 | length as u8),
            126..=0xffff => {
                bytes.push(0xfe);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0xff);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend([0xff; 4]);
        bytes.extend(vec![0xff; length.min(1 << 20) as usize]);
        bytes
    }

    /// How many bytes of these pass, in pieces of one size.
    fn passed(bytes: &[u8], piece: usize) -> usize {
        let mut bounded = Bounded::new(Payload::None, 70_000);
        bytes.chunks(piece).take_while(|piece| bounded.look(piece).is_ok()).map(<[u8]>::len).sum()
    }

    #[test]
    fn frames_within_the_limit_pass_in_pieces_of_any_size() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 0, 3];
        let bytes: Vec<u8> = lengths.into_iter().flat_map(frame).collect();
        for piece in [1, 2, 3, 7, 4_096, bytes.len()] {
            assert_eq!(passed(&bytes, piece), bytes.len(), "{piece}");
        }
    }

    #[test]
    fn a_frame_above_the_limit_ends_the_bytes_at_the_length_in_its_header() {
        for length in [70_001, 1 << 20, 1 << 40, 1 << 62, u64::MAX] {
            let mut bytes = frame(5);
            let before = bytes.len();
            bytes.extend(frame(length));
            assert_eq!(passed(&bytes, 1), before + HEADER - 1, "{length}");
        }
    }
}
