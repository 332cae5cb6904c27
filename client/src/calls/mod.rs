//! Every endpoint as a typed call, grouped as the API groups them.

pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod system;
pub(crate) mod users;

/// `text` as a value of a query (RFC 3986 §2.3).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_of_a_query_are_quoted() {
        assert_eq!(super::quoted("a b&c=ü/~"), "a%20b%26c%3D%C3%BC%2F~");
    }
}
