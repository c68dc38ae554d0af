//! Any bytes as gossip messages of a member. What is decoded has an encoding that decodes to the same, and a site that
//! receives it goes on: it answers, keeps to its bounds, and does not wake up without end.
//!
//! The input is messages, each after its length as a little-endian u16.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uuid::Uuid;
use vitrail_proto::gossip::{
    Catalogue, CatalogueFailed, Config, Gossip, Hello, Message, Now, Output, Start, VERSION,
};
use vitrail_proto::record::{Merge, Record};

/// A catalogue that takes everything and keeps nothing.
struct Void;

impl Catalogue for Void {
    fn ids(&self) -> Vec<Uuid> {
        Vec::new()
    }
    fn record(&self, _: Uuid) -> Option<Record> {
        None
    }
    fn merge(&mut self, _: Record) -> Result<Merge, CatalogueFailed> {
        Ok(Merge::Changed)
    }
    fn replace(&mut self, _: Record) -> Result<(), CatalogueFailed> {
        Ok(())
    }
    fn forget(&mut self, _: Uuid) -> Result<(), CatalogueFailed> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Now {
        monotonic: Duration::ZERO,
        unix_ms: 1_700_000_000_000,
    };
    let config = Config {
        name: "site".into(),
        zone: String::new(),
        software: String::new(),
        addresses: vec![],
        seeds: vec![],
    };
    let mut gossip = Gossip::new(config, Start::default(), now, 1, &Void);
    for (connection, name) in [(0, "member"), (1, "other")] {
        gossip.handle_connected(connection, name, None, now);
        let hello = Message::Hello(Hello {
            version_min: VERSION,
            version_max: VERSION,
            name: name.into(),
            boot: 1,
            settled: true,
            digest: [0; 16],
        });
        gossip.handle_message(connection, &hello.encode(), now, &mut Void);
    }
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        let (message, after) = after.split_at(len);
        rest = after;
        if let Ok(Some(decoded)) = Message::decode(message) {
            assert_eq!(Message::decode(&decoded.encode()), Ok(Some(decoded)));
        }
        gossip.handle_message(0, message, now, &mut Void);
    }
    for _ in 0..50 {
        while let Some(output) = gossip.poll() {
            if let Output::Ready(connection) = output {
                while let Some(message) = gossip.poll_message(connection, now, &Void) {
                    assert!(Message::decode(&message).is_ok(), "what we send is right");
                }
            }
        }
        let Some(wake) = gossip.poll_timeout() else {
            return;
        };
        now.unix_ms += wake.saturating_sub(now.monotonic).as_millis() as u64;
        now.monotonic = now.monotonic.max(wake);
        gossip.handle_timeout(now, &mut Void);
    }
    assert!(
        now.monotonic > Duration::from_secs(10),
        "it wakes up too often"
    );
});
