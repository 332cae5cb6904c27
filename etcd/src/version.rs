//! Versions of etcd that are used. Each member is asked when a connection to it is made, as they are upgraded one by one.

/// Why a version is not used, as a sentence for the operator. `None`: it is.
pub(crate) fn refused_version(version: &str) -> Option<String> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u32>().ok());
    let [major, minor, patch] = std::array::from_fn(|_| numbers.next().flatten());
    match (major, minor, patch) {
        (Some(3), Some(5), Some(21..)) | (Some(3), Some(6), Some(1..)) | (Some(3), Some(7..), _) => None,
        (Some(3), Some(_), _) => Some(format!(
            "etcd is {version}, which may lose data or answer with old data: install 3.5.21, 3.6.1 or a later one"
        )),
        _ => Some(format!("etcd is {version:?}, which this version of casemated does not know")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_data_are_refused() {
        for used in ["3.5.21", "3.5.99", "3.6.1", "3.6.16", "3.7.0-rc.1", "3.10.2+build"] {
            assert_eq!(refused_version(used), None, "{used}");
        }
        for old in ["3.4.40", "3.5.20", "3.6.0", "3.6.0-alpha.0"] {
            let why = refused_version(old).unwrap();
            assert!(why.contains(old) && why.contains("install 3.5.21"), "{why}");
        }
        for unknown in ["4.0.0", "", "3", "three", "-1.2.3"] {
            let why = format!("etcd is {unknown:?}, which this version of casemated does not know");
            assert_eq!(refused_version(unknown), Some(why));
        }
    }
}
