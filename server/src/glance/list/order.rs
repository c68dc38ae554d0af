//! The order of a list.

use std::cmp::Ordering;

use super::super::{ApiError, ApiResult};
use crate::catalogue::Image;

/// Most columns that a list is ordered by: there are no more.
const SORT_KEYS_MAX: usize = 8;

/// A column by which lists are ordered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

impl SortKey {
    pub(super) fn parse(text: &str) -> ApiResult<Self> {
        Ok(match text {
            "name" => Self::Name,
            "status" => Self::Status,
            "container_format" => Self::ContainerFormat,
            "disk_format" => Self::DiskFormat,
            "size" => Self::Size,
            "id" => Self::Id,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            other => {
                return Err(ApiError::bad_request(format!(
                    "Invalid sort key: {other}. It must be one of the following: name, status, \
                     container_format, disk_format, size, id, created_at, updated_at."
                )));
            }
        })
    }

    /// Ascending; what is absent comes last.
    fn compare(self, a: &Image, b: &Image) -> Ordering {
        fn absent_last<T: Ord>(a: Option<T>, b: Option<T>) -> Ordering {
            match (a, b) {
                (Some(a), Some(b)) => a.cmp(&b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        match self {
            Self::Name => absent_last(a.name.as_ref(), b.name.as_ref()),
            Self::Status => a.status.as_str().cmp(b.status.as_str()),
            Self::ContainerFormat => {
                absent_last(a.container_format.as_ref(), b.container_format.as_ref())
            }
            Self::DiskFormat => absent_last(a.disk_format.as_ref(), b.disk_format.as_ref()),
            Self::Size => absent_last(a.size(), b.size()),
            Self::Id => a.id.cmp(&b.id),
            Self::CreatedAt => a.created_at.cmp(&b.created_at),
            Self::UpdatedAt => a.updated_at.cmp(&b.updated_at),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    pub(super) fn parse(text: &str) -> ApiResult<Self> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            other => Err(ApiError::bad_request(format!(
                "Invalid sort direction: {other}. It must be one of the following: asc, desc."
            ))),
        }
    }
}

/// A total order: the columns asked for, then age, then id, so that markers work.
#[derive(Default)]
pub(super) struct Order {
    keys: Vec<(SortKey, Direction)>,
}

impl Order {
    pub(super) fn parse(
        sort: Option<&str>,
        keys: Vec<SortKey>,
        directions: Vec<Direction>,
    ) -> ApiResult<Self> {
        let keys = match sort {
            Some(_) if !keys.is_empty() || !directions.is_empty() => {
                return Err(ApiError::bad_request(
                    "Old and new sorting syntax cannot be combined: use sort, or sort_key and \
                     sort_dir.",
                ));
            }
            Some(sort) => sort
                .split(',')
                .map(|item| {
                    let (key, direction) = item.trim().split_once(':').unwrap_or((item, "desc"));
                    Ok((
                        SortKey::parse(key.trim())?,
                        Direction::parse(direction.trim())?,
                    ))
                })
                .collect::<ApiResult<Vec<_>>>()?,
            None => {
                let all = match directions[..] {
                    [] => vec![Direction::Descending; keys.len().max(1)],
                    [one] => vec![one; keys.len().max(1)],
                    _ => directions,
                };
                let keys = if keys.is_empty() {
                    vec![SortKey::CreatedAt]
                } else {
                    keys
                };
                if all.len() != keys.len() {
                    return Err(ApiError::bad_request(
                        "Number of sort dirs does not match the number of sort keys",
                    ));
                }
                keys.into_iter().zip(all).collect()
            }
        };
        if keys.len() > SORT_KEYS_MAX {
            return Err(ApiError::bad_request(format!(
                "A list is ordered by at most {SORT_KEYS_MAX} columns."
            )));
        }
        Ok(Self { keys })
    }

    /// Whether it is the catalogue's own order.
    pub(super) fn is_default(&self) -> bool {
        matches!(
            self.keys[..],
            [] | [(SortKey::CreatedAt, Direction::Descending)]
        )
    }

    pub(super) fn compare(&self, a: &Image, b: &Image) -> Ordering {
        let last = self
            .keys
            .last()
            .map_or(Direction::Descending, |(_, direction)| *direction);
        let ties = [(SortKey::CreatedAt, last), (SortKey::Id, last)];
        for (key, direction) in self.keys.iter().chain(&ties) {
            let order = match direction {
                Direction::Ascending => key.compare(a, b),
                Direction::Descending => key.compare(b, a),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }
}
