//! The API's description of itself: `GET /v1/openapi.json`, as OpenAPI 3.1.
//!
//! In: the table of the routes, the schemas of their types. Out: one document, made once. Never: a word on a route that
//! does not stand in the table.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use clap::ValueEnum as _;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::routes::{About, Answer, Routes};
use crate::api::bodies::Refusal;
use crate::config::Name;
use crate::state::Part;

const PATH: &str = "/v1/openapi.json";

pub(super) fn routes(described: &Routes) -> Routes {
    let own = || {
        let about = About::new("This description of the API");
        About {
            answer: Answer::Json(|_| json!({ "type": "object" }).try_into().unwrap_or_default()),
            ..about
        }
    };
    let all = described
        .iter()
        .map(|route| (route.method.as_str(), route.path, &route.about));
    let text: Arc<str> = describe(all.chain([("GET", PATH, &own())]))
        .to_string()
        .into();
    let tell = move || {
        let text = Arc::clone(&text);
        async move { ([(CONTENT_TYPE, "application/json")], text.to_string()).into_response() }
    };
    Routes::default().get(PATH, tell, own())
}

fn describe<'r>(routes: impl Iterator<Item = (&'r str, &'static str, &'r About)>) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let refusal = generator.subschema_for::<Refusal>().to_value();
    let mut paths = Map::new();
    for (method, path, about) in routes {
        let item = paths
            .entry(path)
            .or_insert_with(|| json!({ "parameters": in_path(path) }));
        item[method.to_ascii_lowercase()] =
            operation(method, path, about, &refusal, &mut generator);
    }
    let mut description = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Culvert",
            "description": "The control socket's API. Whatever is no answer is a Refusal.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    });
    spell_out(&mut description);
    description
}

fn operation(
    method: &str,
    path: &str,
    about: &About,
    refusal: &Value,
    generator: &mut SchemaGenerator,
) -> Value {
    let (status, answer) = answer(about.answer, generator);
    let refused = json!({
        "description": "Refused, in words",
        "content": { "application/json": { "schema": refusal } },
    });
    let mut operation = json!({
        "operationId": operation_id(method, path),
        "summary": about.summary,
        "parameters": about.query.map_or_else(Vec::new, |query| in_query(&query(generator).to_value())),
        "responses": { status: answer, "4XX": refused, "5XX": refused },
    });
    if let Some(body) = about.body {
        operation["requestBody"] = json!({
            "required": !about.may_lack_body,
            "content": { "application/json": { "schema": body(generator) } },
        });
    }
    operation
}

fn answer(answer: Answer, generator: &mut SchemaGenerator) -> (&'static str, Value) {
    match answer {
        Answer::Empty => ("204", json!({ "description": "Done" })),
        Answer::Json(schema) => (
            "200",
            json!({
                "description": "The answer",
                "content": { "application/json": { "schema": schema(generator) } },
            }),
        ),
        Answer::Text(content) => (
            "200",
            json!({
                "description": "The answer",
                "content": { content: { "schema": { "type": "string" } } },
            }),
        ),
    }
}

/// `get_v1_ports_name` of `/v1/ports/{name}`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let words: Vec<_> = words.collect();
    format!("{}_{}", method.to_ascii_lowercase(), words.join("_"))
}

/// A path's `{name}`s.
fn in_path(path: &str) -> Vec<Value> {
    let names = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameter = |name| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": named(name),
        })
    };
    names.map(parameter).collect()
}

/// What may stand in the place of a `{name}`.
fn named(name: &str) -> Value {
    match name {
        "number" => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        "part" => {
            let parts = Part::value_variants().iter();
            json!({ "type": "string", "enum": parts.map(|part| part.name()).collect::<Vec<_>>() })
        }
        _ => json!({ "type": "string", "pattern": Name::PATTERN }),
    }
}

/// Says what formats stand for that are known to few: how large a `uint32` may be, what an `ip` is.
fn spell_out(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        let format = fields.get("format").and_then(Value::as_str);
        if format == Some("ip") {
            fields.remove("format");
            let kinds = json!([{ "format": "ipv4" }, { "format": "ipv6" }]);
            fields.insert("anyOf".into(), kinds);
            return;
        }
        let maximum: Option<u64> = match format {
            Some("uint8") => Some(u8::MAX.into()),
            Some("uint16") => Some(u16::MAX.into()),
            Some("uint32") => Some(u32::MAX.into()),
            Some("uint" | "uint64") => Some(u64::MAX),
            _ => None,
        };
        if let Some(maximum) = maximum {
            fields.entry("maximum").or_insert(maximum.into());
        }
        fields.values_mut().for_each(spell_out);
    }
    if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(spell_out);
    }
}

/// The fields of a query's type.
fn in_query(schema: &Value) -> Vec<Value> {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|it| it == name));
    let fields = schema["properties"].as_object().into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| {
        json!({
            "name": name,
            "in": "query",
            "required": is_required(name),
            "description": schema["description"],
            "schema": schema,
        })
    };
    fields.map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Value {
        let routes = crate::api::server::routes();
        let all = routes
            .iter()
            .map(|route| (route.method.as_str(), route.path, &route.about));
        describe(all)
    }

    /// Whatever is referred to is there.
    #[test]
    fn the_description_is_whole() {
        let description = all();
        let text = description.to_string();
        let references = text.split("\"$ref\":\"#/components/schemas/").skip(1);
        for reference in references {
            let name = reference.split('"').next().unwrap();
            assert!(
                description["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let summary = operation["summary"].as_str().unwrap();
                assert!(
                    !summary.is_empty(),
                    "{method} {path} says nothing of itself"
                );
            }
        }
    }

    /// A body's objects have no keys but those that are described, or say that they are a section of a file.
    #[test]
    fn bodies_are_closed() {
        let description = all();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let body = &operation["requestBody"]["content"]["application/json"]["schema"];
                let mut seen = Vec::new();
                closed(&description, body, &format!("{method} {path}"), &mut seen);
            }
        }
    }

    fn closed(description: &Value, schema: &Value, place: &str, seen: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                if fields.contains_key("properties") {
                    let is_said = fields.contains_key("additionalProperties");
                    assert!(is_said, "{place}: {schema}");
                }
                let name = schema["$ref"].as_str().and_then(|it| it.rsplit('/').next());
                if let Some(name) = name.filter(|&name| !seen.iter().any(|it| it == name)) {
                    seen.push(name.to_owned());
                    let schema = &description["components"]["schemas"][name];
                    closed(description, schema, &format!("{place}: {name}"), seen);
                }
                fields
                    .values()
                    .for_each(|it| closed(description, it, place, seen));
            }
            Value::Array(items) => items
                .iter()
                .for_each(|it| closed(description, it, place, seen)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
