//! HTTP/1.1 by hand: tests send what no client library would.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer that takes longer fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a server.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    #[track_caller]
    pub(crate) fn open(server: SocketAddr) -> Self {
        Self::try_open(server).expect("a connection")
    }

    fn try_open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Ends what we send; answers can still be read.
    pub(crate) fn end_sending(&mut self) {
        self.stream
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
    }

    /// The next answer's status and headers.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// The next answer whole; an error if the connection ends within it.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.head()?;
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let len = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                let at = answer.body.len();
                answer.body.resize(at + len, 0);
                self.stream.read_exact(&mut answer.body[at..])?;
                self.stream.read_exact(&mut [0; 2])?;
                if len == 0 {
                    return Ok(answer);
                }
            }
        }
        let len = answer.header("content-length").map(str::parse);
        let len = len.unwrap_or(Ok(0)).map_err(io::Error::other)?;
        answer.body.resize(len, 0);
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    /// Reads body bytes after [`Connection::head`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The answer, if it has this status; otherwise the test fails and shows it.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A request to be sent on a connection of its own.
pub(crate) struct Request {
    server: SocketAddr,
    head: String,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(server: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            server,
            head: format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\n"),
            body: None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub(crate) fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.bytes(body.to_string())
    }

    /// Sends it whole and reads the answer.
    #[track_caller]
    pub(crate) fn send(self) -> Answer {
        self.try_send().expect("an answer")
    }

    pub(crate) fn try_send(self) -> io::Result<Answer> {
        let mut connection = Connection::try_open(self.server)?;
        let mut bytes = self.head.into_bytes();
        if let Some(body) = &self.body {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        connection.send(bytes)?;
        // A server may answer, and close, before it has read everything.
        let sent = connection.send(self.body.unwrap_or_default());
        match connection.answer() {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }
}
