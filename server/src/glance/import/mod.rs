//! `POST /v2/images/{id}/import`: bytes brought to an image, or an image brought to stores, in the background.
//!
//! The image's record carries everything that clients follow: the task, the stores that are still to come and those that
//! failed. An import holds the image by `import_task`; [`work`] is what happens then.

pub(super) mod web;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::{Response, StatusCode};
use reqwest::Url;
use serde_json::{Value, json};
use uuid::Uuid;

use super::quota::{self, Quota};
use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, blocking, empty, json as json_answer, stores};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, Status, Task, TaskKind, TaskStatus, field, now_ms};
use crate::config::{ImportConfig, ImportMethod};
use work::Work;

/// An import that has held an image for so long does so no more: its site is gone for good.
const HELD_MAX_MS: u64 = 24 * 3600 * 1000;

/// How an import gets at the bytes.
enum Method {
    /// They were staged.
    GlanceDirect,
    /// They are read from a URL, and must have this hash, if one is given.
    WebDownload(Url, Option<Vec<u8>>),
    /// The image has them; more sites shall.
    CopyImage,
}

impl Method {
    fn kind(&self) -> ImportMethod {
        match self {
            Self::GlanceDirect => ImportMethod::GlanceDirect,
            Self::WebDownload(..) => ImportMethod::WebDownload,
            Self::CopyImage => ImportMethod::CopyImage,
        }
    }
}

/// Whether an image is as a method needs it.
fn check(method: ImportMethod, image: &Image) -> ApiResult<()> {
    let conflict = |why: &str| Err(ApiError::conflict(why));
    match (method, image.status) {
        (ImportMethod::CopyImage, Status::Active) => return Ok(()),
        (ImportMethod::CopyImage, _) => {
            return conflict("Only images with status active can be targeted for copying");
        }
        (_, Status::Active) => {
            return conflict("Image with status active cannot be target for import");
        }
        (ImportMethod::WebDownload, Status::Queued) => {}
        (ImportMethod::WebDownload, _) => {
            return conflict("Image needs to be in 'queued' state to use 'web-download' method");
        }
        (ImportMethod::GlanceDirect, Status::Uploading) if image.staged.is_some() => {}
        (ImportMethod::GlanceDirect, _) => {
            return conflict("Image needs to be staged before 'glance-direct' method can be used");
        }
    }
    if image.container_format.is_none() {
        return conflict("'container_format' needs to be set before import");
    }
    if image.disk_format.is_none() {
        return conflict("'disk_format' needs to be set before import");
    }
    Ok(())
}

/// Names of the methods that this site offers.
pub(super) fn methods(api: &Api) -> Vec<&'static str> {
    let offered = ImportMethod::ALL.into_iter();
    offered
        .filter(|method| api.config.import.offers(*method))
        .map(ImportMethod::as_str)
        .collect()
}

/// `GET /v2/info/import`
pub(super) fn info(call: &Call) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    let methods = methods(&call.api);
    let value = json!({"import-methods": {"type": "array", "value": methods}});
    Ok(json_answer(StatusCode::OK, &value))
}

/// What a client asks for.
struct Wanted {
    method: ImportMethod,
    /// For a download.
    uri: Option<String>,
    /// Where the image is to be; none says what `all` says.
    stores: Option<BTreeSet<String>>,
    all: bool,
    /// What the task shows of it.
    shown: Value,
}

