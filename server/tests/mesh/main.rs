//! Several sites and what goes on between them, one module per question. Real daemons with certificates of a real
//! authority, over loopback.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(dead_code)] // what the other suite needs of the shared modules

#[path = "../api/http.rs"]
mod http;
#[path = "../api/keystone.rs"]
mod keystone;
#[path = "../api/site.rs"]
mod site;

mod cache;
mod cut;
mod healing;
mod hostile;
mod identity;
mod liar;
mod limits;
mod mesh;
mod partition;
mod parts;
mod permission;
mod pulling;
mod sharing;
mod stores;
