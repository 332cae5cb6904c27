//! Carries a plan out, step by step, and stops at the first failure. Several keys are generated at the same time.
//!
//! A step whose answer was lost may have been carried out. So the HSM is read before the step is tried once more, and
//! everything is created with an id from the file, so that nothing is created twice.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use casemate_api::body::keys::{GenerateKey, Restrictions};
use casemate_api::body::users::NewUser;
use casemate_api::{Passphrase, Tag, UserId};
use casemate_client::Error;

use super::actual::{self, Actual, in_parallel, namespace_admin};
use super::desired::{self, Config, Desired};
use super::plan::{Files, Plan, PlanOptions, plan};
use super::sessions::{self, Sessions};
use super::step::{Resource, Setting, Step, StepAction};
use crate::exit::Failure;
use crate::prompt::{copy, of_valid_length};

/// What is needed to carry a plan out.
pub(crate) struct Execution<'a> {
    sessions: &'a Sessions<'a>,
    actual: &'a Actual,
    desired: &'a Desired,
    files: &'a Files,
    options: PlanOptions,
    passphrases: BTreeMap<UserId, Passphrase>,
    backup_passphrase: Option<Passphrase>,
    counter: Counter,
}

/// For each step of the plan whether it is done, and the first failure.
pub(crate) struct ExecutionResult {
    /// In the order of the plan.
    pub(crate) done: Vec<bool>,
    /// The step that failed, and why.
    pub(crate) failed: Option<(usize, Failure)>,
}

impl<'a> Execution<'a> {
    /// Reads all passphrases that will be needed, so that a missing one is found out before anything is changed.
    pub(crate) fn prepare(
        sessions: &'a Sessions<'a>,
        actual: &'a Actual,
        desired: &'a Desired,
        files: &'a Files,
        options: PlanOptions,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        let mut passphrases = BTreeMap::new();
        let mut backup_passphrase = None;
        for step in &plan.steps {
            match (&step.action, &step.resource) {
                (StepAction::Create, Resource::User(name)) => {
                    let user = found(desired.users.iter().find(|user| user.name == *name))?;
                    let passphrase = of_valid_length(&format!("The passphrase of {name}"), sessions.passphrase(user)?)?;
                    passphrases.insert(name.clone(), passphrase);
                }
                (StepAction::Create, Resource::Namespace(namespace)) => {
                    let namespace_admin = found(namespace_admin(actual, desired, namespace))?;
                    if actual.users.contains_key(&namespace_admin.name) {
                        sessions.check_passphrase(namespace_admin)?;
                    }
                }
                (_, Resource::Setting(Setting::BackupPassphrase)) => {
                    let whose = "The Backup Passphrase";
                    let passphrase = sessions::read(desired.config.backup_passphrase.as_ref(), whose)?;
                    backup_passphrase = Some(of_valid_length(whose, passphrase)?);
                }
                _ => {}
            }
        }
        let counter = Counter::new(plan.steps.len());
        Ok(Self { sessions, actual, desired, files, options, passphrases, backup_passphrase, counter })
    }

    /// Carries the plan out.
    pub(crate) fn run(&self, plan: &Plan) -> ExecutionResult {
        let mut outcome = ExecutionResult { done: Vec::with_capacity(plan.steps.len()), failed: None };
        for steps in plan
            .steps
            .chunk_by(|one, next| is_generation(one) && is_generation(next) && one.acting_in == next.acting_in)
        {
            let begin = outcome.done.len();
            let results = match self.open(steps.first()) {
                Ok(()) => self.together(steps),
                Err(why) => vec![Some(Err(why))],
            };
            for (at, result) in results.into_iter().enumerate() {
                outcome.done.push(matches!(result, Some(Ok(()))));
                if let Some(Err(why)) = result {
                    outcome.failed.get_or_insert((begin + at, why));
                }
            }
            if outcome.failed.is_some() {
                break;
            }
        }
        self.counter.end();
        outcome.done.resize(plan.steps.len(), false);
        outcome
    }

