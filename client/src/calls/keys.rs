//! `/keys*`

use casemate_api::body::Created;
use casemate_api::body::keys::{
    Decrypt, Decrypted, DistinguishedName, Encrypt, Encrypted, GenerateKey, ImportArguments, ImportKey, Key, KeyItem,
    MoveKey, SetLabel, Sign, Signature,
};
use casemate_api::{KeyId, Tag};
use serde::Serialize;
use ureq::http::Method;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::media::{JSON, OCTETS, PEM, form, to_json};
use crate::request::{Changed, Request, quoted};
use crate::retry::Repeat;
use crate::session::Session;

/// Calls of `/keys`, for the keys of the user's namespace.
pub struct Keys<'a>(&'a Session);

/// Which keys are listed.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only ids with this prefix.
    pub prefix: Option<KeyId>,
    /// Only keys that the calling Operator may use. Ignored if there is a prefix.
    pub usable: bool,
    /// Only keys with this label; empty: only keys without one.
    pub label: Option<String>,
}

impl Session {
    /// Calls of `/keys`.
    pub fn keys(&self) -> Keys<'_> {
        Keys(self)
    }
}

impl Keys<'_> {
    /// `GET /keys`, sorted.
    pub fn list(&self, filter: &KeyFilter) -> Result<Vec<KeyItem>, Error> {
        let mut query = Vec::new();
        if filter.usable {
            query.push("filter=true".to_owned());
        }
        if let Some(label) = &filter.label {
            query.push(format!("label={}", quoted(label)));
        }
        let prefix = filter.prefix.as_ref().map(|prefix| format!("/{prefix}*")).unwrap_or_default();
        let mark = if query.is_empty() { "" } else { "?" };
        self.0.get_json(&format!("/keys{prefix}{mark}{}", query.join("&")))
    }

    /// `POST /keys/generate`. If the answer is lost, an id of your choice tells whether the key was created.
    pub fn generate(&self, key: &GenerateKey) -> Result<Created, Error> {
        self.0.post_json("/keys/generate", key, Repeat::IfNotStarted)
    }

    /// `POST /keys`: the HSM chooses the id.
    pub fn import(&self, key: &ImportKey) -> Result<Created, Error> {
        self.0.post_json("/keys", key, Repeat::IfNotStarted)
    }

    /// `PUT /keys/{key}`
    pub fn import_as(&self, id: &KeyId, key: &ImportKey) -> Result<(), Error> {
        self.0.put_json(&format!("/keys/{id}"), key).map(drop)
    }

    /// `POST /keys` of a private key in PEM: the HSM chooses the id.
    pub fn import_pem(&self, arguments: &ImportArguments, pem: &str) -> Result<Created, Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.0.run(Request::change(&Method::POST, "/keys").with_body(&content_type, body.as_slice()))?.json()
    }

    /// `PUT /keys/{key}` of a private key in PEM.
    pub fn import_pem_as(&self, id: &KeyId, arguments: &ImportArguments, pem: &str) -> Result<(), Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.0
            .run(Request::change(&Method::PUT, &format!("/keys/{id}")).with_body(&content_type, body.as_slice()))
            .map(drop)
    }

    /// `GET /keys/{key}`
    pub fn read(&self, id: &KeyId) -> Result<Key, Error> {
        self.0.get_json(&format!("/keys/{id}"))
    }

    /// `DELETE /keys/{key}`, with its certificate.
    pub fn delete(&self, id: &KeyId) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}"))
    }

    /// `GET /keys/{key}/public.pem`
    pub fn public_pem(&self, id: &KeyId) -> Result<String, Error> {
        self.0.run(Request::get(&format!("/keys/{id}/public.pem")).accepting(PEM))?.text()
    }

    /// `POST /keys/{key}/csr.pem`: a certificate signing request.
    pub fn csr(&self, id: &KeyId, subject: &DistinguishedName) -> Result<String, Error> {
        let (path, body) = (format!("/keys/{id}/csr.pem"), to_json(subject)?);
        self.0
            .run(Request::change(&Method::POST, &path).repeatable().with_body(JSON, body.as_slice()).accepting(PEM))?
            .text()
    }

    /// `POST /keys/{key}/sign`
    pub fn sign(&self, id: &KeyId, request: &Sign) -> Result<Signature, Error> {
        self.use_key(id, "sign", request)
    }

    /// `POST /keys/{key}/decrypt`. The plaintext is wiped when it is dropped.
    pub fn decrypt(&self, id: &KeyId, request: &Decrypt) -> Result<Decrypted, Error> {
        self.use_key(id, "decrypt", request)
    }

    /// `POST /keys/{key}/encrypt`
    pub fn encrypt(&self, id: &KeyId, request: &Encrypt) -> Result<Encrypted, Error> {
        self.use_key(id, "encrypt", request)
    }

    /// `GET /keys/{key}/cert`; `None` if the key has no certificate or does not exist.
    pub fn certificate(&self, id: &KeyId) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match self.0.get_bytes(&format!("/keys/{id}/cert"), OCTETS) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// `PUT /keys/{key}/cert`: any bytes, at most 1 MiB. Refused if there is a certificate already.
    pub fn set_certificate(&self, id: &KeyId, bytes: &[u8]) -> Result<(), Error> {
        self.0.put(&format!("/keys/{id}/cert"), OCTETS, bytes).map(drop)
    }

    /// `DELETE /keys/{key}/cert`
    pub fn delete_certificate(&self, id: &KeyId) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}/cert"))
    }

    /// `PUT /keys/{key}/label`: at most 32 bytes; an empty label removes it.
    pub fn set_label(&self, id: &KeyId, label: &str) -> Result<Changed, Error> {
        self.0.put_json(&format!("/keys/{id}/label"), &SetLabel { label: label.into() })
    }

    /// `DELETE /keys/{key}/label`
    pub fn delete_label(&self, id: &KeyId) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}/label"))
    }

    /// `POST /keys/{key}/move`: gives the key another id.
    pub fn rename(&self, id: &KeyId, new_id: &KeyId) -> Result<Created, Error> {
        let body = MoveKey { new_id: new_id.as_str().into() };
        self.0.post_json(&format!("/keys/{id}/move"), &body, Repeat::IfNotStarted)
    }

    /// `PUT /keys/{key}/restrictions/tags/{tag}`
    pub fn add_tag(&self, id: &KeyId, tag: &Tag) -> Result<Changed, Error> {
        self.0.put(&format!("/keys/{id}/restrictions/tags/{tag}"), JSON, b"")
    }

    /// `DELETE /keys/{key}/restrictions/tags/{tag}`
    pub fn remove_tag(&self, id: &KeyId, tag: &Tag) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}/restrictions/tags/{tag}"))
    }

    fn use_key<T: serde::de::DeserializeOwned>(
        &self,
        id: &KeyId,
        operation: &str,
        request: &impl Serialize,
    ) -> Result<T, Error> {
        self.0.post_json(&format!("/keys/{id}/{operation}"), request, Repeat::Freely)
    }
}
