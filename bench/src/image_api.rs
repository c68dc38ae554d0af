//! A client of the Image API, version 2, that does the same to Vitrail and to Glance.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::http::request::Builder;
use ureq::{Agent, AsSendBody};

use crate::process::{Cost, Process, run};

/// Media type of a change to an image record.
const JSON_PATCH: &str = "application/openstack-images-v2.1-json-patch";

/// Longest answer read as JSON. A list of 1,000 images is about 1 MiB.
const JSON_LEN_MAX: u64 = 16 << 20;

/// A request, whoever makes it.
#[derive(Debug)]
pub struct Request {
    method: &'static str,
    /// Begins with a slash.
    pub path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// One without a body.
    pub fn bare(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            // What usually has a body says that it has none.
            body: matches!(method, "PUT" | "POST" | "PATCH").then(Vec::new),
        }
    }

    /// `GET`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::bare("GET", path)
    }

    /// `POST` of a document.
    pub fn post(path: impl Into<String>, document: &Value) -> Self {
        Self::json("POST", path, document)
    }

    /// One with a document.
    pub fn json(method: &'static str, path: impl Into<String>, document: &Value) -> Self {
        let body = document.to_string().into_bytes();
        Self::with_body(method, path, "application/json", body)
    }

    /// `PATCH` with operations.
    pub fn patch(path: impl Into<String>, operations: &Value) -> Self {
        let body = operations.to_string().into_bytes();
        Self::with_body("PATCH", path, JSON_PATCH, body)
    }

    /// One with the bytes of an image.
    pub fn data(method: &'static str, path: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self::with_body(method, path, "application/octet-stream", bytes)
    }

    /// The same with one more header.
    pub fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn with_body(
        method: &'static str,
        path: impl Into<String>,
        media_type: &str,
        body: Vec<u8>,
    ) -> Self {
        let mut request = Self::bare(method, path).with_header("Content-Type", media_type.into());
        request.body = Some(body);
        request
    }
}

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// Its document.
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// For an error message.
    pub fn describe(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        format!("{} {text}", self.status)
    }
}

/// One server of the Image API.
#[derive(Clone, Debug)]
pub struct ImageApi {
    url: String,
    agent: Agent,
}

impl ImageApi {
    /// The API at `url`, without `/v2`. `keep_alive` says whether the server keeps connections open.
    pub fn new(url: String, keep_alive: bool) -> Self {
        Self {
            url,
            agent: agent(keep_alive),
        }
    }

    /// Base URL, without `/v2`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the bytes of image `id` are.
    pub fn file_url(&self, id: &str) -> String {
        format!("{}/v2/images/{id}/file", self.url)
    }

    /// `GET` of a path that starts with `/v2`.
    pub fn get(&self, path: &str) -> Result<Value> {
        let response = self.agent.get(format!("{}{path}", self.url)).call();
        json_body(response).with_context(|| format!("GET {path}"))
    }

    /// Makes a request with a token, which may be empty for none; errors are answers like others.
    pub fn ask(&self, request: &Request, token: &str) -> Result<Answer> {
        let mut builder = Builder::new()
            .method(request.method)
            .uri(format!("{}{}", self.url, request.path));
        if !token.is_empty() {
            builder = builder.header("X-Auth-Token", token);
        }
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let response = match &request.body {
            Some(body) => self.run(builder.body(body.as_slice())?),
            None => self.run(builder.body(())?),
        };
        let response = response.with_context(|| format!("{} {}", request.method, request.path))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let reader = response.into_body().into_reader();
        reader.take(JSON_LEN_MAX).read_to_end(&mut body)?;
        Ok(Answer { status, body })
    }

    fn run(
        &self,
        request: ureq::http::Request<impl AsSendBody>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        self.agent.run(request.http_status_as_error(false).build())
    }

    /// Makes an image record; the answer is the image document.
    pub fn create(&self, document: &Value) -> Result<Value> {
        let response = self
            .agent
            .post(format!("{}/v2/images", self.url))
            .content_type("application/json")
            .send(document.to_string());
        json_body(response).context("create an image")
    }

    /// Applies a JSON patch to an image record; the answer is the image document.
    pub fn patch(&self, id: &str, patch: &Value) -> Result<Value> {
        let response = self
            .agent
            .patch(format!("{}/v2/images/{id}", self.url))
            .content_type(JSON_PATCH)
            .send(patch.to_string());
        json_body(response).with_context(|| format!("change image {id}"))
    }

    /// Makes a record for the image file, uploads it, and returns the id.
    pub fn push(&self, image: &Path) -> Result<(String, Cost)> {
        let format = match image.extension().and_then(|extension| extension.to_str()) {
            Some(format @ ("raw" | "qcow2")) => format,
            _ => bail!("{}: neither .raw nor .qcow2", image.display()),
        };
        let name = image.file_stem().map(|stem| stem.to_string_lossy());
        let record = self.create(&json!({
            "name": name, "disk_format": format, "container_format": "bare",
        }))?;
        let id = record["id"]
            .as_str()
            .context("the new image has no id")?
            .to_owned();
        let (_, cost) = run(
            "curl upload",
            Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--upload-file"])
                .arg(image)
                .args(["--header", "Content-Type: application/octet-stream"])
                // Without the wait for "100 Continue" that one of the servers never sends.
                .args(["--header", "Expect:"])
                .arg(self.file_url(&id)),
        )?;
        let record = self.get(&format!("/v2/images/{id}"))?;
        ensure!(
            record["status"] == "active",
            "uploaded {}, got {record}",
            image.display()
        );
        Ok((id, cost))
    }

    /// [`Self::push`], with the CPU time and peak memory of `server` instead of the client's.
    pub fn ingest(&self, server: &Process, image: &Path) -> Result<Cost> {
        server.reset_peak_rss()?;
        let cpu_before = server.cpu()?;
        let (_, client) = self.push(image)?;
        Ok(Cost {
            wall: client.wall,
            cpu: server.cpu()?.saturating_sub(cpu_before),
            peak_rss: server.peak_rss(),
        })
    }
}

/// A client for measurements: no proxy, and connections kept only where the server keeps them.
pub fn agent(keep_alive: bool) -> Agent {
    let idle_max = if keep_alive { 100 } else { 0 };
    Agent::config_builder()
        .proxy(None)
        .max_idle_connections(idle_max)
        .max_idle_connections_per_host(idle_max)
        .build()
        .new_agent()
}

fn json_body(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let mut text = Vec::new();
    response?
        .into_body()
        .into_reader()
        .take(JSON_LEN_MAX)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
