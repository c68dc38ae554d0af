//! Asking Keystone whom tokens belong to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, RequestBuilder, StatusCode, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};

use super::cache::{Answer, Now, TokenCache, Worth};
use super::credentials::Credentials;
use super::policy::Policy;
use super::token::Token;
use super::{AuthError, Identity};
use crate::catalogue::now_ms;
use crate::config::AuthConfig;
use crate::metrics::Metrics;

static AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
static SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// Longest answer in bytes; the one to a login has a catalogue in it.
const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;
/// Times that each URL is tried for one question.
const ROUNDS: usize = 2;
/// Tokens that are asked about at once. Two with one slot wait for each other, as do requests with one token.
const SLOTS: usize = 64;
/// How long Keystone is left alone after it did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// A service token is renewed so long before it expires, or after three quarters of a shorter life.
const RENEWAL: Duration = Duration::from_secs(60);
/// Role of services that may vouch for expired tokens.
const SERVICE_ROLE: &str = "service";

/// A Keystone, at one or several URLs.
pub struct Keystone {
    http: reqwest::Client,
    credentials: Credentials,
    policy: Arc<Policy>,
    metrics: Arc<Metrics>,
    cache: TokenCache,
    slots: [tokio::sync::Mutex<()>; SLOTS],
    /// Index of the URL that answered last.
    preferred: AtomicUsize,
    login: tokio::sync::Mutex<Option<Login>>,
    /// When it did not answer last.
    failed: Mutex<Option<Instant>>,
    public_url: Mutex<String>,
    /// Whether the catalogue knows better.
    public_url_is_fixed: bool,
}

/// The service's own token.
#[derive(Clone)]
struct Login {
    token: HeaderValue,
    renew_at: Instant,
}

