//! The last step before etcd runs: a fresh `casemated` with one thread that gives up all it does not need and becomes etcd.
//!
//! It is a program of its own, and not code between `fork` and `exec`, because that would have to be `unsafe`.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, process};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal};

use crate::process::Exit;

/// The first argument of `casemated` with which it does this. It is for `casemated` alone and so in no help.
pub const ARGUMENT: &str = "__confine";

/// The arguments of a `casemated` that becomes `program` in the present folder, for this process.
pub fn arguments(program: &Path) -> [OsString; 3] {
    [ARGUMENT.into(), process::id().to_string().into(), program.into()]
}

/// Becomes the program that [`arguments`] name, with the arguments behind them. It ends with its parent, and:
///
/// - Of all files it can read, write and create those in the present folder. It can run itself, and read what that takes and
///   what tells the addresses of names. Others are closed to it as far as the kernel knows how ([`is_possible`]).
/// - It can send signals to nobody but itself, and debug nobody.
/// - It gains no rights by running another program, and leaves no dumps of its memory.
/// - It inherits standard input, output and error, and the environment.
/// - If memory is short it is ended rather than its parent, which holds the Domain Key.
///
/// It returns only when that fails, and has then written a sentence to standard error.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> Exit {
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
    let why = match (parent, arguments.next().map(PathBuf::from)) {
        (Some(parent), Some(program)) => match confine(parent, &program) {
            Ok(()) => {
                let error = Command::new(&program).args(arguments).exec();
                format!("cannot run {}: {error}", program.display())
            }
            Err(why) => format!("cannot confine {}: {why}", program.display()),
        },
        _ => "this is not for people".into(),
    };
    // If standard error is closed, the error cannot be reported.
    let _ = writeln!(io::stderr(), "casemated: {why}");
    Exit::Failure
}

/// Whether this kernel can keep a process from files (Landlock, Linux 5.13).
pub fn is_possible() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
}

fn confine(parent: i32, program: &Path) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    // It may have ended before.
    if rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        return Err("the process that started it has ended".into());
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(|error| error.to_string())?;
    close_inherited().map_err(|error| error.to_string())?;
    // Where /proc is read-only the kernel decides.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // What a unit gives to casemated for its ports is not for others.
    rustix::thread::clear_ambient_capability_set().map_err(|error| error.to_string())?;
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    close_files(program).map_err(|error| error.to_string())
}

/// Closes what whoever started `casemated` had open; what `casemated` opens itself is not inherited.
fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for number in open.into_iter().filter(|number| *number > 2) {
        // One of them was the folder that was read.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn close_files(program: &Path) -> Result<(), Box<dyn Error>> {
    let all = AccessFs::from_all(KNOWN);
    let run = AccessFs::ReadFile | AccessFs::Execute;
    Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(".")?, all & !AccessFs::Execute))?
        .add_rule(PathBeneath::new(PathFd::new(program)?, run))?
        .add_rules(path_beneath_rules(LIBRARIES, run))?
        .add_rules(path_beneath_rules(NAMES, AccessFs::ReadFile))?
        .add_rules(path_beneath_rules([OPEN_FILES], AccessFs::ReadDir))?
        .restrict_self()?;
    Ok(())
}

/// The newest version of Landlock whose rights are all given up; an older kernel gives up those it knows.
const KNOWN: ABI = ABI::V9;
/// What a dynamic loader reads. The etcd of most vendors needs none of it.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"];
/// Where the addresses of peers that are known by name come from.
const NAMES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"];
/// etcd counts them, and warns before they are all taken.
const OPEN_FILES: &str = "/proc/self/fd";
/// From -1000 to 1000. Half of all memory is added to what it has when the kernel looks for the process to end.
const OOM_SCORE: &str = "500";
