//! A Keystone to test with, in this process: it does what the test's script says.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use vitraild::config::{AuthMode, Config, Secret};

/// Longer than any test.
const FUTURE: &str = "2999-01-01T00:00:00.000000Z";
/// Expired long ago.
const PAST: &str = "2001-01-01T00:00:00.000000Z";

/// What its catalogue says of region `far`.
pub(crate) const PUBLIC_URL: &str = "https://keystone.example/v3";

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Connections are closed unread.
    Closed,
    /// Connections are taken and nothing is said.
    Silent,
    /// Every answer is this status with this body.
    Answer(u16, &'static str),
    /// Every answer's body has this many bytes.
    Long(usize),
    /// Logins are refused.
    NoLogin,
}

/// What it knows and has seen.
#[derive(Default)]
pub(crate) struct Script {
    tokens: HashMap<String, Value>,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) logins: usize,
    /// The service's tokens that are valid.
    own: Vec<String>,
    /// Questions whom a token belongs to.
    pub(crate) questions: usize,
}

impl Script {
    /// The service's own tokens are not valid any more.
    pub(crate) fn forget_logins(&mut self) {
        self.own.clear();
    }

    pub(crate) fn revoke(&mut self, token: &str) {
        self.tokens.remove(token);
    }
}

/// A listening Keystone, gone when it is dropped.
pub(crate) struct Keystone {
    scheme: &'static str,
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stop: Arc<AtomicBool>,
}

impl Keystone {
    /// It knows the tokens `admin`, `demo` and `reader` of project `demo`, `alt` and `alt-reader` of project `alt`, `nova`, a
    /// service, and `guest`, who has no role. A token's project is `p-` and the project's name.
    pub(crate) fn start() -> Self {
        Self::start_over(|stream| Box::new(stream))
    }

    /// The same over TLS, with this certificate.
    pub(crate) fn start_with_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        let mut keystone = Self::start_over(move |stream| {
            let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(connection, stream))
        });
        keystone.scheme = "https";
        keystone
    }

    fn start_over(dress: impl Fn(TcpStream) -> Box<dyn Stream> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let keystone = Self {
            scheme: "http",
            address: listener.local_addr().unwrap(),
            script: Arc::default(),
            stop: Arc::default(),
        };
        for (token, project, roles) in [
            ("admin", "admin", &["admin", "member", "reader"][..]),
            ("demo", "demo", &["member", "reader"]),
            ("reader", "demo", &["reader"]),
            ("alt", "alt", &["member", "reader"]),
            ("alt-reader", "alt", &["reader"]),
            ("nova", "service", &["service"]),
            ("guest", "alt", &["guest"]),
        ] {
            keystone.add(token, Some(project), roles);
        }
        let (script, stop) = (keystone.script.clone(), keystone.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, stream) = (script.clone(), dress(stream));
                // A client that goes away ends its own answer only.
                std::thread::spawn(move || serve(stream, &script).ok());
            }
        });
        keystone
    }

    /// Makes `config` use it, without a cache.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.auth.mode = AuthMode::Keystone;
        config.auth.auth_url = vec![self.url()];
        config.auth.username = Some("vitrail".into());
        config.auth.password = Some(Secret("secret".into()));
        config.auth.project_name = Some("service".into());
        config.auth.cache_s = 0;
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/v3", self.scheme, self.address)
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Makes a token valid; without a project it is scoped to nothing.
    pub(crate) fn add(&self, token: &str, project: Option<&str>, roles: &[&str]) {
        let roles: Vec<Value> = roles.iter().map(|role| json!({"name": role})).collect();
        let mut body = json!({
            "expires_at": FUTURE,
            "user": {"id": format!("u-{token}")},
            "roles": roles,
        });
        if let Some(project) = project {
            body["project"] = json!({"id": format!("p-{project}")});
        }
        self.script().tokens.insert(token.into(), body);
    }

    /// Lets a token expire.
    pub(crate) fn expire(&self, token: &str) {
        self.script().tokens.get_mut(token).unwrap()["expires_at"] = PAST.into();
    }
}

impl Drop for Keystone {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _woken = TcpStream::connect(self.address);
    }
}

/// A connection, encrypted or not.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

fn serve(stream: Box<dyn Stream>, script: &Mutex<Script>) -> io::Result<()> {
    if script.lock().unwrap().trouble == Some(Trouble::Closed) {
        return Ok(());
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let request = line.trim().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let len = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let trouble = script.lock().unwrap().trouble;
    if trouble == Some(Trouble::Silent) {
        // Until the client has had enough.
        reader.read_to_end(&mut body)?;
        return Ok(());
    }
    let answer = match trouble {
        Some(Trouble::Answer(status, body)) => Reply::new(status, body.to_owned()),
        Some(Trouble::Long(len)) => Reply::new(200, " ".repeat(len)),
        _ => reply(&mut script.lock().unwrap(), &request, &headers),
    };
    let token = answer
        .token
        .map(|token| format!("X-Subject-Token: {token}\r\n"));
    let head = format!(
        "HTTP/1.1 {} Said\r\nContent-Length: {}\r\nLocation: http://127.0.0.1:1/\r\n\
         Connection: close\r\n{}\r\n",
        answer.status,
        answer.body.len(),
        token.unwrap_or_default(),
    );
    reader.get_mut().write_all(head.as_bytes())?;
    reader.get_mut().write_all(answer.body.as_bytes())?;
    reader.get_mut().flush()
}

struct Reply {
    status: u16,
    body: String,
    token: Option<String>,
}

impl Reply {
    fn new(status: u16, body: String) -> Self {
        Self {
            status,
            body,
            token: None,
        }
    }
}

fn reply(script: &mut Script, request: &str, headers: &HashMap<String, String>) -> Reply {
    let refused = |status| Reply::new(status, r#"{"error": {}}"#.into());
    if request.starts_with("POST /v3/auth/tokens ") {
        if script.trouble == Some(Trouble::NoLogin) {
            return refused(401);
        }
        script.logins += 1;
        let token = format!("own-{}", script.logins);
        script.own.push(token.clone());
        let endpoint = json!({"interface": "public", "region": "far", "url": PUBLIC_URL});
        let catalog = json!([{"type": "identity", "endpoints": [endpoint]}]);
        let body = json!({"token": {
            "expires_at": FUTURE, "roles": [{"name": "service"}], "catalog": catalog,
        }});
        return Reply {
            token: Some(token),
            ..Reply::new(201, body.to_string())
        };
    }
    if !request.starts_with("GET /v3/auth/tokens?nocatalog") {
        return refused(404);
    }
    if !headers
        .get("x-auth-token")
        .is_some_and(|own| script.own.contains(own))
    {
        return refused(401);
    }
    script.questions += 1;
    let Some(token) = headers
        .get("x-subject-token")
        .and_then(|t| script.tokens.get(t))
    else {
        return refused(404);
    };
    if token["expires_at"] == PAST && !request.contains("allow_expired=1") {
        return refused(404);
    }
    Reply::new(200, json!({"token": token}).to_string())
}
