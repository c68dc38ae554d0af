//! A real Keystone for those who ask whom a token belongs to: the one that the tests of the Image API use.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::process::Process;

/// Makes the environment and a template of the database when it is run for the first time.
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../server/tests/openstack/keystone"
);
/// What is not there yet is installed from the Python package index.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Longer than any experiment.
const TOKEN_SECONDS: &str = "86400";

/// A running Keystone with users in several projects, killed on drop.
#[derive(Debug)]
pub struct Keystone {
    process: Process,
    about: About,
}

/// What the script prints when it is ready.
#[derive(Debug, Deserialize)]
struct About {
    auth_url: String,
    region: String,
    password: String,
    personas: BTreeMap<String, Persona>,
}

#[derive(Debug, Deserialize)]
struct Persona {
    user: String,
    project: String,
    project_id: String,
}

impl Keystone {
    /// Starts one that keeps its database and log in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let log = dir.join("log");
        let mut process = Process::spawn(
            "keystone",
            Command::new(SCRIPT)
                .args(["--token-seconds", TOKEN_SECONDS])
                .env("TMPDIR", dir),
            &log,
        )?;
        let about = || {
            let text = fs::read_to_string(&log).ok()?;
            text.lines()
                .find_map(|line| serde_json::from_str(line).ok())
        };
        process
            .wait_ready(READY_TIMEOUT, || about().is_some())
            .with_context(|| format!("see {}", log.display()))?;
        let about = about().context("Keystone said who uses it, and no more")?;
        Ok(Self { process, about })
    }

    /// A new token of a persona, scoped to their project.
    pub fn token(&self, persona: &str) -> Result<String> {
        let who = self.persona(persona)?;
        let domain = json!({"id": "default"});
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": who.user, "domain": domain, "password": self.about.password,
            }}},
            "scope": {"project": {"name": who.project, "domain": domain}},
        }});
        let answer = ureq::post(format!("{}/auth/tokens", self.about.auth_url))
            .content_type("application/json")
            .send(login.to_string())
            .with_context(|| format!("log {persona} in"))?;
        let token = answer.headers().get("x-subject-token");
        let token = token.context("Keystone gave no token")?;
        Ok(token.to_str()?.to_owned())
    }

    /// Id of a persona's project.
    pub fn project(&self, persona: &str) -> Result<&str> {
        Ok(&self.persona(persona)?.project_id)
    }

    fn persona(&self, name: &str) -> Result<&Persona> {
        let known = self.about.personas.get(name);
        known.with_context(|| format!("Keystone knows no {name}"))
    }

    /// The section in which a service of OpenStack is told of it.
    pub(super) fn authtoken(&self) -> String {
        let About {
            auth_url,
            region,
            password,
            ..
        } = &self.about;
        format!(
            "[keystone_authtoken]\n\
             auth_type = password\n\
             auth_url = {auth_url}\n\
             www_authenticate_uri = {auth_url}\n\
             username = nova\n\
             password = {password}\n\
             project_name = service\n\
             user_domain_id = default\n\
             project_domain_id = default\n\
             region_name = {region}\n"
        )
    }

    /// The section in which Vitrail is told of it.
    pub fn auth_section(&self) -> Result<String> {
        let About {
            auth_url,
            region,
            password,
            ..
        } = &self.about;
        let who = self.persona("validator")?;
        ensure!(
            !format!("{auth_url}{password}").contains('"'),
            "Keystone's URL or password would need to be quoted"
        );
        Ok(format!(
            "[auth]\n\
             mode = \"keystone\"\n\
             auth_url = \"{auth_url}\"\n\
             username = \"{}\"\n\
             password = \"{password}\"\n\
             project_name = \"{}\"\n\
             region_name = \"{region}\"\n",
            who.user, who.project,
        ))
    }

    /// Its process, whose children serve.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
