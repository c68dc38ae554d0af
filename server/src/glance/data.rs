//! Downloads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use tokio_util::task::AbortOnDropHandle;
use vitrail_chunkstore::memory::Reservation;
use vitrail_chunkstore::{Error, UNIT_DATA_MAX};

use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, document, empty, full, range};
use crate::auth::policy::Action;
use crate::catalogue::Status;
use crate::content::{ContentError, ContentReader};

static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// Units read ahead of a client while the memory budget has room: enough to keep two cores decoding
/// while a third piece is sent.
const READ_AHEAD_UNITS: usize = 3;

/// Most bytes of the first unit: a client's first byte waits for all of it, and it may come from far away.
const FIRST_UNIT_MAX: u64 = 64 * 1024;

/// The bytes of an image or, for `HEAD`, their length and that ranges of them can be asked for: qemu wants
/// to know both before it reads.
pub(super) async fn download(call: Call, id: &str) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(&call)?;
    let image = call.image_for(id, Action::DownloadImage)?;
    if image.status == Status::Deactivated && !call.identity.is_admin() {
        return Err(ApiError::forbidden(
            "The requested image has been deactivated. Image data download is forbidden.",
        ));
    }
    let Some(data) = image.data.clone() else {
        return Ok(empty(StatusCode::NO_CONTENT));
    };
    let wanted = if data.size == 0 {
        None
    } else {
        range::requested(&call.headers, data.size)?
    };

    let mut answer = Response::new(full(""));
    if let Some(range) = &wanted {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, data.size);
        insert(&mut answer, CONTENT_RANGE, &text);
    }
    let bytes = wanted.unwrap_or(0..data.size);
    insert(&mut answer, CONTENT_TYPE, "application/octet-stream");
    insert(
        &mut answer,
        CONTENT_LENGTH,
        &(bytes.end - bytes.start).to_string(),
    );
    insert(&mut answer, ACCEPT_RANGES, "bytes");
    // The whole image's, in hexadecimal, whatever the range: clients compare it with `checksum`.
    insert(&mut answer, CONTENT_MD5.clone(), &document::md5(&data));

    if call.method == Method::HEAD {
        return Ok(answer);
    }
    let api = call.api.clone();
    api.reads.note(image.id, api.catalogue.len());
    let whole = bytes.end - bytes.start == data.size;
    let reader = api.content.open(&data, image.id, whole).await;
    let reader = reader.map_err(|error| unreadable(&api, &error))?;
    *answer.body_mut() = body(api, Arc::new(reader), bytes).await?;
    Ok(answer)
}

fn insert(answer: &mut Response<Body>, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        answer.headers_mut().insert(name, value);
    }
}

fn unreadable(api: &Api, error: &ContentError) -> ApiError {
    api.metrics.read_errors.inc();
    match error {
        ContentError::Unreachable(why) => {
            tracing::error!(why, "image cannot be fetched");
            ApiError::unavailable(format!(
                "The image's data is not on this site and cannot be fetched from others now: {why}."
            ))
        }
        ContentError::Store(
            error @ (Error::MissingManifest(_)
            | Error::MissingChunk(_)
            | Error::Damaged(_)
            | Error::DamagedManifest { .. }),
        ) => {
            tracing::error!(%error, "image cannot be read");
            ApiError::unavailable(format!(
                "The image's data is damaged or missing on this site ({error}). To repair it have the \
                 store verified, then upload the same content again, under any id."
            ))
        }
        ContentError::Store(other) => ApiError::internal(other),
    }
}

/// The bytes of a range. The first unit is read before the answer begins, so that an image that
/// cannot be read is an error and not a short body.
async fn body(api: Arc<Api>, reader: Arc<ContentReader>, range: Range<u64>) -> ApiResult<Body> {
    let mut ahead = ReadAhead {
        api: api.clone(),
        reader,
        rest: range,
        unit_max: FIRST_UNIT_MAX,
        units: VecDeque::new(),
        sending: None,
    };
    let first = match ahead.next().await {
        None => return Ok(full("")),
        Some(result) => result.map_err(|error| unreadable(&api, &error))?,
    };
    let rest = stream::unfold(ahead, |mut ahead| async move {
        let result = ahead.next().await?;
        Some((result, ahead))
    });
    let pieces = stream::once(async { Ok(first) })
        .chain(rest)
        .flat_map(move |unit| {
            let frames: Vec<_> = match unit {
                Ok(pieces) => {
                    let sent: usize = pieces.iter().map(Bytes::len).sum();
                    api.metrics.sent_bytes.inc_by(sent as u64);
                    pieces
                        .into_iter()
                        .map(|piece| Ok(Frame::data(piece)))
                        .collect()
                }
                Err(error) => {
                    api.metrics.read_errors.inc();
                    tracing::error!(%error, "download cut off");
                    vec![Err(error.into())]
                }
            };
            stream::iter(frames)
        });
    Ok(BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

/// A unit that is being read.
type Reading = AbortOnDropHandle<Result<Vec<Bytes>, ContentError>>;

/// Reads units in order, some of them before they are asked for.
struct ReadAhead {
    api: Arc<Api>,
    reader: Arc<ContentReader>,
    rest: Range<u64>,
    /// Most bytes of the next unit.
    unit_max: u64,
    units: VecDeque<(Reading, Option<Reservation>)>,
    /// Of the unit that the client is receiving.
    sending: Option<Reservation>,
}

impl ReadAhead {
    /// The next unit's bytes. The first unit in flight is always allowed; more need room in the
    /// budget, which a unit holds until the one after it is asked for.
    async fn next(&mut self) -> Option<Result<Vec<Bytes>, ContentError>> {
        self.sending = None;
        // Nothing is read ahead of the first unit, or it would not be the first to be asked of another site.
        let units_max = if self.unit_max == FIRST_UNIT_MAX {
            1
        } else {
            READ_AHEAD_UNITS
        };
        while self.units.len() < units_max {
            let reservation = self.api.store.memory().try_reserve(UNIT_DATA_MAX);
            if reservation.is_none() && !self.units.is_empty() {
                break;
            }
            let most = std::mem::replace(&mut self.unit_max, u64::MAX);
            let end = self.rest.end.min(self.rest.start.saturating_add(most));
            let Some(unit) = self.reader.reader().unit(self.rest.start..end) else {
                break;
            };
            self.rest.start = unit.range.end;
            let reader = self.reader.clone();
            let task = tokio::spawn(async move { reader.read(&unit).await });
            // A client that goes away waits for nothing any more.
            let task = AbortOnDropHandle::new(task);
            self.units.push_back((task, reservation));
        }
        let (task, reservation) = self.units.pop_front()?;
        self.sending = reservation;
        Some(task.await.unwrap_or(Err(Error::Panicked("reader").into())))
    }
}
