//! Can an operator tell from the log what happened, and nobody what is secret?

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::{Process, command};

#[test]
fn requests_refusals_and_secrets() {
    let directory = TempDir::new().unwrap();
    let data_dir = directory.path().join("site");
    let config = directory.path().join("site.toml");
    std::fs::write(&config, "[log]\nformat = \"json\"\nlevel = \"debug\"\n").unwrap();
    let mut command = command(&data_dir);
    command
        .arg("--config")
        .arg(&config)
        .env_remove("VITRAIL_LOG");
    let site = Process::run(command, &data_dir);

    let secret = "gAAAAAB-secret-token";
    let id = site.create(json!({"disk_format": "qcow2", "password": "secret-property"}));
    let refused = site
        .upload(&id, vec![7; 100_000])
        .header("X-Auth-Token", secret)
        .header("Authorization", secret)
        .send()
        .expect(415);
    let request = refused.header("x-openstack-request-id").unwrap();
    let wrong_type = site.request("PUT", &format!("/v2/images/{id}/file"));
    wrong_type.bytes("x").send().expect(415);
    site.get(&format!("/v2/images?token={secret}")).expect(200);
    site.get(&format!("/v2/{}", "x".repeat(5000))).expect(404);

    let log = site.logged();
    assert!(!log.contains("secret"), "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_request: Vec<_> = lines
        .iter()
        .filter(|line| line["span"]["id"] == request)
        .collect();
    let answered = |line: &&&Value| line["fields"]["message"] == "answered";
    let answers: Vec<_> = of_request.iter().filter(answered).collect();
    assert_eq!(answers.len(), 1, "one line a request");
    assert_eq!(answers[0]["fields"]["status"], 415);
    assert_eq!(answers[0]["fields"]["method"], "PUT");
    let warnings = lines.iter().filter(|line| line["level"] == "WARN");
    let reasons: Vec<_> = warnings
        .map(|line| line["fields"]["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("does not match"), "{reasons:?}");
    assert!(reasons[1].contains("media type"), "{reasons:?}");
    assert!(lines.iter().all(|line| line.to_string().len() < 2000));
}
