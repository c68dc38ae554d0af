//! One image as the API sees it, and the fields of its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::{DATA, Data, Record, Value};

use super::task::{TASKS_MAX, Task, TaskStatus};

/// Prefix of the fields that are custom properties.
const PROPERTY: &str = "p:";
/// Prefix of the fields that are tags.
const TAG: &str = "t:";
/// Prefix of the fields that are members: projects that the owner shares the image with. Only the owner writes them.
const MEMBER: &str = "m:";
/// Prefix of the fields that are members' decisions, which members write. Apart from the membership, so that a decision
/// made at one site never brings back a membership that was ended at another.
const DECISION: &str = "d:";
/// Prefix of the fields that are tasks; the rest of the name is the task's id.
const TASK: &str = "task:";

/// Names of the base fields in records.
pub mod field {
    #![allow(missing_docs)] // they are the API's own names
    pub const NAME: &str = "name";
    pub const STATUS: &str = "status";
    pub const VISIBILITY: &str = "visibility";
    pub const OWNER: &str = "owner";
    pub const PROTECTED: &str = "protected";
    pub const HIDDEN: &str = "os_hidden";
    pub const MIN_DISK: &str = "min_disk";
    pub const MIN_RAM: &str = "min_ram";
    pub const DISK_FORMAT: &str = "disk_format";
    pub const CONTAINER_FORMAT: &str = "container_format";
    pub const UPDATED_AT: &str = "updated_at";
    /// Site that is receiving bytes for the image.
    pub const SAVING_AT: &str = "saving_at";
    /// What the bytes are that wait to be imported, and the site that received them.
    pub const STAGED: &str = "staged";
    pub const STAGED_AT: &str = "staged_at";
    /// Stores that an import or copy is still to bring the image to, a comma between them.
    pub const IMPORTING_TO: &str = "importing_to";
    /// Stores that the last import or copy did not bring the image to.
    pub const FAILED_IMPORT: &str = "failed_import";
    /// Task that alone may import or copy the image, and the site that works on it.
    pub const IMPORT_TASK: &str = "import_task";
    pub const IMPORT_AT: &str = "import_at";
}

/// Where an image is in its life. The names are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Status {
    Queued,
    Saving,
    Uploading,
    Importing,
    Active,
    Deactivated,
}

impl Status {
    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Saving => "saving",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may see an image. The names are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Visibility {
    Public,
    Private,
    Shared,
    Community,
}

impl Visibility {
    /// All of them, in the order in which the API's schema names them.
    pub const ALL: [Self; 4] = [Self::Community, Self::Public, Self::Private, Self::Shared];

    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Community => "community",
        }
    }

    /// By the API's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

/// What a project decided about an image that is shared with it. The names are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MemberStatus {
    Pending,
    Accepted,
    Rejected,
}

impl MemberStatus {
    const ALL: [Self; 3] = [Self::Pending, Self::Accepted, Self::Rejected];

    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }

    /// By the API's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// A project that an image is shared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// What it decided.
    pub status: MemberStatus,
    /// When the image was shared, in milliseconds since 1970.
    pub created_at: u64,
    /// When it decided, in milliseconds since 1970.
    pub updated_at: u64,
}

/// An image. A view of a [`Record`], never changed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Image {
    pub id: Uuid,
    pub name: Option<String>,
    pub status: Status,
    pub visibility: Visibility,
    pub owner: Option<String>,
    pub protected: bool,
    pub hidden: bool,
    pub min_disk: u64,
    pub min_ram: u64,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    /// Milliseconds since 1970; clients see seconds.
    pub created_at: u64,
    /// Milliseconds since 1970; clients see seconds.
    pub updated_at: u64,
    /// Its bytes; there when the status is active or deactivated.
    pub data: Option<Data>,
    pub tags: BTreeSet<String>,
    pub properties: BTreeMap<String, String>,
    /// Projects that it is shared with. They count while its visibility is `shared`.
    pub members: BTreeMap<String, Member>,
    /// Site that is receiving bytes for it.
    pub saving_at: Option<String>,
    /// Bytes that wait to be imported.
    pub staged: Option<Staged>,
    /// Of the last import or copy; none if there was none.
    pub importing_to: Option<String>,
    pub failed_import: Option<String>,
    /// The import or copy that is under way.
    pub import: Option<Import>,
    /// Ended ones may have expired.
    pub tasks: Vec<Task>,
}

/// Bytes that wait to be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// What they are; without a virtual size, since they were not inspected.
    pub data: Data,
    /// The site that received them.
    pub site: String,
}

