//! Several sites and what goes on between them, one module per question. Real daemons with certificates of a real
//! authority, over loopback.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(dead_code)] // what the other suite needs of the shared modules

#[path = "../api/http.rs"]
mod http;
#[path = "../api/site.rs"]
mod site;

mod healing;
mod identity;
mod limits;
mod mesh;
mod pulling;
mod sharing;
