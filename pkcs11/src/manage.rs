//! Objects are created, changed and deleted: what the state of the session and of the login permits, before `objects` does it.

use std::sync::Arc;

use cryptoki_sys::*;

use crate::login::{Held, Who};
use crate::objects::{AttributeError, Template};
use crate::rv::Rv;
use crate::sessions::Session;

/// Whether the objects of a template are kept by the token.
fn is_of_token(template: &Template) -> Result<bool, Rv> {
    Ok(template.bool(CKA_TOKEN)?.unwrap_or(false))
}

/// The functions of a session.
impl Session {
    /// With what objects of the token are changed; those of the session take no login.
    fn to_change(&self, of_token: bool) -> Result<Arc<Held>, Rv> {
        let held = self.slot.held();
        if of_token {
            if !self.writable {
                return Err(Rv(CKR_SESSION_READ_ONLY));
            }
            if held.administrator.is_none() {
                return Err(self.no_administrator());
            }
        }
        Ok(held)
    }

    /// Why there is no Administrator: the slot has none, or has none without a login as SO.
    fn no_administrator(&self) -> Rv {
        match (self.slot.who(), &self.slot.administrator) {
            (Who::User(_), None) => Rv(CKR_TOKEN_WRITE_PROTECTED),
            _ => Rv(CKR_USER_NOT_LOGGED_IN),
        }
    }

    /// `C_CreateObject`
    pub fn create(&self, template: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        let held = self.to_change(is_of_token(template)?)?;
        self.slot.objects.create(&held.access(), self.handle, template)
    }

    /// `C_CopyObject`
    pub fn copy(&self, object: CK_OBJECT_HANDLE, template: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        let of_token = match template.bool(CKA_TOKEN)? {
            Some(of_token) => of_token,
            None => self.slot.objects.object(object)?.is(CKA_TOKEN),
        };
        let held = self.to_change(of_token)?;
        self.slot.objects.copy(&held.access(), self.handle, object, template)
    }

    /// `C_DestroyObject`
    pub fn destroy(&self, object: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let held = self.to_change(self.slot.objects.object(object)?.is(CKA_TOKEN))?;
        self.slot.objects.destroy(&held.access(), object)
    }

    /// `C_SetAttributeValue`
    pub fn set(&self, object: CK_OBJECT_HANDLE, template: &Template) -> Result<(), Rv> {
        let held = self.to_change(self.slot.objects.object(object)?.is(CKA_TOKEN))?;
        self.slot.objects.set(&held.access(), object, template)
    }

    /// `C_GenerateKey`
    pub fn generate(&self, mechanism: CK_MECHANISM_TYPE, template: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        let held = self.to_change(is_of_token(template)?)?;
        self.slot.objects.generate(&held.access(), self.handle, mechanism, template)
    }

    /// `C_GenerateKeyPair`: the public and the private key. Both are one record of the server.
    pub fn generate_pair(
        &self,
        mechanism: CK_MECHANISM_TYPE,
        public: &Template,
        private: &Template,
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), Rv> {
        let held = self.to_change(is_of_token(public)? || is_of_token(private)?)?;
        if held.administrator.is_none() {
            return Err(self.no_administrator());
        }
        self.slot.objects.generate_pair(&held.access(), self.handle, mechanism, public, private)
    }

    /// `C_GetObjectSize`
    pub fn size(&self, object: CK_OBJECT_HANDLE) -> Result<CK_ULONG, Rv> {
        let objects = &self.slot.objects;
        let object = objects.object(object)?;
        objects.size(&self.slot.reading().access(), &object)
    }

    /// `C_GetAttributeValue`: each of these attributes.
    pub fn attributes(
        &self,
        object: CK_OBJECT_HANDLE,
        attributes: &[CK_ATTRIBUTE_TYPE],
    ) -> Result<Vec<Result<Vec<u8>, AttributeError>>, Rv> {
        let objects = &self.slot.objects;
        let object = objects.object(object)?;
        let held = self.slot.reading();
        Ok(attributes.iter().map(|attribute| objects.attribute(&held.access(), &object, *attribute)).collect())
    }
}
