//! What the tests of nodes and clients stand on.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod dice;
mod mesh;
pub(crate) mod node_folder;
mod patience;
mod records;
mod wire;

pub(crate) use dice::{Dice, noise};
pub(crate) use mesh::Mesh;
pub(crate) use patience::{PATIENCE, within};
pub(crate) use records::{from_start, read_all, record, texts};
pub(crate) use wire::{ask, connect, connect_tuned};
