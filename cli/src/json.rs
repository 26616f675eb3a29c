//! How stored bytes appear in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// A JSON object that keeps the order of its fields.
pub(crate) type Object = Map<String, Value>;

/// Adds `name` as text, or `name_base64` where the bytes are not UTF-8.
pub(crate) fn put_bytes(object: &mut Object, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// Adds a header; a name that comes more than once holds a list of its values in order.
pub(crate) fn put_header(object: &mut Object, name: &str, bytes: &[u8]) {
    let mut one = Object::new();
    put_bytes(&mut one, name, bytes);
    for (name, value) in one {
        match object.get_mut(&name) {
            None => {
                object.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(held) => *held = Value::Array(vec![held.take(), value]),
        }
    }
}

/// A causal context as the token that a person copies into `--context`.
pub(crate) fn token(context: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(context)
}

/// The bytes behind a token of [`token`].
pub(crate) fn parse_token(token: &str) -> Result<bytes::Bytes, String> {
    URL_SAFE_NO_PAD.decode(token).map(Into::into).map_err(|_| {
        "this is no context token: use the `context` that get or put printed".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_change_the_name() {
        let mut object = Object::new();
        put_bytes(&mut object, "key", "ключ".as_bytes());
        put_bytes(&mut object, "value", &[0xff, 0]);
        assert_eq!(
            Value::Object(object),
            serde_json::json!({"key": "ключ", "value_base64": "/wA="})
        );
    }

    #[test]
    fn repeated_headers_keep_every_value() {
        let mut object = Object::new();
        for (name, value) in [
            ("a", &b"1"[..]),
            ("b", b"x"),
            ("a", b"2"),
            ("a", b"3"),
            ("b", &[0xff]),
        ] {
            put_header(&mut object, name, value);
        }
        assert_eq!(
            Value::Object(object),
            serde_json::json!({"a": ["1", "2", "3"], "b": "x", "b_base64": "/w=="})
        );
    }

    #[test]
    fn tokens_survive_a_shell_and_a_url() {
        let context = [0xfb, 0xff, 0xfe, 1];
        assert_eq!(token(&context), "-__-AQ");
        assert_eq!(parse_token("-__-AQ").unwrap(), &context[..]);
        assert!(parse_token("not a token").is_err());
    }
}
