//! `system test`: an acceptance test of a new HSM. It is set up, uses keys of every type in every way they can be used,
//! is locked and unlocked, and is erased again.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::users::NewUser;
use casemate_api::body::{keys, system};
use casemate_api::limits::RANDOM_MAX_BYTES;
use casemate_api::mechanisms::{Input, MechanismSpec, Mode, TABLE};
use casemate_api::{DecryptMode, EncryptMode, KeyId, KeyType, Passphrase, Role, State, UserId};
use casemate_client::{Error, Session};
use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::clock::{self, now_rfc3339};
use crate::exit::{Failure, local};
use crate::profile::Context;
use crate::{prompt, strength};

/// Arguments of `system test`.
#[derive(Args)]
#[command(
    after_help = "The HSM must be Unprovisioned, and is Unprovisioned again afterwards. The passphrases are for the test only; \
                        if the HSM cannot be erased at the end, they stay valid."
)]
pub(crate) struct Test {
    /// File with the unlock passphrase for the test
    #[arg(long, value_name = "FILE")]
    unlock_passphrase_file: Option<PathBuf>,
    /// File with the passphrase of the user `admin` for the test
    #[arg(long, value_name = "FILE")]
    admin_passphrase_file: Option<PathBuf>,
}

/// What was done, and how long it took in milliseconds.
type Timing = (String, u128);

impl Test {
    /// Runs the test.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let anonymous = context.client.anonymous();
        let node = context.client.nodes().join(", ");
        let state = anonymous.health().state()?;
        if state != State::Unprovisioned {
            return Err(Failure::WrongState(format!(
                "{node} is {state:?}, but only an Unprovisioned HSM can be tested, because everything in it is erased at the end."
            )));
        }
        context.confirm("Setting the HSM up, using it, and erasing everything in it")?;
        let unlock = prompt::new(
            "Unlock passphrase for the test",
            self.unlock_passphrase_file.as_deref(),
            "--unlock-passphrase-file",
        )?;
        let admin = prompt::new(
            "Passphrase of admin for the test",
            self.admin_passphrase_file.as_deref(),
            "--admin-passphrase-file",
        )?;
        let name = UserId::parse("admin").map_err(local("The name of the first user"))?;
        let session = context.client.log_in(&name, prompt::copy(&admin));
        let begun = clock::now();
        anonymous.provision(&system::Provision {
            unlock_passphrase: prompt::copy(&unlock),
            admin_passphrase: admin,
            system_time: now_rfc3339(),
        })?;
        let mut timings = vec![("provision".to_owned(), begun.elapsed().as_millis())];
        let result = operator(context, &session).and_then(|operator| {
            exercise(&Sessions { admin: &session, operator: &operator, anonymous: &anonymous }, &unlock, &mut timings)
        });
        // Also after a failure, so that nothing of the test is left.
        let begun = clock::now();
        let erased = session.system().factory_reset();
        timings.push(("factory reset".into(), begun.elapsed().as_millis()));
        match (result, erased) {
            (Ok(()), Ok(())) => {
                let values: Vec<Value> = timings.iter().map(|(what, ms)| json!({ "what": what, "ms": ms })).collect();
                context.out.list(&values, &["what", "ms"], timings.into_iter().map(|(what, ms)| vec![what, ms.to_string()]))
            }
            (Err(why), Ok(())) => Err(why.prefixed(format!("{node} failed the test and was erased"))),
            (_, Err(why)) => Err(Failure::from(why).prefixed(format!(
                "{node} could not be erased after the test, so its passphrases stay valid; erase it with `casemate system \
                 factory-reset`"
            ))),
        }
    }
}

/// The sessions of the test.
struct Sessions<'a> {
    admin: &'a Session,
    operator: &'a Session,
    anonymous: &'a Session,
}