/// An import or copy that is under way: no other may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its task.
    pub task: Uuid,
    /// The site that works on it.
    pub site: String,
}

impl Image {
    /// Its bytes, or else those that are to be its.
    fn data_or_staged(&self) -> Option<&Data> {
        let staged = self.staged.as_ref().map(|staged| &staged.data);
        self.data.as_ref().or(staged)
    }

    /// Number of its bytes, once it has or is to have any.
    pub fn size(&self) -> Option<u64> {
        self.data_or_staged().map(|data| data.size)
    }

    /// The manifest of its bytes, once it has or is to have any.
    pub fn manifest(&self) -> Option<ManifestId> {
        self.data_or_staged().map(|data| data.manifest)
    }

    /// The changes that add a task and forget those that have expired or are too many.
    pub fn with_task(&self, task: &Task) -> Changes {
        let mut changes = Changes::new();
        let mut room = TASKS_MAX - 1;
        // The newest are last.
        for old in self.tasks.iter().rev() {
            if room == 0 || old.has_expired(task.created_at) {
                changes.remove_task(old.id);
            } else {
                room -= 1;
            }
        }
        changes.set_task(task);
        changes
    }

    /// The changes that put an image back to where it was before a site began to receive, import or copy its bytes
    /// and failed.
    pub fn abandoned(&self, reason: &str, now_ms: u64) -> Changes {
        let mut changes = Changes::new();
        match self.status {
            // What is staged can be imported again.
            Status::Uploading | Status::Importing if self.staged.is_some() => {
                changes.set_status(Status::Uploading);
            }
            Status::Saving | Status::Uploading | Status::Importing => {
                changes.set_status(Status::Queued);
            }
            Status::Queued | Status::Active | Status::Deactivated => {}
        }
        changes.set_text(field::SAVING_AT, None);
        if let Some(import) = &self.import {
            let task = self.tasks.iter().find(|task| task.id == import.task);
            if let Some(task) = task {
                changes.set_task(&task.ended(TaskStatus::Failure, reason.to_owned(), now_ms));
            }
            let failed = [&self.failed_import, &self.importing_to];
            let failed: Vec<&str> = failed
                .into_iter()
                .flatten()
                .map(String::as_str)
                .filter(|sites| !sites.is_empty())
                .collect();
            changes
                .set_text(field::IMPORT_TASK, None)
                .set_text(field::IMPORT_AT, None)
                .set_text(field::IMPORTING_TO, Some(String::new()))
                .set_text(field::FAILED_IMPORT, Some(failed.join(",")));
        }
        changes
    }

    /// The view of a record; none if it is deleted. Fields that a newer version may have written and
    /// this one does not understand count as absent.
    pub(super) fn of(record: &Record) -> Option<Self> {
        if record.deleted.is_some() {
            return None;
        }
        let text = |key| match record.get(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let flag = |key| matches!(record.get(key), Some(Value::Bool(true)));
        let number = |key| match record.get(key) {
            Some(Value::Int(number)) => Some(*number),
            _ => None,
        };
        let data = |key| match record.get(key) {
            Some(Value::Data(data)) => Some(data.clone()),
            _ => None,
        };
        let staged = data(field::STAGED)
            .zip(text(field::STAGED_AT))
            .map(|(data, site)| Staged { data, site });
        let data = data(DATA);
        // Bytes decide: a status that arrives late or from a lost race cannot contradict them.
        let status = match (&data, text(field::STATUS).as_deref()) {
            (Some(_), Some("deactivated")) => Status::Deactivated,
            (Some(_), _) => Status::Active,
            (None, Some("saving")) => Status::Saving,
            (None, Some("uploading")) => Status::Uploading,
            (None, Some("importing")) => Status::Importing,
            (None, _) => Status::Queued,
        };
        let created_at = record.created.unix_ms();
        let mut tags = BTreeSet::new();
        let mut properties = BTreeMap::new();
        let mut members = BTreeMap::new();
        let mut tasks = Vec::new();
        for (key, value) in record.values() {
            if let Some(tag) = key.strip_prefix(TAG) {
                tags.insert(tag.to_owned());
            } else if let Some(project) = key.strip_prefix(MEMBER) {
                members.insert(project.to_owned(), member(record, key, project));
            } else if let (true, Value::Text(json)) = (key.starts_with(TASK), value) {
                tasks.extend(serde_json::from_str(json).ok());
            } else if let (Some(property), Value::Text(text)) = (key.strip_prefix(PROPERTY), value)
            {
                properties.insert(property.to_owned(), text.clone());
            }
        }
        tasks.sort_by_key(|task: &Task| (task.created_at, task.id));
        let import = text(field::IMPORT_TASK)
            .and_then(|task| Uuid::try_parse(&task).ok())
            .zip(text(field::IMPORT_AT))
            .map(|(task, site)| Import { task, site });
        Some(Self {
            id: record.id,
            name: text(field::NAME),
            status,
            visibility: text(field::VISIBILITY)
                .and_then(|v| Visibility::parse(&v))
                .unwrap_or(Visibility::Shared),
            owner: text(field::OWNER),
            protected: flag(field::PROTECTED),
            hidden: flag(field::HIDDEN),
            min_disk: number(field::MIN_DISK).unwrap_or(0),
            min_ram: number(field::MIN_RAM).unwrap_or(0),
            disk_format: text(field::DISK_FORMAT),
            container_format: text(field::CONTAINER_FORMAT),
            created_at,
            updated_at: number(field::UPDATED_AT).unwrap_or(created_at),
            data,
            tags,
            properties,
            members,
            saving_at: text(field::SAVING_AT),
            staged,
            importing_to: text(field::IMPORTING_TO),
            failed_import: text(field::FAILED_IMPORT),
            import,
            tasks,
        })
    }
}

/// The member whose field is `key`.
fn member(record: &Record, key: &str, project: &str) -> Member {
    let decision = format!("{DECISION}{project}");
    let at = |key: &str| record.written_at(key).map_or(0, |stamp| stamp.unix_ms());
    let (created_at, decided_at) = (at(key), at(&decision));
    let status = match record.get(&decision) {
        // What was decided about an earlier membership says nothing about this one.
        Some(Value::Text(text)) if decided_at >= created_at => MemberStatus::parse(text),
        _ => None,
    };
    Member {
        status: status.unwrap_or(MemberStatus::Pending),
        created_at,
        updated_at: status.map_or(created_at, |_| decided_at),
    }
}

/// Writes to one image that happen together; of several to one field the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) writes: BTreeMap<String, Option<Value>>,
}

