//! An HTTP server that misbehaves on cue: it answers the n-th request with the n-th reply.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use vitrail::{Client, Config, Url};

/// Longest request head that is read.
const HEAD_LEN_MAX: usize = 16 << 10;

/// What to do with one request. The connection ends after each.
pub(crate) enum Reply {
    /// Read the whole request, then answer.
    Answer(Vec<u8>),
    /// Answer without reading the body of the request, then read what still comes.
    EarlyAnswer(Vec<u8>),
    /// Read this many bytes of the request's body, then hang up without an answer.
    HangUp(usize),
    /// Read nothing more and say nothing.
    Silence,
}

pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on loopback. A request beyond the last reply finds the port closed.
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heads = requests.clone();
        let task = tokio::spawn(async move {
            let mut silent = Vec::new();
            for reply in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = read_head(&mut stream).await;
                let body_len = content_length(&head);
                heads.lock().unwrap().push(head);
                match reply {
                    Reply::Silence => silent.push(stream),
                    reply => play(reply, stream, body_len).await,
                }
            }
            drop(listener);
            // Silent connections stay open until the test ends.
            pending::<()>().await;
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Heads of the requests so far: request line and lower-case header lines.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The request lines so far, without the HTTP version.
    pub(crate) fn request_lines(&self) -> Vec<String> {
        let line = |head: String| head.split(" http/").next().unwrap().to_owned();
        self.requests().into_iter().map(line).collect()
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(Config::default().idle_timeout)
    }

    /// A client that waits only briefly when nothing moves.
    pub(crate) fn impatient_client(&self) -> Client {
        self.client_with(Duration::from_millis(200))
    }

    fn client_with(&self, idle_timeout: Duration) -> Client {
        let (endpoint, admin_endpoint) = (self.url(), self.url());
        Client::new(Config {
            endpoint,
            admin_endpoint,
            token: None,
            idle_timeout,
        })
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD_LEN_MAX, "a head without an end");
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

fn content_length(head: &str) -> usize {
    let value = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    value.map_or(0, |value| value.parse().unwrap())
}

async fn play(reply: Reply, mut stream: TcpStream, body_len: usize) {
    match reply {
        Reply::Answer(answer) => {
            stream.read_exact(&mut vec![0; body_len]).await.unwrap();
            // The client may have seen enough before the end.
            stream.write_all(&answer).await.ok();
        }
        Reply::EarlyAnswer(answer) => {
            stream.write_all(&answer).await.unwrap();
            let mut rest = vec![0; 1 << 16];
            while stream.read(&mut rest).await.is_ok_and(|len| len > 0) {}
        }
        Reply::HangUp(len) => {
            stream.read_exact(&mut vec![0; len]).await.unwrap();
        }
        Reply::Silence => unreachable!("the stream is kept open by the caller"),
    }
}

/// An answer with these header lines and a stated length, which the body may fall short of.
pub(crate) fn answer(status: u16, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// A whole document.
pub(crate) fn document(status: u16, document: &serde_json::Value) -> Reply {
    let body = document.to_string().into_bytes();
    Reply::Answer(answer(
        status,
        "Content-Type: application/json\r\n",
        body.len(),
        &body,
    ))
}

/// No content.
pub(crate) fn status(status: u16) -> Reply {
    Reply::Answer(answer(status, "", 0, b""))
}