/// What an answer is, once it is one.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Keystone {
    pub(super) fn new(
        config: &AuthConfig,
        policy: Arc<Policy>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let credentials = Credentials::new(config, |name| std::env::var(name).ok())?;
        let public_url = match &config.www_authenticate_uri {
            Some(url) => url.clone(),
            None => credentials.urls[0].to_string(),
        };
        if HeaderValue::from_str(&public_url).is_err() || public_url.contains('"') {
            bail!("www_authenticate_uri {public_url:?} cannot be in a header");
        }
        Ok(Self {
            http: http_client(config, &credentials.urls)?,
            credentials,
            policy,
            metrics,
            cache: TokenCache::new(
                Duration::from_secs(config.cache_s),
                Duration::from_secs(config.outage_grace_s),
            ),
            slots: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            preferred: AtomicUsize::new(0),
            login: tokio::sync::Mutex::new(None),
            failed: Mutex::new(None),
            public_url: Mutex::new(public_url),
            public_url_is_fixed: config.www_authenticate_uri.is_some(),
        })
    }

    /// Where clients find it.
    pub(super) fn public_url(&self) -> String {
        self.public_url.lock().clone()
    }

    /// Whom a user's token belongs to. A valid token of a service beside it lets an expired one count.
    pub(super) async fn identify(
        &self,
        token: &str,
        service: Option<&str>,
    ) -> Result<Arc<Identity>, AuthError> {
        let vouched = match service {
            None => false,
            Some(service) => match self.validate(service, false).await {
                Ok(identity) => identity.roles.contains(SERVICE_ROLE),
                Err(AuthError::Unauthenticated) => false,
                Err(error) => return Err(error),
            },
        };
        self.validate(token, vouched).await
    }

    /// Whom a token belongs to; `expired` tells whether it counts after its life.
    async fn validate(&self, token: &str, expired: bool) -> Result<Arc<Identity>, AuthError> {
        let key = TokenCache::key(token);
        if let Some((answer, Worth::Fresh)) = self.cache.get(&key, expired, now()) {
            self.metrics.token("cached");
            return Ok(answer.identity);
        }
        let _slot = self.slots[usize::from(key[0]) % SLOTS].lock().await;
        // Somebody may have asked while this waited.
        let kept = self.cache.get(&key, expired, now());
        if let Some((answer, Worth::Fresh)) = kept {
            self.metrics.token("cached");
            return Ok(answer.identity);
        }
        let asked = now();
        match self.ask(token, expired).await {
            Ok(Some(token)) if expired || asked.unix_ms < token.expires_at => {
                self.metrics.token("valid");
                let expires_at = token.expires_at;
                let policy = self.policy.clone();
                let identity = Identity::new(token.user, token.project, token.roles, policy);
                let identity = Arc::new(identity);
                let answer = Answer {
                    identity: identity.clone(),
                    expires_at,
                    asked: asked.monotonic,
                };
                self.cache.put(key, answer);
                Ok(identity)
            }
            Ok(_) => {
                self.metrics.token("invalid");
                self.cache.forget(&key);
                Err(AuthError::Unauthenticated)
            }
            Err(error) => match kept {
                Some((answer, Worth::Stale)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "no Keystone answers; what it said before still counts"
                    );
                    self.metrics.token("grace");
                    Ok(answer.identity)
                }
                _ => {
                    tracing::error!(error = format!("{error:#}"), "a token cannot be checked");
                    self.metrics.token("unavailable");
                    Err(AuthError::Unavailable)
                }
            },
        }
    }

    /// What Keystone says of a token now; none if it is not valid.
    async fn ask(&self, token: &str, expired: bool) -> anyhow::Result<Option<Token>> {
        if let Some(failed) = *self.failed.lock()
            && failed.elapsed() < PAUSE
        {
            bail!("Keystone did not answer a moment ago");
        }
        let result = self.ask_now(token, expired).await;
        *self.failed.lock() = result.is_err().then(Instant::now);
        result
    }

    async fn ask_now(&self, token: &str, expired: bool) -> anyhow::Result<Option<Token>> {
        let mut subject = HeaderValue::from_str(token).context("the token is no header")?;
        subject.set_sensitive(true);
        let mut refused = None;
        for _ in 0..2 {
            let own = self.own_token(refused.as_ref()).await?;
            let reply = self
                .request(|http, base| {
                    let mut url = base.clone();
                    url.set_path(&format!("{}/auth/tokens", base.path()));
                    url.set_query(Some(if expired {
                        "nocatalog&allow_expired=1"
                    } else {
                        "nocatalog"
                    }));
                    http.request(Method::GET, url)
                        .header(&AUTH_TOKEN, own.clone())
                        .header(&SUBJECT_TOKEN, subject.clone())
                })
                .await?;
            match reply.status {
                StatusCode::OK => {
                    return Ok(Some(
                        Token::parse(&reply.body).context("Keystone's answer")?,
                    ));
                }
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED => refused = Some(own),
                status => bail!(
                    "Keystone answered {status} to the question whom a token belongs to; does {} \
                     have the role service?",
                    self.credentials.username()
                ),
            }
        }
        bail!("Keystone does not accept the token that it has just given to this service")
    }

    /// The service's own token, not the one that was `refused`.
    async fn own_token(&self, refused: Option<&HeaderValue>) -> anyhow::Result<HeaderValue> {
        let mut login = self.login.lock().await;
        if let Some(login) = &*login
            && refused != Some(&login.token)
            && Instant::now() < login.renew_at
        {
            return Ok(login.token.clone());
        }
        let body = {
            let credentials = self.credentials.clone();
            tokio::task::spawn_blocking(move || credentials.login()).await??
        };
        let reply = self
            .request(|http, base| {
                let mut url = base.clone();
                url.set_path(&format!("{}/auth/tokens", base.path()));
                http.request(Method::POST, url).json(&body)
            })
            .await?;
        if reply.status != StatusCode::CREATED {
            bail!(
                "Keystone answered {} to the login of {}; are [auth] username, password and \
                 project_name right?",
                reply.status,
                self.credentials.username()
            );
        }
        let mut token = reply
            .headers
            .get(&SUBJECT_TOKEN)
            .context("Keystone's answer to a login has no token")?
            .clone();
        token.set_sensitive(true);
        let said = Token::parse(&reply.body).context("Keystone's answer to a login")?;
        self.learn_public_url(&said);
        let life = Duration::from_millis(said.expires_at.saturating_sub(now_ms()));
        *login = Some(Login {
            token: token.clone(),
            renew_at: Instant::now() + (life * 3 / 4).max(life.saturating_sub(RENEWAL)),
        });
        tracing::info!(
            user = self.credentials.username(),
            life_s = life.as_secs(),
            "logged in"
        );
        Ok(token)
    }

    fn learn_public_url(&self, said: &Token) {
        let region = self.credentials.region.as_deref();
        let url = region.and_then(|region| said.identity_endpoint(region));
        if let Some(url) = url.filter(|url| !self.public_url_is_fixed && Url::parse(url).is_ok()) {
            *self.public_url.lock() = url.to_owned();
        }
    }

    /// The first answer that is one: the URLs are tried in turn, beginning with the one that answered last.
    async fn request(
        &self,
        build: impl Fn(&reqwest::Client, &Url) -> RequestBuilder,
    ) -> anyhow::Result<Reply> {
        let urls = &self.credentials.urls;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut reason = anyhow::anyhow!("it was not tried");
        for n in 0..urls.len() * ROUNDS {
            let index = (first + n) % urls.len();
            match read(build(&self.http, &urls[index])).await {
                Ok(reply) if reply.status.is_server_error() || reply.status.is_redirection() => {
                    reason = anyhow::anyhow!("{} answered {}", urls[index], reply.status);
                }
                Ok(reply) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) => reason = error.context(format!("{}", urls[index])),
            }
            tracing::debug!(%reason, "Keystone does not answer");
        }
        Err(reason.context("Keystone does not answer"))
    }
}

fn now() -> Now {
    Now {
        monotonic: Instant::now(),
        unix_ms: now_ms(),
    }
}

fn http_client(config: &AuthConfig, urls: &[Url]) -> anyhow::Result<reqwest::Client> {
    // Without a process-wide provider the HTTP library panics; one that is there serves as well.
    if CryptoProvider::get_default().is_none() {
        ring::default_provider().install_default().ok();
    }
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("vitraild/", env!("CARGO_PKG_VERSION")))
        .timeout(Duration::from_secs(config.timeout_s))
        // A redirect or a proxy of the environment would carry tokens elsewhere.
        .redirect(redirect::Policy::none())
        .no_proxy();
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).with_context(|| format!("ca_file {}", path.display()))?;
        let authorities = Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("ca_file {}", path.display()))?;
        http = http.tls_certs_only(authorities);
    } else if urls.iter().all(|url| url.scheme() == "http") {
        // Spares a machine without them the system's authorities.
        http = http.tls_certs_only([]);
    }
    http.build().context("cannot prepare to talk to Keystone")
}

async fn read(request: RequestBuilder) -> anyhow::Result<Reply> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > ANSWER_LEN_MAX {
            bail!("the answer is longer than {ANSWER_LEN_MAX} bytes");
        }
        body.extend_from_slice(&piece);
    }
    Ok(Reply {
        status: response.status(),
        headers: response.headers().clone(),
        body,
    })
}
