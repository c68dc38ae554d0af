//! Who is let in, and what happens when Keystone is gone, lies, or changes its mind?

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use crate::http::Answer;
use crate::keystone::{Keystone, PUBLIC_URL, Trouble};
use crate::site::{Client, Site};

fn start(keystone: &Keystone) -> Site {
    Site::with(|config| keystone.configure(config))
}

/// Lists images with a token.
fn list(client: &Client, token: &'static str) -> Answer {
    client.with_token(token).get("/v2/images")
}

/// Waits until a token is answered so. The site leaves a Keystone that failed alone for a moment.
#[track_caller]
fn wait_for(client: &Client, token: &'static str, status: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while list(client, token).status != status {
        assert!(Instant::now() < deadline, "{}", list(client, token).text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn only_valid_tokens_are_let_in() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    let answer = list(&site, "demo").expect(200);
    assert!(answer.header("x-openstack-request-id").is_some());
    let challenge = format!("Keystone uri=\"{}\"", keystone.url());
    for answer in [
        site.get("/v2/images"),
        site.get("/v2"),
        site.get("/v2/nothing/here"),
        list(&site, "wrong"),
        site.request("GET", "/v2/images")
            .header("X-Auth-Token", &"x".repeat(9000))
            .send(),
    ] {
        let answer = answer.expect(401);
        assert_eq!(answer.header("www-authenticate"), Some(&*challenge));
        assert_eq!(answer.header("x-openstack-request-id"), None);
    }
    // Discovery needs none.
    site.get("/").expect(300);
    site.get("/healthcheck").expect(200);
}

#[test]
fn what_clients_say_of_themselves_is_not_believed() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    let claim = |request: crate::http::Request| {
        request
            .header("X-Roles", "admin")
            .header("X-Role", "admin")
            .header("X-Project-Id", "p-demo")
            .header("X-User-Id", "u-demo")
            .header("X-Identity-Status", "Confirmed")
            .header("X-Is-Admin-Project", "True")
    };
    claim(site.request("GET", "/v2/images")).send().expect(401);
    let reader = site.with_token("reader");
    claim(reader.request("POST", "/v2/images").json(&json!({})))
        .send()
        .expect(403);
}

#[test]
fn a_token_is_asked_about_once() {
    let keystone = Keystone::start();
    let site = Site::with(|config| {
        keystone.configure(config);
        config.auth.cache_s = 3600;
    });
    let client = site.client;
    let threads: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || list(&client, "demo").status))
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 200);
    }
    assert_eq!(keystone.script().questions, 1);
    assert_eq!(keystone.script().logins, 1);
    // So long is a revoked token good, and one that never was is asked about each time.
    keystone.script().revoke("demo");
    list(&site, "demo").expect(200);
    list(&site, "wrong").expect(401);
    list(&site, "wrong").expect(401);
    assert_eq!(keystone.script().questions, 3);
}

#[test]
fn a_revoked_token_is_refused_once_its_answer_is_old() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    list(&site, "demo").expect(200);
    keystone.script().revoke("demo");
    list(&site, "demo").expect(401);
}

#[test]
fn the_services_own_token_is_renewed() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    list(&site, "demo").expect(200);
    keystone.script().forget_logins();
    list(&site, "demo").expect(200);
    list(&site, "demo").expect(200);
    assert_eq!(keystone.script().logins, 2);
}

#[test]
fn without_keystone_nobody_can_tell() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    list(&site, "demo").expect(200);
    for trouble in [
        Trouble::Closed,
        Trouble::NoLogin,
        Trouble::Answer(500, "{}"),
        Trouble::Answer(302, "{}"),
        Trouble::Answer(403, "{}"),
        Trouble::Answer(200, "{}"),
        Trouble::Answer(200, "<html>"),
        Trouble::Answer(
            200,
            r#"{"token": {"expires_at": "2999-01-01T00:00:00Z", "roles": 7}}"#,
        ),
        Trouble::Long(5 << 20),
    ] {
        keystone.script().trouble = Some(trouble);
        keystone.script().forget_logins();
        let answer = list(&site, "demo").expect(503);
        assert!(answer.header("retry-after").is_some(), "{trouble:?}");
        keystone.script().trouble = None;
        wait_for(&site, "demo", 200);
    }
}

