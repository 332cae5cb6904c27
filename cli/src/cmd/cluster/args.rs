//! Arguments: members and their addresses.

/// Parses an address of a member.
pub(super) fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("the address of a member is https://IP:PORT, usually with port 2380".into()),
    }
}

/// Parses the id of a member, which becomes part of a path.
pub(super) fn member(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("the id of a member has up to 16 hex digits; `casemate cluster status` shows it".into())
}
