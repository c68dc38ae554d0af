//! The policy of the Image API: who may do what to which image.
//!
//! Rules have Glance's names and defaults, and an operator's file may override them. Who may not see an image
//! learns nothing of it; who may see it and not act is told so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::Identity;
use super::rule::{Rule, Target};
use crate::catalogue::{Image, MemberStatus, Namespace, Visibility};

/// Largest policy file in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

const ADMIN: &str = "rule:context_is_admin";
const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const SEER: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
    'shared':%(visibility)s))";
const DOWNLOADER: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
    'shared':%(visibility)s))";
const SHARER: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
    project_id:%(member_id)s))";
const NAMESPACE_READER: &str = "rule:context_is_admin or (role:reader and \
    (project_id:%(project_id)s or 'public':%(visibility)s))";

/// Rules that only other rules use.
const HELPERS: [(&str, &str); 4] = [
    ("default", ""),
    ("context_is_admin", "role:admin"),
    ("service_api", "role:service or role:admin"),
    ("metadef_admin", ADMIN),
];

macro_rules! actions {
    ($($action:ident $name:literal $default:expr;)*) => {
        /// What somebody wants to do; each has a rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)] // the names are those of the API's policy rules
        pub enum Action {
            $($action,)*
        }

        impl Action {
            const ALL: &[Self] = &[$(Self::$action,)*];

            /// The rule's name, as files and error messages show it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }

            fn default_rule(self) -> &'static str {
                match self {
                    $(Self::$action => $default,)*
                }
            }
        }
    };
}

actions! {
    AddImage "add_image" "rule:context_is_admin or (role:member and project_id:%(owner)s)";
    GetImage "get_image" SEER;
    GetImages "get_images" READER;
    ModifyImage "modify_image" MEMBER;
    DeleteImage "delete_image" MEMBER;
    PublicizeImage "publicize_image" ADMIN;
    CommunitizeImage "communitize_image" MEMBER;
    UploadImage "upload_image" MEMBER;
    DownloadImage "download_image" DOWNLOADER;
    Deactivate "deactivate" MEMBER;
    Reactivate "reactivate" MEMBER;
    CopyImage "copy_image" ADMIN;
    AddMember "add_member" MEMBER;
    GetMember "get_member" SHARER;
    GetMembers "get_members" SHARER;
    ModifyMember "modify_member"
        "rule:context_is_admin or (role:member and project_id:%(member_id)s)";
    DeleteMember "delete_member" MEMBER;
    GetImageLocation "get_image_location" READER;
    SetImageLocation "set_image_location" MEMBER;
    DeleteImageLocation "delete_image_location" ADMIN;
    AddImageLocation "add_image_location"
        "rule:service_api or (role:member and project_id:%(owner)s)";
    FetchImageLocation "fetch_image_location" "rule:service_api";
    StoresInfoDetail "stores_info_detail" "rule:context_is_admin or rule:service_api";
    TasksApiAccess "tasks_api_access" ADMIN;
    CacheImage "cache_image" ADMIN;
    CacheList "cache_list" ADMIN;
    CacheDelete "cache_delete" ADMIN;
    CacheClean "cache_clean" ADMIN;
    CachePrune "cache_prune" ADMIN;
    ListCachedNodes "list_cached_nodes" ADMIN;
    GetMetadefNamespaces "get_metadef_namespaces" READER;
    GetMetadefNamespace "get_metadef_namespace" NAMESPACE_READER;
    ListMetadefResourceTypes "list_metadef_resource_types" NAMESPACE_READER;
    AddMetadefNamespace "add_metadef_namespace" "rule:metadef_admin";
    ModifyMetadefNamespace "modify_metadef_namespace" "rule:metadef_admin";
    DeleteMetadefNamespace "delete_metadef_namespace" "rule:metadef_admin";
    GetMetadefObjects "get_metadef_objects" NAMESPACE_READER;
    GetMetadefObject "get_metadef_object" NAMESPACE_READER;
    AddMetadefObject "add_metadef_object" "rule:metadef_admin";
    ModifyMetadefObject "modify_metadef_object" "rule:metadef_admin";
    DeleteMetadefObject "delete_metadef_object" "rule:metadef_admin";
    GetMetadefProperties "get_metadef_properties" NAMESPACE_READER;
    GetMetadefProperty "get_metadef_property" NAMESPACE_READER;
    AddMetadefProperty "add_metadef_property" "rule:metadef_admin";
    ModifyMetadefProperty "modify_metadef_property" "rule:metadef_admin";
    RemoveMetadefProperty "remove_metadef_property" "rule:metadef_admin";
    GetMetadefTags "get_metadef_tags" NAMESPACE_READER;
    GetMetadefTag "get_metadef_tag" NAMESPACE_READER;
    AddMetadefTag "add_metadef_tag" "rule:metadef_admin";
    AddMetadefTags "add_metadef_tags" "rule:metadef_admin";
    ModifyMetadefTag "modify_metadef_tag" "rule:metadef_admin";
    DeleteMetadefTag "delete_metadef_tag" "rule:metadef_admin";
    DeleteMetadefTags "delete_metadef_tags" "rule:metadef_admin";
    AddMetadefResourceTypeAssociation "add_metadef_resource_type_association" "rule:metadef_admin";
    RemoveMetadefResourceTypeAssociation "remove_metadef_resource_type_association" "rule:metadef_admin";
}

