//! Server-sent events, decoded in time linear in what arrives.
//!
//! Only `data` matters here: the type of an event stands in its JSON. A provider is not trusted: the decoder looks at
//! each byte once, however the bytes are cut and however long a line is, so a stream made to be slow to parse costs what
//! its bytes cost. (eventsource-stream 0.2 scans an unfinished line again with every chunk.)
//! Absent on purpose: `id`, `retry` and reconnection. A model call is not resumed, it is made again as a new attempt.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

use std::ops::ControlFlow;

/// Takes bytes, gives the data of events. What the bytes leave unfinished at their end is no event.
#[derive(Debug, Default)]
pub(crate) struct SseDecoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return, so a line feed belongs to it.
    after_cr: bool,
}

impl SseDecoder {
    /// Decodes `chunk`, calling `event` with the data of each event that it completes.
    pub(crate) fn feed<B>(&mut self, chunk: &[u8], event: &mut dyn FnMut(&[u8]) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut rest = chunk;
        if self.after_cr && rest.first() == Some(&b'\n') {
            rest = &rest[1..];
        }
        if !chunk.is_empty() {
            self.after_cr = false;
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            let (line, cr) = (&rest[..end], rest[end] == b'\r');
            rest = &rest[end + 1..];
            if cr {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if self.line.is_empty() {
                self.take(line, event)?;
            } else {
                let mut begun = std::mem::take(&mut self.line);
                begun.extend_from_slice(line);
                self.take(&begun, event)?;
            }
        }
        self.line.extend_from_slice(rest);
        ControlFlow::Continue(())
    }

    /// Bytes of the event that is not complete yet.
    pub(crate) fn pending(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// Takes a whole line.
    fn take<B>(&mut self, line: &[u8], event: &mut dyn FnMut(&[u8]) -> ControlFlow<B>) -> ControlFlow<B> {
        if line.is_empty() {
            let flow = if self.has_data { event(&self.data) } else { ControlFlow::Continue(()) };
            self.data.clear();
            self.has_data = false;
            return flow;
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            let _: ControlFlow<()> = decoder.feed(chunk, &mut |data| {
                events.push(String::from_utf8_lossy(data).into_owned());
                ControlFlow::Continue(())
            });
        }
        events
    }

    const STREAM: &[u8] =
        b"\xef\xbb\xbfdata: one\r\n\r\n: comment\nevent: x\ndata:two\ndata: lines\n\nid: 7\n\ndata: three\r\rdata: cut";

    #[test]
    fn data_lines_are_joined_and_other_fields_skipped() {
        assert_eq!(decode(&[STREAM]), ["one", "two\nlines", "three"]);
    }

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        for cut in 0..=STREAM.len() {
            let (a, b) = STREAM.split_at(cut);
            assert_eq!(decode(&[a, b]), decode(&[STREAM]), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(decode(&bytes), decode(&[STREAM]));
    }
}
