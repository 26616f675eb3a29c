//! Names that users give: topics, cursors and binding keys. A value of these types is within the limits.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::limits::{BINDING_KEY_BYTES_MAX, CURSOR_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// A name or key that is refused, and what is allowed. `what` says what was named.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("{what} is empty; it has 1 to {max} bytes")]
    Empty {
        /// What was named.
        what: &'static str,
        /// The most bytes that it may have.
        max: usize,
    },
    /// It is longer than its limit.
    #[error("{what} has {bytes} bytes; the limit is {max}")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// The bytes that it has.
        bytes: usize,
        /// The most bytes that it may have.
        max: usize,
    },
    /// It has a character that names may not have.
    #[error("{what} contains {character:?}; allowed are A-Z, a-z, 0-9, '.', '_', '-' and '/'")]
    Character {
        /// What was named.
        what: &'static str,
        /// The first character that is not allowed.
        character: char,
    },
    /// It is `.` or `..`.
    #[error(
        "{what} is '.' or '..'; every other name of A-Z, a-z, 0-9, '.', '_', '-' and '/' is allowed"
    )]
    Dots {
        /// What was named.
        what: &'static str,
    },
    /// It begins or ends with `/`, or has two of them in a row.
    #[error(
        "{what} has nothing before or after a '/'; every '/' stands between two other characters"
    )]
    EmptySegment {
        /// What was named.
        what: &'static str,
    },
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the name if it is allowed.
            ///
            /// # Errors
            /// [`NameError`] names the limit that it breaks.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_text($what, name, $max)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name's bytes, all of them ASCII.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_name! {
    /// A topic's name: 1 to [`TOPIC_NAME_BYTES_MAX`] bytes of `A-Z a-z 0-9 . _ - /`, not `.` or `..`, with
    /// something before and after every `/`. Cheap to clone; ordered by bytes.
    TopicName, "the topic name", TOPIC_NAME_BYTES_MAX
}
text_name! {
    /// The name of a cursor of one topic: 1 to [`CURSOR_NAME_BYTES_MAX`] bytes, by the rules of [`TopicName`].
    CursorName, "the cursor name", CURSOR_NAME_BYTES_MAX
}

/// A binding's key: 1 to [`BINDING_KEY_BYTES_MAX`] bytes of any kind. Cheap to clone; ordered by bytes.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct BindingKey(Bytes);

impl BindingKey {
    /// Takes a copy of the key if it is allowed.
    ///
    /// # Errors
    /// [`NameError`] names the limit that it breaks.
    pub fn new(key: &[u8]) -> Result<Self, NameError> {
        check_length("the key", key.len(), BINDING_KEY_BYTES_MAX)?;
        Ok(Self(Bytes::copy_from_slice(key)))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn check_length(what: &'static str, bytes: usize, max: usize) -> Result<(), NameError> {
    match bytes {
        0 => Err(NameError::Empty { what, max }),
        _ if bytes > max => Err(NameError::TooLong { what, bytes, max }),
        _ => Ok(()),
    }
}

fn check_text(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    check_length(what, name.len(), max)?;
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "._-/".contains(*c);
    if let Some(character) = name.chars().find(|c| !allowed(c)) {
        return Err(NameError::Character { what, character });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots { what });
    }
    if name.split('/').any(str::is_empty) {
        return Err(NameError::EmptySegment { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_taken() {
        for name in [
            "a",
            "orders",
            "eu/orders.v2",
            "A-Z_0.9",
            "...",
            "a/./b",
            &"x".repeat(255),
        ] {
            assert_eq!(TopicName::new(name).unwrap().as_str(), name);
            assert_eq!(CursorName::new(name).unwrap().as_bytes(), name.as_bytes());
        }
    }

    #[test]
    fn a_refusal_names_the_limit_and_what_is_allowed() {
        let refused = |name: &str| TopicName::new(name).unwrap_err().to_string();
        assert_eq!(
            refused(""),
            "the topic name is empty; it has 1 to 255 bytes"
        );
        assert_eq!(
            refused(&"x".repeat(256)),
            "the topic name has 256 bytes; the limit is 255"
        );
        assert_eq!(
            refused("a b"),
            "the topic name contains ' '; allowed are A-Z, a-z, 0-9, '.', '_', '-' and '/'"
        );
        assert_eq!(
            CursorName::new("grün").unwrap_err(),
            NameError::Character {
                what: "the cursor name",
                character: 'ü'
            }
        );
        for name in [".", ".."] {
            assert_eq!(
                TopicName::new(name),
                Err(NameError::Dots {
                    what: "the topic name"
                })
            );
        }
        for name in ["/", "/a", "a/", "a//b"] {
            assert_eq!(
                TopicName::new(name),
                Err(NameError::EmptySegment {
                    what: "the topic name"
                })
            );
        }
    }

    #[test]
    fn a_key_is_any_bytes_within_the_limit() {
        assert_eq!(BindingKey::new(&[0, 255]).unwrap().as_bytes(), [0, 255]);
        assert!(BindingKey::new(&[7; 1024]).is_ok());
        assert_eq!(
            BindingKey::new(b""),
            Err(NameError::Empty {
                what: "the key",
                max: 1024
            })
        );
        assert_eq!(
            BindingKey::new(&[7; 1025]),
            Err(NameError::TooLong {
                what: "the key",
                bytes: 1025,
                max: 1024
            })
        );
    }

    #[test]
    fn names_print_as_text() {
        let name = TopicName::new("eu/orders").unwrap();
        assert_eq!(format!("{name} {name:?}"), "eu/orders \"eu/orders\"");
        assert_eq!(
            format!("{:?}", BindingKey::new(b"k\0").unwrap()),
            "b\"k\\0\""
        );
    }
}
