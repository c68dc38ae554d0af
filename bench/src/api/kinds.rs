//! The kinds of requests that the services and the users of a cloud make, in the order in which they are made:
//! each finds what those before it left.
//!
//! Of the thousand images the member's project made, the first twenty are public. Those with odd numbers are
//! shared, and some get data, tags and members as the kinds go on.

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::json;

use super::subject::{Users, Who};
use crate::image_api::Request;
use crate::journal::{Better, Measure, Unit};

/// Bytes of the images that are uploaded: the requests are measured, not the disk.
const DATA_LEN: usize = 64 << 10;
/// How many of the last images are staged.
const STAGED: usize = 50;
/// Each needs a token of its own.
const NEWCOMERS: usize = 100;
const RANGE_LEN: usize = 4 << 10;

/// A kind of request.
pub(super) struct Kind {
    pub(super) key: &'static str,
    pub(super) latency: Measure,
    pub(super) per_cpu: Measure,
    pub(super) database_cpu: Measure,
    pub(super) who: Who,
    /// What is right to answer.
    pub(super) status: u16,
    /// How many are made, where that is not for the command line to say.
    pub(super) count: Option<usize>,
    /// The request of a number, at a server that has these images.
    pub(super) request: fn(&[String], &Users<'_>, usize) -> Result<Request>,
}

impl Kind {
    /// For each of `count` requests the token that it needs, if it is not its user's usual one.
    pub(super) fn fresh_tokens(
        &self,
        users: &Users<'_>,
        count: usize,
    ) -> Result<Vec<Option<String>>> {
        let token = |_| match self.who {
            Who::Newcomer => users.fresh().map(Some),
            _ => Ok(None),
        };
        (0..count).map(token).collect()
    }
}

/// Kinds that belong together.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) kinds: &'static [Kind],
}

macro_rules! kind {
    ($key:literal, $title:literal, $who:ident, $status:literal, $request:expr) => {
        Kind {
            key: $key,
            latency: Measure {
                key: concat!("api.", $key),
                title: $title,
                unit: Unit::Seconds,
                better: Better::Less,
            },
            per_cpu: Measure {
                key: concat!("api.", $key, ".per_cpu"),
                title: concat!($title, ", requests per CPU second of the server"),
                unit: Unit::PerSecond,
                better: Better::More,
            },
            database_cpu: Measure {
                key: concat!("api.", $key, ".database_cpu"),
                title: concat!($title, ", CPU time of the database server per request"),
                unit: Unit::Seconds,
                better: Better::Less,
            },
            who: Who::$who,
            status: $status,
            count: None,
            request: $request,
        }
    };
}