impl Wanted {
    fn parse(body: &Value, config: &ImportConfig, header: Option<String>) -> ApiResult<Self> {
        let bad = |why: String| ApiError::bad_request(why);
        let method = body
            .get("method")
            .ok_or_else(|| bad("Import request requires a 'method' field.".into()))?;
        let name = method
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| bad("Import request requires a 'name' field.".into()))?;
        let offered = |method: &ImportMethod| method.as_str() == name && config.offers(*method);
        let Some(kind) = ImportMethod::ALL.into_iter().find(offered) else {
            let shown: String = name.chars().take(80).collect();
            return Err(bad(format!("Unknown import method name '{shown}'.")));
        };
        let flag = |name: &str, default: bool| match body.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(format!("'{name}' must be boolean value only"))),
        };
        let all = flag("all_stores", false)?;
        // Checked, and shown in the task: what arrived somewhere stays there either way.
        let must_succeed = flag("all_stores_must_succeed", true)?;
        let listed = body.get("stores").map(parse_stores).transpose()?;
        if all && (listed.is_some() || header.is_some()) {
            return Err(bad(
                "All_stores parameter can't be used with 'stores' or the x-image-meta-store header"
                    .into(),
            ));
        }
        let uri = method.get("uri").and_then(Value::as_str).map(str::to_owned);
        let mut shown = json!({"method": {"name": name}});
        if let (ImportMethod::WebDownload, Some(uri)) = (kind, &uri) {
            shown["method"]["uri"] = uri.as_str().into();
        }
        if let Some(stores) = &listed {
            shown["stores"] = json!(stores);
        }
        for (key, value) in [
            ("all_stores", all),
            ("all_stores_must_succeed", must_succeed),
        ] {
            if body.get(key).is_some() {
                shown[key] = value.into();
            }
        }
        Ok(Self {
            method: kind,
            uri,
            stores: listed.or(header.map(|store| BTreeSet::from([store]))),
            all,
            shown,
        })
    }

    /// The stores that the image is to be brought to and is not in yet.
    fn targets(&self, api: &Api, image: &Image) -> ApiResult<BTreeSet<String>> {
        let known = stores::all(api);
        let holding = stores::holding(api, image);
        if self.all {
            return Ok(known.into_iter().filter(|s| !holding.contains(s)).collect());
        }
        let own = || BTreeSet::from([api.catalogue.site().to_owned()]);
        let targets = self.stores.clone().unwrap_or_else(own);
        for store in &targets {
            if !known.contains(store) {
                return Err(ApiError::conflict(stores::unknown(store)));
            }
            if holding.contains(store) {
                return Err(ApiError::bad_request(format!(
                    "Image is already present at store '{store}'"
                )));
            }
        }
        Ok(targets)
    }

    /// The method, if the URL that it may need passes the filter.
    fn method(&self, config: &ImportConfig) -> ApiResult<Method> {
        let uri = self.uri.as_deref();
        Ok(match self.method {
            ImportMethod::GlanceDirect => Method::GlanceDirect,
            ImportMethod::CopyImage => Method::CopyImage,
            ImportMethod::WebDownload => {
                let url = uri.and_then(|uri| web::filtered(uri, config));
                let url = url.ok_or_else(|| {
                    let shown: String = uri.unwrap_or("None").chars().take(200).collect();
                    ApiError::bad_request(format!(
                        "URI for web-download does not pass filtering: {shown}"
                    ))
                })?;
                Method::WebDownload(url, None)
            }
        })
    }
}

fn parse_stores(list: &Value) -> ApiResult<BTreeSet<String>> {
    let names: Option<BTreeSet<String>> = list.as_array().and_then(|list| {
        let names = list.iter().map(|name| name.as_str().map(str::to_owned));
        names.collect()
    });
    names.filter(|names| !names.is_empty()).ok_or_else(|| {
        ApiError::bad_request("'stores' must be a list of names of stores, one at least.")
    })
}