/// Creates a user who uses keys, with a random passphrase.
fn operator(context: &Context, admin: &Session) -> Result<Session, Failure> {
    let name = UserId::parse("tester").map_err(local("The name of a user"))?;
    let passphrase = strength::make()?;
    let user =
        NewUser { real_name: "For the test".into(), role: Role::Operator, passphrase: prompt::copy(&passphrase) };
    admin.users().create_as(&name, &user)?;
    Ok(context.client.log_in(&name, passphrase))
}

fn exercise(sessions: &Sessions<'_>, unlock: &Passphrase, timings: &mut Vec<Timing>) -> Result<(), Failure> {
    let &Sessions { admin, operator, anonymous } = sessions;
    let mut types: Vec<KeyType> = Vec::new();
    for row in TABLE {
        if !types.contains(&row.key) {
            types.push(row.key);
        }
    }
    for key in types {
        let rows: Vec<&MechanismSpec> = TABLE.iter().filter(|row| row.key == key).collect();
        let name = key.as_str();
        let id = KeyId::parse(name).map_err(local("The id of a key"))?;
        timed(timings, format!("generate {name}"), || generate(admin, &id, &rows))?;
        for row in &rows {
            if let Mode::Sign(mode) = row.mode {
                let Some(message) = message(row.input) else { continue };
                timed(timings, format!("sign {name} {mode:?}"), || {
                    operator.keys().sign(&id, &keys::Sign { mode, message: message.clone() }).map(drop)
                })?;
            }
        }
        if key == KeyType::Generic {
            timed(timings, format!("encrypt and decrypt {name}"), || round_trip(operator, &id))?;
        }
    }
    timed(timings, "random".into(), || operator.random(RANDOM_MAX_BYTES).map(drop))?;
    timed(timings, "lock".into(), || admin.lock())?;
    timed(timings, "unlock".into(), || anonymous.unlock(prompt::copy(unlock)))
}

/// Measures `work`, and adds to an error what was done.
fn timed<T, E: Into<Failure>>(
    timings: &mut Vec<Timing>,
    what: String,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, Failure> {
    let begun = clock::now();
    let done = work().map_err(|why| why.into().prefixed(&*what))?;
    timings.push((what, begun.elapsed().as_millis()));
    Ok(done)
}

fn generate(session: &Session, id: &KeyId, rows: &[&MechanismSpec]) -> Result<(), Error> {
    let mut mechanisms: Vec<_> = rows.iter().map(|row| row.mechanism).collect();
    mechanisms.dedup();
    let key_type = rows.first().map_or(KeyType::Generic, |row| row.key);
    let length = match key_type {
        KeyType::RSA => 2048,
        KeyType::Generic => 256,
        _ => 0,
    };
    let (restrictions, label) = (keys::Restrictions::default(), String::new());
    let key = keys::GenerateKey { mechanisms, key_type, length, id: id.to_string(), restrictions, label };
    session.keys().generate(&key).map(drop)
}

/// A message to sign; `None` if it would depend on the key.
fn message(input: Input) -> Option<String> {
    let bytes = match input {
        Input::Digest(bytes) => bytes,
        Input::Message | Input::UpToModulusLess11 => 32,
        Input::Modulus | Input::Integer | Input::Blocks16 => return None,
    };
    Some(BASE64_STANDARD.encode(vec![7; bytes]))
}

fn round_trip(session: &Session, id: &KeyId) -> Result<(), Failure> {
    let message = BASE64_STANDARD.encode([7; 32]);
    let plain = Zeroizing::new(message.clone());
    let sealed = session.keys().encrypt(id, &keys::Encrypt { mode: EncryptMode::AES_CBC, message: plain, iv: None })?;
    let request = keys::Decrypt { mode: DecryptMode::AES_CBC, encrypted: sealed.encrypted, iv: Some(sealed.iv) };
    if *session.keys().decrypt(id, &request)?.decrypted == message {
        return Ok(());
    }
    Err(Failure::Local("The decrypted message is not the one that was encrypted.".into()))
}
