//! The store: what it promises, and what becomes of it when the disk lies, fills up or is cut off.

mod contract;
mod damage;
mod export;
mod opening;
mod pace;
mod redo;
mod room;
mod size;
mod support;
mod sync;
