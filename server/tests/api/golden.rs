//! Golden files that a person reviews: the answers of the HSM, compared with the committed ones.

use std::path::PathBuf;

/// Compares `made` with `tests/golden/<name>`; with `UPDATE_GOLDEN=1` in the environment the file is written instead,
/// and every changed line must be reviewed.
#[expect(clippy::disallowed_methods, reason = "the one switch of the tests")]
pub fn compare(name: &str, made: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&file, made).unwrap();
        eprintln!("{} was written: read its changes", file.display());
        return;
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    if golden == made {
        return;
    }
    let (old, new): (Vec<_>, Vec<_>) = (golden.lines().collect(), made.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    let difference: Vec<_> = gone.chain(come).collect();
    panic!("{} differs (UPDATE_GOLDEN=1 rewrites it):\n{}", file.display(), difference.join("\n"));
}
