//! Reading bytes from a URL that somebody who may import has given.
//!
//! The URL must pass the filter of `[import]`, and so must every URL that a server redirects to. A host's name is resolved
//! once; unless `allow_private` says otherwise every address that it has must be of the public Internet, and the
//! connection goes to those addresses and no others. No proxy and no credentials are used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, LOCATION};
use reqwest::{Client, Response, Url, redirect};
use rustls::crypto::ring;

use crate::config::ImportConfig;
use crate::glance::intake::Source;
use crate::glance::{ApiError, ApiResult};

/// Longest URL in bytes.
const URL_LEN_MAX: usize = 4096;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long resolving a name, and connecting, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The URL, if it passes the filter.
pub(in crate::glance) fn filtered(text: &str, config: &ImportConfig) -> Option<Url> {
    if text.len() > URL_LEN_MAX {
        return None;
    }
    passes(Url::parse(text).ok()?, config)
}

fn passes(url: Url, config: &ImportConfig) -> Option<Url> {
    let lists = |allowed: &[String], denied: &[String], text: &str| {
        let is_in = |list: &[String]| list.iter().any(|item| item.eq_ignore_ascii_case(text));
        !is_in(denied) && (allowed.is_empty() || is_in(allowed))
    };
    let host = url.host_str()?;
    let port = url.port_or_known_default()?;
    let passes = ["http", "https"].contains(&url.scheme())
        && lists(
            &config.allowed_schemes,
            &config.denied_schemes,
            url.scheme(),
        )
        && lists(&config.allowed_hosts, &config.denied_hosts, host)
        && !config.denied_ports.contains(&port)
        && (config.allowed_ports.is_empty() || config.allowed_ports.contains(&port))
        && url.username().is_empty()
        && url.password().is_none()
        && (config.allow_private || literal(host).is_none_or(is_public));
    passes.then_some(url)
}

/// The address that a host is written as, if it is no name.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether an address is of the public Internet, by the IANA registries of special-purpose addresses. What carries an
/// IPv4 address within is as that address is.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let s = address.segments();
            let v4 = |high: u16, low: u16| {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                is_public_v4(Ipv4Addr::new(a, b, c, d))
            };
            match s {
                // IPv4-mapped, NAT64, 6to4.
                [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    v4(high, low)
                }
                [0x2002, high, low, ..] => v4(high, low),
                // Teredo and others of the IETF, documentation.
                [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
                // All that is routed lies in 2000::/3.
                _ => s[0] & 0xe000 == 0x2000 && address != Ipv6Addr::UNSPECIFIED,
            }
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

/// The bytes behind a URL.
pub(super) struct Download {
    response: Response,
    idle: Duration,
    received: u64,
}

impl Download {
    /// Asks for them. `idle` is how long the server may send nothing.
    pub(super) async fn open(
        mut url: Url,
        config: &ImportConfig,
        idle: Duration,
    ) -> Result<Self, String> {
        for _ in 0..=REDIRECTS_MAX {
            let client = client(&url, config, idle).await?;
            let request = client
                .get(url.clone())
                .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let response = request
                .send()
                .await
                .map_err(|error| format!("{} cannot be read: {}", site(&url), causes(&error)))?;
            let status = response.status();
            if status.is_redirection() {
                let target = response.headers().get(LOCATION);
                let target = target.and_then(|target| target.to_str().ok());
                let target = target.and_then(|target| url.join(target).ok());
                let target = target.filter(|target| target.as_str().len() <= URL_LEN_MAX);
                url = target
                    .and_then(|target| passes(target, config))
                    .ok_or_else(|| {
                        format!(
                            "{} redirects to a URL that does not pass filtering",
                            site(&url)
                        )
                    })?;
                continue;
            }
            if status != reqwest::StatusCode::OK {
                return Err(format!("{} answered {status}", site(&url)));
            }
            let encoding = response.headers().get(CONTENT_ENCODING);
            if encoding.is_some_and(|encoding| encoding != "identity") {
                return Err(format!("{} sent the data in an encoding", site(&url)));
            }
            return Ok(Self {
                response,
                idle,
                received: 0,
            });
        }
        Err(format!("more than {REDIRECTS_MAX} redirects"))
    }

    /// Bytes that the server announced.
    pub(super) fn len(&self) -> Option<u64> {
        self.response.content_length()
    }
}

impl Source for Download {
    async fn next(&mut self) -> ApiResult<Option<Bytes>> {
        let chunk = tokio::time::timeout(self.idle, self.response.chunk());
        let chunk = chunk.await.map_err(|_| {
            ApiError::bad_request(format!("no byte came for {} seconds", self.idle.as_secs()))
        })?;
        let chunk = chunk.map_err(|error| {
            ApiError::bad_request(format!(
                "the data was cut off after {} bytes: {}",
                self.received,
                causes(&error)
            ))
        })?;
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }
}

/// A client that connects to the addresses of the URL's host and nowhere else.
async fn client(url: &Url, config: &ImportConfig, idle: Duration) -> Result<Client, String> {
    // Without a process-wide provider the HTTP library panics; another that is installed will do as well.
    let _installed = ring::default_provider().install_default();
    let host = url.host_str().unwrap_or_default();
    let addresses = resolve(url, config).await?;
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(idle)
        .pool_max_idle_per_host(0)
        .resolve_to_addrs(host, &addresses)
        .build()
        .map_err(|error| causes(&error))
}

async fn resolve(url: &Url, config: &ImportConfig) -> Result<Vec<SocketAddr>, String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let unknown = || format!("the host of {} is not known", site(url));
    let addresses: Vec<SocketAddr> = match literal(host) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => {
            let found = tokio::net::lookup_host((host, port));
            let found = tokio::time::timeout(CONNECT_TIMEOUT, found).await;
            let found = found.map_err(|_| unknown())?.map_err(|_| unknown())?;
            found.take(ADDRESSES_MAX).collect()
        }
    };
    if addresses.is_empty() {
        return Err(unknown());
    }
    if !config.allow_private && !addresses.iter().all(|address| is_public(address.ip())) {
        return Err(format!("{} is not of the public Internet", site(url)));
    }
    Ok(addresses)
}

