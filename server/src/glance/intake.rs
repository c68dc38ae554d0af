//! Taking in bytes, from a client or from a server that an import reads.
//!
//! They are inspected and stored while they come. At most as many intakes run at once as the memory budget has room
//! for.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::mpsc;
use uuid::Uuid;
use vitrail_chunkstore::{Ingest, Ingested, Store};
use vitrail_proto::manifest::FormatFacts;
use vitrail_proto::record::Data;

use super::{Api, ApiError, ApiResult, blocking};
use crate::catalogue::{Changes, Image, Intent};
use crate::inspect::{Declared, Facts, Inspector, Rules, Verdict};

/// Pieces that wait for the ingest; each is at most a connection's buffer of 64 KiB.
const QUEUE_PIECES: usize = 4;

/// Bytes between two looks at whether an image may still get them.
pub(super) const LOOK_INTERVAL: u64 = 64 << 20;

/// Where bytes come from.
pub(super) trait Source: Send {
    /// The next of them; none at the end.
    fn next(&mut self) -> impl Future<Output = ApiResult<Option<Bytes>>> + Send;
}

/// When bytes are held against what the image is declared to be.
#[derive(Debug, Clone)]
pub(super) enum Inspection {
    /// While they come.
    Now(Arc<Image>),
    /// When they are imported.
    Later,
}

/// What was taken in. It lies in the store, and is kept there by its lease until an image names it.
pub(super) struct Taken {
    ingested: Ingested,
    virtual_size: Option<u64>,
}

impl Taken {
    /// As a record names it.
    pub(super) fn data(&self) -> Data {
        let manifest = &self.ingested.manifest;
        Data {
            manifest: self.ingested.id,
            size: manifest.size(),
            virtual_size: self.virtual_size,
            md5: *manifest.md5(),
            sha512: *manifest.sha512(),
        }
    }
}

/// What goes to the ingest. A queue that closes without `End` was cut off.
enum Piece {
    Data(Bytes),
    End,
}

/// Takes in everything that `source` has. `check` sees how many bytes have come before each piece is stored, and can end it.
pub(super) async fn take(
    api: &Api,
    source: &mut impl Source,
    inspection: Inspection,
    check: impl FnMut(u64) -> ApiResult<()> + Send,
) -> ApiResult<Taken> {
    let (pieces, queue) = mpsc::channel(QUEUE_PIECES);
    let store = api.store.clone();
    let rules = rules(api);
    let span = tracing::Span::current();
    let ingest = tokio::task::spawn_blocking(move || {
        span.in_scope(|| ingest(&store, &inspection, rules, queue))
    });
    let passed = pass_on(api, source, pieces, check).await;
    let ingested = ingest
        .await
        .map_err(|error| ApiError::internal(&error))
        .flatten();
    // A refusal of the content explains why passing on stopped; otherwise the source does.
    match (passed, ingested) {
        (Ok(()), Ok(taken)) => Ok(taken),
        (_, Err(error)) if error.status() != StatusCode::BAD_REQUEST => Err(error),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
    }
}

async fn pass_on(
    api: &Api,
    source: &mut impl Source,
    pieces: mpsc::Sender<Piece>,
    mut check: impl FnMut(u64) -> ApiResult<()>,
) -> ApiResult<()> {
    // The ingest has ended early, and says why.
    let refused = |_| ApiError::bad_request("The data was refused.");
    let mut received = 0u64;
    while let Some(data) = source.next().await? {
        received += data.len() as u64;
        api.metrics.received_bytes.inc_by(data.len() as u64);
        check(received)?;
        pieces.send(Piece::Data(data)).await.map_err(refused)?;
    }
    pieces.send(Piece::End).await.map_err(refused)
}

fn rules(api: &Api) -> Rules {
    Rules {
        require_match: api.config.images.require_format_match,
        ..Rules::default()
    }
}

fn judge(facts: &Facts, image: &Image, rules: Rules) -> ApiResult<Verdict> {
    facts.judge(declared(image), rules).map_err(refused)
}

fn declared(image: &Image) -> Declared<'_> {
    Declared {
        disk_format: image.disk_format.as_deref().unwrap_or_default(),
        container_format: image.container_format.as_deref().unwrap_or_default(),
    }
}

fn refused(refusal: crate::inspect::Refusal) -> ApiError {
    ApiError::unsupported_type(refusal.to_string())
}

/// Inspects and stores what comes through the queue. Runs on a blocking thread.
fn ingest(
    store: &Store,
    inspection: &Inspection,
    rules: Rules,
    mut queue: mpsc::Receiver<Piece>,
) -> ApiResult<Taken> {
    let mut inspector = Inspector::new();
    let mut ingest = Ingest::begin(store)?;
    loop {
        match queue.blocking_recv() {
            Some(Piece::Data(data)) => {
                inspector.push(&data);
                if let Inspection::Now(image) = inspection
                    && let Some(refusal) = inspector.refusal_so_far(declared(image), rules)
                {
                    return Err(refused(refusal));
                }
                ingest.push(&data)?;
            }
            Some(Piece::End) => break,
            None => return Err(ApiError::bad_request("The data was cut off.")),
        }
    }
    let facts = inspector.finish();
    let virtual_size = match inspection {
        Inspection::Now(image) => judge(&facts, image, rules)?.virtual_size,
        Inspection::Later => None,
    };
    let format = FormatFacts {
        name: facts.format.name().to_owned(),
        virtual_size: facts.virtual_size,
    };
    Ok(Taken {
        ingested: ingest.finish(format)?,
        virtual_size,
    })
}

/// Holds bytes that an image was staged with against what it is declared to be, reading them once more, from other
/// sites if need be; the virtual size of the disk in them.
pub(super) async fn inspect_staged(
    api: &Api,
    image: &Image,
    staged: &Data,
) -> ApiResult<Option<u64>> {
    let unreadable =
        |error| ApiError::unavailable(format!("The staged data cannot be read now: {error}."));
    let reader = api.content.open(staged, image.id, true).await;
    let reader = reader.map_err(unreadable)?;
    let mut inspector = Inspector::new();
    let mut start = 0;
    while let Some(unit) = reader.reader().unit(start..staged.size) {
        start = unit.range.end;
        for piece in reader.read(&unit).await.map_err(unreadable)? {
            inspector.push(&piece);
        }
        if let Some(refusal) = inspector.refusal_so_far(declared(image), rules(api)) {
            return Err(refused(refusal));
        }
    }
    let verdict = judge(&inspector.finish(), image, rules(api))?;
    Ok(verdict.virtual_size)
}

/// Makes an image name bytes that lie in the store under a lease, by the changes that `decide` makes of it, and tells other
/// sites that they are here.
pub(super) async fn name(
    api: &Arc<Api>,
    id: Uuid,
    data: &Data,
    decide: impl FnOnce(&Image) -> ApiResult<Changes> + Send + 'static,
) -> ApiResult<()> {
    let (catalogue, manifest) = (api.catalogue.clone(), data.manifest);
    blocking(move || {
        catalogue.copies().set(manifest, Some(Intent::Keep))?;
        catalogue.modify(id, decide)
    })
    .await??;
    if let Some(peers) = &api.peers {
        peers.holding_changed(manifest).await;
    }
    Ok(())
}
