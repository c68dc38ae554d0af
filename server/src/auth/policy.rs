//! The default policy of the Image API: who may do what to which image.
//!
//! Who may not see an image learns nothing of it; who may see it and not act is told so.

use super::Identity;
use crate::catalogue::{Image, Visibility};

/// What somebody wants to do. The names are those of the API's policy rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    AddImage,
    ModifyImage,
    DeleteImage,
    UploadImage,
    DownloadImage,
    PublicizeImage,
    Deactivate,
    Reactivate,
    CopyImage,
    DeleteImageLocation,
    StoresInfoDetail,
    TasksApiAccess,
    FetchImageLocation,
    AddImageLocation,
    CacheList,
    CacheImage,
    CacheDelete,
    CacheClean,
    CachePrune,
    AddMetadefNamespace,
}

impl Action {
    /// The rule's name, as error messages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddImage => "add_image",
            Self::ModifyImage => "modify_image",
            Self::DeleteImage => "delete_image",
            Self::UploadImage => "upload_image",
            Self::DownloadImage => "download_image",
            Self::PublicizeImage => "publicize_image",
            Self::Deactivate => "deactivate",
            Self::Reactivate => "reactivate",
            Self::CopyImage => "copy_image",
            Self::DeleteImageLocation => "delete_image_location",
            Self::StoresInfoDetail => "stores_info_detail",
            Self::TasksApiAccess => "tasks_api_access",
            Self::FetchImageLocation => "fetch_image_location",
            Self::AddImageLocation => "add_image_location",
            Self::CacheList => "cache_list",
            Self::CacheImage => "cache_image",
            Self::CacheDelete => "cache_delete",
            Self::CacheClean => "cache_clean",
            Self::CachePrune => "cache_prune",
            Self::AddMetadefNamespace => "add_metadef_namespace",
        }
    }
}

/// Whether they may know that the image exists.
pub fn sees(who: &Identity, image: &Image) -> bool {
    who.is_admin()
        || owns(who, image)
        || matches!(image.visibility, Visibility::Public | Visibility::Community)
}

/// Whether the image is in their list when they do not ask for a visibility.
pub fn lists(who: &Identity, image: &Image) -> bool {
    owns(who, image)
        || match image.visibility {
            Visibility::Public => true,
            Visibility::Community => false,
            Visibility::Private | Visibility::Shared => who.is_admin(),
        }
}

/// Whether their project owns the image.
pub fn owns(who: &Identity, image: &Image) -> bool {
    who.project.is_some() && who.project == image.owner || who.project.is_none() && who.is_admin()
}

/// Whether they may make an image for this owner.
pub fn may_create(who: &Identity) -> bool {
    who.is_member()
}

/// Whether they may do this, which is about no image or whatever the image.
pub fn may_operate(who: &Identity, action: Action) -> bool {
    let service = who.roles.contains("service");
    who.is_admin()
        || service
            && matches!(
                action,
                Action::StoresInfoDetail | Action::FetchImageLocation
            )
}

/// Whether they may do this to an image that they see.
pub fn may(who: &Identity, action: Action, image: &Image) -> bool {
    if who.is_admin() {
        return true;
    }
    match action {
        Action::DownloadImage => who.is_member(),
        Action::PublicizeImage
        | Action::CopyImage
        | Action::DeleteImageLocation
        | Action::StoresInfoDetail
        | Action::TasksApiAccess
        | Action::FetchImageLocation
        | Action::CacheList
        | Action::CacheImage
        | Action::CacheDelete
        | Action::CacheClean
        | Action::CachePrune
        | Action::AddMetadefNamespace => false,
        _ => who.is_member() && owns(who, image),
    }
}
