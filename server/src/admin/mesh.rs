//! Sites, preseeding and receipts.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{Admin, Failure, parse_object, stream};
use crate::limits::Limits;
use crate::peer::Peers;
use crate::peer::receipt::Receipt;
use crate::peer::view::{SiteDetail, SiteView};

/// Images and sites of one preseed.
const PAIRS_MAX: usize = 10_000;

fn peers(admin: &Admin) -> Result<&Arc<Peers>, Failure> {
    admin.peers.as_ref().ok_or(Failure(
        StatusCode::CONFLICT,
        "this site is alone: it has no [peer] certificates".into(),
        "make some with `vitrail ca` and set [peer] ca, cert, key and seeds",
    ))
}

pub(super) async fn sites(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<SiteView>>, Failure> {
    Ok(Json(peers(&admin)?.sites()))
}

pub(super) async fn site(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<SiteDetail>, Failure> {
    let found = peers(&admin)?.site(&name);
    Ok(Json(found.ok_or_else(|| unknown_site(&name))?))
}

fn unknown_site(name: &str) -> Failure {
    Failure(
        StatusCode::NOT_FOUND,
        format!("no site is called {name:?}"),
        "`vitrail site list` shows all that are known here",
    )
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(super) struct ReceiptQuery {
    image: Option<Uuid>,
    limit: Option<usize>,
}

pub(super) async fn receipts(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<ReceiptQuery>,
) -> Result<Json<Vec<Receipt>>, Failure> {
    let mut receipts = peers(&admin)?.receipts.list(query.image);
    receipts.truncate(query.limit.unwrap_or(100));
    Ok(Json(receipts))
}

pub(super) async fn limits(State(admin): State<Arc<Admin>>) -> Result<Json<Limits>, Failure> {
    Ok(Json(peers(&admin)?.links.limits()))
}

pub(super) async fn set_limits(
    State(admin): State<Arc<Admin>>,
    body: Bytes,
) -> Result<Json<Limits>, Failure> {
    let peers = peers(&admin)?;
    let parsed = parse_object(&body).and_then(|value: serde_json::Value| {
        anyhow::ensure!(!has_list(&value), "limits have no lists");
        Ok(serde_json::from_value::<Limits>(value)?)
    });
    let limits = parsed
        .and_then(|limits| limits.check().map(|()| limits))
        .map_err(|error| {
            Failure(
                StatusCode::BAD_REQUEST,
                format!("the request body: {error:#}"),
                "send what GET answers, with rates such as \"20Mbit/s\" or null",
            )
        })?;
    tracing::info!(limits = ?limits, "limits were changed");
    peers.links.set_limits(limits.clone());
    Ok(Json(limits))
}

/// Whether there is a list anywhere, which serde would take for the fields of a limit.
fn has_list(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(_) => true,
        serde_json::Value::Object(fields) => fields.values().any(has_list),
        _ => false,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PreseedRequest {
    images: BTreeSet<Uuid>,
    #[serde(default)]
    sites: BTreeSet<String>,
    #[serde(default)]
    all: bool,
}

pub(super) async fn preseed(
    State(admin): State<Arc<Admin>>,
    body: Bytes,
) -> Result<Response, Failure> {
    let bad = |message: String| {
        Failure(
            StatusCode::BAD_REQUEST,
            message,
            "send {\"images\": [ids], \"sites\": [names]} or {\"images\": [ids], \"all\": true}",
        )
    };
    let request: PreseedRequest =
        parse_object(&body).map_err(|error| bad(format!("the request body: {error}")))?;
    let peers = peers(&admin)?.clone();
    let known: BTreeSet<String> = peers.sites().into_iter().map(|site| site.name).collect();
    let sites = if request.all {
        known.clone()
    } else {
        request.sites
    };
    if let Some(site) = sites.iter().find(|site| !known.contains(*site)) {
        return Err(unknown_site(site));
    }
    if let Some(id) = request
        .images
        .iter()
        .find(|id| admin.catalogue.get(**id).is_none())
    {
        return Err(Failure(
            StatusCode::NOT_FOUND,
            format!("no image has the id {id}"),
            "`vitrail image list` shows all",
        ));
    }
    let pairs = sites.len() * request.images.len();
    if pairs == 0 || pairs > PAIRS_MAX {
        return Err(bad(format!(
            "{pairs} pairs of image and site; allowed is 1 to {PAIRS_MAX}"
        )));
    }
    let images = request.images.into_iter().collect();
    let (mut lines, result) = peers.preseed(images, sites.into_iter().collect());
    Ok(stream::run(move |out| {
        while let Some(progress) = lines.blocking_recv() {
            out.line(&json!({"progress": progress}));
        }
        match tokio::runtime::Handle::current().block_on(result) {
            Ok(result) => out.result(&json!(result)),
            Err(error) => out.error(&error, "see the daemon's log"),
        }
    }))
}
