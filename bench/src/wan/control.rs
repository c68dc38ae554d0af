//! A running network obeys and answers through a Unix socket, one line each way.
//!
//! A request is `counters`, or an event as JSON: `{"kind":"site-down","site":"tokyo"}`. The answer
//! is one line of JSON: the counters, `"ok"`, or `{"error": "..."}`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::emulator::Emulator;

/// The longest request.
const REQUEST_MAX: u64 = 64 << 10;

/// How long one client may take for one request: nobody else is served meanwhile.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(500);

/// The server's end.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
}

impl Control {
    /// Makes the socket.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Serves the clients that are there now.
    pub(super) fn serve(&self, emulator: &Emulator) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Err(error) = serve_one(stream, emulator) {
                eprintln!("wan control: {error}");
            }
        }
    }
}

fn serve_one(mut stream: UnixStream, emulator: &Emulator) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = String::new();
    BufReader::new((&stream).take(REQUEST_MAX)).read_line(&mut request)?;
    let answer = answer(request.trim(), emulator).unwrap_or_else(|error| json!({"error": error}));
    writeln!(stream, "{answer}")
}

fn answer(request: &str, emulator: &Emulator) -> Result<serde_json::Value, String> {
    if request == "counters" {
        let counters = emulator.counters().map_err(|error| error.to_string())?;
        return serde_json::to_value(counters).map_err(|error| error.to_string());
    }
    let event = serde_json::from_str(request).map_err(|error| format!("not an event: {error}"))?;
    emulator.apply(event).map_err(|error| error.to_string())?;
    Ok(json!("ok"))
}

/// Asks a running network; the answer without its line end.
pub fn ask(path: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
