//! What clients can see of a user. Each creation has a number of its own, which the real name tells, and no passphrase is given
//! twice.

use super::linear::Object;

/// A user of one id.
pub(crate) struct User;

/// A user that exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Account {
    /// The number of its creation.
    pub(crate) number: u32,
    /// The number of its passphrase.
    pub(crate) passphrase: u32,
}

/// A call and its answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum UserOp {
    Create(Account),
    Delete,
    /// An Administrator gave it this passphrase.
    SetPassphrase(u32),
    /// It replaced its own passphrase by another one.
    ChangePassphrase {
        from: u32,
        to: u32,
    },
    /// The user of this number was shown.
    Shown(u32),
    LoggedIn(u32),
    /// This passphrase was not accepted.
    Refused(u32),
    /// Whether the list of all users has it.
    Listed(bool),
    Exists,
    Missing,
}

impl Object for User {
    type State = Option<Account>;
    type Op = UserOp;

    fn start() -> Option<Account> {
        None
    }

    fn after(state: &Option<Account>, op: &UserOp) -> Option<Option<Account>> {
        let only_if = |told: bool| told.then_some(*state);
        let has = |passphrase: u32| state.is_some_and(|user| user.passphrase == passphrase);
        let given = |passphrase: u32| Some(state.map(|user| Account { passphrase, ..user }));
        match *op {
            UserOp::Create(user) => state.is_none().then_some(Some(user)),
            UserOp::Delete => state.is_some().then_some(None),
            UserOp::SetPassphrase(to) => state.and_then(|_| given(to)),
            UserOp::ChangePassphrase { from, to } => has(from).then(|| given(to)).flatten(),
            UserOp::Shown(number) => only_if(state.is_some_and(|user| user.number == number)),
            UserOp::LoggedIn(passphrase) => only_if(has(passphrase)),
            UserOp::Refused(passphrase) => only_if(!has(passphrase)),
            UserOp::Listed(listed) => only_if(state.is_some() == listed),
            UserOp::Exists => only_if(state.is_some()),
            UserOp::Missing => only_if(state.is_none()),
        }
    }

    fn changes(op: &UserOp) -> bool {
        match op {
            UserOp::Create(_) | UserOp::Delete | UserOp::SetPassphrase(_) | UserOp::ChangePassphrase { .. } => true,
            UserOp::Shown(_)
            | UserOp::LoggedIn(_)
            | UserOp::Refused(_)
            | UserOp::Listed(_)
            | UserOp::Exists
            | UserOp::Missing => false,
        }
    }
}
