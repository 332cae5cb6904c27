//! Carries a plan out, step by step, and stops at the first that fails. Keys are generated several at a time.
//!
//! A step whose answer was lost may have been carried out: it is looked up before it is tried once more, and everything
//! that is made has an id from the file, so that nothing is made twice.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use casemate_api::body::keys::{GenerateKey, Restrictions};
use casemate_api::body::users::NewUser;
use casemate_api::limits::{PASSPHRASE_MAX_BYTES, PASSPHRASE_MIN_BYTES};
use casemate_api::{Passphrase, Tag, UserId};
use casemate_client::Error;

use super::have::{self, Have, each, worker};
use super::plan::{Files, May, Plan, plan};
use super::sessions::{self, Sessions, copy};
use super::step::{Act, Setting, Step, Thing};
use super::want::{self, Config, Want};
use crate::exit::Failure;

/// What the work is done with.
pub(crate) struct Work<'a> {
    sessions: &'a Sessions<'a>,
    have: &'a Have,
    want: &'a Want,
    files: &'a Files,
    may: May,
    passphrases: BTreeMap<UserId, Passphrase>,
    backup_passphrase: Option<Passphrase>,
    counter: Counter,
}

/// How far it came: for each step of the plan whether it is done, and what stopped it.
pub(crate) struct Outcome {
    /// In the order of the plan.
    pub(crate) done: Vec<bool>,
    /// The step that failed, and why.
    pub(crate) failed: Option<(usize, Failure)>,
}

impl<'a> Work<'a> {
    /// Fetches every passphrase that will be needed: what is missing is noticed before anything is changed.
    pub(crate) fn prepare(
        sessions: &'a Sessions<'a>,
        have: &'a Have,
        want: &'a Want,
        files: &'a Files,
        may: May,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        let mut passphrases = BTreeMap::new();
        let mut backup_passphrase = None;
        for step in &plan.steps {
            match (&step.act, &step.thing) {
                (Act::Create, Thing::User(name)) => {
                    let user = found(want.users.iter().find(|user| user.name == *name))?;
                    let passphrase = settable(sessions.passphrase(user)?, &format!("The passphrase of {name}"))?;
                    passphrases.insert(name.clone(), passphrase);
                }
                (Act::Create, Thing::Namespace(namespace)) => {
                    let worker = found(worker(have, want, namespace))?;
                    if have.users.contains_key(&worker.name) {
                        sessions.try_out(worker)?;
                    }
                }
                (_, Thing::Setting(Setting::BackupPassphrase)) => {
                    let whose = "The Backup Passphrase";
                    let passphrase = sessions::read(want.config.backup_passphrase.as_ref(), whose)?;
                    backup_passphrase = Some(settable(passphrase, whose)?);
                }
                _ => {}
            }
        }
        let counter = Counter::new(plan.steps.len());
        Ok(Self { sessions, have, want, files, may, passphrases, backup_passphrase, counter })
    }

