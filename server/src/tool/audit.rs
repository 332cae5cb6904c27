//! `casemated audit verify`: checks an export of the audit log without the device that wrote it.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::Path;

use casemate_audit::{Broken, Checkpoint, Found, Verifier, public_key_from_pem};

use crate::observe::plain::plain;
use crate::process::Exit;

/// Why a file was not accepted: an exit code and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// [`Exit::AuditBroken`] if the log was altered, [`Exit::Settings`] if a file cannot be read.
    pub exit: Exit,
    /// What is wrong, and where.
    pub sentence: String,
}

/// Checks the export in `file`, with the public key in `key` (PEM) if given, and writes a summary to `out`. The first
/// altered, missing or reordered record is the fault.
pub fn verify(file: &Path, key: Option<&Path>, out: &mut dyn Write) -> Result<(), Fault> {
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| Fault {
        exit: Exit::Settings,
        sentence: format!("{}: {why}", path.display()),
    };
    let known = match key {
        None => Vec::new(),
        Some(path) => {
            let pem = fs::read_to_string(path).map_err(|why| unreadable(path, &why))?;
            let key = public_key_from_pem(&pem);
            vec![key.ok_or_else(|| unreadable(path, &"this is not a public key of an audit log (PEM, Ed25519)"))?]
        }
    };
    let opened = File::open(file).map_err(|why| unreadable(file, &why))?;
    let verified = Verifier::open(BufReader::new(opened), &known).and_then(Verifier::finish);
    let found = verified.map_err(|broken| match broken {
        Broken::Unreadable(why) => unreadable(file, &why),
        Broken::Log(sentence) => Fault { exit: Exit::AuditBroken, sentence: format!("{}: {sentence}", file.display()) },
    })?;
    // If the output cannot be written, the exit code still tells the result.
    for line in summary(&found, key) {
        // The contents of the file are chosen by its author.
        let _ = writeln!(out, "{}", plain(&line));
    }
    Ok(())
}

