//! JSON objects, and nothing that only looks like one: as serde derives it, a structure may be
//! written as an array of its fields too, which the protocol does not know.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is read from a JSON object alone.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// Reads a message, which is one JSON object and nothing else.
///
/// # Errors
/// When it is something else, or its fields are not those of `T`.
pub fn from_json<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).map(|Object(read)| read)
}

/// For a field that is an object where it is not missing.
pub(crate) fn optional<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let read = Option::<Object<T>>::deserialize(from)?;
    Ok(read.map(|Object(read)| read))
}

/// For a field that is a list of objects.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let read = Vec::<Object<T>>::deserialize(from)?;
    Ok(read.into_iter().map(|Object(read)| read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::{ClientMessage, Join, ServerMessage};

    #[test]
    fn an_array_of_the_fields_is_no_message() {
        for array in [
            r#"["receiver",null,null,"akey",null,null,null,false,[]]"#,
            "[]",
            "null",
            "{} {}",
            r#"{"role":"receiver","access_key":"k","proof":["A","B","C"]}"#,
        ] {
            assert!(from_json::<Join>(array.as_bytes()).is_err(), "{array}");
        }
        let object = br#" {"role":"receiver","access_key":"k","proof":null,"later":[]} "#;
        let join = from_json::<Join>(object).expect("a join");
        assert_eq!(join.access_key.as_deref(), Some("k"));
        for array in [
            r#"["join","receiver",null,null,"akey",null,null,null,false,[]]"#,
            r#"["leave","AAECAwQFBgcICQoLDA0ODw",false]"#,
        ] {
            let read = from_json::<ClientMessage>(array.as_bytes());
            assert!(read.is_err(), "{read:?}");
        }
        let object = br#"{"type":"leave","session":"AAECAwQFBgcICQoLDA0ODw"}"#;
        from_json::<ClientMessage>(object).expect("an object");
        let renewed = |server: &str| {
            let start = r#"{"type":"renewed","session":"AAECAwQFBgcICQoLDA0ODw","ttl_s":1"#;
            let text = format!("{start},\"ice_servers\":[{server}]}}");
            from_json::<ServerMessage>(text.as_bytes())
        };
        renewed(r#"{"urls":["stun:x"]}"#).expect("an object");
        assert!(renewed(r#"[["stun:x"],null,null]"#).is_err());
        assert!(from_json::<ServerMessage>(br#"["hello","AAAA"]"#).is_err());
    }
}
