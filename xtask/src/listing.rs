//! Listings for people and tools, printed from the server's own tables so that they cannot disagree with it.

use anyhow::Result;

use crate::steps::cargo;

/// Prints the listing `name`: `policy`, `openapi` or `mechanisms`.
pub(crate) fn print(name: &str) -> Result<()> {
    let arguments = ["run", "--quiet", "-p", "casemate-server", "--example", "listing", "--", name];
    let status = cargo(&arguments).status()?;
    anyhow::ensure!(status.success(), "the listing `{name}` could not be made");
    Ok(())
}
