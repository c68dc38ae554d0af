//! What is defined in a namespace: objects, properties, tags and the types of resources that it is for.

use std::collections::BTreeMap;

use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{checked, may, namespace_for, prefix, protected};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Definition, Definitions, Item, Namespace, now_ms};
use crate::glance::document::time;
use crate::glance::request::Call;
use crate::glance::{ApiError, ApiResult, Body, blocking, empty, json as json_answer};

/// A kind of definition, as paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Objects,
    Properties,
    Tags,
    ResourceTypes,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [
        Self::Objects,
        Self::Properties,
        Self::Tags,
        Self::ResourceTypes,
    ];

    pub(super) fn named(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Properties => "properties",
            Self::Tags => "tags",
            Self::ResourceTypes => "resource_types",
        }
    }

    /// The field of documents that has all of the kind.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::ResourceTypes => "resource_type_associations",
            other => other.path(),
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Objects => "object",
            Self::Properties => "property",
            Self::Tags => "tag",
            Self::ResourceTypes => "resource_type",
        }
    }

    pub(super) fn definition(self) -> Definition {
        match self {
            Self::Objects => Definition::Object,
            Self::Properties => Definition::Property,
            Self::Tags => Definition::Tag,
            Self::ResourceTypes => Definition::ResourceType,
        }
    }

    /// Who may read all, read one, add, change and delete.
    fn actions(self) -> [Action; 5] {
        use Action::*;
        match self {
            Self::Objects => [
                GetMetadefObjects,
                GetMetadefObject,
                AddMetadefObject,
                ModifyMetadefObject,
                DeleteMetadefObject,
            ],
            Self::Properties => [
                GetMetadefProperties,
                GetMetadefProperty,
                AddMetadefProperty,
                ModifyMetadefProperty,
                RemoveMetadefProperty,
            ],
            Self::Tags => [
                GetMetadefTags,
                GetMetadefTag,
                AddMetadefTag,
                ModifyMetadefTag,
                DeleteMetadefTag,
            ],
            Self::ResourceTypes => [
                ListMetadefResourceTypes,
                ListMetadefResourceTypes,
                AddMetadefResourceTypeAssociation,
                AddMetadefResourceTypeAssociation,
                RemoveMetadefResourceTypeAssociation,
            ],
        }
    }

    /// Those that the document of a new namespace has.
    pub(super) fn within(self, body: &Value) -> Vec<(String, Value)> {
        let all = &body[self.field()];
        if self == Self::Properties {
            let fields = all.as_object().into_iter().flatten();
            let named = fields.map(|(name, value)| {
                let mut value = value.clone();
                value["name"] = name.as_str().into();
                (name.clone(), value)
            });
            return named.collect();
        }
        let items = all.as_array().into_iter().flatten();
        let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
        items.map(|item| (name(item), item.clone())).collect()
    }

    /// All of a namespace, as documents have them.
    pub(super) fn list(self, namespace: &Namespace) -> Value {
        let items = namespace.items(self.definition());
        match self {
            Self::Properties => {
                let unnamed = items.map(|(name, item)| {
                    let mut value = item.value.clone();
                    if let Some(fields) = value.as_object_mut() {
                        fields.remove("name");
                    }
                    (name.to_owned(), value)
                });
                unnamed.collect()
            }
            Self::Tags => items.map(|(name, _)| json!({"name": name})).collect(),
            Self::Objects | Self::ResourceTypes => items
                .map(|(name, item)| self.shown(&namespace.name, name, item))
                .collect(),
        }
    }

    /// One as it is shown when it was made or changed.
    fn document(self, namespace: &str, name: &str, item: &Item) -> Value {
        let mut document = item.value.clone();
        if !document.is_object() {
            document = json!({});
        }
        document["name"] = name.into();
        if self != Self::Properties {
            document["created_at"] = time(item.created_at).into();
            document["updated_at"] = time(item.updated_at).into();
        }
        if self == Self::Objects {
            document["self"] = format!("{}/{name}", self.collection(namespace)).into();
            document["schema"] = "/v2/schemas/metadefs/object".into();
        }
        document
    }

    /// One as it is shown later: an object with what it was made without.
    fn shown(self, namespace: &str, name: &str, item: &Item) -> Value {
        let mut document = self.document(namespace, name, item);
        let defaults = [("required", json!([])), ("properties", json!({}))];
        for (field, default) in defaults.into_iter().filter(|_| self == Self::Objects) {
            if document.get(field).is_none() {
                document[field] = default;
            }
        }
        document
    }

    fn collection(self, namespace: &str) -> String {
        format!("/v2/metadefs/namespaces/{namespace}/{}", self.path())
    }

    fn missing(self, name: &str, namespace: &str) -> ApiError {
        let what = self.schema();
        ApiError::new(
            StatusCode::NOT_FOUND,
            format!(
                "The metadata definition {what} with name={name} was not found in namespace={namespace}."
            ),
        )
    }

    fn exists(self, name: &str, namespace: &str) -> ApiError {
        let what = self.schema();
        ApiError::conflict(format!(
            "A metadata definition {what} with name={name} already exists in namespace={namespace}."
        ))
    }
}

