//! The contract of [`Store`](crate::ports::Store).
