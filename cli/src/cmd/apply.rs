//! `apply` and `diff`: set an HSM up as a file describes, and show how it differs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use casemate_api::limits::CERTIFICATE_MAX_BYTES;
use clap::Args;

use crate::apply::actual::{self, Actual};
use crate::apply::desired::Desired;
use crate::apply::execute::{Execution, ExecutionResult};
use crate::apply::file::{self, Format};
use crate::apply::plan::{Files, Plan, PlanOptions, plan};
use crate::apply::sessions::Sessions;
use crate::apply::show::{self, Extra};
use crate::apply::step::Irreversible;
use crate::exit::{Failure, local};
use crate::profile::Context;

/// Arguments of both commands.
#[derive(Args)]
struct FileArguments {
    /// TOML or YAML; - is standard input
    file: PathBuf,
    /// The format of the file; by default its extension tells it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Delete users and tags that are not in the file, but no users in a namespace for which it lists none
    #[arg(long)]
    prune: bool,
    /// Delete keys that are not in the file, but not in a namespace for which it lists none
    #[arg(long)]
    prune_keys: bool,
}

/// Arguments of `apply`.
#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    arguments: FileArguments,
    /// Set the backup passphrase of the file, unless one is set, which the HSM does not tell
    #[arg(long)]
    set_backup_passphrase: bool,
}

/// Arguments of `diff`.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    arguments: FileArguments,
    /// Also list what is not in the file
    #[arg(long)]
    all: bool,
}

/// What was read, and the plan.
struct Comparison<'a> {
    sessions: Sessions<'a>,
    desired: Desired,
    files: Files,
    actual: Actual,
    plan: Plan,
}

impl FileArguments {
    fn compare<'a>(&self, context: &'a Context, options: PlanOptions) -> Result<Comparison<'a>, Failure> {
        let desired = file::read(&self.file, self.format)?;
        self.check_complete(&desired)?;
        let files = files(&desired)?;
        let sessions = Sessions::new(context)?;
        let actual = actual::read(&sessions, &desired, context.user())?;
        let plan = plan(&actual, &desired, &files, options);
        Ok(Comparison { sessions, desired, files, actual, plan })
    }

    /// Refuses to delete users or keys if the file lists none at all: it may be incomplete.
    fn check_complete(&self, desired: &Desired) -> Result<(), Failure> {
        let kinds = [
            (self.prune && desired.users.is_empty(), "--prune", "users"),
            (self.prune_keys && desired.keys.is_empty(), "--prune-keys", "keys"),
        ];
        match kinds.into_iter().find(|(empty, ..)| *empty) {
            None => Ok(()),
            Some((_, option, kind)) => Err(Failure::Usage(format!(
                "{option} deletes {kind} that are not in the file, and the file lists no {kind}: is it complete? Omit \
                 {option}, or list the {kind} to keep."
            ))),
        }
    }

    fn options(&self) -> PlanOptions {
        PlanOptions { prune: self.prune, prune_keys: self.prune_keys, set_backup_passphrase: false }
    }
}

impl Diff {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let plan = self.arguments.compare(context, self.arguments.options())?.plan;
        let mut lines = show::lines(&plan, if self.all { Extra::Shown } else { Extra::Hidden });
        lines.push(if plan.is_empty() { "Nothing differs.".into() } else { show::sum(&plan) });
        context.out.lines(&show::json(&plan, |_| None), &lines)?;
        match plan.steps.len() + plan.stuck.len() {
            0 => Ok(()),
            one_or_more => {
                let file = self.arguments.file.display();
                let points = count(one_or_more, "point");
                Err(Failure::Drift(format!("The HSM differs from {file} in {points}.")))
            }
        }
    }
}

impl Apply {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let options = PlanOptions { set_backup_passphrase: self.set_backup_passphrase, ..self.arguments.options() };
        let Comparison { sessions, desired, files, actual, plan } = self.arguments.compare(context, options)?;
        if plan.is_empty() {
            return context.out.lines(&show::json(&plan, |_| None), ["Nothing to do."]);
        }
        if !context.out.json {
            let mut lines = show::lines(&plan, Extra::Hidden);
            lines.push(show::sum(&plan));
            context.out.lines(&(), &lines)?;
        }
        if !plan.steps.is_empty() {
            allow(context, &plan)?;
        }
        let execution = Execution::prepare(&sessions, &actual, &desired, &files, options, &plan)?;
        let ExecutionResult { done, failed } = execution.run(&plan);
        let state = |at: usize| Some(if done.get(at) == Some(&true) { "done" } else { "open" });
        let finished = done.iter().filter(|done| **done).count();
        let mut lines = Vec::new();
        if failed.is_some() {
            lines.push("Not done, as far as known:".into());
            let open = plan.steps.iter().zip(&done).filter(|(_, done)| !**done);
            lines.extend(open.map(|(step, _)| show::line(step)));
        }
        lines.push(format!("{finished} of {} done.", done.len()));
        context.out.lines(&show::json(&plan, state), &lines)?;
        if let Some((at, why)) = failed {
            let what = plan.steps.get(at).map(|step| step.resource.describe()).unwrap_or_default();
            return Err(why.prefixed(format!("Stopped at the {what}; run the command again to continue")));
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

/// Asks before the plan is carried out, and once more about what cannot be undone.
fn allow(context: &Context, plan: &Plan) -> Result<(), Failure> {
    if context.out.json && !context.yes() {
        // The plan is printed only after it was carried out, so nobody could judge the question.
        let why = "With --json no question is asked: check with `diff --json`, and confirm with --yes.";
        return Err(Failure::Usage(why.into()));
    }
    context.agree("Continue?")?;
    for (irreversible, what) in
        [(Irreversible::DeletesKey, "Deleting"), (Irreversible::OpensKey, "Allowing every Operator to use")]
    {
        match plan.steps.iter().filter(|step| step.irreversible == Some(irreversible)).count() {
            0 => {}
            keys => context.confirm(&format!("{what} {}", count(keys, "key")))?,
        }
    }
    Ok(())
}

/// A number with its noun.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Reads the certificate files.
fn files(desired: &Desired) -> Result<Files, Failure> {
    let mut files = Files::default();
    for key in &desired.keys {
        if let Some(path) = &key.certificate_file {
            let name = (key.namespace.clone(), key.id.clone());
            files.certificates.insert(name, certificate(path, &format!("The certificate of the {}", key.describe()))?);
        }
    }
    if let Some(path) = &desired.config.tls_certificate_file {
        let what = "The certificate of the HSM";
        let pem = String::from_utf8(certificate(path, what)?)
            .map_err(|_| Failure::Local(format!("{what}: {} is not valid PEM.", path.display())))?;
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
