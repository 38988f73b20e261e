//! As much of JSON Schema as the schemas here use.
//!
//! Invariant: a word that [`fits`] does not know is a failure, not a check left out.

use serde_json::Value;

fn is_of_type(instance: &Value, name: &str) -> bool {
    match name {
        "object" => instance.is_object(),
        "array" => instance.is_array(),
        "string" => instance.is_string(),
        "boolean" => instance.is_boolean(),
        "number" => instance.is_number(),
        "integer" => instance.is_u64() || instance.is_i64(),
        "null" => instance.is_null(),
        other => panic!("type {other}"),
    }
}

/// Whether `instance` is what `schema` describes. `root` has the definitions.
pub fn fits(root: &Value, schema: &Value, instance: &Value) -> bool {
    let words = schema.as_object().expect("a schema is an object");
    let properties = words.get("properties").and_then(Value::as_object);
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    words.iter().all(|(word, meaning)| match word.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => {
            let name = text(meaning);
            let name = name.strip_prefix("#/$defs/").expect("a definition of this file");
            fits(root, &root["$defs"][name], instance)
        }
        "anyOf" => list(meaning).iter().any(|one| fits(root, one, instance)),
        "const" => instance == meaning,
        "enum" => list(meaning).contains(instance),
        "type" if meaning.is_array() => {
            list(meaning).iter().any(|name| is_of_type(instance, &text(name)))
        }
        "type" => is_of_type(instance, &text(meaning)),
        "required" => list(meaning).iter().all(|key| instance.get(text(key)).is_some()),
        "items" => {
            instance.as_array().is_none_or(|all| all.iter().all(|item| fits(root, meaning, item)))
        }
        "properties" => meaning
            .as_object()
            .expect("properties")
            .iter()
            .all(|(key, part)| instance.get(key).is_none_or(|value| fits(root, part, value))),
        "additionalProperties" => {
            let is_known = |key: &String| properties.is_some_and(|known| known.contains_key(key));
            let may_be =
                |value: &Value| meaning != &Value::Bool(false) && fits(root, meaning, value);
            instance
                .as_object()
                .is_none_or(|all| all.iter().all(|(key, value)| is_known(key) || may_be(value)))
        }
        other => panic!("{other} is not understood here"),
    })
}