pub(super) static GROUPS: &[Group] = &[
    Group {
        title: "Making images",
        kinds: &[
            Kind {
                count: Some(super::IMAGES),
                ..kind!(
                    "create",
                    "create, while the catalogue grows to 1,000",
                    Member,
                    201,
                    create
                )
            },
            kind!("upload", "upload 64 KiB", Member, 204, |ids, _, number| {
                let path = of(ids, number, "/file");
                Ok(Request::data("PUT", path, bytes(number)))
            }),
            Kind {
                count: Some(STAGED),
                ..kind!("stage", "stage 64 KiB", Member, 204, |ids, _, number| {
                    let path = of_last(ids, number, "/stage");
                    Ok(Request::data("PUT", path, bytes(ids.len() - number)))
                })
            },
            kind!(
                "tasks",
                "tasks of an image",
                Member,
                200,
                |ids, _, number| { Ok(Request::get(of_last(ids, number % STAGED, "/tasks"))) }
            ),
        ],
    },
    Group {
        title: "Looking at images",
        kinds: &[
            kind!("show", "show", Member, 200, |ids, _, number| {
                Ok(Request::get(of_any(ids, number)))
            }),
            Kind {
                count: Some(NEWCOMERS),
                ..kind!(
                    "show.newcomer",
                    "show, with a token that is new to the server",
                    Newcomer,
                    200,
                    |ids, _, number| Ok(Request::get(of_any(ids, number)))
                )
            },
            kind!(
                "show.public",
                "show, another project's public image",
                Other,
                200,
                |ids, _, number| { Ok(Request::get(of(ids, number % 20, ""))) }
            ),
            kind!(
                "show.private",
                "show, another project's private image: 404",
                Other,
                404,
                |ids, _, number| { Ok(Request::get(of(ids, 20 + number / 2 * 2, ""))) }
            ),
            kind!(
                "show.name",
                "show by a name, as clients try first: 404",
                Member,
                404,
                |_, _, number| { Ok(Request::get(format!("/v2/images/server-{number}"))) }
            ),
        ],
    },
    Group {
        title: "Lists",
        kinds: &[
            kind!(
                "list",
                "list, the first page of 25",
                Member,
                200,
                |_, _, _| { Ok(Request::get("/v2/images?limit=25")) }
            ),
            kind!(
                "list.page",
                "list, a page of 25 somewhere",
                Member,
                200,
                |ids, _, number| {
                    let marker = any(ids, number);
                    Ok(Request::get(format!("/v2/images?limit=25&marker={marker}")))
                }
            ),
            Kind {
                count: Some(40),
                ..kind!(
                    "list.all",
                    "list, all 1,000 in one",
                    Member,
                    200,
                    |_, _, _| { Ok(Request::get("/v2/images?limit=1000")) }
                )
            },
            kind!("list.name", "list by name", Member, 200, |_, _, number| {
                Ok(Request::get(format!("/v2/images?name=server-{number}")))
            }),
            kind!(
                "list.ids",
                "list by ten ids",
                Member,
                200,
                |ids, _, number| {
                    let ids: Vec<_> = (0..10).map(|one| any(ids, number * 10 + one)).collect();
                    Ok(Request::get(format!("/v2/images?id=in:{}", ids.join(","))))
                }
            ),
            kind!(
                "list.property",
                "list by two properties",
                Member,
                200,
                |_, _, number| {
                    let version = 10 + number % 4;
                    Ok(Request::get(format!(
                        "/v2/images?os_distro=debian&os_version={version}"
                    )))
                }
            ),
            kind!(
                "list.public",
                "list by visibility, status and format",
                Member,
                200,
                |_, _, _| {
                    Ok(Request::get(
                        "/v2/images?visibility=public&status=active&disk_format=raw",
                    ))
                }
            ),
            kind!("list.tag", "list by two tags", Member, 200, |_, _, _| {
                Ok(Request::get("/v2/images?tag=server&tag=stable"))
            }),
            kind!(
                "list.sorted",
                "list, sorted by name and size",
                Member,
                200,
                |_, _, _| { Ok(Request::get("/v2/images?sort=name:asc,size:desc")) }
            ),
            kind!(
                "list.since",
                "list of what has changed since a time",
                Member,
                200,
                |_, _, _| {
                    Ok(Request::get(
                        "/v2/images?updated_at=gte:2026-01-01T00:00:00Z&limit=25",
                    ))
                }
            ),
            kind!(
                "list.admin",
                "list, the administrator's first page",
                Admin,
                200,
                |_, _, _| { Ok(Request::get("/v2/images?limit=25")) }
            ),
        ],
    },
    Group {
        title: "Changing images",
        kinds: &[
            kind!(
                "patch.replace",
                "patch that replaces a property",
                Member,
                200,
                |ids, _, number| {
                    let change =
                        json!([{"op": "replace", "path": "/build", "value": format!("b{number}")}]);
                    Ok(Request::patch(of(ids, number, ""), &change))
                }
            ),
            kind!(
                "patch.add",
                "patch that adds a property and tags",
                Member,
                200,
                |ids, _, number| {
                    let change = json!([
                        {"op": "add", "path": "/hw_vif_model", "value": "virtio"},
                        {"op": "add", "path": "/tags", "value": ["server", "stable", "virtio"]},
                    ]);
                    Ok(Request::patch(of(ids, number, ""), &change))
                }
            ),
            kind!(
                "patch.remove",
                "patch that removes a property",
                Member,
                200,
                |ids, _, number| {
                    let change = json!([{"op": "remove", "path": "/hw_vif_model"}]);
                    Ok(Request::patch(of(ids, number, ""), &change))
                }
            ),
            kind!("tag.add", "add a tag", Member, 204, |ids, _, number| {
                Ok(Request::bare("PUT", of(ids, number, "/tags/blue")))
            }),
            kind!(
                "tag.delete",
                "delete a tag",
                Member,
                204,
                |ids, _, number| { Ok(Request::bare("DELETE", of(ids, number, "/tags/blue"))) }
            ),
            kind!("deactivate", "deactivate", Member, 204, |ids, _, number| {
                Ok(Request::bare(
                    "POST",
                    of(ids, number, "/actions/deactivate"),
                ))
            }),
            kind!("reactivate", "reactivate", Member, 204, |ids, _, number| {
                Ok(Request::bare(
                    "POST",
                    of(ids, number, "/actions/reactivate"),
                ))
            }),
        ],
    },
    Group {
        title: "Sharing images",
        kinds: &[
            kind!(
                "member.add",
                "add a member",
                Member,
                200,
                |ids, users, number| {
                    let member = json!({"member": users.other_project});
                    Ok(Request::post(of_shared(ids, number, "/members"), &member))
                }
            ),
            kind!(
                "list.offered",
                "list of what a project is offered",
                Other,
                200,
                |_, _, _| {
                    Ok(Request::get(
                        "/v2/images?visibility=shared&member_status=pending",
                    ))
                }
            ),
            kind!(
                "member.accept",
                "accept what is offered",
                Other,
                200,
                |ids, users, number| {
                    let status = json!({"status": "accepted"});
                    Ok(Request::json("PUT", member(ids, users, number), &status))
                }
            ),
            kind!(
                "list.shared",
                "list, the first page of who was given images",
                Other,
                200,
                |_, _, _| { Ok(Request::get("/v2/images?limit=25")) }
            ),
            kind!(
                "show.shared",
                "show, another project's shared image",
                Other,
                200,
                |ids, _, number| { Ok(Request::get(of_shared(ids, number, ""))) }
            ),
            kind!(
                "member.list",
                "list the members of an image",
                Member,
                200,
                |ids, _, number| { Ok(Request::get(of_shared(ids, number, "/members"))) }
            ),
            kind!(
                "member.show",
                "show a member",
                Member,
                200,
                |ids, users, number| { Ok(Request::get(member(ids, users, number))) }
            ),
            kind!(
                "member.delete",
                "delete a member",
                Member,
                204,
                |ids, users, number| { Ok(Request::bare("DELETE", member(ids, users, number))) }
            ),
        ],
    },
    Group {
        title: "Data",
        kinds: &[
            kind!("data", "download 64 KiB", Member, 200, |ids, _, number| {
                Ok(Request::get(of(ids, number, "/file")))
            }),
            kind!(
                "data.range",
                "download 4 KiB of it",
                Member,
                206,
                |ids, _, number| {
                    let first = number % 16 * RANGE_LEN;
                    let last = first + RANGE_LEN - 1;
                    let request = Request::get(of(ids, number, "/file"));
                    Ok(request.with_header("Range", format!("bytes={first}-{last}")))
                }
            ),
        ],
    },
    Group {
        title: "About the service",
        kinds: &[
            kind!("versions", "versions", Nobody, 200, |_, _, _| Ok(
                Request::get("/versions")
            )),
            kind!(
                "unauthorized",
                "a list without a token: 401",
                Nobody,
                401,
                |_, _, _| { Ok(Request::get("/v2/images")) }
            ),
            kind!("schema", "schema of an image", Member, 200, |_, _, _| {
                Ok(Request::get("/v2/schemas/image"))
            }),
            kind!("info.import", "import methods", Member, 200, |_, _, _| {
                Ok(Request::get("/v2/info/import"))
            }),
            kind!("info.stores", "stores", Member, 200, |_, _, _| {
                Ok(Request::get("/v2/info/stores"))
            }),
            kind!("info.usage", "usage", Member, 200, |_, _, _| {
                Ok(Request::get("/v2/info/usage"))
            }),
            kind!(
                "metadefs",
                "list of namespaces of metadata definitions",
                Member,
                200,
                |_, _, _| { Ok(Request::get("/v2/metadefs/namespaces")) }
            ),
        ],
    },
    Group {
        title: "Deleting images",
        kinds: &[
            kind!(
                "delete",
                "delete, with data",
                Member,
                204,
                |ids, _, number| { Ok(Request::bare("DELETE", of(ids, number, ""))) }
            ),
            kind!(
                "delete.queued",
                "delete, without data",
                Member,
                204,
                |ids, _, number| { Ok(Request::bare("DELETE", of(ids, 500 + number, ""))) }
            ),
        ],
    },
];

