//! The bytes of a socket, up to the header of a frame that may not come.
//!
//! The parser compares a frame's length with the limit when all of the frame has come, and holds it until then: a client
//! could fill the memory with one that never ends. And it takes the frames of one message without telling anybody, until
//! the last: a client could go on with them for ever. Here only headers are looked at (RFC 6455, 5.2).
//!
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
/// Frames of a message before its last. A message of the usual limit has as many of a kilobyte; each costs a look at its
/// header and what is held beside its bytes, and the pace counts whole messages alone.
const FRAGMENTS_MAX: u32 = 1_024;

/// A payload that ends with an error where a frame above a limit begins: [`PayloadError::Overflow`] when the frame is too
/// big, [`TooManyFragments`] inside of a [`PayloadError::Io`].
pub(super) struct Bounded {
    payload: Payload,
    /// Bytes that a frame may carry.
    max: u64,
    /// Those of the current frame that are to come.
    left: u64,
    /// What has come of the next one's header.
    header: [u8; HEADER],
    has: usize,
    /// Frames of a message that is not complete.
    fragments: u32,
}

/// A message has more frames than it may.
#[derive(Debug, thiserror::Error)]
#[error("the message has more than {FRAGMENTS_MAX} fragments")]
pub(super) struct TooManyFragments;

/// Which limit a header is above.
#[derive(Debug, PartialEq, Eq)]
enum Above {
    Bytes,
    Fragments,
}

impl From<Above> for PayloadError {
    fn from(above: Above) -> Self {
        match above {
            Above::Bytes => Self::Overflow,
            Above::Fragments => Self::Io(std::io::Error::other(TooManyFragments)),
        }
    }
}

impl Bounded {
    pub fn new(payload: Payload, max: u64) -> Self {
        Self { payload, max, left: 0, header: [0; HEADER], has: 0, fragments: 0 }
    }

    fn look(&mut self, mut bytes: &[u8]) -> Result<(), Above> {
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
                self.has = 0;
                if length > self.max {
                    return Err(Above::Bytes);
                }
                self.count()?;
                let is_masked = self.header[1] & 0x80 != 0;
                self.left = length + if is_masked { MASK } else { 0 };
            }
        }
        Ok(())
    }

    /// Counts a frame of a message. Those that control the connection may stand between them, and are told of one by one.
    fn count(&mut self) -> Result<(), Above> {
        let (is_last, is_control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
        self.fragments = match (is_control, is_last) {
            (true, _) => self.fragments,
            (false, true) => 0,
            (false, false) => self.fragments + 1,
        };
        if self.fragments > FRAGMENTS_MAX { Err(Above::Fragments) } else { Ok(()) }
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
            && let Err(above) = self.look(bytes)
        {
            return Poll::Ready(Some(Err(above.into())));
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

    #[test]
    fn a_message_of_more_fragments_than_may_be_ends_the_bytes_whatever_stands_between_them() {
        let (open, close, ping) = ([0x00, 0x00], [0x80, 0x00], [0x89, 0x00]);
        let message: Vec<u8> =
            [[0x01, 0x00], ping].into_iter().chain([open; FRAGMENTS_MAX as usize - 1]).flatten().collect();
        let whole = [&*message, &close].concat().repeat(3);
        let endless = [&*message, &ping, &open, &open].concat();
        for piece in [1, 7, 4_096] {
            assert_eq!(passed(&whole, piece), whole.len(), "{piece}");
            assert_eq!(passed(&endless, piece), (endless.len() - 3) / piece * piece, "{piece}");
        }
    }
}