    /// Opens a session for the namespace of the step: there is none yet if the namespace was just created.
    fn open(&self, step: Option<&Step>) -> Result<(), Failure> {
        let Some(namespace) = step.and_then(|step| step.acting_in.as_ref()) else { return Ok(()) };
        match namespace_admin(self.actual, self.desired, namespace) {
            Some(namespace_admin) => self.sessions.log_in(namespace, namespace_admin),
            None => Ok(()),
        }
    }

    /// Carries out steps that do not depend on each other. `None`: not started, because another one failed.
    fn together(&self, steps: &[Step]) -> Vec<Option<Result<(), Failure>>> {
        let stop = AtomicBool::new(false);
        let results = in_parallel(steps, |step| {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let result = self.once(step);
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            self.counter.add();
            Ok(Some(result.map_err(|why| self.sessions.with_user(step.acting_in.as_ref(), why))))
        });
        results.unwrap_or_else(|why| vec![Some(Err(why))])
    }

    /// Carries out one step. If the answer is lost, finds out whether it was done, and tries once more if not.
    fn once(&self, step: &Step) -> Result<(), Failure> {
        let lost = match self.perform(step) {
            Err(Failure::Call(why @ Error::Unknown { .. })) => why,
            result => return result,
        };
        match self.is_done(step) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // The lost answer matters more than that it cannot be checked.
            Err(_) => return Err(lost.into()),
        }
        match self.perform(step) {
            Ok(()) => Ok(()),
            // The first attempt may have been completed only now.
            Err(why) => {
                if self.is_done(step).unwrap_or(false) {
                    Ok(())
                } else {
                    Err(why)
                }
            }
        }
    }

    /// Whether a new plan would not contain the step any more.
    fn is_done(&self, step: &Step) -> Result<bool, Failure> {
        if step.resource == Resource::Setting(Setting::BackupPassphrase) {
            // No HSM tells whether one is set; if so, a second attempt changes nothing.
            return Ok(false);
        }
        let desired = only(self.desired, step);
        let actual = actual::read(self.sessions, &desired, self.actual.own_user.as_ref())?;
        Ok(!plan(&actual, &desired, self.files, self.options).steps.iter().any(|open| open.is(step)))
    }

    fn perform(&self, step: &Step) -> Result<(), Failure> {
        let session = self.sessions.in_namespace(step.acting_in.as_ref())?;
        let (users, keys) = (session.users(), session.keys());
        match (&step.resource, step.action) {
            (Resource::Namespace(namespace), _) => session.namespaces().create(namespace)?,
            (Resource::User(name), StepAction::Delete) => users.delete(name)?,
            (Resource::User(name), _) => {
                let user = found(self.desired.users.iter().find(|user| user.name == *name))?;
                let passphrase = copy(found(self.passphrases.get(name))?);
                let real_name = user.real_name.clone().unwrap_or_default();
                users.create_as(name, &NewUser { real_name, role: user.role, passphrase })?;
            }
            (Resource::UserTag(name, tag), StepAction::Delete) => users.remove_tag(name, &parsed(tag)?)?,
            (Resource::UserTag(name, tag), _) => {
                users.add_tag(name, &parsed(tag)?)?;
            }
            (Resource::Key(_, id), StepAction::Delete) => keys.delete(id)?,
            (Resource::Key(namespace, id), _) => {
                let of = |key: &&desired::Key| key.namespace == *namespace && key.id == *id;
                keys.generate(&generation(found(self.desired.keys.iter().find(of))?))?;
            }
            (Resource::KeyTag(_, id, tag), StepAction::Delete) => keys.remove_tag(id, &parsed(tag)?)?,
            (Resource::KeyTag(_, id, tag), _) => {
                keys.add_tag(id, &parsed(tag)?)?;
            }
            (Resource::KeyLabel(namespace, id), _) => {
                let of = |key: &&desired::Key| key.namespace == *namespace && key.id == *id;
                let label = found(self.desired.keys.iter().find(of))?.label.clone().unwrap_or_default();
                keys.set_label(id, &label)?;
            }
            (Resource::KeyCertificate(namespace, id), action) => {
                let bytes = found(self.files.certificates.get(&(namespace.clone(), id.clone())))?;
                if action == StepAction::Change {
                    // The HSM does not replace a certificate. If this fails half-way, the next run stores the new one.
                    match keys.delete_certificate(id) {
                        Ok(()) | Err(Error::NotFound { .. }) => {}
                        Err(why) => return Err(why.into()),
                    }
                }
                keys.set_certificate(id, bytes)?;
            }
            (Resource::Setting(setting), _) => self.set(*setting)?,
        }
        Ok(())
    }

    fn set(&self, setting: Setting) -> Result<(), Failure> {
        let (config, desired) = (self.sessions.root().config(), &self.desired.config);
        match setting {
            Setting::Logging => config.set_logging(found(desired.logging.as_ref())?)?,
            Setting::Ntp => config.set_ntp(found(desired.ntp.as_ref())?)?,
            Setting::UnattendedBoot => config.set_unattended_boot(found(desired.unattended_boot)?)?,
            Setting::TlsCertificate => config.set_tls_certificate(found(self.files.tls_certificate.as_ref())?)?,
            Setting::Network => config.set_network(found(desired.network.as_ref())?)?,
            Setting::BackupPassphrase => {
                let none = Passphrase::from_text(String::new());
                let new = copy(found(self.backup_passphrase.as_ref())?);
                match config.set_backup_passphrase(none, new) {
                    // One is set already, and is kept.
                    Err(Error::Forbidden { .. }) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// The part of the file that the step is about, so that little has to be read.
fn only(desired: &Desired, step: &Step) -> Desired {
    let made = match &step.resource {
        Resource::Namespace(namespace) => Some(namespace),
        Resource::User(name) | Resource::UserTag(name, _) => name.namespace.as_ref(),
        _ => step.acting_in.as_ref(),
    };
    // Nothing is deleted in a namespace for which the file lists nothing, so a deletion needs the other resources of
    // its namespace.
    let delete = step.action == StepAction::Delete;
    let about = |key: &&desired::Key| match &step.resource {
        Resource::Key(namespace, _) if delete => key.namespace == *namespace,
        Resource::Key(namespace, id)
        | Resource::KeyTag(namespace, id, _)
        | Resource::KeyLabel(namespace, id)
        | Resource::KeyCertificate(namespace, id) => key.namespace == *namespace && key.id == *id,
        _ => false,
    };
    let near = |user: &&desired::User| match &step.resource {
        Resource::User(name) if delete && user.name.namespace == name.namespace => true,
        Resource::User(name) | Resource::UserTag(name, _) if user.name == *name => true,
        _ => user.name.namespace.is_some() && user.name.namespace.as_ref() == made,
    };
    let settings = matches!(step.resource, Resource::Setting(_));
    Desired {
        namespaces: desired.namespaces.iter().filter(|namespace| made == Some(namespace)).cloned().collect(),
        users: desired.users.iter().filter(near).cloned().collect(),
        keys: desired.keys.iter().filter(about).cloned().collect(),
        config: if settings { desired.config.clone() } else { Config::default() },
    }
}

fn is_generation(step: &Step) -> bool {
    step.action == StepAction::Create && matches!(step.resource, Resource::Key(..))
}

fn generation(key: &desired::Key) -> GenerateKey {
    GenerateKey {
        mechanisms: key.mechanisms.clone(),
        key_type: key.key_type,
        length: key.length.unwrap_or(0),
        id: key.id.to_string(),
        restrictions: Restrictions { tags: key.tags.iter().flatten().map(ToString::to_string).collect() },
        label: key.label.clone().unwrap_or_default(),
    }
}

/// Fails if the plan does not belong to the file, which cannot happen.
fn found<T>(value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::Local("The plan does not belong to the file.".into()))
}

fn parsed(tag: &str) -> Result<Tag, Failure> {
    Tag::parse(tag).map_err(|why| Failure::Local(format!("The tag {tag:?} is not valid: {why}.")))
}

/// The progress on the terminal.
struct Counter {
    total: usize,
    done: AtomicUsize,
    shown: bool,
}

impl Counter {
    fn new(total: usize) -> Self {
        Self { total, done: AtomicUsize::new(0), shown: io::stderr().is_terminal() }
    }

    fn add(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shown {
            // Nothing is lost if the terminal is gone.
            let _ = write!(io::stderr().lock(), "\r{done} of {}", self.total);
        }
    }

    fn end(&self) {
        if self.shown {
            let _ = writeln!(io::stderr().lock());
        }
    }
}
