//! The service's own user, from the configuration and the environment.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use reqwest::Url;
use serde_json::{Value, json};

use crate::config::{AuthConfig, Secret};

/// Most URLs of Keystone.
const URLS_MAX: usize = 16;
/// Longest password file in bytes.
const PASSWORD_FILE_LEN_MAX: u64 = 4096;

/// Where the password is.
#[derive(Clone)]
enum Password {
    Text(Secret),
    File(PathBuf),
}

/// How the service logs in, and where.
#[derive(Clone)]
pub(super) struct Credentials {
    /// Each ends in `/v3`.
    pub(super) urls: Vec<Url>,
    pub(super) region: Option<String>,
    username: String,
    password: Password,
    project: String,
    user_domain: String,
    project_domain: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// What the configuration says and, where it is silent, `environment`.
    pub(super) fn new(
        config: &AuthConfig,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let text = |key: &str, value: &Option<String>| {
            let name = format!("OS_{}", key.to_uppercase());
            value
                .clone()
                .or_else(|| environment(&name))
                .filter(|text| !text.is_empty())
                .with_context(|| format!("{key} is missing: set it, or {name} in the environment"))
        };
        let mut urls = config.auth_url.clone();
        if urls.is_empty() {
            urls.push(text("auth_url", &None)?);
        }
        ensure!(
            urls.len() <= URLS_MAX,
            "auth_url has more than {URLS_MAX} URLs"
        );
        let password = match (&config.password, &config.password_file) {
            (Some(_), Some(_)) => anyhow::bail!("password and password_file are both set"),
            (Some(password), None) => Password::Text(password.clone()),
            (None, Some(path)) => Password::File(path.clone()),
            (None, None) => Password::Text(Secret(
                text("password", &None).context("and there is no password_file")?,
            )),
        };
        let default = |_| "Default".to_owned();
        let credentials = Self {
            urls: urls
                .iter()
                .map(|url| parse_url(url))
                .collect::<Result<_, _>>()?,
            region: text("region_name", &config.region_name).ok(),
            username: text("username", &config.username)?,
            password,
            project: text("project_name", &config.project_name)?,
            user_domain: text("user_domain_name", &config.user_domain_name).unwrap_or_else(default),
            project_domain: text("project_domain_name", &config.project_domain_name)
                .unwrap_or_else(default),
        };
        // Found out now and not at the first request.
        credentials.password()?;
        Ok(credentials)
    }

    /// Name of the service's user.
    pub(super) fn username(&self) -> &str {
        &self.username
    }

    /// The body of a login. Reads a file, perhaps.
    pub(super) fn login(&self) -> anyhow::Result<Value> {
        Ok(json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": self.username,
                "domain": {"name": self.user_domain},
                "password": self.password()?,
            }}},
            "scope": {"project": {
                "name": self.project,
                "domain": {"name": self.project_domain},
            }},
        }}))
    }

    fn password(&self) -> anyhow::Result<String> {
        let path = match &self.password {
            Password::Text(Secret(text)) => return Ok(text.clone()),
            Password::File(path) => path,
        };
        let read = || {
            let len = std::fs::metadata(path)?.len();
            ensure!(len <= PASSWORD_FILE_LEN_MAX, "it is no password file");
            Ok(std::fs::read_to_string(path)?)
        };
        let text = read().with_context(|| format!("password_file {}", path.display()))?;
        let line = text.lines().next().unwrap_or_default();
        ensure!(
            !line.is_empty(),
            "password_file {} is empty",
            path.display()
        );
        Ok(line.to_owned())
    }
}

fn parse_url(text: &str) -> anyhow::Result<Url> {
    let mut url = Url::parse(text).with_context(|| format!("auth_url {text:?}"))?;
    let known = matches!(url.scheme(), "http" | "https") && url.has_host();
    ensure!(known, "auth_url {text:?} is no http or https URL");
    let path = url.path().trim_end_matches('/');
    let version = if path.ends_with("/v3") { "" } else { "/v3" };
    let path = format!("{path}{version}");
    url.set_path(&path);
    url.set_query(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> AuthConfig {
        toml::from_str(text).unwrap()
    }

    const COMPLETE: &str = "auth_url = 'http://a:5000/'\nusername = 'u'\npassword = 'secret'\n\
                            project_name = 'p'\n";

    #[test]
    fn the_environment_fills_in() {
        let environment = |name: &str| Some(format!("{name}!"));
        let credentials = Credentials::new(
            &config("auth_url = 'http://a/v3'\nusername = 'u'"),
            environment,
        )
        .unwrap();
        let body = credentials.login().unwrap();
        let user = &body["auth"]["identity"]["password"]["user"];
        assert_eq!(user["name"], "u");
        assert_eq!(user["password"], "OS_PASSWORD!");
        assert_eq!(user["domain"]["name"], "OS_USER_DOMAIN_NAME!");
        assert_eq!(body["auth"]["scope"]["project"]["name"], "OS_PROJECT_NAME!");
        assert_eq!(credentials.region.as_deref(), Some("OS_REGION_NAME!"));
    }

    #[test]
    fn urls_end_in_the_version() {
        let credentials = Credentials::new(&config(COMPLETE), |_| None).unwrap();
        assert_eq!(credentials.urls[0].as_str(), "http://a:5000/v3");
        for bad in ["ftp://a", "a:5000", "http://"] {
            let mut config = config(COMPLETE);
            config.auth_url = vec![bad.into()];
            assert!(Credentials::new(&config, |_| None).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for key in ["auth_url", "username", "password", "project_name"] {
            let without = COMPLETE
                .lines()
                .filter(|line| !line.starts_with(key))
                .collect::<Vec<_>>()
                .join("\n");
            let error = Credentials::new(&config(&without), |_| None).unwrap_err();
            assert!(format!("{error:#}").contains(key), "{error:#}");
        }
    }

    #[test]
    fn a_password_file_is_read_at_each_login() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let mut config = config(COMPLETE);
        config.password = None;
        config.password_file = Some(file.path().to_owned());
        let credentials = Credentials::new(&config, |_| None).unwrap();
        let password = || credentials.password().unwrap();
        assert_eq!(password(), "first");
        std::fs::write(file.path(), "second").unwrap();
        assert_eq!(password(), "second");
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = config(COMPLETE);
        let credentials = Credentials::new(&config, |_| None).unwrap();
        assert!(!format!("{credentials:?} {config:?}").contains("secret"));
    }
}
