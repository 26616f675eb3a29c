//! `bench put` and `bench get`.

use std::time::Duration;

use mesh_net::client::{Client, ClientError, WriteOptions};

use super::Measured;
use super::load::{Load, Ticket};
use crate::error::Failure;
use crate::payload::Payloads;

/// Different keys that are written and read.
const KEYS_MAX: u64 = 10_000;
/// After this long the keys are gone by themselves.
const KEY_AGE: Duration = Duration::from_secs(3600);
/// Puts at a time while `get` prepares what it reads.
const PREPARE_REQUESTS: u64 = 256;

pub(super) async fn put(client: &Client, load: &Load) -> Result<Measured, Failure> {
    // A request carries one binding, whatever `--batch` says about records.
    load.of(load.records, 1, load.requests())
        .measure(putter(client, load))
        .await
}

pub(super) async fn get(client: &Client, load: &Load) -> Result<Measured, Failure> {
    let keys = load.records.min(KEYS_MAX);
    load.of(keys, 1, PREPARE_REQUESTS)
        .send(putter(client, load), "preparing")
        .await?;
    let client = client.clone();
    load.of(load.records, 1, load.requests())
        .measure(move |ticket| get_one(client.clone(), keys, ticket))
        .await
}

fn putter(
    client: &Client,
    load: &Load,
) -> impl Fn(Ticket) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>
+ Clone
+ Send
+ 'static {
    let (client, payloads) = (client.clone(), load.payloads.clone());
    let keys = load.records.min(KEYS_MAX);
    move |ticket| Box::pin(put_one(client.clone(), payloads.clone(), keys, ticket))
}

async fn put_one(
    client: Client,
    payloads: Payloads,
    keys: u64,
    ticket: Ticket,
) -> Result<(), ClientError> {
    let options = WriteOptions {
        ttl: Some(KEY_AGE),
        ..WriteOptions::default()
    };
    client
        .put(
            &key(ticket.first % keys),
            payloads.get(ticket.first),
            options,
        )
        .await?;
    Ok(())
}

async fn get_one(client: Client, keys: u64, ticket: Ticket) -> Result<(), ClientError> {
    // A prime step: neighbours in time are no neighbours in the store.
    client
        .get(&key(ticket.first.wrapping_mul(7919) % keys), None)
        .await?;
    Ok(())
}

fn key(number: u64) -> Vec<u8> {
    format!("bench:{number:08}").into_bytes()
}