/// All rules.
#[derive(Debug)]
pub struct Policy {
    /// By action.
    rules: Vec<Arc<Rule>>,
    admin: Arc<Rule>,
}

impl Policy {
    /// The defaults, and what a file says instead.
    ///
    /// # Errors
    /// The file cannot be read, has a rule that cannot, or one that nothing uses.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Self::with(&BTreeMap::new());
        };
        let read = || {
            let len = std::fs::metadata(path)?.len();
            ensure!(
                len <= FILE_LEN_MAX,
                "it is larger than {FILE_LEN_MAX} bytes"
            );
            Self::with(&parse_file(&std::fs::read_to_string(path)?)?)
        };
        read().with_context(|| format!("in the policy file {}", path.display()))
    }

    fn with(overrides: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let defaults = Action::ALL.iter().map(|a| (a.as_str(), a.default_rule()));
        let mut texts: BTreeMap<&str, &str> = HELPERS.into_iter().chain(defaults).collect();
        let known: Vec<&str> = texts.keys().copied().collect();
        texts.extend(
            overrides
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str())),
        );
        let mut resolver = Resolver {
            texts,
            done: BTreeMap::new(),
            open: Vec::new(),
        };
        let admin = resolver.find("context_is_admin")?;
        let rules = Action::ALL
            .iter()
            .map(|action| resolver.find(action.as_str()))
            .collect::<Result<_, _>>()?;
        for name in overrides.keys().map(String::as_str) {
            if !known.contains(&name) && !resolver.done.contains_key(name) {
                bail!("nothing uses the rule {name:?}: is its name right?");
            }
            // What only an unused helper refers to has to be right as well.
            resolver.find(name)?;
        }
        Ok(Self { rules, admin })
    }

    /// Whether somebody administers the cloud.
    pub(super) fn is_admin(&self, who: &Identity) -> bool {
        self.admin.holds(who, nothing(who))
    }

    fn allows(&self, who: &Identity, action: Action, target: Target<'_>) -> bool {
        self.rules[action as usize].holds(who, target)
    }
}

/// Puts rules together that refer to each other.
struct Resolver<'a> {
    texts: BTreeMap<&'a str, &'a str>,
    done: BTreeMap<String, Arc<Rule>>,
    /// Names whose rules are being resolved.
    open: Vec<String>,
}

impl Resolver<'_> {
    fn find(&mut self, name: &str) -> anyhow::Result<Arc<Rule>> {
        if let Some(rule) = self.done.get(name) {
            return Ok(rule.clone());
        }
        let text = self.texts.get(name);
        let text = *text.with_context(|| format!("there is no rule {name:?}"))?;
        if self.open.iter().any(|open| open == name) {
            bail!("the rule {name:?} refers to itself");
        }
        let rule = Rule::parse(text).map_err(|why| anyhow::anyhow!("rule {name:?}: {why}"))?;
        self.open.push(name.to_owned());
        let rule = Arc::new(rule.resolve(&mut |name| self.find(name))?);
        self.open.pop();
        self.done.insert(name.to_owned(), rule.clone());
        Ok(rule)
    }
}

/// The rules of a file: a JSON object of strings, or YAML of one `name: rule` in each line.
fn parse_file(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    if text.trim_start().starts_with('{') {
        return Ok(serde_json::from_str(text)?);
    }
    let mut rules = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line == "---" {
            continue;
        }
        let (name, rule) = parse_line(line)
            .with_context(|| format!("line {}: not of the form \"name\": \"rule\"", number + 1))?;
        if rules.insert(name.to_owned(), rule.to_owned()).is_some() {
            bail!("line {}: {name:?} is there twice", number + 1);
        }
    }
    Ok(rules)
}

fn parse_line(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = scalar(line)?;
    let (rule, rest) = scalar(rest.trim_start().strip_prefix(':')?.trim_start())?;
    let rest = rest.trim();
    (rest.is_empty() || rest.starts_with('#')).then_some((name, rule))
}

/// A quoted text, or a plain one that ends at a colon or the line's end; and what follows.
fn scalar(text: &str) -> Option<(&str, &str)> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            // A quote in quotes ends them here, and the line is refused: rules need none.
            return rest.split_once(quote);
        }
    }
    let end = text.find(": ").unwrap_or(text.len());
    let (plain, rest) = text.split_at(end);
    (!plain.is_empty()).then_some((plain.trim_end(), rest))
}

/// Where it is about no image.
fn nothing(who: &Identity) -> Target<'_> {
    Target {
        owner: who.project.as_deref(),
        member: false,
        visibility: None,
    }
}

fn target<'a>(who: &Identity, image: &'a Image) -> Target<'a> {
    Target {
        owner: image.owner.as_deref(),
        member: membership(who, image).is_some(),
        visibility: Some(image.visibility),
    }
}

