//! What Keystone says of a token.

use std::collections::BTreeSet;

use serde::Deserialize;

/// Most roles of a token.
const ROLES_MAX: usize = 256;
/// Longest id and role name in bytes. Keystone's own limits are 64 and 255 characters.
const NAME_LEN_MAX: usize = 1024;
/// Most entries of a catalogue that are looked through.
const SERVICES_MAX: usize = 10_000;

/// A valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) user: Option<String>,
    /// None if it is scoped to a domain or the system, or not at all.
    pub(super) project: Option<String>,
    /// In lower case.
    pub(super) roles: BTreeSet<String>,
    /// Milliseconds since 1970.
    pub(super) expires_at: u64,
    catalog: Vec<Service>,
}

/// An answer that is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it is no token: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Rule(&'static str),
}

#[derive(Deserialize)]
struct Document {
    token: Body,
}

#[derive(Deserialize)]
struct Body {
    expires_at: String,
    user: Option<Named>,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Service {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Endpoint {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    url: String,
}

impl Token {
    /// Reads the body of an answer.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let body = serde_json::from_slice::<Document>(body)?.token;
        let expires_at = body.expires_at.parse::<jiff::Timestamp>();
        let expires_at = expires_at.map_err(|_| Malformed::Rule("its expires_at is no time"))?;
        if body.roles.len() > ROLES_MAX || body.catalog.len() > SERVICES_MAX {
            return Err(Malformed::Rule("it has too many roles or services"));
        }
        let ids = body.user.iter().chain(&body.project).map(|named| &named.id);
        let mut names = ids.chain(body.roles.iter().map(|role| &role.name));
        if names.any(|name| name.is_empty() || name.len() > NAME_LEN_MAX) {
            return Err(Malformed::Rule(
                "an id or a role's name is empty or too long",
            ));
        }
        Ok(Self {
            user: body.user.map(|user| user.id),
            project: body.project.map(|project| project.id),
            roles: body.roles.iter().map(|r| r.name.to_lowercase()).collect(),
            expires_at: u64::try_from(expires_at.as_millisecond()).unwrap_or(0),
            catalog: body.catalog,
        })
    }

    /// The public URL of the identity service in a region.
    pub(super) fn identity_endpoint(&self, region: &str) -> Option<&str> {
        self.catalog
            .iter()
            .filter(|service| service.kind == "identity")
            .flat_map(|service| &service.endpoints)
            .find(|e| e.interface == "public" && e.region.as_deref() == Some(region))
            .map(|endpoint| endpoint.url.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({"token": {
            "expires_at": "2026-11-25T03:53:56.000000Z",
            "user": {"id": "u", "name": "demo"},
            "project": {"id": "p", "name": "demo"},
            "roles": [{"id": "1", "name": "Member"}, {"id": "2", "name": "reader"}],
            "catalog": [
                {"type": "image", "endpoints": [
                    {"interface": "public", "region": "r1", "url": "http://image"}]},
                {"type": "identity", "endpoints": [
                    {"interface": "internal", "region": "r1", "url": "http://inside"},
                    {"interface": "public", "region": "r1", "url": "http://outside"}]},
            ],
        }})
    }

    fn parse(document: &Value) -> Result<Token, Malformed> {
        Token::parse(document.to_string().as_bytes())
    }

    #[test]
    fn a_token_of_a_project() {
        let token = parse(&document()).unwrap();
        assert_eq!(token.user.as_deref(), Some("u"));
        assert_eq!(token.project.as_deref(), Some("p"));
        assert!(token.roles.iter().eq(["member", "reader"]));
        assert_eq!(token.expires_at, 1_795_578_836_000);
        assert_eq!(token.identity_endpoint("r1"), Some("http://outside"));
        assert_eq!(token.identity_endpoint("r2"), None);
    }

    #[test]
    fn a_token_of_no_project() {
        let mut document = document();
        let token = document["token"].as_object_mut().unwrap();
        token.remove("project");
        token.remove("roles");
        token.remove("catalog");
        let token = parse(&document).unwrap();
        assert_eq!((token.project, token.roles.len()), (None, 0));
    }

    #[test]
    fn what_is_no_token() {
        for (pointer, value) in [
            ("/token/expires_at", json!("never")),
            ("/token/expires_at", json!(null)),
            ("/token/project/id", json!("")),
            ("/token/project/id", json!(7)),
            ("/token/roles/0/name", json!("x".repeat(2000))),
            ("/token/roles", json!(vec![json!({"name": "r"}); 300])),
            ("/token", json!([])),
        ] {
            let mut document = document();
            *document.pointer_mut(pointer).unwrap() = value;
            assert!(parse(&document).is_err(), "{pointer}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = Token::parse(&bytes);
        }
    }
}
