//! Arguments: the addresses of members.

/// Parses an address of a member.
pub(super) fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("the address of a member is https://IP:PORT, usually with port 2380".into()),
    }
}
