//! Documents checked against the schemas that clients are shown.

use serde_json::Value;

/// Longest reason that is told, in characters: it quotes what the client sent.
const REASON_LEN_MAX: usize = 300;

/// Why a document does not fit its schema.
pub(super) fn check(schema: &Value, document: &Value) -> Result<(), String> {
    // The schemas do not say so.
    if !document.is_object() {
        return Err("The document must be a JSON object.".into());
    }
    let validator = jsonschema::draft4::new(schema).map_err(|error| error.to_string())?;
    validator.validate(document).map_err(|error| {
        let reason = format!("Invalid value at '{}': {error}", error.instance_path());
        reason.chars().take(REASON_LEN_MAX).collect()
    })
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
