//! Image API v2: records, listing and data of images.

mod data;
mod list;
mod model;

pub use data::{ByteRange, Download};
pub use list::{ImageQuery, PAGE_LEN_DEFAULT, PAGES_MAX, Pages};
pub use model::{Image, NewImage, PatchOp, Visibility, property_path};

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use uuid::Uuid;

use crate::client::{Api, Client};
use crate::error::{Error, Result};

/// Media type of JSON patches; the API takes no other spelling of it.
const PATCH_TYPE: &str = "application/openstack-images-v2.1-json-patch";

/// The Image API of one site: a method is a request, except where it says otherwise.
///
/// All methods fail with [`Error::Unreachable`], [`Error::Interrupted`] or [`Error::Api`]; an
/// image that the caller may not see is answered like one that does not exist, by 404.
#[derive(Clone, Copy, Debug)]
pub struct ImageApi<'a> {
    client: &'a Client,
}

impl<'a> ImageApi<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Creates a record without data; its `status` is `queued`.
    ///
    /// # Errors
    /// 400 for a field or property the site does not take, 409 if the id is or was in use.
    pub async fn create(&self, image: &NewImage) -> Result<Image> {
        let request = self
            .client
            .request(Api::Image, Method::POST, &["v2", "images"]);
        self.client.document(request.json(image)).await
    }

    /// The record of an image.
    pub async fn show(&self, id: &str) -> Result<Image> {
        self.client
            .document(self.image_request(Method::GET, id))
            .await
    }

    /// The image with this id or, if there is none, the only one with this name.
    /// Takes one request or two.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] and [`Error::Ambiguous`].
    pub async fn find(&self, id_or_name: &str) -> Result<Image> {
        if Uuid::try_parse(id_or_name).is_ok() {
            match self.show(id_or_name).await {
                Err(error) if error.status() == Some(404) => {}
                found => return found,
            }
        }
        let name = id_or_name.to_owned();
        let query = ImageQuery {
            name: Some(name.clone()),
            ..ImageQuery::default()
        };
        let mut named = self.list(&query).next().await?.unwrap_or_default();
        named.retain(|image| image.name.as_deref() == Some(id_or_name));
        if named.len() > 1 {
            let ids = named.into_iter().map(|image| image.id).collect();
            return Err(Error::Ambiguous { name, ids });
        }
        named.pop().ok_or(Error::NoSuchImage { name })
    }

    /// The images that match `query`, page by page. Sends nothing yet.
    pub fn list(&self, query: &ImageQuery) -> Pages<'a> {
        Pages::new(self.client, query)
    }

    /// Changes a record: all of the operations or none. Answers the changed record.
    ///
    /// # Errors
    /// 403 for fields that are not the caller's to change, 409 for a property that is not there.
    pub async fn patch(&self, id: &str, operations: &[PatchOp]) -> Result<Image> {
        let body = serde_json::to_vec(operations).expect("strings and JSON values serialise");
        let request = self
            .image_request(Method::PATCH, id)
            .header(CONTENT_TYPE, PATCH_TYPE)
            .body(body);
        self.client.document(request).await
    }

    /// Deletes an image with its data. Its id cannot be used again.
    ///
    /// # Errors
    /// 403 if the image is protected.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.client
            .acknowledged(self.image_request(Method::DELETE, id))
            .await
    }

    fn image_request(&self, method: Method, id: &str) -> reqwest::RequestBuilder {
        self.client
            .request(Api::Image, method, &["v2", "images", id])
    }
}
