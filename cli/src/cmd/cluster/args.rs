//! Members and their addresses as arguments.

/// An address of a member as an argument.
pub(super) fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("an address of a member is https://IP:PORT, mostly with the port 2380".into()),
    }
}

/// The id of a member as an argument: it becomes part of a path.
pub(super) fn member(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a member's id is up to 16 hex digits; `casemate cluster status` shows it".into())
}
