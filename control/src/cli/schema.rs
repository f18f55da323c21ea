//! `culvert schema`: the tables of the configuration as a JSON schema (draft 2020-12).

use serde_json::{Map, Value, json};

use crate::config::Labels;
use crate::config::schema::{FILE, Form, Key, Presence, Table};

pub(super) fn text() -> String {
    let mut schema = table(&FILE);
    if let Value::Object(object) = &mut schema {
        object.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".into(), json!("Culvert's configuration"));
        object.insert("patternProperties".into(), json!({ "^x-": {} }));
    }
    // Objects of strings, numbers and lists always serialize.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| (key.name.into(), property(key)))
        .collect();
    let required = table
        .keys
        .iter()
        .filter(|key| key.presence == Presence::Required);
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "required": required.map(|key| key.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    });
    if !table.doc.is_empty() {
        schema["description"] = json!(table.doc);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = form(&key.form);
    schema["description"] = match key.presence {
        Presence::Required => json!(key.doc),
        Presence::Default(default) => json!(format!("{} Default: {default}.", key.doc)),
    };
    schema
}

fn form(of: &Form) -> Value {
    const NAME: &str = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$";
    match *of {
        Form::Text | Form::Path => json!({ "type": "string", "minLength": 1 }),
        // YAML reads a name or a mode of digits as a number; culvert takes what was written.
        Form::Name | Form::Reference(_) => {
            json!({ "type": ["string", "integer"], "pattern": NAME })
        }
        Form::Account => json!({ "type": ["string", "integer"] }),
        Form::Permissions => {
            json!({ "type": ["string", "integer"], "pattern": "^(0o)?[0-7]{3,4}$" })
        }
        Form::Integer { min, max } if min == max => json!({ "const": min }),
        Form::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Form::Bool => json!({ "type": "boolean" }),
        Form::Choice(words) => json!({ "enum": words }),
        Form::Key => json!({ "type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$" }),
        Form::Interface => json!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]+$" }),
        Form::Prefix => json!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]+)?$" }),
        Form::Destination => {
            json!({ "type": "string", "pattern": "^(default|[0-9A-Fa-f.:]+(/[0-9]+)?)$" })
        }
        Form::Address => json!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+$" }),
        Form::Endpoint => json!({ "type": "string", "pattern": "^.+:[0-9]+$" }),
        Form::Listen => {
            json!({ "type": "string", "pattern": "^(\\[[0-9A-Fa-f.:]+\\]|[0-9.]+):[0-9]+$" })
        }
        Form::Mac => {
            json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$" })
        }
        Form::Seconds { min, .. } => {
            let off = if min == 0 { "off|" } else { "" };
            json!({ "type": ["string", "integer"], "pattern": format!("^({off}[0-9]+ ?(s|m|min|h)?)$") })
        }
        Form::Words(words) => json!({
            "type": "object",
            "additionalProperties": { "enum": words },
        }),
        Form::Labels => json!({
            "type": "object",
            "maxProperties": Labels::COUNT,
            "propertyNames": { "pattern": format!("^[A-Za-z0-9_][A-Za-z0-9._/-]{{0,{}}}$", Labels::KEY_LEN - 1) },
            "additionalProperties": { "type": ["string", "number", "boolean"], "minLength": 1, "maxLength": Labels::VALUE_LEN },
        }),
        // One item may stand without its list.
        Form::List(item) => {
            json!({ "anyOf": [{ "type": "array", "items": form(item) }, form(item)] })
        }
        Form::Tables(item) => json!({ "type": "array", "items": table(item) }),
        Form::Table(of) => table(of),
        Form::Named(of) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME },
            "additionalProperties": table(of),
        }),
        Form::Numbered {
            table: of, short, ..
        } => json!({
            "type": "object",
            "propertyNames": { "pattern": "^(0x)?[0-9A-Fa-f]+$" },
            "additionalProperties": { "anyOf": [table(of), form(short)] },
        }),
        Form::Either(first, second) => json!({ "anyOf": [form(first), form(second)] }),
    }
}
