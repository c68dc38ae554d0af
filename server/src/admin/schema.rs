//! JSON schemas of what the admin API takes and answers.

use serde_json::{Value, json};

/// Refers to one of [`all`].
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Every schema by its name.
pub(super) fn all() -> Value {
    json!({
        "Error": object(json!({"error": reference("Failure")})),
        "Failure": object(json!({"message": text(), "hint": text()})),
        "Document": {"type": "object"},
        "Status": object(json!({
            "site": text(), "zone": or_null(text()), "version": text(), "started_at": time(),
            "uptime_s": count(), "images": count(), "store": reference("Store"),
        })),
        "Store": counts_and(
            &[
                "format", "manifests", "images", "chunks", "packs", "logical_bytes", "data_bytes", "unique_bytes",
                "pack_bytes", "index_bytes", "disk_bytes", "free_bytes", "damaged_chunks",
            ],
            json!({"capacity_bytes": or_null(count())}),
        ),
        "GcRequest": optional(json!({"dry_run": {"type": "boolean", "default": false}})),
        "GcLine": line(work(), counts_and(
            &[
                "live_chunks", "dead_chunks", "dead_bytes", "dead_manifests", "packs_removed", "packs_compacted",
                "reclaimed_bytes",
            ],
            json!({"dry_run": flag()}),
        )),
        "ScrubRequest": optional(json!({"rate": or_null(count())})),
        "VerifyLine": line(work(), verified()),
        "Site": object(site()),
        "SiteDetail": site_detail(),
        "PreseedRequest": preseed_request(),
        "PreseedLine": line(
            reference("PreseedProgress"),
            object(json!({"ok": flag(), "sites": list(reference("PreseedProgress"))})),
        ),
        "PreseedProgress": preseed_progress(),
        "Receipt": counts_and(
            &["pull", "image_bytes", "hole_bytes", "local_bytes"],
            json!({
                "image": or_null(id()), "manifest": text(), "site": text(), "started_at": time(), "seconds": number(),
                "peers": {
                    "type": "object",
                    "additionalProperties": object(json!({
                        "raw": count(), "wire": count(), "path": or_null(reference("Path")),
                    })),
                },
                "encoding": text(), "bound_seconds": or_null(number()), "bottleneck": list(text()),
                "dropped": list(text()), "outcome": text(),
            }),
        ),
        "Path": counts_and(
            &["packets_sent", "packets_lost", "bytes_sent_twice"],
            json!({
                "rate": or_null(count()), "rtt_ms": or_null(number()), "rtt_min_ms": or_null(number()), "state": text(),
            }),
        ),
        "Limits": limits(),
    })
}

fn site_detail() -> Value {
    let mut fields = site();
    let held = object(json!({"id": id(), "name": or_null(text()), "complete": flag()}));
    fields["images"] = list(held);
    object(fields)
}

fn preseed_request() -> Value {
    let mut request = optional(json!({"images": list(id()), "sites": list(text()), "all": flag()}));
    request["required"] = json!(["images"]);
    request
}

fn preseed_progress() -> Value {
    let mut progress = object(json!({
        "image": id(), "site": text(), "state": {"enum": ["running", "held", "failed"]},
        "done_bytes": count(), "total_bytes": count(),
    }));
    progress["properties"]["reason"] = text();
    progress
}

fn limits() -> Value {
    let mut limits = limit();
    limits["properties"]["background"] = limit();
    limits["properties"]["peers"] = json!({"type": "object", "additionalProperties": limit()});
    limits
}

fn site() -> Value {
    let link = counts_and(
        &[
            "rx_bytes",
            "tx_bytes",
            "packets_sent",
            "packets_lost",
            "bytes_sent_twice",
        ],
        json!({
            "rtt_ms": number(), "rtt_min_ms": or_null(number()), "rate": or_null(count()), "class": text(),
            "state": or_null(text()),
        }),
    );
    json!({
        "name": text(), "zone": or_null(text()), "addresses": list(text()), "self": flag(), "up": flag(),
        "images_held": count(), "link": or_null(link),
    })
}

fn verified() -> Value {
    let damaged = object(json!({"pack": count(), "offset": count(), "reason": text()}));
    counts_and(
        &[
            "packs",
            "frames",
            "chunks",
            "bytes",
            "manifests",
            "partial_manifests",
        ],
        json!({
            "damaged": list(damaged), "damaged_manifests": list(text()),
            "missing": list(object(json!({"manifest": text(), "chunk": text()}))), "ok": flag(),
        }),
    )
}

fn limit() -> Value {
    let rate = json!({"type": "string", "pattern": "^[0-9.]+ *[GMk]?bit/s$"});
    optional(json!({"send": or_null(rate.clone()), "receive": or_null(rate)}))
}

/// Progress of what goes through the packs.
fn work() -> Value {
    let mut progress = optional(json!({
        "stage": text(), "done_bytes": count(), "total_bytes": count(), "done_packs": count(), "total_packs": count(),
    }));
    progress["required"] = json!(["stage"]);
    progress
}

/// A line of a stream.
fn line(progress: Value, result: Value) -> Value {
    json!({"oneOf": [
        object(json!({"progress": progress})),
        object(json!({"result": result})),
        reference("Error"),
    ]})
}

/// An object that has all these fields and no others.
fn object(fields: Value) -> Value {
    let names: Vec<&String> = fields
        .as_object()
        .into_iter()
        .flat_map(|f| f.keys())
        .collect();
    let names = json!(names);
    let mut object = optional(fields);
    object["required"] = names;
    object
}

/// An object that has no others than these fields.
fn optional(fields: Value) -> Value {
    json!({"type": "object", "properties": fields, "additionalProperties": false})
}

/// An object with these fields, of which the named ones are counts.
fn counts_and(names: &[&str], mut fields: Value) -> Value {
    for name in names {
        fields[*name] = count();
    }
    object(fields)
}

fn list(item: Value) -> Value {
    json!({"type": "array", "items": item})
}

fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn id() -> Value {
    json!({"type": "string", "format": "uuid"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}