impl Changes {
    /// No writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes a base field.
    pub fn set(&mut self, key: &'static str, value: Value) -> &mut Self {
        self.writes.insert(key.to_owned(), Some(value));
        self
    }

    /// Writes a base field that is a text or null.
    pub fn set_text(&mut self, key: &'static str, text: Option<String>) -> &mut Self {
        self.set(key, text.map_or(Value::Null, Value::Text))
    }

    /// Moves the image to another status.
    pub fn set_status(&mut self, status: Status) -> &mut Self {
        self.set(field::STATUS, Value::Text(status.as_str().into()))
    }

    /// Gives the image its bytes.
    pub fn set_data(&mut self, data: Data) -> &mut Self {
        self.set(DATA, Value::Data(data))
    }

    /// Writes a custom property, or removes it.
    pub fn set_property(&mut self, name: &str, value: Option<String>) -> &mut Self {
        self.writes
            .insert(format!("{PROPERTY}{name}"), value.map(Value::Text));
        self
    }

    /// Shares the image with a project, or ends that.
    pub fn set_member(&mut self, project: &str, present: bool) -> &mut Self {
        let member = present.then_some(Value::Bool(true));
        self.writes.insert(format!("{MEMBER}{project}"), member);
        self.writes.insert(format!("{DECISION}{project}"), None);
        self
    }

    /// Writes what a member decided.
    pub fn set_decision(&mut self, project: &str, status: MemberStatus) -> &mut Self {
        let status = Value::Text(status.as_str().into());
        self.writes
            .insert(format!("{DECISION}{project}"), Some(status));
        self
    }

    /// Whether the image itself is another one afterwards; whom it is shared with is no part of it.
    pub(super) fn touch_image(&self) -> bool {
        let sharing = |key: &String| key.starts_with(MEMBER) || key.starts_with(DECISION);
        !self.writes.keys().all(sharing)
    }

    /// Adds a tag, or removes it.
    pub fn set_tag(&mut self, tag: &str, present: bool) -> &mut Self {
        self.writes
            .insert(format!("{TAG}{tag}"), present.then_some(Value::Bool(true)));
        self
    }

    /// Writes a task.
    pub fn set_task(&mut self, task: &Task) -> &mut Self {
        let json = serde_json::to_string(task).unwrap_or_default();
        self.writes
            .insert(format!("{TASK}{}", task.id), Some(Value::Text(json)));
        self
    }

    /// Forgets a task.
    pub fn remove_task(&mut self, id: Uuid) -> &mut Self {
        self.writes.insert(format!("{TASK}{id}"), None);
        self
    }
}