    /// Does it.
    pub(crate) fn carry_out(&self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome { done: Vec::with_capacity(plan.steps.len()), failed: None };
        for steps in plan.steps.chunk_by(|one, next| is_generation(one) && is_generation(next) && one.by == next.by) {
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

    /// Lets somebody work where the step is: in a namespace that was just made nobody does yet.
    fn open(&self, step: Option<&Step>) -> Result<(), Failure> {
        let Some(namespace) = step.and_then(|step| step.by.as_ref()) else { return Ok(()) };
        match worker(self.have, self.want, namespace) {
            Some(worker) => self.sessions.open(namespace, worker),
            None => Ok(()),
        }
    }

    /// Does steps that do not depend on each other. After a failure those that were not begun are left: none.
    fn together(&self, steps: &[Step]) -> Vec<Option<Result<(), Failure>>> {
        let stop = AtomicBool::new(false);
        let results = each(steps, |step| {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let result = self.once(step);
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            self.counter.add();
            Ok(Some(result.map_err(|why| self.sessions.blame(step.by.as_ref(), why))))
        });
        results.unwrap_or_else(|why| vec![Some(Err(why))])
    }

    /// Does one step, and makes sure of it if its answer was lost.
    fn once(&self, step: &Step) -> Result<(), Failure> {
        let lost = match self.perform(step) {
            Err(Failure::Call(why @ Error::Unknown { .. })) => why,
            result => return result,
        };
        match self.is_done(step) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // What was lost is worse to know than that one cannot look.
            Err(_) => return Err(lost.into()),
        }
        match self.perform(step) {
            Ok(()) => Ok(()),
            // The first attempt may have come to its end only now.
            Err(why) => {
                if self.is_done(step).unwrap_or(false) {
                    Ok(())
                } else {
                    Err(why)
                }
            }
        }
    }

    /// Looks whether a plan made now would still have the step.
    fn is_done(&self, step: &Step) -> Result<bool, Failure> {
        if step.thing == Thing::Setting(Setting::BackupPassphrase) {
            // Nobody is told whether there is one; a second attempt changes nothing if there is.
            return Ok(false);
        }
        let want = only(self.want, step);
        let have = have::read(self.sessions, &want, self.have.myself.as_ref())?;
        Ok(!plan(&have, &want, self.files, self.may).steps.iter().any(|open| open.is(step)))
    }

    fn perform(&self, step: &Step) -> Result<(), Failure> {
        let session = self.sessions.of(step.by.as_ref())?;
        let (users, keys) = (session.users(), session.keys());
        match (&step.thing, step.act) {
            (Thing::Namespace(namespace), _) => session.namespaces().create(namespace)?,
            (Thing::User(name), Act::Delete) => users.delete(name)?,
            (Thing::User(name), _) => {
                let user = found(self.want.users.iter().find(|user| user.name == *name))?;
                let passphrase = copy(found(self.passphrases.get(name))?);
                let real_name = user.real_name.clone().unwrap_or_default();
                users.create_as(name, &NewUser { real_name, role: user.role, passphrase })?;
            }
            (Thing::UserTag(name, tag), Act::Delete) => users.remove_tag(name, &parsed(tag)?)?,
            (Thing::UserTag(name, tag), _) => {
                users.add_tag(name, &parsed(tag)?)?;
            }
            (Thing::Key(_, id), Act::Delete) => keys.delete(id)?,
            (Thing::Key(place, id), _) => {
                let of = |key: &&want::Key| key.namespace == *place && key.id == *id;
                keys.generate(&generation(found(self.want.keys.iter().find(of))?))?;
            }
            (Thing::KeyTag(_, id, tag), Act::Delete) => keys.remove_tag(id, &parsed(tag)?)?,
            (Thing::KeyTag(_, id, tag), _) => {
                keys.add_tag(id, &parsed(tag)?)?;
            }
            (Thing::KeyLabel(place, id), _) => {
                let of = |key: &&want::Key| key.namespace == *place && key.id == *id;
                let label = found(self.want.keys.iter().find(of))?.label.clone().unwrap_or_default();
                keys.set_label(id, &label)?;
            }
            (Thing::KeyCertificate(place, id), act) => {
                let bytes = found(self.files.certificates.get(&(place.clone(), id.clone())))?;
                if act == Act::Change {
                    // A second one is refused. If it stops here, the next run stores the new one.
                    match keys.delete_certificate(id) {
                        Ok(()) | Err(Error::NotFound { .. }) => {}
                        Err(why) => return Err(why.into()),
                    }
                }
                keys.set_certificate(id, bytes)?;
            }
            (Thing::Setting(setting), _) => self.set(*setting)?,
        }
        Ok(())
    }

    fn set(&self, setting: Setting) -> Result<(), Failure> {
        let (config, want) = (self.sessions.root().config(), &self.want.config);
        match setting {
            Setting::Logging => config.set_logging(found(want.logging.as_ref())?)?,
            Setting::Ntp => config.set_ntp(found(want.ntp.as_ref())?)?,
            Setting::UnattendedBoot => config.set_unattended_boot(found(want.unattended_boot)?)?,
            Setting::TlsCertificate => config.set_tls_certificate(found(self.files.tls_certificate.as_ref())?)?,
            Setting::Network => config.set_network(found(want.network.as_ref())?)?,
            Setting::BackupPassphrase => {
                let none = Passphrase::from_text(String::new());
                let new = copy(found(self.backup_passphrase.as_ref())?);
                match config.set_backup_passphrase(none, new) {
                    // There is one already; it is left alone.
                    Err(Error::Forbidden { .. }) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// The part of the file that the step is about, so that looking it up is quick.
fn only(want: &Want, step: &Step) -> Want {
    let made = match &step.thing {
        Thing::Namespace(namespace) => Some(namespace),
        Thing::User(name) | Thing::UserTag(name, _) => name.namespace.as_ref(),
        _ => step.by.as_ref(),
    };
    // Nothing is deleted where the file lists nothing: the others of the place stand in for it.
    let delete = step.act == Act::Delete;
    let about = |key: &&want::Key| match &step.thing {
        Thing::Key(place, _) if delete => key.namespace == *place,
        Thing::Key(place, id)
        | Thing::KeyTag(place, id, _)
        | Thing::KeyLabel(place, id)
        | Thing::KeyCertificate(place, id) => key.namespace == *place && key.id == *id,
        _ => false,
    };
    let near = |user: &&want::User| match &step.thing {
        Thing::User(name) if delete && user.name.namespace == name.namespace => true,
        Thing::User(name) | Thing::UserTag(name, _) if user.name == *name => true,
        _ => user.name.namespace.is_some() && user.name.namespace.as_ref() == made,
    };
    let settings = matches!(step.thing, Thing::Setting(_));
    Want {
        namespaces: want.namespaces.iter().filter(|namespace| made == Some(namespace)).cloned().collect(),
        users: want.users.iter().filter(near).cloned().collect(),
        keys: want.keys.iter().filter(about).cloned().collect(),
        config: if settings { want.config.clone() } else { Config::default() },
    }
}

fn is_generation(step: &Step) -> bool {
    step.act == Act::Create && matches!(step.thing, Thing::Key(..))
}

fn generation(key: &want::Key) -> GenerateKey {
    GenerateKey {
        mechanisms: key.mechanisms.clone(),
        key_type: key.key_type,
        length: key.length.unwrap_or(0),
        id: key.id.to_string(),
        restrictions: Restrictions { tags: key.tags.iter().flatten().map(ToString::to_string).collect() },
        label: key.label.clone().unwrap_or_default(),
    }
}

/// A plan is made of the file it is carried out with.
fn found<T>(value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::Local("The plan and the file do not belong together.".into()))
}

fn parsed(tag: &str) -> Result<Tag, Failure> {
    Tag::parse(tag).map_err(|why| Failure::Local(format!("The tag {tag:?} cannot be named in a call: {why}.")))
}

/// A passphrase that can be set.
fn settable(passphrase: Passphrase, whose: &str) -> Result<Passphrase, Failure> {
    if passphrase.has_valid_length() {
        return Ok(passphrase);
    }
    Err(Failure::Usage(format!(
        "{whose}: a passphrase has {PASSPHRASE_MIN_BYTES} to {PASSPHRASE_MAX_BYTES} bytes. Choose another."
    )))
}

/// The line on the terminal that says how far it is.
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