/// The URL as messages show it, without what may be secret in it.
fn site(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{host}:{port}", url.scheme())
}

/// An error with its causes, without the URL.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    if texts.is_empty() {
        texts.push("the request failed".into());
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_pass_and_urls_that_do_not() {
        let config = ImportConfig::default();
        for good in [
            "http://images.example/disk.raw",
            "https://images.example:443/disk.raw?x=y",
            "http://8.8.8.8/disk",
            "http://[2606:4700::1111]/disk",
        ] {
            assert!(filtered(good, &config).is_some(), "{good}");
        }
        for bad in [
            "",
            "disk.raw",
            "file:///etc/passwd",
            "ftp://images.example/disk",
            "gopher://images.example:80/",
            "http://images.example:22/",
            "http://user:secret@images.example/",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://100.64.0.1/",
            "http://0.0.0.0/",
        ] {
            assert!(filtered(bad, &config).is_none(), "{bad}");
        }
        let long = format!("http://images.example/{}", "x".repeat(URL_LEN_MAX));
        assert!(filtered(&long, &config).is_none());
    }

    #[test]
    fn lists_of_the_operator() {
        let config = ImportConfig {
            allowed_schemes: vec!["https".into()],
            allowed_hosts: vec!["mirror.example".into(), "10.0.0.5".into()],
            denied_hosts: vec!["bad.example".into()],
            allowed_ports: Vec::new(),
            denied_ports: vec![22],
            allow_private: true,
            ..ImportConfig::default()
        };
        let passes = |url: &str| filtered(url, &config).is_some();
        assert!(passes("https://mirror.example:8443/x"));
        assert!(passes("https://MIRROR.example/x"));
        assert!(passes("https://10.0.0.5/x"));
        assert!(!passes("http://mirror.example/x"));
        assert!(!passes("https://other.example/x"));
        assert!(!passes("https://mirror.example:22/x"));
        let open = ImportConfig {
            allowed_hosts: Vec::new(),
            ..config
        };
        assert!(filtered("https://other.example/x", &open).is_some());
        assert!(filtered("https://bad.example/x", &open).is_none());
    }

    #[tokio::test]
    async fn names_of_private_addresses_are_not_connected_to() {
        let url = Url::parse("http://localhost/x").unwrap();
        let config = ImportConfig::default();
        let refused = resolve(&url, &config).await.unwrap_err();
        assert!(refused.contains("public"), "{refused}");
    }
}
