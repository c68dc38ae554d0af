//! What Prometheus sees.

mod link;

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use vitrail_chunkstore::Stats;

pub(crate) use link::{LinkCounts, LinkGauges, LinkMetrics};

/// All metrics of the daemon.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    /// Bytes of images received from clients.
    pub received_bytes: IntCounter,
    /// Bytes of images sent to clients.
    pub sent_bytes: IntCounter,
    /// Uploads that did not end in an active image.
    pub uploads_failed: IntCounter,
    /// Reads that found a chunk missing or damaged.
    pub read_errors: IntCounter,
    tokens: IntCounterVec,
    peer_rx_bytes: IntCounterVec,
    peer_tx_bytes: IntCounterVec,
    peer_faults: IntCounterVec,
    gossip_refused: IntCounter,
    pub(crate) links: LinkMetrics,
    pull_seconds: Histogram,
    pull_efficiency: Histogram,
    /// Bytes of packs that scrubs have read.
    pub scrubbed_bytes: IntCounter,
    /// Manifests that were made whole again from other sites.
    pub repaired: IntCounter,
    scrub_end: IntGauge,
    images: IntGauge,
    store_bytes: IntGauge,
    store_logical_bytes: IntGauge,
    store_unique_bytes: IntGauge,
    store_free_bytes: IntGauge,
    chunks: IntGauge,
    damaged_chunks: IntGauge,
    memory_bytes: IntGauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let counter = |name: &str, help: &str| -> Result<_, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<_, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let requests = IntCounterVec::new(
            Opts::new(
                "vitrail_http_requests_total",
                "HTTP requests by route and status code",
            ),
            &["route", "code"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(
                "vitrail_http_request_seconds",
                "Seconds from a request's head to its answer's head, by route",
            )
            .buckets(vec![
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 300.0,
            ]),
            &["route"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        let tokens = IntCounterVec::new(
            Opts::new(
                "vitrail_tokens_total",
                "Tokens that were checked, by outcome: cached, valid, invalid, grace or unavailable",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(tokens.clone()))?;
        let by_peer = |name: &str, help: &str| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &["peer"])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let histogram =
            |name: &str, help: &str, buckets: Vec<f64>| -> Result<_, prometheus::Error> {
                let histogram =
                    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
                registry.register(Box::new(histogram.clone()))?;
                Ok(histogram)
            };
        Ok(Self {
            links: LinkMetrics::register(&registry)?,
            peer_rx_bytes: by_peer(
                "vitrail_peer_rx_bytes_total",
                "Payload received from a peer, after encoding",
            )?,
            peer_tx_bytes: by_peer(
                "vitrail_peer_tx_bytes_total",
                "Payload sent to a peer, after encoding",
            )?,
            peer_faults: by_peer(
                "vitrail_peer_faults_total",
                "Times that a peer sent what it must not send",
            )?,
            gossip_refused: counter(
                "vitrail_gossip_refused_total",
                "Times that something other sites told was not taken in for lack of room",
            )?,
            pull_seconds: histogram(
                "vitrail_pull_seconds",
                "Seconds that complete pulls took",
                vec![0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0],
            )?,
            pull_efficiency: histogram(
                "vitrail_pull_efficiency",
                "Time that complete pulls took, divided by their lower bound",
                vec![1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0],
            )?,
            tokens,
            requests,
            request_seconds,
            received_bytes: counter(
                "vitrail_image_received_bytes_total",
                "Image bytes from clients",
            )?,
            sent_bytes: counter("vitrail_image_sent_bytes_total", "Image bytes to clients")?,
            uploads_failed: counter("vitrail_uploads_failed_total", "Uploads that failed")?,
            read_errors: counter(
                "vitrail_read_errors_total",
                "Reads of missing or damaged chunks",
            )?,
            scrubbed_bytes: counter(
                "vitrail_scrub_bytes_total",
                "Bytes of packs that scrubs have read",
            )?,
            repaired: counter(
                "vitrail_repaired_images_total",
                "Images of which lost chunks were fetched from other sites",
            )?,
            scrub_end: gauge(
                "vitrail_scrub_last_end_timestamp_seconds",
                "When the last scrub since the start ended, in seconds since 1970; 0 if none has",
            )?,
            images: gauge("vitrail_images", "Images in the catalogue")?,
            store_bytes: gauge("vitrail_store_bytes", "Bytes of the store on disk")?,
            store_logical_bytes: gauge(
                "vitrail_store_logical_bytes",
                "Sum of stored images' sizes",
            )?,
            store_unique_bytes: gauge(
                "vitrail_store_unique_bytes",
                "Raw bytes of distinct chunks",
            )?,
            store_free_bytes: gauge("vitrail_store_free_bytes", "Bytes free on the disk")?,
            chunks: gauge("vitrail_chunks", "Distinct chunks")?,
            damaged_chunks: gauge(
                "vitrail_damaged_chunks",
                "Chunks found damaged since the start",
            )?,
            memory_bytes: gauge("vitrail_memory_reserved_bytes", "Buffer memory in use")?,
            registry,
        })
    }

    /// Counters of bytes received from and sent to a peer. Peers are bounded by the links that a site may have and
    /// the certificates that exist.
    pub fn peer_bytes(&self, peer: &str) -> (IntCounter, IntCounter) {
        let of = |counters: &IntCounterVec| counters.with_label_values(&[peer]);
        (of(&self.peer_rx_bytes), of(&self.peer_tx_bytes))
    }

    /// Counts a peer's breach of the rules.
    pub fn peer_fault(&self, peer: &str) {
        self.peer_faults.with_label_values(&[peer]).inc();
    }

    /// Notes what gossip has counted since the start.
    pub fn set_gossip_refused(&self, count: u64) {
        let new = count.saturating_sub(self.gossip_refused.get());
        self.gossip_refused.inc_by(new);
    }

    /// Notes when a scrub ended, in seconds since 1970.
    pub fn scrub_ended(&self, unix_s: u64) {
        self.scrub_end
            .set(i64::try_from(unix_s).unwrap_or(i64::MAX));
    }

    /// Counts a pull that is complete.
    pub fn pull(&self, seconds: f64, bound_seconds: Option<f64>) {
        self.pull_seconds.observe(seconds);
        if let Some(bound) = bound_seconds {
            self.pull_efficiency.observe(seconds / bound);
        }
    }

    /// Counts a request that was answered.
    pub fn request(&self, route: &'static str, code: u16, took: Duration) {
        self.requests
            .with_label_values(&[route, &code.to_string()])
            .inc();
        self.request_seconds
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
    }

    /// Counts a token that was checked.
    pub fn token(&self, outcome: &'static str) {
        self.tokens.with_label_values(&[outcome]).inc();
    }

    /// Sets the gauges that are read from elsewhere when somebody looks.
    pub fn set_store(&self, stats: &Stats, images: usize, memory: u64) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.images.set(signed(images as u64));
        self.store_bytes
            .set(signed(stats.pack_bytes + stats.index_bytes));
        self.store_logical_bytes.set(signed(stats.logical_bytes));
        self.store_unique_bytes.set(signed(stats.unique_bytes));
        self.store_free_bytes.set(signed(stats.free_bytes));
        self.chunks.set(signed(stats.chunks));
        self.damaged_chunks.set(signed(stats.damaged_chunks));
        self.memory_bytes.set(signed(memory));
    }

    /// The text exposition format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
