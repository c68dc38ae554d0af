//! A client of the Image API, version 2, that does the same to Vitrail and to Glance.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::Agent;

use crate::process::{Cost, Process, run};

/// Media type of a change to an image record.
const JSON_PATCH: &str = "application/openstack-images-v2.1-json-patch";

/// Longest answer read as JSON. A list of 1,000 images is about 1 MiB.
const JSON_LEN_MAX: u64 = 16 << 20;

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
