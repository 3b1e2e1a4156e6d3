//! Model clients: one port, several providers.
