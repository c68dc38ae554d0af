//! Documents checked against the schemas that clients are shown.

use serde_json::Value;

/// Deepest that a document is looked into; a schema refers to no more.
const DEPTH_MAX: usize = 16;

/// Why a document does not fit its schema.
pub(super) fn check(schema: &Value, document: &Value) -> Result<(), String> {
    // The schemas do not say so.
    if !document.is_object() {
        return Err("The document must be a JSON object.".into());
    }
    Checker { root: schema }.check(schema, document, "", DEPTH_MAX)
}

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str, depth: usize) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("Invalid value at '{at}': {why}."));
        let Some(depth) = depth.checked_sub(1) else {
            return wrong("it is too deep");
        };
        if let Some(target) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
            let schema = self.root.pointer(target).unwrap_or(&Value::Null);
            return self.check(schema, value, at, depth);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(part, value, at, depth)?;
        }
        if let Some(kind) = schema["type"].as_str()
            && !is_a(kind, value)
        {
            return wrong(&format!("it is no {kind}"));
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return wrong("it is none of those allowed");
        }
        match value {
            Value::String(text) => {
                let longest = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
                if text.chars().count() as u64 > longest {
                    return wrong(&format!("it is longer than {longest} characters"));
                }
            }
            Value::Number(number) => {
                let least = schema["minimum"].as_f64().unwrap_or(f64::MIN);
                if number.as_f64().is_some_and(|number| number < least) {
                    return wrong(&format!("it is less than {least}"));
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &format!("{at}/{i}"), depth)?;
                }
                if items.len() < schema["minItems"].as_u64().unwrap_or(0) as usize {
                    return wrong("it has too few items");
                }
                let mut texts: Vec<String> = items.iter().map(ToString::to_string).collect();
                texts.sort_unstable();
                if schema["uniqueItems"] == true && texts.windows(2).any(|two| two[0] == two[1]) {
                    return wrong("items are there twice");
                }
            }
            Value::Object(fields) => {
                for name in schema["required"].as_array().into_iter().flatten() {
                    if let Some(name) = name.as_str().filter(|name| !fields.contains_key(*name)) {
                        return wrong(&format!("'{name}' is a required property"));
                    }
                }
                for (name, field) in fields {
                    let at = format!("{at}/{}", name.chars().take(80).collect::<String>());
                    match (
                        schema["properties"].get(name),
                        &schema["additionalProperties"],
                    ) {
                        (Some(schema), _) => self.check(schema, field, &at, depth)?,
                        (None, Value::Bool(false)) => {
                            return Err(format!("Additional property '{at}' is not allowed."));
                        }
                        (None, schema) => self.check(schema, field, &at, depth)?,
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        Ok(())
    }
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_that_fit_and_that_do_not() {
        let fits = |name: &str, value: Value| check(&schema::named(name).unwrap(), &value).is_ok();
        let property = json!({"title": "Port", "type": "integer", "minimum": 1});
        assert!(fits(
            "namespace",
            json!({"namespace": "a", "properties": {"port": property}})
        ));
        assert!(fits("tag", json!({"name": "blue"})));
        assert!(!fits("namespace", json!({})));
        assert!(!fits("namespace", json!([])));
        assert!(!fits("namespace", json!({"namespace": "x".repeat(81)})));
        assert!(!fits(
            "namespace",
            json!({"namespace": "a", "visibility": "shared"})
        ));
        assert!(!fits("namespace", json!({"namespace": "a", "other": 1})));
        assert!(!fits(
            "namespace",
            json!({"namespace": "a", "properties": {"p": {"title": "P"}}})
        ));
        assert!(!fits(
            "object",
            json!({"name": "o", "required": ["a", "a"]})
        ));
        assert!(!fits(
            "property",
            json!({"name": "p", "title": "P", "type": "text"})
        ));
        assert!(!fits(
            "property",
            json!({"name": "p", "title": "P", "type": "string", "maxLength": -1})
        ));
    }
}
