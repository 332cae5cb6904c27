//! `C_FindObjects…`

use cryptoki_sys::*;

use crate::objects::Template;
use crate::rv::Rv;
use crate::sessions::Session;

/// What was found and is not delivered yet.
pub(crate) struct Find(std::vec::IntoIter<CK_OBJECT_HANDLE>);

/// `C_FindObjectsInit`. All is found here, so that what others change does not come in between.
pub fn begin(session: &Session, template: &Template) -> Result<(), Rv> {
    let mut active = session.active();
    if active.find.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let slot = &session.slot;
    let private = !matches!(slot.who(), crate::login::Who::Nobody);
    let found = slot.objects.find(&slot.reading().access(), template, private)?;
    active.find = Some(Find(found.into_iter()));
    Ok(())
}

/// `C_FindObjects`: the next ones, `most` at most.
pub fn next(session: &Session, most: usize) -> Result<Vec<CK_OBJECT_HANDLE>, Rv> {
    let mut active = session.active();
    let Find(found) = active.find.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    Ok(found.by_ref().take(most).collect())
}

/// `C_FindObjectsFinal`
pub fn end(session: &Session) -> Result<(), Rv> {
    session.active().find.take().map(drop).ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}
