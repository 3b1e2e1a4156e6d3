//! The store: what it promises, and what becomes of it when the disk lies, fills up or is cut off.

#[path = "storage/support.rs"]
mod support;

#[path = "storage/contract.rs"]
mod contract;

#[path = "storage/damage.rs"]
mod damage;

#[path = "storage/export.rs"]
mod export;

#[path = "storage/opening.rs"]
mod opening;

#[path = "storage/room.rs"]
mod room;

#[path = "storage/size.rs"]
mod size;

#[path = "storage/sync.rs"]
mod sync;

#[path = "storage/pace.rs"]
mod pace;
