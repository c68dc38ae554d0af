//! The bytes of an image: upload and download.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Body, Method, Response, StatusCode};
use tokio::time::{sleep, timeout};

use crate::client::Api;
use crate::error::{Error, Result};
use crate::image::ImageApi;

/// A part of an image's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `None` reads to the end.
    pub end: Option<u64>,
}

impl ByteRange {
    fn header(self) -> String {
        match self.end {
            Some(end) => format!("bytes={}-{}", self.start, end.saturating_sub(1)),
            None => format!("bytes={}-", self.start),
        }
    }
}

impl ImageApi<'_> {
    /// Gives a queued image its data: the `size` bytes of `body`. Returns once the site has them
    /// safely; the image is then `active`.
    ///
    /// There is no limit on the whole, but nothing may stand still for the client's idle timeout.
    ///
    /// # Errors
    /// [`Error::Source`] if `body` fails or ends early; 409 if the image is not `queued`, 413 if
    /// there is no room, 415 if the bytes contradict the image's format. The image is `queued`
    /// again after each of them, and after a lost connection.
    pub async fn upload<S>(&self, id: &str, size: u64, body: S) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let sent = Arc::new(AtomicU64::new(0));
        let source_error = Arc::new(Mutex::new(None));
        let (counter, failure) = (sent.clone(), source_error.clone());
        let body = body
            .inspect_ok(move |piece| {
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            })
            // The HTTP library buries this error; it is kept aside to be told apart from its own.
            .map_err(move |error| {
                let kind = error.kind();
                *failure.lock() = Some(error);
                io::Error::from(kind)
            });
        let request = self
            .client
            .request(Api::Image, Method::PUT, &data_path(id))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .header("x-openstack-image-size", size)
            .body(Body::wrap_stream(body));
        let idle = self.client.idle_timeout();
        let outcome = tokio::select! {
            answer = self.client.send(request) => answer.map(drop),
            () = until_idle(&sent, idle) => {
                let url = self.client.url(Api::Image, &data_path(id)).to_string();
                Err(Error::Stalled { url, waited: idle })
            }
        };
        match source_error.lock().take() {
            Some(error) => Err(Error::Source(error)),
            None => outcome,
        }
    }

    /// Begins to read the data of an image, whole or a part.
    ///
    /// # Errors
    /// 403 if the image is deactivated or the caller may only look, 416 if the part begins beyond
    /// the end, [`Error::Malformed`] if the image has no data or the answer does not say which
    /// bytes it holds.
    pub async fn download(&self, id: &str, range: Option<ByteRange>) -> Result<Download> {
        let mut request = self.client.request(Api::Image, Method::GET, &data_path(id));
        if let Some(range) = range {
            request = request.header(RANGE, range.header());
        }
        let url = self.client.url(Api::Image, &data_path(id)).to_string();
        let idle = self.client.idle_timeout();
        let response = timeout(idle, self.client.send(request))
            .await
            .map_err(|_| Error::Stalled {
                url: url.clone(),
                waited: idle,
            })??;
        Download::new(response, url, idle)
    }
}

fn data_path(id: &str) -> [&str; 4] {
    ["v2", "images", id, "file"]
}

/// Resolves when `count` has not changed for `idle`, at the latest after twice that.
async fn until_idle(count: &AtomicU64, idle: Duration) {
    let mut before = None;
    loop {
        let now = count.load(Ordering::Relaxed);
        if before.replace(now) == Some(now) {
            return;
        }
        sleep(idle).await;
    }
}

/// Bytes of an image on their way.
#[derive(Debug)]
pub struct Download {
    response: Response,
    url: String,
    idle: Duration,
    start: u64,
    total: u64,
}

impl Download {
    fn new(response: Response, url: String, idle: Duration) -> Result<Self> {
        let malformed = |reason: &str| Error::Malformed {
            url: url.clone(),
            reason: reason.to_owned(),
        };
        let header = |name| response.headers().get(name)?.to_str().ok();
        let (start, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => header(CONTENT_RANGE)
                .and_then(parse_content_range)
                .ok_or_else(|| malformed("206 without a usable Content-Range"))?,
            StatusCode::OK => {
                let length = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
                (
                    0,
                    length.ok_or_else(|| malformed("200 without Content-Length"))?,
                )
            }
            _ => return Err(malformed("the image has no data")),
        };
        Ok(Self {
            response,
            url,
            idle,
            start,
            total,
        })
    }

    /// Where in the image the bytes begin: 0 if the server did not honour the range.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Size of the whole image in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next bytes in order, `None` when all that was promised has come.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the body ends before its stated length, [`Error::Stalled`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match timeout(self.idle, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|error| Error::connection(&self.url, &error)),
            Err(_) => Err(Error::Stalled {
                url: self.url.clone(),
                waited: self.idle,
            }),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// First byte and total of `bytes FIRST-LAST/TOTAL`; `None` if it is anything else.
fn parse_content_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (
        first.parse().ok()?,
        last.parse::<u64>().ok()?,
        total.parse().ok()?,
    );
    (first <= last && last < total).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inclusive_on_the_wire() {
        assert_eq!(
            ByteRange {
                start: 5,
                end: None
            }
            .header(),
            "bytes=5-"
        );
        assert_eq!(
            ByteRange {
                start: 0,
                end: Some(100)
            }
            .header(),
            "bytes=0-99"
        );
    }

    #[test]
    fn content_ranges_that_contradict_themselves_are_refused() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 10)));
        for bad in [
            "bytes 5-9/*",
            "bytes 5-10/10",
            "bytes 9-5/10",
            "items 0-1/2",
            "bytes -1/2",
            "",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
