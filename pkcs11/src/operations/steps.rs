//! The steps of operations, as the standard's functions take them: they begin, go on and end. Every failure ends an
//! operation; a buffer that is too small does not.

use std::sync::Arc;

use cryptoki_sys::*;

use super::{Mechanism, Produced, decrypt, digest, encrypt, sign, verify};
use crate::objects::Object;
use crate::rv::Rv;
use crate::sessions::Session;

/// Begins an operation, if there is none of its kind.
fn begin<T>(active: &mut Option<T>, new: impl FnOnce() -> Result<T, Rv>) -> Result<(), Rv> {
    if active.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    *active = Some(new()?);
    Ok(())
}

/// Goes on with an operation; a failure ends it.
fn go_on<T, R>(active: &mut Option<T>, step: impl FnOnce(&mut T) -> Result<R, Rv>) -> Result<R, Rv> {
    let operation = active.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    let result = step(operation);
    if result.is_err() {
        *active = None;
    }
    result
}

/// Takes the last step of an operation; only a lack of room does not end it.
fn end<T>(active: &mut Option<T>, step: impl FnOnce(&mut T) -> Result<Produced, Rv>) -> Result<Produced, Rv> {
    let result = go_on(active, step);
    if !matches!(result, Ok(Produced::Needs(_))) {
        *active = None;
    }
    result
}

/// The key with this handle.
fn key(session: &Session, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>, Rv> {
    session.slot.objects.object(handle).map_err(|why| match why {
        Rv(CKR_OBJECT_HANDLE_INVALID) => Rv(CKR_KEY_HANDLE_INVALID),
        other => other,
    })
}

/// The functions of a session.
impl Session {
    /// `C_DigestInit`
    pub fn digest_init(&self, mechanism: &Mechanism) -> Result<(), Rv> {
        begin(&mut self.active().digest, || digest::Digest::new(mechanism))
    }

    /// `C_Digest`
    pub fn digest(&self, data: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        end(&mut self.active().digest, |digest| digest.all(data, room))
    }

    /// `C_DigestUpdate`
    pub fn digest_update(&self, part: &[u8]) -> Result<(), Rv> {
        go_on(&mut self.active().digest, |digest| digest.update(part))
    }

    /// `C_DigestKey`: of a secret that is an object of the module.
    pub fn digest_key(&self, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let key = key(self, handle)?;
        go_on(&mut self.active().digest, |digest| digest.update(key.secret().ok_or(Rv(CKR_KEY_INDIGESTIBLE))?))
    }

    /// `C_DigestFinal`
    pub fn digest_final(&self, room: Option<usize>) -> Result<Produced, Rv> {
        end(&mut self.active().digest, |digest| digest.finish(room))
    }

    /// `C_SignInit`
    pub fn sign_init(&self, mechanism: &Mechanism, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let key = key(self, handle)?;
        begin(&mut self.active().sign, || sign::Sign::new(&key, mechanism))
    }

    /// `C_Sign`
    pub fn sign(&self, data: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().sign, |sign| sign.all(data, room, held.operator.as_ref()))
    }

    /// `C_SignUpdate`
    pub fn sign_update(&self, part: &[u8]) -> Result<(), Rv> {
        go_on(&mut self.active().sign, |sign| sign.update(part))
    }

    /// `C_SignFinal`
    pub fn sign_final(&self, room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().sign, |sign| sign.finish(room, held.operator.as_ref()))
    }

    /// `C_VerifyInit`, and `C_VerifySignatureInit` with the signature.
    pub fn verify_init(
        &self,
        mechanism: &Mechanism,
        handle: CK_OBJECT_HANDLE,
        signature: Option<&[u8]>,
    ) -> Result<(), Rv> {
        let key = key(self, handle)?;
        begin(&mut self.active().verify, || {
            let mut verify = verify::Verify::new(&key, mechanism)?;
            verify.signature = signature.map(<[u8]>::to_vec);
            Ok(verify)
        })
    }

    /// `C_Verify`, and `C_VerifySignature` without the signature.
    pub fn verify(&self, data: &[u8], signature: Option<&[u8]>) -> Result<(), Rv> {
        let (verify, signature) = self.verifying(signature)?;
        verify.all(data, &signature)
    }

    /// `C_VerifyUpdate`
    pub fn verify_update(&self, part: &[u8]) -> Result<(), Rv> {
        go_on(&mut self.active().verify, |verify| verify.update(part))
    }

    /// `C_VerifyFinal`, and `C_VerifySignatureFinal` without the signature.
    pub fn verify_final(&self, signature: Option<&[u8]>) -> Result<(), Rv> {
        let (verify, signature) = self.verifying(signature)?;
        verify.finish(&signature)
    }

    /// The operation, which ends, and its signature.
    fn verifying(&self, signature: Option<&[u8]>) -> Result<(verify::Verify, Vec<u8>), Rv> {
        let mut active = self.active();
        let mut verify = active.verify.take().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
        match (signature, verify.signature.take()) {
            (Some(signature), None) => Ok((verify, signature.to_vec())),
            (None, Some(signature)) => Ok((verify, signature)),
            _ => Err(Rv(CKR_OPERATION_NOT_INITIALIZED)),
        }
    }

    /// `C_EncryptInit`
    pub fn encrypt_init(&self, mechanism: &Mechanism, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let key = key(self, handle)?;
        begin(&mut self.active().encrypt, || encrypt::Encrypt::new(&key, mechanism))
    }

    /// `C_Encrypt`
    pub fn encrypt(&self, data: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().encrypt, |encrypt| encrypt.all(data, room, held.operator.as_ref()))
    }

    /// `C_EncryptUpdate`
    pub fn encrypt_update(&self, part: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        go_on(&mut self.active().encrypt, |encrypt| encrypt.update(part, room, held.operator.as_ref()))
    }

    /// `C_EncryptFinal`
    pub fn encrypt_final(&self, room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().encrypt, |encrypt| encrypt.finish(room, held.operator.as_ref()))
    }

    /// `C_DecryptInit`
    pub fn decrypt_init(&self, mechanism: &Mechanism, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let key = key(self, handle)?;
        begin(&mut self.active().decrypt, || decrypt::Decrypt::new(&key, mechanism))
    }

    /// `C_Decrypt`
    pub fn decrypt(&self, data: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().decrypt, |decrypt| decrypt.all(data, room, held.operator.as_ref()))
    }

    /// `C_DecryptUpdate`
    pub fn decrypt_update(&self, part: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        go_on(&mut self.active().decrypt, |decrypt| decrypt.update(part, room, held.operator.as_ref()))
    }

    /// `C_DecryptFinal`
    pub fn decrypt_final(&self, room: Option<usize>) -> Result<Produced, Rv> {
        let held = self.slot.held();
        end(&mut self.active().decrypt, |decrypt| decrypt.finish(room, held.operator.as_ref()))
    }

    /// `C_SessionCancel`
    pub fn cancel(&self, flags: CK_FLAGS) -> Result<(), Rv> {
        self.active().cancel(flags)
    }
}
