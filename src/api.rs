//! The doors: HTTP, SSE and WebSocket.
