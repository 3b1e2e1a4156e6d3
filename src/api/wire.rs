//! The only client JSON of streams.

pub mod v1;