#[test]
fn a_keystone_that_says_nothing_is_not_waited_for() {
    let keystone = Keystone::start();
    let site = Site::with(|config| {
        keystone.configure(config);
        config.auth.timeout_s = 1;
    });
    keystone.script().trouble = Some(Trouble::Silent);
    list(&site, "demo").expect(503);
}

#[test]
fn with_grace_what_was_known_still_counts() {
    let keystone = Keystone::start();
    let site = Site::with(|config| {
        keystone.configure(config);
        config.auth.outage_grace_s = 3600;
    });
    list(&site, "demo").expect(200);
    keystone.script().trouble = Some(Trouble::Closed);
    list(&site, "demo").expect(200);
    // Not who was never seen, and nobody whom Keystone refuses.
    list(&site, "alt").expect(503);
    keystone.script().trouble = None;
    keystone.script().revoke("demo");
    wait_for(&site, "demo", 401);
    keystone.script().trouble = Some(Trouble::Closed);
    list(&site, "demo").expect(503);
}

#[test]
fn another_url_is_tried() {
    let (dead, alive) = (Keystone::start(), Keystone::start());
    dead.script().trouble = Some(Trouble::Closed);
    let site = Site::with(|config| {
        alive.configure(config);
        config.auth.auth_url = vec![dead.url(), alive.url()];
    });
    list(&site, "demo").expect(200);
}

#[test]
fn only_a_known_authority_is_believed() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let keystone = Keystone::start_with_tls(Arc::new(tls));
    let answer = |pem: String| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        let site = Site::with(|config| {
            keystone.configure(config);
            config.auth.ca_file = Some(file.path().into());
        });
        list(&site, "demo").status
    };
    assert_eq!(answer(made.cert.pem()), 200);
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    assert_eq!(answer(other.cert.pem()), 503);
}

#[test]
fn clients_are_sent_to_the_keystone_of_their_region() {
    let keystone = Keystone::start();
    let site = Site::with(|config| {
        keystone.configure(config);
        config.auth.region_name = Some("far".into());
    });
    list(&site, "demo").expect(200);
    let challenge = format!("Keystone uri=\"{PUBLIC_URL}\"");
    let answer = list(&site, "wrong").expect(401);
    assert_eq!(answer.header("www-authenticate"), Some(&*challenge));
}

#[test]
fn a_service_vouches_for_an_expired_token() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    let list = |service| {
        let client = site.with_token("demo");
        let request = client.request("GET", "/v2/images");
        request.header("X-Service-Token", service).send().status
    };
    // A bad service token does no harm to a good one of a user.
    assert_eq!(list("wrong"), 200);
    keystone.expire("demo");
    assert_eq!(self::list(&site, "demo").status, 401);
    assert_eq!(list("nova"), 200);
    // Who is no service cannot vouch, and nobody for themselves.
    assert_eq!(list("alt"), 401);
    assert_eq!(list("wrong"), 401);
    keystone.expire("nova");
    assert_eq!(list("nova"), 401);
}

#[test]
fn a_token_of_no_project_has_nothing() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    keystone.add("system", None, &["member", "reader"]);
    let system = site.with_token("system");
    system.get("/v2/images").expect(403);
    let answer = system.request("POST", "/v2/images").json(&json!({})).send();
    answer.expect(403);
    let id = site.with_token("demo").create(json!({}));
    system.get(&format!("/v2/images/{id}")).expect(404);
    system.get("/v2/schemas/image").expect(200);
}

#[test]
fn a_refused_upload_is_answered() {
    let keystone = Keystone::start();
    let site = start(&keystone);
    let id = site.with_token("demo").create(json!({}));
    site.upload(&id, vec![1; 3 << 20]).send().expect(401);
    site.with_token("reader")
        .upload(&id, vec![1; 3 << 20])
        .send()
        .expect(403);
    site.with_token("alt")
        .upload(&id, vec![1; 3 << 20])
        .send()
        .expect(404);
    assert_eq!(site.with_token("demo").status(&id), "queued");
}

#[test]
fn rules_can_be_other_ones() {
    let keystone = Keystone::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\"add_image\": \"role:guest\"\n").unwrap();
    let site = Site::with(|config| {
        keystone.configure(config);
        config.auth.policy_file = Some(file.path().into());
    });
    let create = |token| {
        let client = site.with_token(token);
        client
            .request("POST", "/v2/images")
            .json(&json!({}))
            .send()
            .status
    };
    assert_eq!(create("guest"), 201);
    assert_eq!(create("demo"), 403);
}
