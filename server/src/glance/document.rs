//! Images as JSON.

use serde_json::{Map, Value, json};
use vitrail_proto::record::Data;

use super::{Api, locations, stores};
use crate::catalogue::{Image, Status};

/// The API's document of an image.
pub(super) fn image(api: &Api, image: &Image) -> Value {
    let id = image.id.to_string();
    let data = image.data.as_ref();
    let mut document: Map<String, Value> = image
        .properties
        .iter()
        .map(|(k, v)| (k.clone(), Value::from(v.as_str())))
        .collect();
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    set("name", json!(image.name));
    set("disk_format", json!(image.disk_format));
    set("container_format", json!(image.container_format));
    set("visibility", image.visibility.as_str().into());
    set("size", json!(image.size()));
    set("virtual_size", json!(data.and_then(|d| d.virtual_size)));
    set("status", image.status.as_str().into());
    set("checksum", json!(data.map(md5)));
    set("protected", image.protected.into());
    set("min_ram", image.min_ram.into());
    set("min_disk", image.min_disk.into());
    set("owner", json!(image.owner));
    set("os_hidden", image.hidden.into());
    set("os_hash_algo", json!(data.map(|_| "sha512")));
    set("os_hash_value", json!(data.map(sha512)));
    set("id", id.as_str().into());
    set("created_at", time(image.created_at).into());
    set("updated_at", time(image.updated_at).into());
    set("tags", json!(image.tags));
    set("self", format!("/v2/images/{id}").into());
    set("file", format!("/v2/images/{id}/file").into());
    set("schema", "/v2/schemas/image".into());
    let stores = stores::holding(api, image);
    if !stores.is_empty() {
        set("stores", stores.join(",").into());
    }
    if api.config.images.show_multiple_locations {
        set("locations", locations::of(api, image).into());
    }
    if api.config.images.show_direct_url
        && let Some(first) = locations::of(api, image).first()
    {
        set("direct_url", first["url"].clone());
    }
    for (name, sites) in [
        ("os_glance_importing_to_stores", &image.importing_to),
        ("os_glance_failed_import", &image.failed_import),
    ] {
        if let Some(sites) = sites {
            set(name, sites.as_str().into());
        }
    }
    if let Some(import) = &image.import {
        set("os_glance_import_task", json!(import.task));
    }
    debug_assert!(data.is_some() || !matches!(image.status, Status::Active));
    Value::Object(document)
}

/// MD5 of an image as hexadecimal text.
pub(super) fn md5(data: &Data) -> String {
    hex::encode(data.md5)
}

/// SHA-512 of an image as hexadecimal text.
pub(super) fn sha512(data: &Data) -> String {
    hex::encode(data.sha512)
}

/// Milliseconds since 1970 as `2026-11-24T08:19:30Z`.
pub(crate) fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "9999-12-31T23:59:59Z".to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_no_fraction() {
        assert_eq!(super::time(1_780_272_000_999), "2026-06-01T00:00:00Z");
    }
}
