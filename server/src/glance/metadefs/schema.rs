//! JSON schemas of metadata definitions.

use serde_json::{Value, json};

use super::super::schema::paged;

/// The schema that is called `name`.
pub(super) fn named(name: &str) -> Option<Value> {
    Some(match name {
        "namespace" => with_definitions(namespace()),
        "namespaces" => with_definitions(paged("namespaces", namespace())),
        "object" => with_definitions(object()),
        "objects" => with_definitions(paged("objects", object())),
        "property" => with_short_definitions(property()),
        "properties" => {
            let mut item = property();
            item["required"] = json!(["type", "title"]);
            let mut schema = paged("properties", Value::Null);
            schema["properties"]["properties"] =
                json!({"type": "object", "additionalProperties": item});
            with_short_definitions(schema)
        }
        "resource_type" => resource_type(),
        "resource_types" => paged("resource_type_associations", resource_type()),
        "tag" => tag(),
        "tags" => paged("tags", tag()),
        _ => return None,
    })
}

/// Adds what `$ref`s in a namespace or object refer to.
fn with_definitions(schema: Value) -> Value {
    let mut schema = with_numbers(schema, list_of_texts());
    let item = json!({
        "type": "object",
        "properties": property_fields(),
        "required": ["title", "type"],
    });
    schema["definitions"]["property"] = json!({"type": "object", "additionalProperties": item});
    schema
}

/// Adds what `$ref`s in a property refer to.
fn with_short_definitions(schema: Value) -> Value {
    let mut texts = list_of_texts();
    texts["minItems"] = 1.into();
    with_numbers(schema, texts)
}

fn with_numbers(mut schema: Value, texts: Value) -> Value {
    schema["definitions"] = json!({
        "positiveInteger": {"type": "integer", "minimum": 0},
        "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
        "stringArray": texts,
    });
    schema
}

fn list_of_texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})
}

fn name() -> Value {
    json!({"type": "string", "maxLength": 80})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn read_only_text() -> Value {
    json!({"type": "string", "readOnly": true})
}

fn time() -> Value {
    json!({"type": "string", "readOnly": true, "format": "date-time"})
}

fn namespace() -> Value {
    let object = json!({
        "type": "object",
        "properties": {
            "name": text(),
            "description": text(),
            "properties": {"$ref": "#/definitions/property"},
            "required": {"$ref": "#/definitions/stringArray"},
        },
    });
    let association = json!({
        "type": "object",
        "properties": {"name": text(), "prefix": text(), "properties_target": text()},
    });
    json!({
        "name": "namespace",
        "additionalProperties": false,
        "required": ["namespace"],
        "properties": {
            "namespace": name(),
            "display_name": name(),
            "description": {"type": "string", "maxLength": 500},
            "visibility": {"type": "string", "enum": ["public", "private"]},
            "protected": {"type": "boolean"},
            "owner": {"type": "string", "maxLength": 255},
            "created_at": time(),
            "updated_at": time(),
            "schema": read_only_text(),
            "self": read_only_text(),
            "properties": {"$ref": "#/definitions/property"},
            "objects": {"type": "array", "items": object},
            "resource_type_associations": {"type": "array", "items": association},
            "tags": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": text()}},
            },
        },
    })
}

fn object() -> Value {
    json!({
        "name": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": name(),
            "description": text(),
            "required": {"$ref": "#/definitions/stringArray"},
            "properties": {"$ref": "#/definitions/property"},
            "created_at": time(),
            "updated_at": time(),
            "schema": read_only_text(),
            "self": read_only_text(),
        },
    })
}

fn property() -> Value {
    json!({
        "name": "property",
        "additionalProperties": false,
        "required": ["type", "title", "name"],
        "properties": property_fields(),
    })
}

fn property_fields() -> Value {
    let kind = json!({
        "type": "string",
        "enum": ["array", "boolean", "integer", "number", "object", "string", null],
    });
    let number = json!({"$ref": "#/definitions/positiveInteger"});
    let number_or_0 = json!({"$ref": "#/definitions/positiveIntegerDefault0"});
    json!({
        "name": name(),
        "title": text(),
        "description": text(),
        "operators": {"type": "array", "items": {"type": "string"}},
        "type": kind,
        "required": {"$ref": "#/definitions/stringArray"},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "maxLength": number,
        "minLength": number_or_0,
        "pattern": {"type": "string", "format": "regex"},
        "enum": {"type": "array"},
        "readonly": {"type": "boolean"},
        "default": {},
        "items": {"type": "object", "properties": {"type": kind, "enum": {"type": "array"}}},
        "maxItems": number,
        "minItems": number_or_0,
        "uniqueItems": {"type": "boolean", "default": false},
        "additionalItems": {"type": "boolean"},
    })
}

fn resource_type() -> Value {
    json!({
        "name": "resource_type_association",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": name(),
            "prefix": name(),
            "properties_target": name(),
            "created_at": time(),
            "updated_at": time(),
        },
    })
}

fn tag() -> Value {
    json!({
        "name": "tag",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {"name": name(), "created_at": time(), "updated_at": time()},
    })
}
