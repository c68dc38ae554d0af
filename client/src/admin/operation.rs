//! Long work of a site, told line by line (NDJSON).

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::{AdminError, Error, Result, plain_text};

/// Longest line that is read, in bytes: a report that names some ten thousand damaged places.
pub const LINE_LEN_MAX: usize = 4 << 20;

/// What an [`Operation`] says.
#[derive(Clone, Debug)]
pub enum Event<T, P = Progress> {
    /// Any number of times, before the result.
    Progress(P),
    /// Exactly once, last.
    Done(T),
}

/// How far the work is. Advice for a progress bar: a count in a unit that is not known here reads
/// as 0 of 0, rather than fail the work.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Progress {
    /// Part of the work; each is counted in a unit of its own, bytes or packs.
    pub stage: String,
    /// How much of it is done.
    #[serde(default, alias = "done_bytes", alias = "done_packs")]
    pub done: u64,
    /// How much it is in all.
    #[serde(default, alias = "total_bytes", alias = "total_packs")]
    pub total: u64,
}

/// Work that a site is doing, which ends in a report `T` and tells its progress as `P`. Dropping
/// this does not promise to stop the work.
#[derive(Debug)]
pub struct Operation<T, P = Progress> {
    response: Response,
    unread: BytesMut,
    event: PhantomData<fn() -> Event<T, P>>,
}

/// One line. The last of a stream is a result or an error.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<T, P> {
    Progress(P),
    Result(T),
    Error(AdminError),
}

impl<T: DeserializeOwned, P: DeserializeOwned> Operation<T, P> {
    pub(super) async fn start(client: &Client, request: RequestBuilder) -> Result<Self> {
        let response = client.send(request).await?;
        Ok(Self {
            response,
            unread: BytesMut::new(),
            event: PhantomData,
        })
    }

    /// Waits for the next line, however long it takes: a silent server is not an idle one, and a
    /// dead one is noticed by TCP keep-alive.
    ///
    /// # Errors
    /// [`Error::Operation`] if the work failed, [`Error::Interrupted`] if the stream ended without
    /// a result: the work went on or stopped with the daemon.
    pub async fn next(&mut self) -> Result<Event<T, P>> {
        let line = loop {
            if let Some(line) = split_line(&mut self.unread) {
                break line;
            }
            if self.unread.len() > LINE_LEN_MAX {
                return Err(self.malformed(format!("a line of more than {LINE_LEN_MAX} bytes")));
            }
            match self.response.chunk().await {
                Ok(Some(piece)) => self.unread.extend_from_slice(&piece),
                Ok(None) => {
                    let url = self.response.url().to_string();
                    let reason = "the stream ended without a result".to_owned();
                    return Err(Error::Interrupted { url, reason });
                }
                Err(error) => return Err(Error::connection(self.response.url(), &error)),
            }
        };
        match serde_json::from_slice(&line) {
            Ok(Line::Progress(progress)) => Ok(Event::Progress(progress)),
            Ok(Line::Result(report)) => Ok(Event::Done(report)),
            Ok(Line::Error(error)) => Err(Error::Operation {
                message: plain_text(&error.message),
                hint: error.hint.as_deref().map(plain_text),
            }),
            Err(error) => Err(self.malformed(error.to_string())),
        }
    }

    fn malformed(&self, reason: String) -> Error {
        Error::Malformed {
            url: self.response.url().to_string(),
            reason,
        }
    }
}

/// Takes the first complete line off `unread`, without its end.
fn split_line(unread: &mut BytesMut) -> Option<BytesMut> {
    let end = unread.iter().position(|&byte| byte == b'\n')?;
    let line = unread.split_to(end);
    unread.advance(1);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_off_one_by_one() {
        let mut unread = BytesMut::from(&b"one\n\ntw"[..]);
        assert_eq!(split_line(&mut unread).unwrap(), "one");
        assert_eq!(split_line(&mut unread).unwrap(), "");
        assert_eq!(split_line(&mut unread), None);
        unread.extend_from_slice(b"o\n");
        assert_eq!(split_line(&mut unread).unwrap(), "two");
    }

    #[test]
    fn lines_are_what_the_admin_api_says() {
        let count = |line| match serde_json::from_str::<Line<u32, Progress>>(line).unwrap() {
            Line::Progress(progress) => (progress.done, progress.total),
            _ => panic!("not a progress line"),
        };
        let bytes = r#"{"progress":{"stage":"packs","done_bytes":1,"total_bytes":2}}"#;
        assert_eq!(count(bytes), (1, 2));
        let packs = r#"{"progress":{"stage":"packs","done_packs":1,"total_packs":2}}"#;
        assert_eq!(count(packs), (1, 2));
        let unknown = r#"{"progress":{"stage":"x","done_apples":1,"total_apples":2}}"#;
        assert_eq!(count(unknown), (0, 0));
        let result = serde_json::from_str::<Line<u32, Progress>>(r#"{"result":7}"#).unwrap();
        assert!(matches!(result, Line::Result(7)));
    }
}
