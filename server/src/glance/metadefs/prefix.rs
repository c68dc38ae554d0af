//! `?resource_type=`: what properties are called on resources of a type, whose association has a prefix for them.

use serde_json::{Map, Value};

use crate::catalogue::{Definition, Namespace};

/// The type that a request asks for.
pub(super) fn asked(query: &[(String, String)]) -> Option<&str> {
    let mut pairs = query.iter().rev();
    let pair = pairs.find(|pair| pair.0 == "resource_type")?;
    Some(pair.1.as_str()).filter(|name| !name.is_empty())
}

/// The prefix of a type in a namespace, if it has one.
pub(super) fn of<'a>(namespace: &'a Namespace, resource_type: &str) -> Option<&'a str> {
    let association = namespace.item(Definition::ResourceType, resource_type)?;
    association.value["prefix"]
        .as_str()
        .filter(|p| !p.is_empty())
}

/// Puts it before the names of all properties of a namespace's document, those in objects too.
pub(super) fn put(prefix: &str, document: &mut Value) {
    rename(prefix, document);
    let objects = document.get_mut("objects").and_then(Value::as_array_mut);
    for object in objects.into_iter().flatten() {
        rename(prefix, object);
        let required = object.get_mut("required").and_then(Value::as_array_mut);
        for name in required.into_iter().flatten() {
            if let Some(own) = name.as_str() {
                *name = format!("{prefix}{own}").into();
            }
        }
    }
}

fn rename(prefix: &str, document: &mut Value) {
    let properties = document.get_mut("properties");
    if let Some(fields) = properties.and_then(Value::as_object_mut) {
        let renamed = std::mem::take(fields).into_iter();
        let renamed = renamed.map(|(name, value)| (format!("{prefix}{name}"), value));
        *fields = renamed.collect::<Map<_, _>>();
    }
}