/// `/v2/metadefs/namespaces/{namespace}/{kind}`
pub(super) async fn all(call: Call, namespace: &str, kind: Kind) -> ApiResult<Response<Body>> {
    let [list, _, add, _, delete] = kind.actions();
    match call.method {
        Method::GET => {
            let found = namespace_for(&call.api.catalogue, &call.identity, namespace, list)?;
            let mut page = json!({kind.field(): kind.list(&found)});
            if kind == Kind::Objects {
                // As Glance writes it.
                page["schema"] = "v2/schemas/metadefs/objects".into();
            }
            Ok(json_answer(StatusCode::OK, &page))
        }
        Method::POST if kind == Kind::Tags => replace_tags(call, namespace).await,
        Method::POST => {
            let (api, who) = (call.api.clone(), call.identity.clone());
            let found = namespace_for(&api.catalogue, &who, namespace, add);
            let body = call.json().await?;
            checked(kind.schema(), &body)?;
            let id = found?.id;
            define(api, id, kind, None, body, StatusCode::CREATED).await
        }
        Method::DELETE if kind != Kind::ResourceTypes => {
            let delete = if kind == Kind::Tags {
                Action::DeleteMetadefTags
            } else {
                delete
            };
            let api = call.api.clone();
            let found = namespace_for(&api.catalogue, &call.identity, namespace, delete)?;
            protected(&found)?;
            let id = found.id;
            blocking(move || {
                api.catalogue.modify_namespace(id, |namespace| {
                    protected(namespace)?;
                    let mut definitions = Definitions::default();
                    for (name, _) in namespace.items(kind.definition()) {
                        definitions.remove(kind.definition(), name);
                    }
                    ApiResult::Ok(definitions)
                })
            })
            .await??;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ if kind == Kind::ResourceTypes => Err(ApiError::method("GET, POST", &call.method)),
        _ => Err(ApiError::method("GET, POST, DELETE", &call.method)),
    }
}

/// `/v2/metadefs/namespaces/{namespace}/{kind}/{name}`
pub(super) async fn one(
    call: Call,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> ApiResult<Response<Body>> {
    let [_, show, add, change, delete] = kind.actions();
    let (api, who) = (call.api.clone(), call.identity.clone());
    match call.method {
        Method::GET if kind != Kind::ResourceTypes => {
            let found = namespace_for(&api.catalogue, &who, namespace, show)?;
            let name = match prefix::asked(&call.query) {
                Some(of) if kind == Kind::Properties => {
                    let association = found.item(Definition::ResourceType, of);
                    association.ok_or_else(|| Kind::ResourceTypes.missing(of, namespace))?;
                    let prefix = prefix::of(&found, of);
                    let own = prefix.and_then(|prefix| name.strip_prefix(prefix));
                    own.ok_or_else(|| kind.missing(name, namespace))?
                }
                _ => name,
            };
            let item = found.item(kind.definition(), name);
            let item = item.ok_or_else(|| kind.missing(name, namespace))?;
            Ok(json_answer(
                StatusCode::OK,
                &kind.shown(namespace, name, item),
            ))
        }
        Method::POST if kind == Kind::Tags => {
            let found = namespace_for(&api.catalogue, &who, namespace, add)?;
            let body = json!({"name": name});
            checked(kind.schema(), &body)?;
            define(api, found.id, kind, None, body, StatusCode::CREATED).await
        }
        Method::PUT if kind != Kind::ResourceTypes => {
            let found = namespace_for(&api.catalogue, &who, namespace, change);
            let body = call.json().await?;
            checked(kind.schema(), &body)?;
            let id = found?.id;
            define(api, id, kind, Some(name.to_owned()), body, StatusCode::OK).await
        }
        Method::DELETE => {
            let found = namespace_for(&api.catalogue, &who, namespace, delete)?;
            protected(&found)?;
            let (id, name) = (found.id, name.to_owned());
            blocking(move || {
                api.catalogue.modify_namespace(id, |namespace| {
                    protected(namespace)?;
                    if namespace.item(kind.definition(), &name).is_none() {
                        return Err(kind.missing(&name, &namespace.name));
                    }
                    let mut definitions = Definitions::default();
                    definitions.remove(kind.definition(), &name);
                    Ok(definitions)
                })
            })
            .await??;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => {
            let allowed = match kind {
                Kind::ResourceTypes => "DELETE",
                Kind::Tags => "GET, POST, PUT, DELETE",
                _ => "GET, PUT, DELETE",
            };
            Err(ApiError::method(allowed, &call.method))
        }
    }
}

/// Defines something new, or something else in the place of what has a name.
async fn define(
    api: std::sync::Arc<crate::glance::Api>,
    id: uuid::Uuid,
    kind: Kind,
    before: Option<String>,
    body: Value,
    status: StatusCode,
) -> ApiResult<Response<Body>> {
    let shown = blocking(move || {
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        let now = now_ms();
        let mut shown = Value::Null;
        api.catalogue.modify_namespace(id, |namespace| {
            let mut definitions = Definitions::default();
            let known = namespace.item(kind.definition(), &name).is_some();
            let mut created_at = now;
            if let Some(before) = &before {
                let item = namespace.item(kind.definition(), before);
                let item = item.ok_or_else(|| kind.missing(before, &namespace.name))?;
                created_at = item.created_at;
                definitions.remove(kind.definition(), before);
            }
            if known && before.as_ref() != Some(&name) {
                return Err(kind.exists(&name, &namespace.name));
            }
            let item = Item {
                value: body.clone(),
                created_at,
                updated_at: now,
            };
            shown = kind.document(&namespace.name, &name, &item);
            definitions.define(kind.definition(), &name, body, created_at)?;
            Ok(definitions)
        })?;
        ApiResult::Ok(shown)
    })
    .await??;
    Ok(json_answer(status, &shown))
}

/// Puts a list of tags in the place of all before.
async fn replace_tags(call: Call, namespace: &str) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    let append = call.headers.get("x-openstack-append");
    let append = append.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let found = namespace_for(&api.catalogue, &who, namespace, Action::AddMetadefTags);
    let body = call.json().await?;
    checked("tags", &body)?;
    let found = found?;
    let tags = Kind::Tags.within(&body);
    let names: BTreeMap<String, Value> = tags.iter().cloned().collect();
    if names.len() != tags.len() {
        return Err(ApiError::conflict("A tag is there twice."));
    }
    let id = found.id;
    let shown: Vec<Value> = names.keys().map(|name| json!({"name": name})).collect();
    blocking(move || {
        api.catalogue.modify_namespace(id, |namespace| {
            let mut definitions = Definitions::default();
            for (name, _) in namespace.items(Definition::Tag).filter(|_| !append) {
                definitions.remove(Definition::Tag, name);
            }
            for (name, value) in names {
                definitions.define(Definition::Tag, &name, value, now_ms())?;
            }
            ApiResult::Ok(definitions)
        })
    })
    .await??;
    Ok(json_answer(StatusCode::CREATED, &json!({"tags": shown})))
}

/// `GET /v2/metadefs/resource_types`: all that namespaces are for.
pub(super) fn resource_types(call: &Call) -> ApiResult<Response<Body>> {
    may(&call.identity, Action::ListMetadefResourceTypes)?;
    let namespaces = call.api.catalogue.namespaces();
    let mut types = BTreeMap::new();
    let readable = |n: &&std::sync::Arc<Namespace>| {
        policy::may_define(&call.identity, Action::GetMetadefNamespace, n)
    };
    for namespace in namespaces.iter().filter(readable) {
        for (name, item) in namespace.items(Definition::ResourceType) {
            types.entry(name).or_insert_with(|| {
                json!({
                    "name": name,
                    "created_at": time(item.created_at),
                    "updated_at": time(item.updated_at),
                })
            });
        }
    }
    let types: Vec<Value> = types.into_values().collect();
    Ok(json_answer(
        StatusCode::OK,
        &json!({"resource_types": types}),
    ))
}