/// Begins an import.
pub(super) async fn import(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let found = call.image(id);
    let (api, who) = (call.api.clone(), call.identity.clone());
    let header = stores::in_header(&call);
    let asker = Asker::of(&call);
    let body = call.json().await?;
    let wanted = Wanted::parse(&body, &api.config.import, header)?;
    let image = found?;
    check(wanted.method, &image)?;
    let action = match wanted.method {
        ImportMethod::GlanceDirect | ImportMethod::WebDownload => Action::ModifyImage,
        ImportMethod::CopyImage => Action::CopyImage,
    };
    if !policy::may(&who, action, &image) {
        return Err(ApiError::denied(action));
    }
    let targets = wanted.targets(&api, &image)?;
    let method = wanted.method(&api.config.import)?;
    let task = asker.task(TaskKind::ApiImageImport, image.id, &targets, &wanted.shown);
    start(api, image.id, method, task, targets).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// Begins to take over the bytes behind a URL, which must have this hash, if one is given.
pub(super) async fn take_over(
    api: Arc<Api>,
    id: Uuid,
    url: Url,
    sha512: Option<Vec<u8>>,
    asker: Asker,
) -> ApiResult<()> {
    let targets = BTreeSet::from([api.catalogue.site().to_owned()]);
    let shown = json!({"loc_url": url.as_str()});
    let task = asker.task(TaskKind::LocationImport, id, &targets, &shown);
    start(api, id, Method::WebDownload(url, sha512), task, targets).await
}

/// Brings an image that has just got its bytes to a further store, in the background.
pub(super) async fn copy(api: Arc<Api>, id: Uuid, store: String, asker: Asker) -> ApiResult<()> {
    let targets = BTreeSet::from([store]);
    let shown = json!({"method": {"name": "copy-image"}});
    let task = asker.task(TaskKind::ApiImageImport, id, &targets, &shown);
    start(api, id, Method::CopyImage, task, targets).await
}

/// Who asked for a task.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    user: Option<String>,
    project: Option<String>,
    request: String,
}

impl Asker {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            user: call.identity.user.clone(),
            project: call.identity.project.clone(),
            request: call.request_id.clone(),
        }
    }

    fn task(self, kind: TaskKind, image: Uuid, targets: &BTreeSet<String>, shown: &Value) -> Task {
        let now = now_ms();
        Task {
            id: Uuid::new_v4(),
            kind,
            status: TaskStatus::Processing,
            owner: self.project,
            user: self.user,
            request: self.request,
            input: json!({"image_id": image, "backend": targets, "import_req": shown}),
            message: String::new(),
            created_at: now,
            updated_at: now,
            expires_at: None,
        }
    }
}

/// Takes hold of the image and goes on in the background.
async fn start(
    api: Arc<Api>,
    id: Uuid,
    method: Method,
    task: Task,
    targets: BTreeSet<String>,
) -> ApiResult<()> {
    let work = Work::new(api.clone(), id, task.clone(), targets.clone());
    let kind = method.kind();
    blocking(move || {
        api.catalogue.modify(id, |image| {
            check(kind, image)?;
            if let Some(holder) = holder(image, task.created_at) {
                return Err(ApiError::conflict(format!(
                    "New operation on image {id} is not permitted as prior operation {holder} is still in \
                     progress"
                )));
            }
            if let (ImportMethod::WebDownload, Some(quota)) = (kind, Quota::of_image(&api, image)) {
                quota.check_new_upload(image)?;
                quota.check_size(image, quota::Bytes::Data, 0)?;
            }
            let mut changes = image.with_task(&task);
            if kind != ImportMethod::CopyImage {
                changes.set_status(Status::Importing);
            }
            changes
                .set_text(field::IMPORT_TASK, Some(task.id.to_string()))
                .set_text(field::IMPORT_AT, Some(api.catalogue.site().to_owned()))
                .set_text(field::IMPORTING_TO, Some(stores::join(&targets)))
                .set_text(field::FAILED_IMPORT, Some(String::new()));
            Ok(changes)
        })
    })
    .await??;
    work.spawn(method);
    Ok(())
}

/// The task that holds an image.
fn holder(image: &Image, now_ms: u64) -> Option<Uuid> {
    let holder = image.import.as_ref()?.task;
    let task = image.tasks.iter().find(|task| task.id == holder)?;
    (task.created_at.saturating_add(HELD_MAX_MS) > now_ms).then_some(holder)
}
