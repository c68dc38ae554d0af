//! Client library of Vitrail: the Image API v2 and the admin API of a site, and transfers of whole
//! images on top of them.
//!
//! - [`Client`] knows where a site is; [`Client::images`] and [`Client::admin`] are the two APIs,
//!   one method per request.
//! - [`push`] and [`pull`] move image files and compare their hashes. A pull goes on after a broken
//!   connection; nothing else is repeated.
//! - [`Error`] says what a request met, in which place, and what to do about it.
//!
//! Everything is asynchronous and wants a tokio runtime with I/O and time enabled. Nothing here
//! prints, and the library reads no environment variable of Vitrail or OpenStack: the command line
//! does both. (Like other HTTP clients it obeys `http_proxy`, `https_proxy` and `no_proxy`.)
//!
//! What a server sends is bounded before it is kept: [`client::JSON_LEN_MAX`],
//! [`error::MESSAGE_LEN_MAX`], [`admin::LINE_LEN_MAX`], [`image::PAGES_MAX`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use vitrail::{Client, Config};
//!
//! let client = Client::new(Config::default())?;
//! let image = client.images().find("debian-12").await?;
//! println!("{} is {:?} bytes", image.id, image.size);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod ca;
pub mod client;
pub mod error;
pub mod format;
pub mod image;
pub mod transfer;

pub use client::{Client, Config};
pub use error::{ApiError, Error, Result};
pub use image::{Image, NewImage};
pub use reqwest::Url;
pub use transfer::{pull, push};
