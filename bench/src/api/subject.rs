//! One server of the Image API under measurement, and who uses it.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::Spent;
use crate::image_api::{ImageApi, Request};
use crate::peers::keystone::Keystone;
use crate::process::Process;

/// Images that everybody sees, of the first that are made.
const PUBLIC: usize = 20;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A member of the project that the images belong to.
    Member,
    /// The same, each time with a token that the server never saw.
    Newcomer,
    /// A member of another project.
    Other,
    /// The administrator.
    Admin,
    /// Somebody without a token.
    Nobody,
}

/// Tokens of everybody, and the project that images are shared with.
pub(super) struct Users<'a> {
    keystone: &'a Keystone,
    member: String,
    other: String,
    admin: String,
    /// Id of the other project.
    pub(super) other_project: String,
}

impl<'a> Users<'a> {
    pub(super) fn of(keystone: &'a Keystone) -> Result<Self> {
        Ok(Self {
            keystone,
            member: keystone.token("member")?,
            other: keystone.token("other")?,
            admin: keystone.token("admin")?,
            other_project: keystone.project("other")?.to_owned(),
        })
    }

    pub(super) fn token(&self, who: Who) -> &str {
        match who {
            Who::Member | Who::Newcomer => &self.member,
            Who::Other => &self.other,
            Who::Admin => &self.admin,
            Who::Nobody => "",
        }
    }

    /// A token that no server has seen.
    pub(super) fn fresh(&self) -> Result<String> {
        self.keystone.token("member")
    }
}

/// A server, and the images that were made there.
pub(super) struct Subject<'a> {
    pub(super) name: &'static str,
    pub(super) api: ImageApi,
    server: &'a Process,
    pub(super) database: Option<&'a Process>,
    images: Vec<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(
        name: &'static str,
        api: ImageApi,
        server: &'a Process,
        database: Option<&'a Process>,
    ) -> Self {
        Self {
            name,
            api,
            server,
            database,
            images: Vec::new(),
        }
    }

    /// Ids of its images, in the order in which they were made.
    pub(super) fn images(&self) -> &[String] {
        &self.images
    }

    pub(super) fn made(&mut self, id: String) {
        self.images.push(id);
    }

    /// What it has used so far.
    pub(super) fn cpu(&self) -> Result<Spent> {
        Ok(Spent {
            server: self.server.cpu()?,
            database: self.database.map_or(Ok(Duration::ZERO), Process::cpu)?,
        })
    }

    /// The administrator makes some images public, as those are that a cloud offers.
    pub(super) fn publish(&self, users: &Users<'_>) -> Result<()> {
        let change = json!([{"op": "replace", "path": "/visibility", "value": "public"}]);
        for id in self.images.iter().take(PUBLIC) {
            let request = Request::patch(format!("/v2/images/{id}"), &change);
            let answer = self.api.ask(&request, users.token(Who::Admin))?;
            if answer.status != 200 {
                bail!("publish {id} on {}: {}", self.name, answer.describe());
            }
        }
        Ok(())
    }
}
