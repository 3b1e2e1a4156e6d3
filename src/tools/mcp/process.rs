//! A stdio server's process: what it sees, what becomes of what it says, and its end.
//!
//! Invariant: the whole process group is killed when its [`Group`] is dropped, so nothing outlives the connection that
//! started it.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::process::{Pid, Signal, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Duration, Instant, sleep};

use super::Launch;
use super::outcome::Redactor;

/// Bytes of one line of standard error that are logged; the rest of the line is dropped.
const LOG_LINE_BYTES_MAX: u64 = 1_024;
/// Lines of one process that are logged at once; more come back with time.
const LOG_LINES_BURST: u32 = 100;
/// How often one more line may be logged after the burst.
const LOG_LINE_EVERY: Duration = Duration::from_millis(200);
/// What a server gets to end by itself after its input was closed and it was told to terminate.
const GRACE: Duration = Duration::from_secs(1);

/// A process and all it started, killed on drop.
pub(super) struct Group {
    pid: Option<Pid>,
    child: Child,
}

/// A started server.
pub(super) struct Started {
    pub(super) group: Group,
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
    pub(super) errors: ChildStderr,
}

/// Starts a server with nothing in its environment but `PATH` and what was named for it.
pub(super) fn start(launch: &Launch) -> io::Result<Started> {
    let mut command = Command::new(&launch.command);
    command.args(&launch.args).env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
    if let Some(dir) = &launch.cwd {
        command.current_dir(dir);
    }
    // A group of its own, so that a wrapper as `npx` or a shell takes its children with it.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let group = Group { pid, child };
    let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
        return Err(io::Error::other("a pipe of the process is missing"));
    };
    Ok(Started { group, input, output, errors })
}

impl Group {
    /// Ends it after its input was closed: asks, waits a moment, kills.
    pub(super) async fn end(self) {
        let Some(pid) = self.pid else { return };
        let _ = kill_process_group(pid, Signal::TERM);
        let end = Instant::now() + GRACE;
        // Looks without reaping: until it is reaped its id, and so the id of its group, belongs to nobody else.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while Instant::now() < end && matches!(waitid(rustix::process::WaitId::Pid(pid), look), Ok(None)) {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            // Fails only when nobody is left.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // Reaps it if it is gone already; else tokio does.
        let _ = self.child.try_wait();
    }
}

/// Logs what a process writes to its standard error: encoded by the logger, capped here.
pub(super) async fn log_errors(server: Arc<str>, errors: ChildStderr, redactor: Redactor) {
    let mut lines = BufReader::new(errors);
    let (mut left, mut earned, mut dropped) = (LOG_LINES_BURST, Instant::now(), 0_u64);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LOG_LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') && skip_line(&mut lines).await.is_err() {
            return;
        }
        let turns = u32::try_from(earned.elapsed().as_millis() / LOG_LINE_EVERY.as_millis()).unwrap_or(u32::MAX);
        if turns > 0 {
            (left, earned) = (left.saturating_add(turns).min(LOG_LINES_BURST), Instant::now());
        }
        if left == 0 {
            dropped += 1;
            continue;
        }
        left -= 1;
        let text = redactor.text(String::from_utf8_lossy(&line).trim_end().to_owned());
        tracing::info!(server = &*server, text, dropped, "mcp server says");
        dropped = 0;
    }
}

async fn skip_line(lines: &mut BufReader<ChildStderr>) -> io::Result<()> {
    loop {
        let held = lines.fill_buf().await?;
        let end = held.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let (taken, over) = (end.unwrap_or(held.len()), end.is_some() || held.is_empty());
        lines.consume(taken);
        if over {
            return Ok(());
        }
    }
}

/// Reads lines of bounded length: a longer one is an error, which ends the connection.
pub(super) struct BoundedLines<R> {
    inner: R,
    line: usize,
    max: usize,
}

impl<R> BoundedLines<R> {
    pub(super) fn new(inner: R, max: usize) -> Self {
        Self { inner, line: 0, max }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for BoundedLines<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        for part in into.filled()[before..].split_inclusive(|byte| *byte == b'\n') {
            self.line += part.len();
            if self.line > self.max {
                return Poll::Ready(Err(io::Error::other("a message is too large")));
            }
            if part.ends_with(b"\n") {
                self.line = 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}
