//! What a process that is confined can still do: other programs take the place of etcd.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};

use casemate_server::member::confine;
use casemate_testkit::Folder;
use rustix::process::{Pid, Signal, kill_process};

use crate::{CASEMATED, wait};

/// `casemated` becoming `program` in `folder`.
fn confined(folder: &Folder, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(CASEMATED);
    command.args(confine::arguments(program.as_ref())).args(arguments).current_dir(folder.path("own")).env_clear();
    command
}

fn own_folder() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("own")).unwrap();
    folder.file("own/mine", "mine");
    folder.file("secret", "secret");
    folder
}

fn output(mut command: Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn its_own_folder_is_all_that_it_reads_and_writes() {
    assert!(confine::is_possible(), "this test needs a kernel with Landlock");
    let folder = own_folder();
    let run = |program, arguments: &[&str]| output(confined(&folder, program, arguments));
    assert_eq!(run("/bin/cat", &["mine"]), (true, "mine".into()));
    let denied = |(succeeded, said): (bool, String)| {
        assert!(!succeeded && said.contains("Permission denied"), "{said}");
    };
    // The kernel gives another reason for names, which a program takes for an order to copy.
    let not_linked = |(succeeded, said): (bool, String)| {
        assert!(!succeeded && said.contains("cross-device link"), "{said}");
    };
    denied(run("/bin/cat", &[&folder.at("secret")]));
    denied(run("/bin/cat", &["../secret"]));
    denied(run("/bin/cat", &["/etc/passwd"]));
    denied(run("/bin/ls", &[".."]));
    denied(run("/bin/cp", &["mine", "../copy"]));
    denied(run("/bin/mv", &["mine", "../moved"]));
    not_linked(run("/bin/ln", &["../secret", "link"]));
    assert_eq!(run("/bin/cp", &["mine", "copy"]), (true, String::new()));
    assert_eq!(run("/bin/rm", &["copy"]), (true, String::new()));
    // A link inside leads nowhere.
    std::os::unix::fs::symlink(folder.path("secret"), folder.path("own/link")).unwrap();
    denied(run("/bin/cat", &["link"]));
    // It runs nothing but itself and the loader, and nothing that it has written.
    fs::copy("/bin/cat", folder.path("own/cat")).unwrap();
    denied(run("/usr/bin/env", &["./cat", "mine"]));
    denied(run("/usr/bin/env", &["/bin/cat", "mine"]));
    denied(run("/usr/bin/tail", &["-n1", "/proc/self/environ", &folder.at("secret")]));
    let (succeeded, said) = run("/no/such/program", &[]);
    assert!(!succeeded && said.starts_with("casemated: cannot confine /no/such/program: "), "{said}");
}

#[test]
fn it_signals_nobody_and_gains_nothing() {
    let folder = own_folder();
    let run = |program, arguments: &[&str]| output(confined(&folder, program, arguments));
    let own = std::process::id().to_string();
    let (succeeded, said) = run("/bin/sh", &["-c", &format!("kill -0 {own}")]);
    assert!(!succeeded && said.contains("not permitted"), "{said}");
    let status = run("/bin/cat", &["/proc/self/status"]);
    assert!(!status.0, "not even that file of its own");
    // Its limits and rights are seen from outside.
    let mut child = confined(&folder, "/bin/sleep", &["60"]).spawn().unwrap();
    let proc = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    wait("the program", || proc("comm").starts_with("sleep").then_some(()));
    assert!(proc("status").contains("NoNewPrivs:\t1"), "{}", proc("status"));
    let core = proc("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    assert_eq!(proc("oom_score_adj").trim(), "500");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_inherits_three_files_only() {
    let folder = own_folder();
    // A socket that is not closed by exec stands for what whoever started casemated has left open.
    let open = UnixListener::bind(folder.path("socket")).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let inherits = |mut command: Command| {
        let mut child: Child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let proc = format!("/proc/{}", child.id());
        wait("the program", || fs::read_to_string(format!("{proc}/comm")).unwrap().starts_with("sleep").then_some(()));
        let count = fs::read_dir(format!("{proc}/fd")).unwrap().count();
        child.kill().unwrap();
        child.wait().unwrap();
        count
    };
    let mut sleep = Command::new("/bin/sleep");
    sleep.arg("60");
    assert!(inherits(sleep) > 3, "there is something to inherit");
    assert_eq!(inherits(confined(&folder, "/bin/sleep", &["60"])), 3);
}

/// The parent of the next test.
#[test]
#[ignore = "a parent that is killed: run by the test below"]
fn have_a_confined_child() {
    let folder = own_folder();
    let mut child = confined(&folder, "/bin/sleep", &["600"]).spawn().unwrap();
    println!("\nchild {}", child.id());
    child.wait().unwrap();
}

#[test]
fn it_ends_with_its_parent_whatever_ends_that() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confined::have_a_confined_child", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let child = lines.filter_map(|line| line.strip_prefix("child ").map(str::to_owned)).next().unwrap();
    let comm = || fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
    wait("the program", || comm().starts_with("sleep").then_some(()));
    kill_process(Pid::from_child(&parent), Signal::KILL).unwrap();
    parent.wait().unwrap();
    wait("the end", || (!comm().starts_with("sleep")).then_some(()));
}

#[test]
fn it_does_not_run_for_another_parent() {
    let folder = own_folder();
    let mut command = Command::new(CASEMATED);
    command.args([confine::ARGUMENT, "1", "/bin/cat", "mine"]).current_dir(folder.path("own"));
    let sentence = "casemated: cannot confine /bin/cat: the process that started it has ended\n";
    assert_eq!(output(command), (false, sentence.into()));
}
