//! The doors of streams as clients meet them: a real server, real sockets, a scripted model.

mod app;
mod client;
mod panics;
mod slow;
mod sse;
mod v1;
mod v2;
mod waking;