/// What their project decided about an image that is shared with it.
fn membership(who: &Identity, image: &Image) -> Option<MemberStatus> {
    let shared = image.visibility == Visibility::Shared;
    let member = image.members.get(who.project.as_deref()?)?;
    shared.then_some(member.status)
}

/// Whether an image is there for somebody, whatever their roles.
fn is_there_for(who: &Identity, image: &Image) -> bool {
    who.is_admin()
        || owns(who, image)
        || matches!(image.visibility, Visibility::Public | Visibility::Community)
        || membership(who, image).is_some()
}

/// Whether they may know that the image exists.
pub fn sees(who: &Identity, image: &Image) -> bool {
    is_there_for(who, image) && may(who, Action::GetImage, image)
}

/// Whether an image that they see is in their list when they do not ask for a visibility.
pub fn listed(who: &Identity, image: &Image) -> bool {
    image.visibility != Visibility::Community || owns(who, image)
}

/// Whether an image that they see is in a list of those about which their project decided so, if that matters; it
/// does for what others share with them.
pub fn decided(who: &Identity, image: &Image, wanted: Option<MemberStatus>) -> bool {
    who.is_admin()
        || owns(who, image)
        || wanted.is_none()
        || membership(who, image).is_none_or(|status| Some(status) == wanted)
}

/// Whether their project owns the image. Without projects the administrator owns everything.
pub fn owns(who: &Identity, image: &Image) -> bool {
    match &who.project {
        Some(project) => image.owner.as_ref() == Some(project),
        None => who.is_admin(),
    }
}

/// The action that giving this visibility to an image is, if it takes more than to change it.
pub fn publishing(visibility: Visibility) -> Option<Action> {
    match visibility {
        Visibility::Public => Some(Action::PublicizeImage),
        Visibility::Community => Some(Action::CommunitizeImage),
        Visibility::Private | Visibility::Shared => None,
    }
}

/// Whether they may do this for an image of this owner that does not exist yet.
pub fn may_for(who: &Identity, action: Action, owner: Option<&str>) -> bool {
    let target = Target {
        owner,
        ..nothing(who)
    };
    who.policy.allows(who, action, target)
}

/// Whether they may do what is about no image, or is the same for all.
pub fn may_operate(who: &Identity, action: Action) -> bool {
    who.policy.allows(who, action, nothing(who))
}

/// Whether they may do this to an image that is there for them.
pub fn may(who: &Identity, action: Action, image: &Image) -> bool {
    who.policy.allows(who, action, target(who, image))
}

/// Whether they may do this to a namespace of metadata definitions.
pub fn may_define(who: &Identity, action: Action, namespace: &Namespace) -> bool {
    let visibility = match namespace.is_public() {
        true => Visibility::Public,
        false => Visibility::Private,
    };
    let target = Target {
        owner: namespace.owner(),
        member: false,
        visibility: Some(visibility),
    };
    who.policy.allows(who, action, target)
}

/// What comes of somebody's wish to do something to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They may. Some, like services that fetch locations, may do what they do without seeing the image.
    Allowed,
    /// They see the image and may not.
    Denied,
    /// It is not there for them.
    Hidden,
}

/// Decides.
pub fn decide(who: &Identity, action: Action, image: &Image) -> Decision {
    if is_there_for(who, image) && may(who, action, image) {
        Decision::Allowed
    } else if sees(who, image) {
        Decision::Denied
    } else {
        Decision::Hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Policy> {
        Policy::with(&parse_file(text)?)
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", load(text).unwrap_err())
    }

    #[test]
    fn files_override_rules() {
        let yaml = "---\n# theirs\n\"add_image\": \"rule:builders\"\nbuilders: role:builder\n";
        let json = r#"{"add_image": "rule:builders", "builders": "role:builder"}"#;
        for text in [yaml, json] {
            let policy = load(text).unwrap();
            let allows = |role, action| {
                let who = Identity::of(None, Some("p"), &[role]);
                policy.allows(&who, action, nothing(&who))
            };
            assert!(allows("builder", Action::AddImage), "{text}");
            assert!(!allows("member", Action::AddImage));
            assert!(allows("member", Action::UploadImage));
        }
    }

    #[test]
    fn who_administers_is_a_rule_too() {
        let policy = load(r#""context_is_admin": "role:boss and not role:admin""#).unwrap();
        assert!(policy.is_admin(&Identity::of(None, Some("p"), &["boss"])));
        assert!(!policy.is_admin(&Identity::of(None, Some("p"), &["admin"])));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, told) in [
            (
                "add_imgae: role:member",
                "nothing uses the rule \"add_imgae\"",
            ),
            ("add_image: rule:builders", "no rule \"builders\""),
            ("add_image: tenant:%(tenant)s", "rule \"add_image\""),
            (
                "add_image: rule:delete_image\ndelete_image: rule:add_image",
                "refers to itself",
            ),
            ("add_image", "line 1"),
            ("# theirs\n'add_image': 'x''y'", "line 2"),
            ("add_image: '@'\nadd_image: '!'", "twice"),
            (r#"{"add_image": [["role:member"]]}"#, "invalid type"),
        ] {
            assert!(refusal(text).contains(told), "{text}: {}", refusal(text));
        }
    }
}
