//! The documents of the Image API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Keys of an image document that are neither fields of [`Image`] nor custom properties.
const LINKS: [&str; 6] = [
    "self",
    "file",
    "schema",
    "stores",
    "direct_url",
    "locations",
];

/// An image record. Serialises back to the document that the server sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// UUID, spelled as the site spells it.
    pub id: String,
    /// Names need not be unique.
    pub name: Option<String>,
    /// `queued`, `saving`, `active`, `deactivated` and others; only an `active` image has data
    /// for everyone, and the data of an active image never change.
    pub status: String,
    /// Who may see it.
    pub visibility: String,
    /// Project that owns it.
    pub owner: Option<String>,
    /// Refuses to be deleted.
    pub protected: bool,
    /// Left out of listings.
    #[serde(default)]
    pub os_hidden: bool,
    /// Smallest disk that it boots from, in GB.
    pub min_disk: u64,
    /// Smallest memory that it boots with, in MB.
    pub min_ram: u64,
    /// What the bytes are: `raw`, `qcow2`, …
    pub disk_format: Option<String>,
    /// What the disk is wrapped in; `bare` for nothing.
    pub container_format: Option<String>,
    /// A set in no particular order.
    pub tags: Vec<String>,
    /// Bytes of data; known once the image is active.
    pub size: Option<u64>,
    /// Bytes of the disk that the data describe.
    pub virtual_size: Option<u64>,
    /// MD5 of the data in hex.
    pub checksum: Option<String>,
    /// Algorithm of `os_hash_value`, usually `sha512`.
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    /// Stronger hash of the data in hex.
    #[serde(default)]
    pub os_hash_value: Option<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC; downloads do not touch it.
    pub updated_at: String,
    /// Links, stores and custom properties.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Image {
    /// Whether the data are complete and can be downloaded.
    pub fn is_active(&self) -> bool {
        self.status == "active"
    }

    /// Custom properties in the order of their keys.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.extra
            .iter()
            .filter(|(key, _)| !LINKS.contains(&key.as_str()))
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }
}

/// Who may see an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everyone; only administrators may choose this.
    Public,
    /// Its own project.
    Private,
    /// Its own project and those it is shared with.
    Shared,
    /// Everyone who asks for it; not in their listings.
    Community,
}

impl Visibility {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Public, Self::Private, Self::Shared, Self::Community];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Community => "community",
        }
    }
}

/// A record to be created. What is `None` is left to the site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewImage {
    /// Id to use; the site refuses one that it has ever used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// At most 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the bytes are; data cannot be uploaded without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_format: Option<String>,
    /// `bare` if the data are the disk itself; data cannot be uploaded without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_format: Option<String>,
    /// The site's default is `shared`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// At most 128.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Custom properties, at most 128. A key must not be the name of a field above.
    #[serde(flatten)]
    pub properties: BTreeMap<String, String>,
}

/// One operation of a JSON patch (RFC 6902) in the form that the Image API takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum PatchOp {
    /// Sets a property, whether it is there or not.
    Add {
        /// See [`property_path`].
        path: String,
        /// New value.
        value: Value,
    },
    /// Sets a property that is there.
    Replace {
        /// See [`property_path`].
        path: String,
        /// New value.
        value: Value,
    },
    /// Removes a custom property.
    Remove {
        /// See [`property_path`].
        path: String,
    },
}

/// JSON pointer (RFC 6901) to a top-level key of an image.
pub fn property_path(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_survives_the_round_trip() {
        let document = json!({
            "id": "71c675ab-d94f-49cd-a114-e12490b328d9", "name": null, "status": "active",
            "visibility": "shared", "owner": null, "protected": false, "os_hidden": false,
            "min_disk": 0, "min_ram": 0, "disk_format": "raw", "container_format": "bare",
            "tags": ["a"], "size": 3, "virtual_size": null, "checksum": "00",
            "os_hash_algo": "sha512", "os_hash_value": "11",
            "created_at": "2026-11-24T08:19:30Z", "updated_at": "2026-11-24T08:19:30Z",
            "self": "/v2/images/71c675ab-d94f-49cd-a114-e12490b328d9", "stores": "paris,lyon",
            "hw:mem": "1", "os_distro": "debian",
        });
        let image: Image = serde_json::from_value(document.clone()).unwrap();
        let properties: Vec<_> = image.properties().collect();
        assert_eq!(properties, [("hw:mem", "1"), ("os_distro", "debian")]);
        assert_eq!(serde_json::to_value(&image).unwrap(), document);
    }

    #[test]
    fn patches_are_in_the_form_of_the_api() {
        let operations = [
            PatchOp::Add {
                path: property_path("a/b~c"),
                value: json!("x"),
            },
            PatchOp::Remove {
                path: property_path("gone"),
            },
        ];
        assert_eq!(
            serde_json::to_value(operations).unwrap(),
            json!([{"op": "add", "path": "/a~1b~0c", "value": "x"}, {"op": "remove", "path": "/gone"}])
        );
    }

    #[test]
    fn a_new_image_says_only_what_is_set() {
        let image = NewImage {
            name: Some("n".to_owned()),
            visibility: Some(Visibility::Community),
            properties: [("k".to_owned(), "v".to_owned())].into(),
            ..NewImage::default()
        };
        let document = json!({"name": "n", "visibility": "community", "k": "v"});
        assert_eq!(serde_json::to_value(image).unwrap(), document);
    }
}
