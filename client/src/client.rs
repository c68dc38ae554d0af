//! The connection to a site: endpoints, token, and the sending of one request.

use std::fmt;
use std::time::Duration;

use bytes::BytesMut;
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};
use serde::de::DeserializeOwned;

use crate::admin::AdminApi;
use crate::error::{ApiError, Error, Result};
use crate::image::ImageApi;

/// Largest JSON answer that is read, in bytes. A page of 500 images with a hundred long properties
/// each fits.
pub const JSON_LEN_MAX: usize = 64 << 20;

/// Largest error body that is read, in bytes.
const ERROR_LEN_MAX: usize = 64 << 10;

/// Longest wait for a TCP connection and its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for a request whose answer is a document, from connecting to its last byte.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a site is and how to talk to it.
#[derive(Clone)]
pub struct Config {
    /// Image API, `http` or `https`; may have a path prefix. `/v2` is added to it.
    pub endpoint: Url,
    /// Admin API of the same site.
    pub admin_endpoint: Url,
    /// Sent to the Image API as `X-Auth-Token`; never to the admin API, which has none.
    pub token: Option<String>,
    /// How long a transfer may stand still before it counts as broken. Generous by default
    /// (120 s), since a site may first have to fetch the bytes over a thin link.
    pub idle_timeout: Duration,
}

impl Default for Config {
    /// The daemon's default addresses on this machine, without a token.
    fn default() -> Self {
        let loopback = |port: u16| {
            Url::parse(&format!("http://127.0.0.1:{port}")).expect("a literal URL is valid")
        };
        Self {
            endpoint: loopback(9292),
            admin_endpoint: loopback(9294),
            token: None,
            idle_timeout: Duration::from_secs(120),
        }
    }
}

/// A handle to one site. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    admin_endpoint: Url,
    token: Option<HeaderValue>,
    idle_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint.as_str())
            .field("admin_endpoint", &self.admin_endpoint.as_str())
            .finish_non_exhaustive()
    }
}

/// Which of a site's two HTTP servers a request is for.
#[derive(Clone, Copy)]
pub(crate) enum Api {
    Image,
    Admin,
}

impl Client {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Request`] if an endpoint is not `http` or `https`, or the token cannot be a header.
    pub fn new(config: Config) -> Result<Self> {
        let invalid = |reason: String| Error::Request { reason };
        for endpoint in [&config.endpoint, &config.admin_endpoint] {
            if !matches!(endpoint.scheme(), "http" | "https") {
                return Err(invalid(format!("{endpoint} is not an http or https URL")));
            }
        }
        let token = config.token.map(|token| {
            let mut value = HeaderValue::try_from(token)
                .map_err(|_| invalid("the token is not printable ASCII".to_owned()))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        // Without a process-wide provider the HTTP library panics; another one that the
        // application has chosen serves as well, so losing this race is no error.
        if CryptoProvider::get_default().is_none() {
            ring::default_provider().install_default().ok();
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("vitrail/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A connection for each request. Some servers (Glance under uwsgi) close a kept one
            // without saying so, and an upload that meets that cannot be repeated.
            .pool_max_idle_per_host(0)
            // Neither API redirects, and a redirect would carry the token to another host.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| Error::invalid(&error))?;
        Ok(Self {
            http,
            endpoint: config.endpoint,
            admin_endpoint: config.admin_endpoint,
            token: token.transpose()?,
            idle_timeout: config.idle_timeout,
        })
    }

    /// The Image API v2.
    pub fn images(&self) -> ImageApi<'_> {
        ImageApi::new(self)
    }

    /// The admin API.
    pub fn admin(&self) -> AdminApi<'_> {
        AdminApi::new(self)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// URL of `segments` (each is percent-encoded) below an endpoint.
    pub(crate) fn url(&self, api: Api, segments: &[&str]) -> Url {
        let mut url = match api {
            Api::Image => self.endpoint.clone(),
            Api::Admin => self.admin_endpoint.clone(),
        };
        url.path_segments_mut()
            .expect("http and https URLs have a path")
            .pop_if_empty()
            .extend(segments);
        url
    }

    /// Starts a request without any time limit.
    pub(crate) fn request(&self, api: Api, method: Method, segments: &[&str]) -> RequestBuilder {
        let request = self
            .http
            .request(method, self.url(api, segments))
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        match (api, &self.token) {
            (Api::Image, Some(token)) => request.header("X-Auth-Token", token.clone()),
            _ => request,
        }
    }

    /// Sends a request that is answered by a document and reads that.
    pub(crate) async fn document<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request.timeout(DOCUMENT_TIMEOUT)).await?;
        let url = response.url().to_string();
        let body = read_body(response, JSON_LEN_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Malformed {
            url,
            reason: error.to_string(),
        })
    }

    /// Sends a request whose answer has no body worth reading.
    pub(crate) async fn acknowledged(&self, request: RequestBuilder) -> Result<()> {
        self.send(request.timeout(DOCUMENT_TIMEOUT)).await.map(drop)
    }

    /// Sends a request and waits for the head of its answer, which is a success.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let (http, request) = request.build_split();
        let request = request.map_err(|error| Error::invalid(&error))?;
        let (method, url) = (request.method().clone(), request.url().clone());
        let response = http
            .execute(request)
            .await
            .map_err(|error| Error::connection(&url, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        // A body that cannot be read does not hide the status.
        let body = read_body(response, ERROR_LEN_MAX).await.unwrap_or_default();
        let request = format!("{method} {url}");
        Err(Box::new(ApiError::parse(request, status, &headers, &body)).into())
    }
}

/// Reads a whole body of at most `len_max` bytes.
async fn read_body(mut response: Response, len_max: usize) -> Result<BytesMut> {
    let mut body = BytesMut::new();
    loop {
        let piece = match response.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(body),
            Err(error) => return Err(Error::connection(response.url(), &error)),
        };
        if body.len() + piece.len() > len_max {
            return Err(Error::Malformed {
                url: response.url().to_string(),
                reason: format!("more than {len_max} bytes"),
            });
        }
        body.extend_from_slice(&piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<Client> {
        Client::new(Config {
            endpoint: Url::parse(endpoint).unwrap(),
            token: Some("secret".to_owned()),
            ..Config::default()
        })
    }

    #[test]
    fn a_path_prefix_is_kept_and_segments_are_encoded() {
        for endpoint in ["http://cloud/image", "http://cloud/image/"] {
            let url = client(endpoint)
                .unwrap()
                .url(Api::Image, &["v2", "images", "a/b?c"]);
            assert_eq!(url.as_str(), "http://cloud/image/v2/images/a%2Fb%3Fc");
        }
    }

    #[test]
    fn only_http_is_accepted() {
        assert!(matches!(client("ftp://cloud/"), Err(Error::Request { .. })));
    }

    #[test]
    fn the_token_goes_to_the_image_api_only() {
        let client = client("http://cloud/").unwrap();
        let token = |api| {
            let request = client.request(api, Method::GET, &["v"]).build().unwrap();
            request.headers().get("X-Auth-Token").cloned()
        };
        assert_eq!(token(Api::Image).unwrap(), "secret");
        assert!(token(Api::Admin).is_none());
        assert!(!format!("{client:?}").contains("secret"));
    }
}
