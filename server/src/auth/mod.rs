//! Who is calling, and what they may do ([page](../docs/AUTH.md)).
//!
//! [`Authenticator`] turns a request's headers into an [`Identity`]; [`policy`] decides by identity, operation and
//! image. Handlers ask policy and nothing else, so another authenticator changes no handler.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use hyper::HeaderMap;

use crate::config::{AuthConfig, AuthMode};
use crate::metrics::Metrics;

mod cache;
mod credentials;
mod keystone;
pub mod policy;
mod rule;
mod token;

use keystone::Keystone;
use policy::Policy;

/// Longest token in bytes. Keystone's are some 250; what is longer is none.
const TOKEN_LEN_MAX: usize = 8 * 1024;

/// Somebody who calls the API, with the rules that apply to them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Their user id, if a Keystone knows them.
    pub user: Option<String>,
    /// The project that they act for.
    pub project: Option<String>,
    /// Their roles in it, in lower case.
    pub roles: BTreeSet<String>,
    admin: bool,
    policy: Arc<Policy>,
}

impl Identity {
    fn new(
        user: Option<String>,
        project: Option<String>,
        roles: BTreeSet<String>,
        policy: Arc<Policy>,
    ) -> Self {
        let mut identity = Self {
            user,
            project,
            roles,
            admin: false,
            policy: policy.clone(),
        };
        identity.admin = policy.is_admin(&identity);
        identity
    }

    /// Whether they administer the cloud.
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// Somebody under the default policy.
    #[cfg(test)]
    pub(crate) fn of(user: Option<&str>, project: Option<&str>, roles: &[&str]) -> Self {
        let policy = Arc::new(Policy::load(None).unwrap());
        let roles = roles.iter().map(|&role| role.to_owned()).collect();
        Self::new(user.map(Into::into), project.map(Into::into), roles, policy)
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
pub enum AuthError {
    /// There is no token, or it is not valid.
    Unauthenticated,
    /// Nobody can tell now.
    Unavailable,
}

/// Tells callers apart.
pub enum Authenticator {
    /// Every caller is the administrator.
    Trusting(Arc<Identity>),
    /// Callers have tokens.
    Keystone(Box<Keystone>),
}

impl Authenticator {
    /// As configured; asks Keystone nothing yet.
    ///
    /// # Errors
    /// The configuration lacks something, or a file that it names cannot be used.
    pub fn new(config: &AuthConfig, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let policy = Arc::new(Policy::load(config.policy_file.as_deref())?);
        Ok(match config.mode {
            AuthMode::None => {
                let roles = BTreeSet::from(["admin".to_owned()]);
                Self::Trusting(Arc::new(Identity::new(None, None, roles, policy)))
            }
            AuthMode::Keystone => {
                let keystone = Keystone::new(config, policy, metrics).context("[auth]")?;
                Self::Keystone(Box::new(keystone))
            }
        })
    }

    /// Who sent a request. Identity headers that a client sends are never believed.
    ///
    /// # Errors
    /// They show no valid token, or Keystone cannot be asked.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Arc<Identity>, AuthError> {
        match self {
            Self::Trusting(identity) => Ok(identity.clone()),
            Self::Keystone(keystone) => {
                let token = token(headers, "x-auth-token").ok_or(AuthError::Unauthenticated)?;
                keystone
                    .identify(token, self::token(headers, "x-service-token"))
                    .await
            }
        }
    }

    /// The `WWW-Authenticate` of a 401.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::Trusting(_) => None,
            Self::Keystone(keystone) => Some(format!("Keystone uri=\"{}\"", keystone.public_url())),
        }
    }
}

/// A token in a header.
fn token<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let token = headers.get(name)?.to_str().ok()?.trim();
    (!token.is_empty() && token.len() <= TOKEN_LEN_MAX).then_some(token)
}
