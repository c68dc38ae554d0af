//! A site as its clients and its operator see it, one module per question. Everything goes over real sockets to
//! a real daemon with a real store.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod http;
mod keystone;
mod site;
mod web;

mod auth;
mod bounds;
mod content;
mod crash;
mod damage;
mod data_dir;
mod discovery;
mod full_disk;
mod https;
mod import;
mod life;
mod list;
mod locations;
mod logs;
mod patch;
mod quota;
mod range;
mod serving;
mod sharing;
mod stop;
mod stores;
mod upload;