/// What was verified, in sentences.
fn summary(found: &Found, key: Option<&Path>) -> Vec<String> {
    let Checkpoint { sequence, first, last, time, device, .. } = &found.end;
    let mut lines = vec![
        format!("Records {} to {sequence} of device {device} are in order and unaltered.", found.from),
        format!("At {time} the log of the device held the records {first} to {last}."),
    ];
    if found.from > *first {
        lines.push(format!(
            "This file begins in the middle: with record {}, after the hash of record {}.",
            found.from,
            found.from - 1
        ));
    }
    if *first > 1 {
        lines.push(format!("The device had removed the records before {first}, as the length of its log is limited."));
    }
    lines.push(match key {
        Some(path) => format!("{} signatures were made with the key in {}.", found.checkpoints, path.display()),
        None => format!(
            "The key of the {} signatures was taken from the file itself: so the file is consistent, but nothing shows which device wrote it. Give the device's key with --key.",
            found.checkpoints
        ),
    });
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use casemate_api::UserId;
    use casemate_audit::{Hash, Record};
    use casemate_core::Hsm;
    use casemate_core::audit::{Act, ActOutcome};
    use casemate_core::sim::Sim;
    use pollster::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::scratch::Scratch;

    /// Three exports of the same device: the whole log, with 2005 records and so with checkpoints inside; a range; and
    /// the key.
    struct Exports {
        whole: String,
        range: String,
        small: String,
        key: String,
    }

    fn exported(hsm: &Hsm, from: Option<u64>, to: Option<u64>) -> String {
        block_on(async {
            let mut export = hsm.audit.export(from, to).await.unwrap();
            let mut text = String::new();
            while let Some(lines) = hsm.audit.page(&mut export).await.unwrap() {
                text.push_str(&lines);
            }
            text
        })
    }

    fn exports() -> &'static Exports {
        static EXPORTS: OnceLock<Exports> = OnceLock::new();
        EXPORTS.get_or_init(|| {
            let hsm = block_on(Hsm::boot(Sim::new(1).platform())).unwrap();
            for i in 0..1002 {
                let act = Act {
                    user: UserId::parse("admin").ok(),
                    address: [10, 0, 0, 1].into(),
                    endpoint: "PUT /keys/{key}".into(),
                    target: format!("/keys/{i}"),
                };
                let intent = block_on(hsm.audit.intent(&act)).unwrap();
                hsm.audit.outcome(&act, &ActOutcome { intent: Some(intent), status: 204, ..ActOutcome::default() });
            }
            Exports {
                whole: exported(&hsm, None, None),
                range: exported(&hsm, Some(990), Some(1010)),
                small: exported(&hsm, None, Some(20)),
                key: hsm.audit.public_key_pem().unwrap(),
            }
        })
    }

    fn verified(text: impl AsRef<[u8]>, key: Option<&str>) -> Result<String, Fault> {
        let folder = Scratch::new();
        let (file, key_file): (PathBuf, _) = (folder.path("log"), folder.path("key.pem"));
        fs::write(&file, text).unwrap();
        let key = key.map(|pem| {
            fs::write(&key_file, pem).unwrap();
            key_file.as_path()
        });
        let mut out = Vec::new();
        let result = verify(&file, key, &mut out);
        result.map(|()| String::from_utf8(out).unwrap()).map_err(|fault| {
            let sentence = fault.sentence.replace(&format!("{}: ", file.display()), "");
            Fault { exit: fault.exit, sentence }
        })
    }

    /// The error for a log whose lines `change` changed.
    #[track_caller]
    fn complaint(change: impl FnOnce(&mut Vec<String>)) -> String {
        let mut lines: Vec<String> = exports().whole.split_inclusive('\n').map(str::to_owned).collect();
        change(&mut lines);
        let fault = verified(lines.concat(), Some(&exports().key)).unwrap_err();
        assert_eq!(fault.exit, Exit::AuditBroken);
        fault.sentence
    }

    #[test]
    fn what_the_device_wrote_is_good() {
        let Exports { whole, range, small, key } = exports();
        let said = verified(whole, Some(key)).unwrap();
        assert!(said.starts_with("Records 1 to 2005 of device "), "{said}");
        assert!(said.contains("3 signatures were made with the key in"), "{said}");
        let said = verified(range, Some(key)).unwrap();
        assert!(said.contains("Records 990 to 1010 ") && said.contains("begins in the middle"), "{said}");
        let said = verified(small, None).unwrap();
        assert!(said.contains("taken from the file itself"), "{said}");
    }

    #[test]
    fn the_first_record_that_is_wrong_is_named() {
        // Line 0 is the header, so record 7 is line 7 here and line 8 for people.
        let altered = complaint(|lines| lines[7] = lines[7].replace("admin", "adnin"));
        assert!(altered.starts_with("record 7 was altered") && altered.contains("line 8"), "{altered}");
        let removed = complaint(|lines| drop(lines.remove(7)));
        assert_eq!(removed, "record 7 is missing: line 8 continues with record 8");
        let swapped = complaint(|lines| lines.swap(7, 9));
        assert_eq!(swapped, "record 7 was moved: line 8 holds record 9 instead");
        let repeated = complaint(|lines| {
            let again = lines[6].clone();
            lines.insert(7, again);
        });
        assert_eq!(repeated, "record 7 was moved: line 8 holds record 6 instead");
        let cut = complaint(|lines| lines.truncate(1500));
        assert!(cut.contains("record 1499 and what follows was cut off"), "{cut}");
        // Cut right after a checkpoint inside the log, which does not end an export.
        let cut = complaint(|lines| {
            let at = lines.iter().position(|line| line.starts_with("{\"checkpoint\"")).unwrap();
            lines.truncate(at + 1);
        });
        assert!(cut.starts_with("the file ends after record "), "{cut}");
        let longer = complaint(|lines| lines.push("{}\n".into()));
        assert!(longer.contains("comes after the end"), "{longer}");
        let half = complaint(|lines| {
            lines.last_mut().unwrap().pop();
        });
        assert!(half.starts_with("the checkpoint after record 2005 was altered"), "{half}");
    }

    #[test]
    fn recomputed_hashes_do_not_hide_an_altered_record() {
        let said = complaint(|lines| {
            let mut previous: Hash =
                Record::parse(lines[1499].as_bytes()).or(Record::parse(lines[1498].as_bytes())).unwrap().1;
            for line in &mut lines[1500..] {
                let Some((mut record, _)) = Record::parse(line.as_bytes()) else { continue };
                record.event.user = "somebody".into();
                previous = record.hash(&previous);
                *line = record.line(&previous);
            }
        });
        assert!(said.starts_with("the records from 1"), "{said}");
        assert!(said.contains("were altered and hashed again"), "{said}");
    }

    #[test]
    fn an_altered_checkpoint_and_a_foreign_key_are_noticed() {
        let said = complaint(|lines| {
            let last = lines.last_mut().unwrap();
            *last = last.replace("\"last\":2005", "\"last\":2006");
        });
        assert!(said.starts_with("the checkpoint after record 2005 was altered: the signature"), "{said}");
        let other = block_on(Hsm::boot(Sim::new(2).platform())).unwrap().audit.public_key_pem().unwrap();
        let fault = verified(&exports().whole, Some(&other)).unwrap_err();
        assert!(fault.sentence.starts_with("line 1 has another key"), "{}", fault.sentence);
        let fault = verified(&exports().whole, Some("no key")).unwrap_err();
        assert_eq!(fault.exit, Exit::Settings);
        assert_eq!(verified("", None).unwrap_err().exit, Exit::AuditBroken);
        assert_eq!(verify(Path::new("/nowhere"), None, &mut Vec::new()).unwrap_err().exit, Exit::Settings);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..=255, with_key: bool) {
            let Exports { small, range, key, .. } = exports();
            for text in [small, range] {
                let mut bytes = text.clone().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                let result = verified(&bytes, with_key.then_some(key.as_str()));
                prop_assert_eq!(result.map_err(|fault| fault.exit), Err(Exit::AuditBroken));
            }
        }

        #[test]
        fn any_cut_is_noticed(at in any::<prop::sample::Index>()) {
            let text = &exports().small;
            let cut = &text.as_bytes()[..at.index(text.len())];
            prop_assert!(verified(cut, None).is_err());
        }
    }
}
