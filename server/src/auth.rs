//! Who is calling, and what they may do.
//!
//! [`Authenticator`] turns a request's headers into an [`Identity`]; [`policy`] decides by identity, operation and
//! image. Handlers ask policy and nothing else, so another authenticator changes no handler.

use std::collections::BTreeSet;

use hyper::HeaderMap;

use crate::config::{AuthConfig, AuthMode};

pub mod policy;

/// Somebody who calls the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The project that they act for.
    pub project: Option<String>,
    /// Their roles in it.
    pub roles: BTreeSet<String>,
}

impl Identity {
    /// The only caller when there is no authentication.
    fn trusted() -> Self {
        Self {
            project: None,
            roles: BTreeSet::from(["admin".to_owned()]),
        }
    }

    /// Whether they administer the cloud.
    pub fn is_admin(&self) -> bool {
        self.roles.contains("admin")
    }

    /// Whether they may change what their project owns.
    pub fn is_member(&self) -> bool {
        ["admin", "manager", "member"]
            .iter()
            .any(|role| self.roles.contains(*role))
    }
}

/// Tells callers apart.
pub struct Authenticator {
    mode: AuthMode,
}

impl Authenticator {
    /// As configured.
    pub fn new(config: &AuthConfig) -> Self {
        Self { mode: config.mode }
    }

    /// Who sent this request. Identity headers that a client sends are never believed.
    pub fn identify(&self, _headers: &HeaderMap) -> Identity {
        match self.mode {
            AuthMode::None => Identity::trusted(),
        }
    }
}
