//! `/provision`, `/unlock`, `/lock` and `/system*`, about one device; a backup can come from any.

use std::io::Write;
use std::time::Duration;

use casemate_api::Passphrase;
use casemate_api::body::system::{Provision, ReleaseNotes, RestoreRequest, SystemInfo, Unlock};
use casemate_api::limits::UPDATE_COMMAND_MAX_MS;
use serde::Serialize;
use serde::de::IgnoredAny;
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, to_json};
use crate::request::Call;
use crate::session::Session;
use crate::upload::Upload;

/// Calls of `/system`.
pub struct System<'a>(&'a Session);

impl Session {
    /// Calls of `/system`.
    pub fn system(&self) -> System<'_> {
        System(self)
    }

    /// `POST /provision`: from Unprovisioned to Operational.
    pub fn provision(&self, request: &Provision) -> Result<(), Error> {
        self.tell("/provision", Some(request))
    }

    /// `POST /unlock`: from Locked to Operational. A wrong passphrase is [`Error::Forbidden`].
    pub fn unlock(&self, passphrase: Passphrase) -> Result<(), Error> {
        self.tell("/unlock", Some(&Unlock { passphrase }))
    }

    /// `POST /lock`: from Operational to Locked.
    pub fn lock(&self) -> Result<(), Error> {
        self.tell("/lock", NONE)
    }

    /// `POST` to one device, with or without a body.
    fn tell(&self, path: &str, body: Option<&impl Serialize>) -> Result<(), Error> {
        let call = Call::change(&Method::POST, path).at_one();
        match body.map(to_json).transpose()? {
            Some(body) => self.run(call.with(JSON, body.as_slice())).map(drop),
            None => self.run(call).map(drop),
        }
    }
}

/// No body.
const NONE: Option<&()> = None;

impl System<'_> {
    /// `GET /system/info`
    pub fn info(&self) -> Result<SystemInfo, Error> {
        self.0.run(Call::get("/system/info").at_one())?.json()
    }

    /// `POST /system/reboot`
    pub fn reboot(&self) -> Result<(), Error> {
        self.0.tell("/system/reboot", NONE)
    }

    /// `POST /system/shutdown`
    pub fn shutdown(&self) -> Result<(), Error> {
        self.0.tell("/system/shutdown", NONE)
    }

    /// `POST /system/factory-reset`: erases everything.
    pub fn factory_reset(&self) -> Result<(), Error> {
        self.0.tell("/system/factory-reset", NONE)
    }

    /// `POST /system/backup` into `to`; how many bytes. If it fails, what was written is of no use.
    pub fn backup(&self, to: &mut dyn Write) -> Result<u64, Error> {
        self.0.download("/system/backup", to)
    }

    /// `POST /system/restore` of a backup.
    pub fn restore(&self, arguments: &RestoreRequest, backup: Upload<'_>) -> Result<(), Error> {
        let upload = backup.with_arguments(arguments, "backup_file")?;
        self.0.upload::<IgnoredAny>("/system/restore", upload).map(drop)
    }

    /// `POST /system/update` of a signed image. It is installed by [`System::commit_update`].
    pub fn update(&self, image: Upload<'_>) -> Result<ReleaseNotes, Error> {
        let notes = self.0.upload("/system/update", image)?;
        Ok(notes.unwrap_or(ReleaseNotes { release_notes: String::new() }))
    }

    /// `POST /system/commit-update`: installs the uploaded image and reboots.
    pub fn commit_update(&self) -> Result<(), Error> {
        let patience = Duration::from_millis(2 * UPDATE_COMMAND_MAX_MS);
        self.0.run(Call::change(&Method::POST, "/system/commit-update").at_one().patient(patience)).map(drop)
    }

    /// `POST /system/cancel-update`: forgets the uploaded image.
    pub fn cancel_update(&self) -> Result<(), Error> {
        self.0.tell("/system/cancel-update", NONE)
    }
}
