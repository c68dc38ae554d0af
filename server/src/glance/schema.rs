//! JSON schemas that clients read, and the values that they allow.

use serde_json::{Value, json};

/// Disk formats that an image may have.
pub(super) const DISK_FORMATS: [&str; 11] = [
    "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop",
];
/// Container formats that an image may have.
pub(super) const CONTAINER_FORMATS: [&str; 8] = [
    "ami",
    "ari",
    "aki",
    "bare",
    "ovf",
    "ova",
    "docker",
    "compressed",
];

const ID_PATTERN: &str =
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

/// The schema that is called `name`.
pub(super) fn named(name: &str) -> Option<Value> {
    match name {
        "image" => Some(image()),
        "images" => Some(paged("images", image())),
        "member" => Some(member()),
        "members" => Some(list("members", member())),
        "task" => Some(task()),
        "tasks" => Some(list("tasks", task_in_list())),
        _ => None,
    }
}

fn list(name: &str, item: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: {"type": "array", "items": item},
            "schema": {"type": "string"},
        },
        "links": [{"rel": "describedby", "href": "{schema}"}],
    })
}

/// A list that comes in pages.
pub(super) fn paged(name: &str, item: Value) -> Value {
    let mut schema = list(name, item);
    for link in ["first", "next"] {
        schema["properties"][link] = json!({"type": "string"});
    }
    schema["links"] = json!([
        {"rel": "first", "href": "{first}"},
        {"rel": "next", "href": "{next}"},
        {"rel": "describedby", "href": "{schema}"},
    ]);
    schema
}

fn with_null(values: &[&str]) -> Vec<Value> {
    std::iter::once(Value::Null)
        .chain(values.iter().map(|v| Value::from(*v)))
        .collect()
}

fn image() -> Value {
    let read_only = |kind: Value| json!({"type": kind, "readOnly": true});
    let read_only_text = |kind: Value, max: u32, about: &str| json!({"type": kind, "readOnly": true, "maxLength": max, "description": about});
    let nullable = || json!(["null", "string"]);
    json!({
        "name": "image",
        "properties": {
            "id": {"type": "string", "pattern": ID_PATTERN,
                   "description": "An identifier for the image"},
            "name": {"type": nullable(), "maxLength": 255,
                     "description": "Descriptive name for the image"},
            "status": {"type": "string", "readOnly": true, "description": "Status of the image",
                       "enum": ["queued", "saving", "active", "killed", "deleted", "uploading",
                                "importing", "pending_delete", "deactivated"]},
            "visibility": {"type": "string", "enum": ["community", "public", "private", "shared"],
                           "description": "Scope of image accessibility"},
            "protected": {"type": "boolean",
                          "description": "If true, image will not be deletable."},
            "os_hidden": {"type": "boolean",
                          "description": "If true, image will not appear in default image list response."},
            "checksum": read_only_text(nullable(), 32, "md5 hash of image contents."),
            "os_hash_algo": read_only_text(nullable(), 64, "Algorithm to calculate the os_hash_value"),
            "os_hash_value": read_only_text(nullable(), 128, "Hexdigest of the image contents using the algorithm specified by the os_hash_algo"),
            "owner": {"type": nullable(), "maxLength": 255, "description": "Owner of the image"},
            "size": read_only(json!(["null", "integer"])),
            "virtual_size": read_only(json!(["null", "integer"])),
            "container_format": {"type": nullable(), "enum": with_null(&CONTAINER_FORMATS),
                                 "description": "Format of the container"},
            "disk_format": {"type": nullable(), "enum": with_null(&DISK_FORMATS),
                            "description": "Format of the disk"},
            "created_at": read_only(json!("string")),
            "updated_at": read_only(json!("string")),
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 255},
                     "description": "List of strings related to the image"},
            "direct_url": read_only(json!("string")),
            "min_ram": {"type": "integer",
                        "description": "Amount of ram (in MB) required to boot image."},
            "min_disk": {"type": "integer",
                         "description": "Amount of disk space (in GB) required to boot image."},
            "self": {"type": "string", "readOnly": true, "description": "An image self url"},
            "file": {"type": "string", "readOnly": true, "description": "An image file url"},
            "stores": read_only(json!("string")),
            "schema": {"type": "string", "readOnly": true,
                       "description": "An image schema url"},
            "locations": locations(),
        },
        // Clients take what is not a base property for a custom one, whose value is a string.
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "created_at": {"type": "string", "description": "When the image was shared"},
            "image_id": {"type": "string", "pattern": ID_PATTERN,
                         "description": "The image that is shared"},
            "member_id": {"type": "string",
                          "description": "The project that the image is shared with"},
            "schema": {"type": "string", "readOnly": true},
            "status": {"type": "string", "enum": ["pending", "accepted", "rejected"],
                       "description": "What the project decided about it"},
            "updated_at": {"type": "string", "description": "When the status last changed"},
        },
    })
}

fn task() -> Value {
    let mut schema = task_in_list();
    let object = || json!({"type": ["null", "object"]});
    schema["properties"]["input"] = object();
    schema["properties"]["result"] = object();
    schema["properties"]["message"] = json!({"type": "string"});
    schema
}

fn task_in_list() -> Value {
    json!({
        "name": "task",
        "properties": {
            "created_at": {"type": "string", "description": "When the task was made"},
            "expires_at": {"type": ["null", "string"],
                           "description": "When an ended task may be forgotten"},
            "id": {"type": "string", "pattern": ID_PATTERN},
            "image_id": {"type": "string", "description": "The image that the task works on"},
            "owner": {"type": "string", "description": "The project that the task works for"},
            "request_id": {"type": "string", "description": "The request that made the task"},
            "schema": {"type": "string", "readOnly": true},
            "self": {"type": "string", "readOnly": true},
            "status": {"type": "string", "enum": ["pending", "processing", "success", "failure"]},
            "type": {"type": "string", "enum": ["import", "api_image_import", "location_import"]},
            "updated_at": {"type": "string", "description": "When the task last changed"},
            "user_id": {"type": "string", "description": "The user who made the task"},
        },
    })
}

fn locations() -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "url": {"type": "string", "maxLength": 255},
                "metadata": {"type": "object"},
                "validation_data": {
                    "type": "object",
                    "writeOnly": true,
                    "additionalProperties": false,
                    "properties": {
                        "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                        "os_hash_algo": {"type": "string", "maxLength": 64},
                        "os_hash_value": {"type": "string", "maxLength": 128},
                    },
                    "required": ["os_hash_algo", "os_hash_value"],
                },
            },
            "required": ["url", "metadata"],
        },
    })
}