/// A record with as many properties as cloud images usually carry.
fn create(_: &[String], _: &Users<'_>, number: usize) -> Result<Request> {
    let document = json!({
        "name": format!("server-{number}"),
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": if number.is_multiple_of(2) { "private" } else { "shared" },
        "min_disk": 3,
        "min_ram": 512,
        "tags": ["server", "stable"],
        "architecture": "x86_64",
        "os_distro": "debian",
        "os_version": format!("{}", 10 + number % 4),
        "os_admin_user": "debian",
        "hw_disk_bus": "scsi",
        "hw_scsi_model": "virtio-scsi",
        "hw_qemu_guest_agent": "yes",
        "build": format!("{number}"),
    });
    Ok(Request::post("/v2/images", &document))
}

fn of(ids: &[String], number: usize, rest: &str) -> String {
    format!("/v2/images/{}{rest}", ids[number])
}

/// Of an image from the end, where those are that are imported.
fn of_last(ids: &[String], number: usize, rest: &str) -> String {
    of(ids, ids.len() - 1 - number, rest)
}

/// Of one of the images that are shared.
fn of_shared(ids: &[String], number: usize, rest: &str) -> String {
    of(ids, 21 + number * 2 % (ids.len() - 22), rest)
}

fn member(ids: &[String], users: &Users<'_>, number: usize) -> String {
    let mut path = of_shared(ids, number, "/members/");
    path.push_str(&users.other_project);
    path
}

/// Of any image, the same for every server.
fn of_any(ids: &[String], number: usize) -> String {
    format!("/v2/images/{}", any(ids, number))
}

fn any(ids: &[String], number: usize) -> &str {
    &ids[SmallRng::seed_from_u64(number as u64).random_range(0..ids.len())]
}

/// The data of an image, which no other image has.
fn bytes(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; DATA_LEN];
    SmallRng::seed_from_u64(number as u64).fill_bytes(&mut bytes);
    bytes
}
