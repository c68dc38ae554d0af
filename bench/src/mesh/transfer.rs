//! Clients that download and compare every byte.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::image_api::{ImageApi, agent};

/// Bytes asked for at once.
const READ_LEN: usize = 64 * 1024;

/// Random bytes, which neither compression nor other images make smaller. Equal seeds are equal
/// bytes.
pub(super) fn random_image(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// When a download's bytes came, from the moment of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first_byte: Duration,
    pub(super) all: Duration,
}

/// Downloads image `id` and compares it with `wanted`; `received` follows how far it is.
pub(super) fn download(
    api: &ImageApi,
    id: &str,
    wanted: &[u8],
    received: &AtomicU64,
) -> Result<Times> {
    let start = Instant::now();
    let response = agent(false).get(api.file_url(id)).call();
    let mut body = response.context("download")?.into_body().into_reader();
    let mut buffer = vec![0; READ_LEN];
    let (mut at, mut first_byte) = (0, None);
    loop {
        let len = body
            .read(&mut buffer)
            .with_context(|| format!("after {at} bytes of a download"))?;
        if len == 0 {
            break;
        }
        first_byte.get_or_insert_with(|| start.elapsed());
        ensure!(
            wanted.get(at..at + len) == Some(&buffer[..len]),
            "wrong bytes at {at}"
        );
        at += len;
        received.store(at as u64, Ordering::Relaxed);
    }
    let all = start.elapsed();
    ensure!(at == wanted.len(), "{at} bytes of {} came", wanted.len());
    Ok(Times {
        first_byte: first_byte.unwrap_or(all),
        all,
    })
}
