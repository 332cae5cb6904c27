//! `apply` and `diff`: an HSM that is what a file says.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use casemate_api::limits::CERTIFICATE_MAX_BYTES;
use clap::Args;

use crate::apply::carry_out::{Outcome, Work};
use crate::apply::file::{self, Format};
use crate::apply::have::{self, Have};
use crate::apply::plan::{Files, May, Plan, plan};
use crate::apply::sessions::Sessions;
use crate::apply::show::{self, Extra};
use crate::apply::step::Grave;
use crate::apply::want::Want;
use crate::exit::{Failure, local};
use crate::profile::Context;

/// What both commands take.
#[derive(Args)]
struct Which {
    /// TOML or YAML; - is standard input
    file: PathBuf,
    /// What the file is written in; otherwise its extension says it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Users and tags that are not in the file are deleted; no users where it lists none
    #[arg(long)]
    prune: bool,
    /// Keys that are not in the file are deleted, but not where it lists none
    #[arg(long)]
    prune_keys: bool,
}

/// Arguments of `apply`.
#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    which: Which,
    /// Set the backup passphrase of the file, unless the HSM has one: it does not tell
    #[arg(long)]
    set_backup_passphrase: bool,
}

/// Arguments of `diff`.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    which: Which,
    /// List what is not in the file, too
    #[arg(long)]
    all: bool,
}

/// What was read, and what follows from it.
struct Compared<'a> {
    sessions: Sessions<'a>,
    want: Want,
    files: Files,
    have: Have,
    plan: Plan,
}

impl Which {
    fn compare<'a>(&self, context: &'a Context, may: May) -> Result<Compared<'a>, Failure> {
        let want = file::read(&self.file, self.format)?;
        self.whole(&want)?;
        let files = files(&want)?;
        let sessions = Sessions::new(context)?;
        let have = have::read(&sessions, &want, context.user())?;
        let plan = plan(&have, &want, &files, may);
        Ok(Compared { sessions, want, files, have, plan })
    }

    /// Refuses to delete what is not in a file that lists nothing of the kind: whatever wrote it may have failed.
    fn whole(&self, want: &Want) -> Result<(), Failure> {
        let kinds = [
            (self.prune && want.users.is_empty(), "--prune", "users"),
            (self.prune_keys && want.keys.is_empty(), "--prune-keys", "keys"),
        ];
        match kinds.into_iter().find(|(empty, ..)| *empty) {
            None => Ok(()),
            Some((_, option, kind)) => Err(Failure::Usage(format!(
                "{option} deletes {kind} that are not in the file, and the file lists no {kind}: is it whole? Leave {option} \
                 out, or list the {kind} that stay."
            ))),
        }
    }

    fn may(&self) -> May {
        May { prune: self.prune, prune_keys: self.prune_keys, set_backup_passphrase: false }
    }
}

impl Diff {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let plan = self.which.compare(context, self.which.may())?.plan;
        let mut lines = show::lines(&plan, if self.all { Extra::Told } else { Extra::Untold });
        lines.push(if plan.is_empty() { "Nothing differs.".into() } else { show::sum(&plan) });
        context.out.lines(&show::json(&plan, |_| None), &lines)?;
        match plan.steps.len() + plan.stuck.len() {
            0 => Ok(()),
            one_or_more => {
                let file = self.which.file.display();
                let points = count(one_or_more, "point");
                Err(Failure::Drift(format!("The HSM differs from {file} in {points}.")))
            }
        }
    }
}

impl Apply {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let may = May { set_backup_passphrase: self.set_backup_passphrase, ..self.which.may() };
        let Compared { sessions, want, files, have, plan } = self.which.compare(context, may)?;
        if plan.is_empty() {
            return context.out.lines(&show::json(&plan, |_| None), ["Nothing to do."]);
        }
        if !context.out.json {
            let mut lines = show::lines(&plan, Extra::Untold);
            lines.push(show::sum(&plan));
            context.out.lines(&(), &lines)?;
        }
        if !plan.steps.is_empty() {
            allow(context, &plan)?;
        }
        let work = Work::prepare(&sessions, &have, &want, &files, may, &plan)?;
        let Outcome { done, failed } = work.carry_out(&plan);
        let state = |at: usize| Some(if done.get(at) == Some(&true) { "done" } else { "open" });
        let finished = done.iter().filter(|done| **done).count();
        let mut lines = Vec::new();
        if failed.is_some() {
            lines.push("Not done, as far as is known:".into());
            let open = plan.steps.iter().zip(&done).filter(|(_, done)| !**done);
            lines.extend(open.map(|(step, _)| show::line(step)));
        }
        lines.push(format!("{finished} of {} done.", done.len()));
        context.out.lines(&show::json(&plan, state), &lines)?;
        if let Some((at, why)) = failed {
            let what = plan.steps.get(at).map(|step| step.thing.called()).unwrap_or_default();
            return Err(why.at(format!("Stopped at the {what}; run it again to go on")));
        }
        match plan.stuck.len() {
            0 => Ok(()),
            stuck => {
                let points = count(stuck, "point");
                Err(Failure::Drift(format!("The HSM differs in {points} that cannot be changed: see above.")))
            }
        }
    }
}

/// Asks, and once more about what cannot be taken back.
fn allow(context: &Context, plan: &Plan) -> Result<(), Failure> {
    if context.out.json && !context.yes() {
        // The plan is printed when it was carried out: a question now would be about what nobody has seen.
        let why = "With --json nobody is asked: look with `diff --json`, and say --yes if it is meant.";
        return Err(Failure::Usage(why.into()));
    }
    context.agree("Do this?")?;
    for (grave, what) in [(Grave::DeletesKey, "Deleting"), (Grave::OpensKey, "What every Operator may then do with")] {
        match plan.steps.iter().filter(|step| step.grave == Some(grave)).count() {
            0 => {}
            keys => context.confirm(&format!("{what} {}", count(keys, "key")))?,
        }
    }
    Ok(())
}

/// So many of them.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The certificate files.
fn files(want: &Want) -> Result<Files, Failure> {
    let mut files = Files::default();
    for key in &want.keys {
        if let Some(path) = &key.certificate_file {
            let name = (key.namespace.clone(), key.id.clone());
            files.certificates.insert(name, certificate(path, &format!("The certificate of the {}", key.called()))?);
        }
    }
    if let Some(path) = &want.config.tls_certificate_file {
        let what = "The certificate of the HSM";
        let pem = String::from_utf8(certificate(path, what)?)
            .map_err(|_| Failure::Local(format!("{what}: {} is no PEM.", path.display())))?;
        files.tls_certificate = Some(pem);
    }
    Ok(files)
}

fn certificate(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(CERTIFICATE_MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(local(format_args!("{what}: {} cannot be read", path.display())))?;
    if bytes.is_empty() || bytes.len() > CERTIFICATE_MAX_BYTES {
        let path = path.display();
        return Err(Failure::Local(format!("{what}: {path} is empty or has more than {CERTIFICATE_MAX_BYTES} bytes.")));
    }
    Ok(bytes)
}
