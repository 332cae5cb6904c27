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
use crate::request::{Call, Changed, quoted};
use crate::retry::Repeat;
use crate::session::Session;

/// Calls of `/keys`. Which keys they see depends on the user's namespace.
pub struct Keys<'a>(&'a Session);

/// Which keys are listed.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only ids that begin so.
    pub prefix: Option<KeyId>,
    /// Only keys the asking Operator may use. Ignored together with a prefix.
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

    /// `POST /keys/generate`. With an id of your own a lost answer can be looked up.
    pub fn generate(&self, key: &GenerateKey) -> Result<Created, Error> {
        self.0.post_json("/keys/generate", key, Repeat::IfNotBegun)
    }

    /// `POST /keys`: the HSM picks the id.
    pub fn import(&self, key: &ImportKey) -> Result<Created, Error> {
        self.0.post_json("/keys", key, Repeat::IfNotBegun)
    }

    /// `PUT /keys/{key}`
    pub fn import_as(&self, id: &KeyId, key: &ImportKey) -> Result<(), Error> {
        self.0.put_json(&format!("/keys/{id}"), key).map(drop)
    }

    /// `POST /keys` of a private key in PEM: the HSM picks the id.
    pub fn import_pem(&self, arguments: &ImportArguments, pem: &str) -> Result<Created, Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.0.run(Call::change(&Method::POST, "/keys").with(&content_type, body.as_slice()))?.json()
    }

    /// `PUT /keys/{key}` of a private key in PEM.
    pub fn import_pem_as(&self, id: &KeyId, arguments: &ImportArguments, pem: &str) -> Result<(), Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.0.run(Call::change(&Method::PUT, &format!("/keys/{id}")).with(&content_type, body.as_slice())).map(drop)
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
        self.0.run(Call::get(&format!("/keys/{id}/public.pem")).accept(PEM))?.text()
    }

    /// `POST /keys/{key}/csr.pem`: a certificate signing request.
    pub fn csr(&self, id: &KeyId, subject: &DistinguishedName) -> Result<String, Error> {
        let (path, body) = (format!("/keys/{id}/csr.pem"), to_json(subject)?);
        self.0.run(Call::change(&Method::POST, &path).freely().with(JSON, body.as_slice()).accept(PEM))?.text()
    }

    /// `POST /keys/{key}/sign`
    pub fn sign(&self, id: &KeyId, request: &Sign) -> Result<Signature, Error> {
        self.uses(id, "sign", request)
    }

    /// `POST /keys/{key}/decrypt`. The reply wipes itself.
    pub fn decrypt(&self, id: &KeyId, request: &Decrypt) -> Result<Decrypted, Error> {
        self.uses(id, "decrypt", request)
    }

    /// `POST /keys/{key}/encrypt`
    pub fn encrypt(&self, id: &KeyId, request: &Encrypt) -> Result<Encrypted, Error> {
        self.uses(id, "encrypt", request)
    }

    /// `GET /keys/{key}/cert`; none: the key has no certificate, or there is no such key.
    pub fn certificate(&self, id: &KeyId) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match self.0.get_bytes(&format!("/keys/{id}/cert"), OCTETS) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// `PUT /keys/{key}/cert`: any bytes, at most 1 MiB. A second one is refused; delete the first.
    pub fn set_certificate(&self, id: &KeyId, bytes: &[u8]) -> Result<(), Error> {
        self.0.put(&format!("/keys/{id}/cert"), OCTETS, bytes).map(drop)
    }

    /// `DELETE /keys/{key}/cert`
    pub fn delete_certificate(&self, id: &KeyId) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}/cert"))
    }

    /// `PUT /keys/{key}/label`: at most 32 bytes; empty removes it.
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
        self.0.post_json(&format!("/keys/{id}/move"), &body, Repeat::IfNotBegun)
    }

    /// `PUT /keys/{key}/restrictions/tags/{tag}`
    pub fn add_tag(&self, id: &KeyId, tag: &Tag) -> Result<Changed, Error> {
        self.0.put(&format!("/keys/{id}/restrictions/tags/{tag}"), JSON, b"")
    }

    /// `DELETE /keys/{key}/restrictions/tags/{tag}`
    pub fn remove_tag(&self, id: &KeyId, tag: &Tag) -> Result<(), Error> {
        self.0.delete(&format!("/keys/{id}/restrictions/tags/{tag}"))
    }

    fn uses<T: serde::de::DeserializeOwned>(
        &self,
        id: &KeyId,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T, Error> {
        self.0.post_json(&format!("/keys/{id}/{verb}"), request, Repeat::Freely)
    }
}
