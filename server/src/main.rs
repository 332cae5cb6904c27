//! `casemated`, the network HSM.

use std::io::Write;

use casemate_server::member::confine;
use casemate_server::observe::plain::plain;
use casemate_server::process::{Exit, WipingAllocator};
use casemate_server::run::run;
use casemate_server::settings::{Command, Settings, SettingsError};
use casemate_server::tool;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

fn main() -> Exit {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == confine::ARGUMENT) {
        return confine::run(arguments);
    }
    match Settings::read(std::env::args_os()) {
        Ok(Command::Serve(settings)) => run(&settings),
        Ok(Command::Tool(tool)) => tool::run(&tool),
        Err(SettingsError::Asked(text)) => {
            // A closed standard output is not an error here.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Exit::Ok
        }
        Err(SettingsError::Wrong(sentence)) => {
            let _ = writeln!(std::io::stderr(), "casemated: {}", plain(&sentence));
            Exit::Settings
        }
    }
}
