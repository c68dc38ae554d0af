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
        "images" => Some(list("images", image())),
        _ => None,
    }
}

fn list(name: &str, item: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: {"type": "array", "items": item},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
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
