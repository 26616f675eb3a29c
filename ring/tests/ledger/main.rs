//! The ledger against a model that keeps every entry for ever and replays them all for each question.

mod cases;
mod model;
mod random;
mod store;
