//! How QUIC is used between sites.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{TransportConfig, VarInt};
use vitrail_proto::congestion::Class;

use super::congestion::Factory;
use super::window;

/// Window of one stream. Beyond 4 MiB a burst of loss can leave more pieces than quinn buffers (it then
/// closes the connection); more bandwidth comes from more streams.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Streams that a peer may have open at once: ten of each of a dozen pulls, and gossip and questions beside them. Their
/// windows together are that of the connection.
const STREAMS_MAX: u32 = 128;
/// A peer that says nothing for so long is gone: it takes two lost keep-alives in a row. Pulls and questions do not wait
/// for this; only who is listed as up does.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Most of what an idle site costs (`proto/docs/GOSSIP.md`), and below the 30 s after which many NATs and firewalls
/// forget a path.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// Windows to begin with, timeouts and the congestion controller of a connection, which begins as interactive.
pub fn config() -> TransportConfig {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(
            VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32).into(),
        ))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window::LEAST as u32))
        .send_window(window::LEAST)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(Factory::new(Class::Interactive, seed)));
    config
}
