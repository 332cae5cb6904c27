//! Completion scripts and the manual.

use std::fs;
use std::process::Command;

use crate::harness::{Folder, run};

#[test]
fn bash_takes_the_completions_and_completes_with_them() {
    let folder = Folder::new();
    let script = folder.file("casemate.bash", run(&["completions", "bash"], &[], b"").ok());
    let bash = |arguments: &[&str]| {
        let output = Command::new("bash").args(["--norc", "--noprofile"]).args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && message.is_empty(), "{message}");
        String::from_utf8(output.stdout).unwrap()
    };
    bash(&["-n", &script]);
    // What bash does when Tab is pressed after these words.
    let complete = |words: &str| {
        let press = format!(
            "source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); \
             _casemate casemate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[*]}}\""
        );
        bash(&["-c", &press]).trim().to_owned()
    };
    assert_eq!(complete("casemate doc"), "doctor");
    assert_eq!(complete("casemate key exp"), "export-public");
    assert_eq!(complete("casemate provision --pass"), "--passphrases-to --passphrase-file --passphrase-command");
}

#[test]
fn other_shells_have_completions_and_unknown_ones_are_refused() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell], &[], b"").ok().contains("provision"), "{shell}");
    }
    assert_eq!(run(&["completions", "csh"], &[], b"").code, 2);
}

#[test]
fn the_manual_has_a_page_for_each_command_that_names_its_options() {
    let folder = Folder::new();
    let to = folder.path("man");
    run(&["man", "--to", to.to_str().unwrap()], &[], b"").ok();
    let first = run(&["man"], &[], b"").ok();
    assert_eq!(first, fs::read_to_string(to.join("casemate.1")).unwrap());
    for (page, arguments) in [
        ("casemate", &[][..]),
        ("casemate-doctor", &["doctor"]),
        ("casemate-provision", &["provision"]),
        ("casemate-profile-add", &["profile", "add"]),
        ("casemate-key-import", &["key", "import"]),
        ("casemate-key-tag-add", &["key", "tag", "add"]),
        ("casemate-sign", &["sign"]),
    ] {
        let text = fs::read_to_string(to.join(format!("{page}.1"))).unwrap().replace("\\-", "-");
        let help = run(&[arguments, &["--help"]].concat(), &[], b"").ok();
        let options =
            help.split_whitespace().filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches(','));
        let options: Vec<_> = options.collect();
        assert!(options.len() > 5, "{help}");
        for option in options {
            assert!(text.contains(option), "{page} has no {option}");
        }
    }
    assert!(!to.join("casemate-help.1").exists());
    // The typesetter finds nothing wrong with any of them.
    let pages: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 40, "{pages:?}");
    let set = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).args(&pages).output();
    match set {
        Ok(set) => assert_eq!(String::from_utf8_lossy(&set.stderr), ""),
        Err(why) => eprintln!("skipped: groff, because it is not there ({why})"),
    }
}
