//! Listing of images in pages.

use reqwest::Method;
use serde::Deserialize;

use crate::client::{Api, Client};
use crate::error::{Error, Result};
use crate::image::{Image, Visibility};

/// Images asked for in one page.
pub const PAGE_LEN_DEFAULT: u32 = 500;

/// Most pages of one listing: a server that never ends one is stopped here.
pub const PAGES_MAX: u32 = 2000;

/// Which images to list and in which order; the default is every visible image that is not
/// hidden, newest first.
#[derive(Clone, Debug)]
pub struct ImageQuery {
    /// Exactly this name.
    pub name: Option<String>,
    /// Exactly this status.
    pub status: Option<String>,
    /// Exactly this visibility.
    pub visibility: Option<Visibility>,
    /// All of these tags.
    pub tags: Vec<String>,
    /// `key:asc` or `key:desc`, comma-separated.
    pub sort: Option<String>,
    /// Images per page. The server may send fewer (Glance caps at 1000).
    pub page_len: u32,
}

impl Default for ImageQuery {
    fn default() -> Self {
        Self {
            name: None,
            status: None,
            visibility: None,
            tags: Vec::new(),
            sort: None,
            page_len: PAGE_LEN_DEFAULT,
        }
    }
}

impl ImageQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("limit", self.page_len.to_string())];
        pairs.extend(self.name.iter().map(|name| ("name", equality(name))));
        pairs.extend(
            self.status
                .iter()
                .map(|status| ("status", equality(status))),
        );
        pairs.extend(
            self.visibility
                .map(|it| ("visibility", it.as_str().to_owned())),
        );
        pairs.extend(self.tags.iter().map(|tag| ("tag", tag.clone())));
        pairs.extend(self.sort.iter().map(|sort| ("sort", sort.clone())));
        pairs
    }
}

/// A filter value that means itself: the server reads what stands before a colon as an operator,
/// so such a value becomes a quoted list of one.
fn equality(value: &str) -> String {
    if value.contains(':') {
        format!("in:\"{value}\"")
    } else {
        value.to_owned()
    }
}

/// The pages of a listing. Holds no page itself.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a Client,
    query: Vec<(&'static str, String)>,
    marker: Option<String>,
    pages: u32,
    ended: bool,
}

#[derive(Deserialize)]
struct Page {
    images: Vec<Image>,
    next: Option<String>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(client: &'a Client, query: &ImageQuery) -> Self {
        Self {
            client,
            query: query.pairs(),
            marker: None,
            pages: 0,
            ended: false,
        }
    }

    /// The next page, `None` after the last.
    ///
    /// # Errors
    /// 400 for a sort key that the site does not know or if the last image of the page before was
    /// deleted meanwhile; [`Error::Malformed`] beyond [`PAGES_MAX`] pages.
    pub async fn next(&mut self) -> Result<Option<Vec<Image>>> {
        if self.ended {
            return Ok(None);
        }
        if self.pages == PAGES_MAX {
            let url = self.client.url(Api::Image, &["v2", "images"]).to_string();
            let reason = format!("a listing of more than {PAGES_MAX} pages");
            return Err(Error::Malformed { url, reason });
        }
        let request = self
            .client
            .request(Api::Image, Method::GET, &["v2", "images"])
            .query(&self.query)
            .query(
                &self
                    .marker
                    .iter()
                    .map(|id| ("marker", id))
                    .collect::<Vec<_>>(),
            );
        let page: Page = self.client.document(request).await?;
        self.pages += 1;
        self.marker = page.images.last().map(|image| image.id.clone());
        // `next` tells that there is more, but is not followed: Glance's own drops repeated tags.
        self.ended = page.next.is_none() || self.marker.is_none();
        Ok(Some(page.images))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_colon_are_no_operators() {
        assert_eq!(equality("debian"), "debian");
        assert_eq!(equality("debian:12,slim"), "in:\"debian:12,slim\"");
    }

    #[test]
    fn every_tag_is_asked_for() {
        let query = ImageQuery {
            tags: vec!["a".to_owned(), "b".to_owned()],
            visibility: Some(Visibility::Public),
            page_len: 2,
            ..ImageQuery::default()
        };
        let expected = [
            ("limit", "2"),
            ("visibility", "public"),
            ("tag", "a"),
            ("tag", "b"),
        ]
        .map(|(k, v)| (k, v.to_owned()));
        assert_eq!(query.pairs(), expected);
    }
}
