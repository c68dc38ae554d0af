//! How much a project may have, and has. Images count for their owners.

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use vitrail_proto::record::Data;

use super::request::Call;
use super::route::expect_no_body;
use super::{Api, ApiError, ApiResult, Body, json};
use crate::catalogue::{Catalogue, Image, Status};
use crate::config::{QuotaConfig, QuotasConfig};

const MIB: u64 = 1024 * 1024;

/// What bytes are to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Its own.
    Data,
    /// Those that it may import.
    Staged,
}

/// What a project has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    images: u64,
    /// Bytes of images with data.
    bytes: u64,
    /// Bytes that wait to be imported.
    staged: u64,
    /// Images that are on their way to having some.
    uploading: u64,
}

impl Usage {
    /// Of a project, as this site knows it, without one image.
    fn of(catalogue: &Catalogue, project: &str, without: Option<&Image>) -> Self {
        let mut usage = Self::default();
        for image in catalogue.images() {
            let counts = image.owner.as_deref() == Some(project)
                && without.is_none_or(|without| without.id != image.id);
            if counts {
                usage.images += 1;
                let staged = image.staged.as_ref().map(|staged| &staged.data);
                let size = |data: Option<&Data>| data.map_or(0, |data| data.size);
                usage.bytes = usage.bytes.saturating_add(size(image.data.as_ref()));
                usage.staged = usage.staged.saturating_add(size(staged));
                usage.uploading += u64::from(matches!(
                    image.status,
                    Status::Saving | Status::Uploading | Status::Importing
                ));
            }
        }
        usage
    }
}

/// The quotas of one project, with what it has.
pub(super) struct Quota<'a> {
    limits: QuotaConfig,
    catalogue: &'a Catalogue,
    project: &'a str,
}

impl<'a> Quota<'a> {
    /// Of an image's owner; none if nothing is limited, or nobody owns it.
    pub(super) fn of(
        config: &QuotasConfig,
        catalogue: &'a Catalogue,
        owner: Option<&'a str>,
    ) -> Option<Self> {
        let project = owner?;
        let limits = config.of(project);
        let limited = limits != QuotaConfig::default();
        limited.then_some(Self {
            limits,
            catalogue,
            project,
        })
    }

    /// What an image counts for.
    pub(super) fn of_image(api: &'a Api, image: &'a Image) -> Option<Self> {
        Self::of(&api.config.quotas, &api.catalogue, image.owner.as_deref())
    }

    /// Refuses that an image gets more bytes than there is room for, if there is a quota.
    pub(super) fn check(api: &Api, image: &Image, bytes: Bytes, size: u64) -> ApiResult<()> {
        Quota::of_image(api, image).map_or(Ok(()), |quota| quota.check_size(image, bytes, size))
    }

    fn usage(&self, without: Option<&Image>) -> Usage {
        Usage::of(self.catalogue, self.project, without)
    }

    /// Refuses one more image than there may be.
    pub(super) fn check_new_image(&self) -> ApiResult<()> {
        match self.limits.image_count {
            Some(limit) if self.usage(None).images >= limit => {
                Err(exceeded("image_count_total", limit))
            }
            _ => Ok(()),
        }
    }

    /// Refuses that one more image begins to get its bytes.
    pub(super) fn check_new_upload(&self, image: &Image) -> ApiResult<()> {
        match self.limits.uploading_count {
            Some(limit) if self.usage(Some(image)).uploading >= limit => {
                Err(exceeded("image_count_uploading", limit))
            }
            _ => Ok(()),
        }
    }

    /// Refuses that an image gets more bytes than there is room for.
    pub(super) fn check_size(&self, image: &Image, bytes: Bytes, size: u64) -> ApiResult<()> {
        let (name, limit) = match bytes {
            Bytes::Data => ("image_size_total", self.limits.image_size),
            Bytes::Staged => ("image_stage_total", self.limits.staging_size),
        };
        let Some(limit) = limit else { return Ok(()) };
        let usage = self.usage(Some(image));
        let used = match bytes {
            Bytes::Data => usage.bytes,
            Bytes::Staged => usage.staged,
        };
        if used.saturating_add(size) > limit.0 {
            return Err(exceeded(name, limit.0));
        }
        Ok(())
    }
}

fn exceeded(name: &str, limit: u64) -> ApiError {
    ApiError::too_large(format!(
        "The project's quota does not allow this: {name} is limited to {limit}."
    ))
}

/// The caller's project's usage of what is limited.
pub(super) fn usage(call: &Call) -> ApiResult<Response<Body>> {
    expect_no_body(call)?;
    let project = call.identity.project.as_deref();
    let quota = Quota::of(&call.api.config.quotas, &call.api.catalogue, project);
    let mut document = Map::new();
    if let Some(quota) = quota {
        let usage = quota.usage(None);
        let mut tell = |name: &str, usage: u64, limit: Option<u64>| {
            if let Some(limit) = limit {
                document.insert(name.into(), json!({"usage": usage, "limit": limit}));
            }
        };
        let limits = quota.limits;
        let mib = |limit: Option<crate::config::ByteSize>| limit.map(|size| size.0 / MIB);
        tell("image_count_total", usage.images, limits.image_count);
        tell(
            "image_size_total",
            usage.bytes / MIB,
            mib(limits.image_size),
        );
        tell(
            "image_stage_total",
            usage.staged / MIB,
            mib(limits.staging_size),
        );
        tell(
            "image_count_uploading",
            usage.uploading,
            limits.uploading_count,
        );
    }
    let document = json!({"usage": Value::Object(document)});
    Ok(json(StatusCode::OK, &document))
}
