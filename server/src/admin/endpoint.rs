//! The endpoints of the admin API, each with what it takes and answers: the router and the OpenAPI document come from the
//! same table.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post, put};
use serde_json::{Map, Value, json};

use super::Admin;
use super::schema::{self, reference};

/// A method of a path.
pub(super) struct Endpoint {
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<Admin>>,
    summary: &'static str,
    queries: Vec<Value>,
    body: Option<(Value, bool)>,
    answer: (&'static str, Value),
    refusals: &'static [u16],
}

impl Endpoint {
    fn new(
        method: &'static str,
        path: &'static str,
        handler: MethodRouter<Arc<Admin>>,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            handler,
            summary,
            queries: Vec::new(),
            body: None,
            answer: ("text/plain", json!({"type": "string"})),
            refusals: &[],
        }
    }

    pub(super) fn get<H, T>(path: &'static str, handler: H, summary: &'static str) -> Self
    where
        H: Handler<T, Arc<Admin>>,
        T: 'static,
    {
        Self::new("get", path, get(handler), summary)
    }

    pub(super) fn post<H, T>(path: &'static str, handler: H, summary: &'static str) -> Self
    where
        H: Handler<T, Arc<Admin>>,
        T: 'static,
    {
        Self::new("post", path, post(handler), summary)
    }

    pub(super) fn put<H, T>(path: &'static str, handler: H, summary: &'static str) -> Self
    where
        H: Handler<T, Arc<Admin>>,
        T: 'static,
    {
        Self::new("put", path, put(handler), summary)
    }

    /// Takes a parameter in the query.
    pub(super) fn query(mut self, name: &str, schema: Value) -> Self {
        self.queries
            .push(json!({"name": name, "in": "query", "schema": schema}));
        self
    }

    /// Takes a body, which may be left out.
    pub(super) fn may_take(mut self, schema: &str) -> Self {
        self.body = Some((reference(schema), false));
        self
    }

    /// Needs a body.
    pub(super) fn takes(mut self, schema: &str) -> Self {
        self.body = Some((reference(schema), true));
        self
    }

    /// Answers a JSON document.
    pub(super) fn answers(mut self, schema: &str) -> Self {
        self.answer = ("application/json", reference(schema));
        self
    }

    /// Answers a list of JSON documents.
    pub(super) fn lists(mut self, schema: &str) -> Self {
        let list = json!({"type": "array", "items": reference(schema)});
        self.answer = ("application/json", list);
        self
    }

    /// Answers JSON lines, of which the schema describes one.
    pub(super) fn streams(mut self, schema: &str) -> Self {
        self.answer = ("application/x-ndjson", reference(schema));
        self
    }

    /// May refuse with these codes.
    pub(super) fn refuses(mut self, codes: &'static [u16]) -> Self {
        self.refusals = codes;
        self
    }

    fn document(&self) -> Value {
        let names = self.path.split('/').filter_map(|part| {
            let name = part.strip_prefix('{')?.strip_suffix('}')?;
            let schema = json!({"type": "string"});
            Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
        });
        let parameters: Vec<Value> = names.chain(self.queries.iter().cloned()).collect();
        let (kind, schema) = &self.answer;
        let mut answers = Map::new();
        let content = json!({*kind: {"schema": schema}});
        answers.insert(
            "200".into(),
            json!({"description": "Done", "content": content}),
        );
        for code in self.refusals {
            let content = json!({"application/json": {"schema": reference("Error")}});
            let answer = json!({"description": "Refused", "content": content});
            answers.insert(code.to_string(), answer);
        }
        let mut document = json!({
            "summary": self.summary,
            "parameters": parameters,
            "responses": answers,
        });
        if let Some((schema, required)) = &self.body {
            document["requestBody"] = json!({
                "required": required,
                "content": {"application/json": {"schema": schema}},
            });
        }
        document
    }
}

/// The router of these endpoints.
pub(super) fn router(endpoints: Vec<Endpoint>) -> Router<Arc<Admin>> {
    let add = |router: Router<_>, one: Endpoint| router.route(one.path, one.handler);
    endpoints.into_iter().fold(Router::new(), add)
}

/// The OpenAPI document of these endpoints.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let mut paths = Map::new();
    for one in endpoints {
        let path = paths.entry(one.path).or_insert_with(|| json!({}));
        path[one.method] = one.document();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Vitrail admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schema::all()},
    })
}
