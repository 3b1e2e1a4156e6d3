//! The HTTP resources, driven over a real connection.

mod app;
mod doors;
mod resources;
