//! A client that costs little: HTTP/1.1 on one connection that stays open, answers read to their end and not parsed.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16_384) })
    }

    /// Sends a request and reads its answer; gives the status.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = self.whole() {
                return Ok(status);
            }
        }
    }

    /// The last answer, head and all.
    pub fn answer(&self) -> &[u8] {
        &self.buffer
    }

    fn whole(&self) -> Option<u16> {
        let head_end = find(&self.buffer, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.buffer[..head_end]).ok()?.to_ascii_lowercase();
        let status = head.get(9..12)?.parse().ok()?;
        let body = &self.buffer[head_end + 4..];
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let ended = match length {
            Some(length) => body.len() >= length,
            None => body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n"),
        };
        ended.then_some(status)
    }
}

pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A request with a JSON body.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}
