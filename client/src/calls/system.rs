//! `/provision`, `/unlock`, `/lock` and `/system*`, about one device. Only a backup can be made at any node.

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
use crate::request::Request;
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
        self.post_to_device("/provision", Some(request))
    }

    /// `POST /unlock`: from Locked to Operational. A wrong passphrase is [`Error::Forbidden`].
    pub fn unlock(&self, passphrase: Passphrase) -> Result<(), Error> {
        self.post_to_device("/unlock", Some(&Unlock { passphrase }))
    }

    /// `POST /lock`: from Operational to Locked.
    pub fn lock(&self) -> Result<(), Error> {
        self.post_to_device("/lock", NONE)
    }

    /// `POST` to one device, with or without a body.
    fn post_to_device(&self, path: &str, body: Option<&impl Serialize>) -> Result<(), Error> {
        let request = Request::change(&Method::POST, path).to_one_node();
        match body.map(to_json).transpose()? {
            Some(body) => self.run(request.with_body(JSON, body.as_slice())).map(drop),
            None => self.run(request).map(drop),
        }
    }
}

/// No body.
const NONE: Option<&()> = None;

impl System<'_> {
    /// `GET /system/info`
    pub fn info(&self) -> Result<SystemInfo, Error> {
        self.0.run(Request::get("/system/info").to_one_node())?.json()
    }

    /// `POST /system/reboot`
    pub fn reboot(&self) -> Result<(), Error> {
        self.0.post_to_device("/system/reboot", NONE)
    }

    /// `POST /system/shutdown`
    pub fn shutdown(&self) -> Result<(), Error> {
        self.0.post_to_device("/system/shutdown", NONE)
    }

    /// `POST /system/factory-reset`: erases everything.
    pub fn factory_reset(&self) -> Result<(), Error> {
        self.0.post_to_device("/system/factory-reset", NONE)
    }

    /// `POST /system/backup`: writes a backup to `to` and returns the number of bytes. After a failure, what was
    /// written is useless.
    pub fn backup(&self, to: &mut dyn Write) -> Result<u64, Error> {
        self.0.download("/system/backup", to)
    }

    /// `POST /system/restore` of a backup.
    pub fn restore(&self, arguments: &RestoreRequest, backup: Upload<'_>) -> Result<(), Error> {
        let upload = backup.with_arguments(arguments, "backup_file")?;
        self.0.upload::<IgnoredAny>("/system/restore", upload).map(drop)
    }

    /// `POST /system/update` of a signed image. [`System::commit_update`] installs it.
    pub fn update(&self, image: Upload<'_>) -> Result<ReleaseNotes, Error> {
        let notes = self.0.upload("/system/update", image)?;
        Ok(notes.unwrap_or(ReleaseNotes { release_notes: String::new() }))
    }

    /// `POST /system/commit-update`: installs the uploaded image and reboots.
    pub fn commit_update(&self) -> Result<(), Error> {
        let min_time_limit = Duration::from_millis(2 * UPDATE_COMMAND_MAX_MS);
        self.0
            .run(
                Request::change(&Method::POST, "/system/commit-update")
                    .to_one_node()
                    .with_min_time_limit(min_time_limit),
            )
            .map(drop)
    }

    /// `POST /system/cancel-update`: discards the uploaded image.
    pub fn cancel_update(&self) -> Result<(), Error> {
        self.0.post_to_device("/system/cancel-update", NONE)
    }
}
